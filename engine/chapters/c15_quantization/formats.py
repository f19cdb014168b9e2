"""Formats in which people download models, beside those of bitsandbytes: what each costs in bits and in predictions."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.chapters.c15_quantization.blocks import Matrix
from engine.chapters.c15_quantization.pair import Get, code, fraction
from engine.chapters.c15_quantization.simulate import HALF_WAY, changed, predictions
from engine.chapters.c15_quantization.weights import linears, matrix, path, quantize
from engine.evidence import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import blockwise, ggml
from engine.evidence.oracles.divergence import divergence
from engine.evidence.passes import logits_of
from engine.figures.quantization import priced
from engine.model.cache import ByteLRU, traced
from engine.model.loaded import Loaded
from engine.ops import quantization as ops
from engine.ops.sampling import kl_divergence

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LAYOUT = {
    "fp4": (4, 32, 64),
    "nf4": (4, 32, 64),
    "MXFP4": (4, 8, 32),
    "Q4_0": (4, 16, 32),
    "Q4_K": (4, 2 * 16 + 8 * (6 + 6), ops.SUPER),
    "Q4_1": (4, 16 + 16, 32),
    "Q5_0": (5, 16, 32),
    "Q8_0": (8, 16, 32),
}
"""Format -> bits of each weight, bits of all that a block has beside them, and weights in a block.

bitsandbytes has a 32-bit scale for each block; GGUF's have a 16-bit scale, Q4_1 a minimum as well, and Q4_K two such
floats and for each of its eight blocks a scale and a minimum of 6 bits (llama.cpp, ggml-common.h). MXFP4 has an
exponent of 8 bits (OCP Microscaling Formats Specification 1.0).
"""

BITS = {name: each + beside / size for name, (each, beside, size) in LAYOUT.items()}
"""Format -> bits a weight, scales included."""

OF_GGUF = ("MXFP4", "Q4_0", "Q4_K", "Q4_1", "Q5_0", "Q8_0")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Tried:
    """What one format did: ‖difference‖ / ‖weights‖ of all linear layers, and the mean KL on a prompt (nats)."""

    name: str
    error: float
    kl: float
    nbytes: int = 64


_kept: ByteLRU[Tried] = ByteLRU(64 * 1024)


def rounded(name: str, values: Floats) -> Floats:
    """Weights (output, input) as a format keeps them, by the reference code of gguf or by bitsandbytes itself."""
    if name not in OF_GGUF:
        found: Floats = quantize(values, name, 64).values
        return found
    from gguf import GGMLQuantizationType, quants

    kind, flat = GGMLQuantizationType[name], values.ravel()
    if name == "Q4_K":  # which gguf reads and does not write
        packed = ops.q4_k(flat)
    else:
        packed = quants.quantize(np.pad(flat, (0, -flat.size % 32)).reshape(-1, 32), kind)
    back = quants.dequantize(packed, kind).ravel()[: flat.size]
    return np.asarray(back.reshape(values.shape), np.float32)


def try_all(
    loaded: Loaded, ids: tuple[int, ...], progress: Callable[[float, str], None] = lambda share, what: None
) -> tuple[Tried, ...]:
    """Every format on the linear layers of a checkpoint at fp32, one after the other; kept for the process."""
    done = []
    for i, name in enumerate(BITS):
        progress(i / len(BITS), name)
        key = (loaded.name, loaded.revision, loaded.precision, loaded.device, ids, name)
        done.append(_kept.get(key, lambda name=name: _try(loaded, ids, name)))  # type: ignore[misc]
    return tuple(done)


def _try(loaded: Loaded, ids: tuple[int, ...], name: str) -> Tried:
    squares = [0.0, 0.0]

    def change(values: Floats) -> Floats:
        after = rounded(name, values)
        squares[0] += float(np.square(after - values, dtype=np.float64).sum())
        squares[1] += float(np.square(values, dtype=np.float64).sum())
        return after

    after = predictions(changed(loaded, change), ids).numpy()
    error = float(np.sqrt(squares[0] / squares[1])) if squares[1] else 0.0
    return Tried(name, error, float(kl_divergence(traced(loaded, ids).logits, after).mean()))


def formats(get: Get, ids: tuple[int, ...], tried: Sequence[Tried]) -> Card:
    """Bits a weight against the mean KL on the prompt, a point for each format; `get` gives the checkpoint at fp32."""
    loaded = get()
    kls = {one.name: one.kl for one in tried}
    four = {name: kls[name] for name, bits in BITS.items() if bits == 4.5}
    best, worst = min(four, key=lambda name: four[name]), max(four, key=lambda name: four[name])
    named = {f"mean KL, {name}": kl for name, kl in kls.items()}
    once = _once({one.name: one.error for one in tried})
    return Card(
        key="formats",
        title=(f"Weights that were {once} before: at" if once else "At")
        + f" 4.5 bits a weight, {best} costs {four[best]:.2g} nats a token and {worst} {four[worst]:.2g}; "
        f"Q8_0, at 8.5, {kls['Q8_0']:.2g}",
        alt="Points, bits a weight and mean KL: "
        + ", ".join(f"{n} {BITS[n]:g}, {kl:.3g}" for n, kl in kls.items()),
        badge=Badge.LIVE,
        figure=_drawn(kls, "mean KL against fp32, nats"),
        table={
            "format": list(kls),
            "bits a weight": [BITS[name] for name in kls],
            "relative error of the weights": [one.error for one in tried],
            "mean KL, nats": list(kls.values()),
        },
        shown={**named, "errors": [one.error for one in tried], "bits": [BITS[name] for name in kls]},
        oracle=Oracle(
            "Every format rounded once more by torch, without gguf and bitsandbytes, in a private copy of the model; "
            "KLs by torch's own kl_div; bits from the bytes that gguf or bitsandbytes keep of 256 weights.",
            lambda: _formats_again(get(), ids, list(kls)),
            {**{name: HALF_WAY * fraction(kl) for name, kl in named.items()}, "errors": 1e-5, "bits": 0.0},
        ),
        code=_script(loaded, ids),
        numbers={name: named[f"mean KL, {name}"] for name in OF_GGUF},
        atol=min(HALF_WAY * fraction(kls[name]) for name in OF_GGUF),
        note=_already({one.name: one.error for one in tried})
        + "A simulation: the linear layers' weights rounded as each format keeps them, run by torch in fp32. "
        + _super(sorted({weights.shape[1] for weights in map(matrix, linears(loaded, loaded.model))})),
    )


def one_matrix(chosen: Matrix) -> Card:
    """Bits a weight against the relative error of one linear layer, a point for each format."""
    values = chosen.values
    errors = {name: ops.relative_error(values, rounded(name, values)) for name in BITS}
    best = min((name for name, bits in BITS.items() if bits == 4.5), key=lambda name: errors[name])
    named = {f"error, {name}": error for name, error in errors.items()}
    once = _once(errors)
    return Card(
        key="formats",
        title=chosen.name
        + (f", which was {once} before" if once else "")
        + f": at 4.5 bits a weight {best} errs least, {errors[best]:.1%}; Q8_0, at 8.5, {errors['Q8_0']:.2%}",
        alt="Points, bits a weight and relative error: "
        + ", ".join(f"{name} {BITS[name]:g}, {error:.3g}" for name, error in errors.items()),
        badge=Badge.LIVE,
        figure=_drawn(errors, "‖difference‖ / ‖weights‖"),
        table={
            "format": list(errors),
            "bits a weight": [BITS[name] for name in errors],
            "relative error": list(errors.values()),
        },
        shown={**named, "bits": [BITS[name] for name in errors]},
        oracle=Oracle(
            "The same layer rounded once more by torch, without gguf and bitsandbytes; bits from the bytes that gguf "
            "or bitsandbytes keep of 256 weights.",
            lambda: _errors_again(chosen, list(errors)),
            {**{name: 1e-3 * error + 1e-7 for name, error in named.items()}, "bits": 0.0},
        ),
        code=_one_script(chosen),
        numbers={name: errors[name] for name in OF_GGUF},
        atol=1e-5,
        note=_already(errors)
        + "This is one layer's weights; the button rounds them all and measures what that does to the predictions. "
        + _super([values.shape[1]]),
    )


ON_ITS_STEPS = 1e-3
"""Relative error below which weights that a format of few bits has rounded lay on its steps before."""


def _once(errors: Mapping[str, float]) -> str:
    """The format that the weights were rounded to before, by the relative error of each; empty where there is none."""
    found = (name for name, error in errors.items() if BITS[name] < 6 and error < ON_ITS_STEPS)
    return next(found, "")


def _already(errors: Mapping[str, float]) -> str:
    """Which format the weights were rounded to before, as a sentence; empty where there is none."""
    once = _once(errors)
    if not once:
        return ""
    said = f"These weights were rounded as {once} when their file was made, so {once} loses next to nothing"
    same = once == "Q4_1" and errors["Q4_K"] < errors["Q4_0"] / 2
    return said + (", and Q4_K, which has the same blocks of 32, little. " if same else ". ")


def _super(widths: Sequence[int]) -> str:
    """What is to be said of Q4_K's super-blocks in matrices of so many inputs."""
    said = "Q4_K's scales are rounded plainly here; llama.cpp searches for ones that fit better."
    odd = [str(width) for width in widths if width % ops.SUPER]
    if odd:
        said += (
            f" Rows of {' and '.join(odd)} weights are no whole number of its super-blocks of {ops.SUPER}: here those "
            "run on into the next row, while llama.cpp would give such a matrix another format."
        )
    return said


def _drawn(values: Mapping[str, float], y_name: str) -> "Figure":
    return priced([BITS[name] for name in values], list(values.values()), list(values), y_name=y_name)


def _formats_again(loaded: Loaded, ids: tuple[int, ...], names: Sequence[str]) -> dict[str, Any]:
    plain = torch.tensor(logits_of(loaded.model, ids))
    found: dict[str, Any] = {"errors": [], "bits": [_bits(name) for name in names]}
    for name in names:
        faked = ggml.in_format(loaded, name)
        found[f"mean KL, {name}"] = divergence(plain, torch.tensor(logits_of(faked.model, ids))).mean()
        found["errors"].append(faked.error)
    return found


def _errors_again(chosen: Matrix, names: Sequence[str]) -> dict[str, Any]:
    weights = blockwise.stored(chosen.loaded, chosen.part, chosen.layer)
    found: dict[str, Any] = {"bits": [_bits(name) for name in names]}
    for name in names:
        away = ggml.rounded(name, weights.float()).double() - weights
        found[f"error, {name}"] = float(torch.linalg.vector_norm(away) / torch.linalg.vector_norm(weights))
    return found


def _bits(name: str) -> float:
    """Bits a weight by the bytes that gguf or bitsandbytes keep of a super-block's number of weights."""
    count = ops.SUPER
    if name in OF_GGUF:
        from gguf import GGMLQuantizationType, quants

        return 8 * quants.quant_shape_to_byte_shape((1, count), GGMLQuantizationType[name])[1] / count
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(torch.linspace(-1, 1, count), blocksize=64, quant_type=name)
    return float(8 * (packed.nbytes + state.absmax.nbytes) / count)


def _functions() -> str:
    """The source of the rounding, as a script prints it."""
    parts = (ggml.signed, ggml.with_minimum, ggml.eight, ggml.with_six_bit_scales, ggml.tiny_floats)
    return "Tensor = torch.Tensor\n\n\n" + "\n\n".join(inspect.getsource(part) for part in parts) + "\n"


def _script(loaded: Loaded, ids: Sequence[int]) -> str:
    return script.preamble(loaded, ids) + _functions() + code("", _CODE, blocks=loaded.path("blocks"))


def _one_script(chosen: Matrix) -> str:
    start = script.preamble(chosen.loaded, precision=chosen.loaded.precision)
    return start + _functions() + code("", _ONE, module=path(chosen.loaded, chosen.part, chosen.layer))


_ROUND = """
    rounding = {{"MXFP4": tiny_floats, "Q4_0": lambda x: signed(x, 4), "Q4_K": with_six_bit_scales,
                "Q4_1": with_minimum, "Q5_0": lambda x: signed(x, 5), "Q8_0": eight}}


    def rows(module, name):
        '''The weights along the inputs of one output row after another; GPT-2's Conv1D stores (input, output).'''
        weight = module.weight.detach().float()
        flat = (weight.T if type(module).__name__ == "Conv1D" else weight).flatten()
        size = 256 if name == "Q4_K" else 32
        return torch.nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)
"""

_CODE = (
    _ROUND
    + """

    def predictions():
        with torch.no_grad():
            return model(ids, use_cache=False).logits[0].double().log_softmax(-1)


    linear = [m for m in model.get_submodule("{blocks}").modules() if getattr(m, "weight", None) is not None]
    linear = [m for m in linear if m.weight.ndim == 2]
    before, kept = predictions(), [m.weight.detach().clone() for m in linear]
    result = {{}}
    for name, round_ in rounding.items():
        for m, weight in zip(linear, kept):
            with torch.no_grad():
                m.weight.copy_(weight)
                turned = type(m).__name__ == "Conv1D"
                shape = weight.T.shape if turned else weight.shape
                after = round_(rows(m, name)).flatten()[: weight.numel()].view(shape)
                m.weight.copy_(after.T if turned else after)
        result[name] = float((before.exp() * (before - predictions())).sum(-1).mean())
    print(result)
"""
)

_ONE = (
    _ROUND
    + """

    result = {{}}
    for name, round_ in rounding.items():
        given = rows(model.get_submodule("{module}"), name)
        result[name] = float((round_(given) - given).norm() / given.norm())
    print(result)
"""
)
