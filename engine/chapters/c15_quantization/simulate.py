"""Any number of bits, simulated: the checkpoint's real weights rounded in a private copy and run by torch."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from engine.chapters.c15_quantization.cost import linear_weights
from engine.chapters.c15_quantization.pair import Pair, code, fraction
from engine.chapters.c15_quantization.weights import linears, matrix
from engine.evidence import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracle import Shown
from engine.evidence.oracles.blockwise import fake_quantized
from engine.evidence.oracles.divergence import divergence
from engine.evidence.passes import logits_of
from engine.figures import lines
from engine.figures.axes import across
from engine.model.cache import ByteLRU, traced
from engine.model.loaded import Loaded
from engine.model.precisions import precision
from engine.ops import quantization as ops
from engine.ops.sampling import kl_divergence

BITS = (2, 3, 4, 5, 6, 7, 8)

NEAR = 0.05
"""Leads (in logits) that may change hands because of weights half-way between two levels."""

HALF_WAY = 2
"""Simulations get so many times the tolerance: torch's own quantizer puts weights half-way elsewhere."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """What rounding every linear layer to `bits` in blocks of `size` did.

    error  ‖difference‖ / ‖weights‖ over all those layers      kl, flipped  seq: against the weights as they were
    """

    bits: int
    size: int
    error: float
    kl: NDArray[np.float64]
    flipped: NDArray[np.bool_]

    @property
    def nbytes(self) -> int:
        return self.kl.nbytes + self.flipped.nbytes


_kept: ByteLRU[Simulation] = ByteLRU(4 * 1024 * 1024)


def simulate(loaded: Loaded, ids: tuple[int, ...], bits: int, size: int) -> Simulation:
    """Round the linear layers of a copy of `loaded` (fp32) and compare its predictions. Kept for the process."""
    key = (loaded.name, loaded.revision, loaded.precision, loaded.device, ids, bits, size)
    return _kept.get(key, lambda: _run(loaded, ids, bits, size))


def _run(loaded: Loaded, ids: tuple[int, ...], bits: int, size: int) -> Simulation:
    squares = [0.0, 0.0]

    def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
        after: NDArray[np.float32] = ops.round_to_nearest(values, bits, size).values
        squares[0] += float(np.square(after - values, dtype=np.float64).sum())
        squares[1] += float(np.square(values, dtype=np.float64).sum())
        return after

    after = predictions(changed(loaded, rounded), ids).numpy()
    before = traced(loaded, ids).logits
    error = float(np.sqrt(squares[0] / squares[1])) if squares[1] else 0.0
    return Simulation(bits, size, error, kl_divergence(before, after), ops.flips(before, after))


def changed(loaded: Loaded, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> nn.Module:
    """A private copy of a model whose linear layers hold changed weights; all other tensors are shared with it."""
    shared = {id(tensor): tensor for tensor in (*loaded.model.parameters(), *loaded.model.buffers())}
    model: nn.Module = copy.deepcopy(loaded.model, shared)
    for module in linears(loaded, model):
        values = change(matrix(module))
        weight = torch.from_numpy(values.T.copy() if isinstance(module, Conv1D) else values)
        module.weight = nn.Parameter(weight.to(loaded.model.device), requires_grad=False)
    return model


@torch.no_grad()
def predictions(model: nn.Module, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits (seq, vocab) of one pass."""
    device = next(model.parameters()).device
    logits: torch.Tensor = model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False).logits
    return logits[0].float().cpu()


def simulated(executed: Pair, bits: int, size: int) -> Card:
    """KL at every token for the weights of the reference (fp32), rounded, beside the other, which is executed."""
    found, other = simulate(executed.reference, executed.ids, bits, size), executed.other
    measured = kl_divergence(*(trace.logits for trace in executed.traces))
    names = (f"simulated: {bits} bits, blocks of {size}", f"executed: {other.precision}")
    labels = executed.labels
    mean = float(found.kl.mean())
    shown: Shown = {"simulated": found.kl, "executed": measured, "error": found.error}
    figure = lines(
        np.arange(len(executed.ids)),
        {names[0]: found.kl, names[1]: measured},
        colors=dict(zip(names, ("mlp", "quantization_error"), strict=True)),
        x_name="after this token",
        y_name="KL against fp32, nats",
        markers=True,
        zero=True,
    )
    figure.update_xaxes(**across(labels))
    return Card(
        key="simulated",
        title=f"Simulation, {bits} bits in blocks of {size}: weights off by {found.error:.1%}, "
        f"mean KL {mean:.3g} nats",
        alt=f"Lines: KL divergence from fp32 after each token, simulated at {bits} bits (mean {mean:.3g}) and "
        f"executed at {other.precision} (mean {float(measured.mean()):.3g}).",
        badge=Badge.LIVE,
        figure=figure,
        table={
            "token": labels,
            names[0]: [float(x) for x in found.kl],
            names[1]: [float(x) for x in measured],
        },
        shown=shown,
        oracle=Oracle(
            "The simulated line with weights rounded by torch.fake_quantize_per_channel_affine in a private copy, the "
            "other from the logits that transformers returns at both precisions, and both by torch's own kl_div.",
            lambda: _simulated_again(executed, bits, size),
            {"simulated": HALF_WAY * fraction(found.kl), "executed": fraction(measured), "error": 1e-5},
        ),
        code=_script(executed, [bits], size, _ONE),
        numbers=shown,
        atol=min(fraction(found.kl), fraction(measured)),
        note=f"A simulation: the checkpoint's real weights rounded to the nearest of {2**bits - 1} even levels, run "
        f"by torch in fp32. The other line, {other.precision}, is really executed. Both against fp32.",
    )


def _simulated_again(executed: Pair, bits: int, size: int) -> dict[str, Any]:
    plain, other = (torch.tensor(logits_of(side.model, executed.ids)) for side in executed.sides)
    faked = fake_quantized(executed.reference, bits, size)
    rounded = torch.tensor(logits_of(faked.model, executed.ids))
    return {
        "simulated": divergence(plain, rounded),
        "executed": divergence(plain, other),
        "error": faked.error,
    }


def sweep(
    loaded: Loaded, ids: tuple[int, ...], size: int, progress: Callable[[float, str], None]
) -> tuple[Simulation, ...]:
    """The simulation at 2 to 8 bits."""
    done = []
    for i, bits in enumerate(BITS):
        progress(i / len(BITS), f"{bits} bits")
        done.append(simulate(loaded, ids, bits, size))
    return tuple(done)


def curve(both: Pair, runs: tuple[Simulation, ...]) -> Card:
    """Mean KL at 2 to 8 bits, with the executed precision where its bits are."""
    loaded, other = both.sides
    means = [float(run.kl.mean()) for run in runs]
    executed = float(kl_divergence(*(trace.logits for trace in both.traces)).mean())
    at = precision(other.precision).bits
    series = {"simulated": means}
    if other.quantized:
        series[f"executed: {other.precision}"] = [
            executed if run.bits == at else float("nan") for run in runs
        ]
    size = runs[0].size
    bits = [ops.bits_per_weight(run.bits, run.size) for run in runs]
    flips = [int(run.flipped.sum()) for run in runs]
    by_bits = {f"mean KL at {run.bits} bits": mean for run, mean in zip(runs, means, strict=True)}
    shown: Shown = {
        **by_bits,
        "errors": [run.error for run in runs],
        "bits": bits,
        "flips": flips,
        "executed": executed,
    }
    return Card(
        key="curve",
        title=f"Simulation: mean KL goes from {means[0]:.2g} nats at 2 bits to {means[-1]:.2g} at 8",
        alt="Line on a logarithmic axis: "
        + ", ".join(f"{r.bits} bits: {m:.3g}" for r, m in zip(runs, means, strict=True)),
        badge=Badge.LIVE,
        figure=lines(
            [run.bits for run in runs],
            series,
            colors=dict(zip(series, ("mlp", "quantization_error"), strict=False)),
            x_name="bits in each weight, scales aside",
            y_name="mean KL against fp32, nats",
            log_y=True,
            height=300,
        ),
        table={
            "bits": [run.bits for run in runs],
            "bits with 32-bit scales": bits,
            "relative error of the weights": [run.error for run in runs],
            "mean KL, nats": means,
            "top-1 flips": flips,
        },
        shown=shown,
        oracle=Oracle(
            "Every number with weights rounded by torch.fake_quantize_per_channel_affine in a private copy, the "
            "executed one from the logits that transformers returns, and KLs by torch's own kl_div.",
            lambda: _curve_again(both, runs),
            {
                **{name: HALF_WAY * fraction(mean) for name, mean in by_bits.items()},
                "errors": 1e-5,
                "bits": 32 * sum(1 for _ in linears(loaded, loaded.model)) / linear_weights(loaded),
                "flips": 0.0,
                "executed": fraction(executed),
            },
        ),
        code=_script(both, list(BITS), size, _MANY),
        numbers=shown,
        atol=fraction(means[-1]),
        note=f"A simulation on the checkpoint's real weights, in blocks of {size}, run by torch in fp32.",
    )


def _curve_again(both: Pair, runs: tuple[Simulation, ...]) -> dict[str, Any]:
    plain, other = (torch.tensor(logits_of(side.model, both.ids)) for side in both.sides)
    found: dict[str, Any] = {
        "errors": [],
        "bits": [],
        "flips": [],
        "executed": divergence(plain, other).mean(),
    }
    for run in runs:
        faked = fake_quantized(both.reference, run.bits, run.size)
        rounded = torch.tensor(logits_of(faked.model, both.ids))
        found[f"mean KL at {run.bits} bits"] = divergence(plain, rounded).mean()
        found["errors"].append(faked.error)
        found["bits"].append(faked.bits)
        found["flips"].append(_flips(plain, rounded, torch.tensor(run.flipped)))
    return found


def _flips(before: torch.Tensor, after: torch.Tensor, given: torch.Tensor) -> int:
    """How many favourites changed; what is given decides where two lead by less than weights half-way could move."""
    leads = [(best[:, 0] - best[:, 1]) for best in (logits.topk(2).values for logits in (before, after))]
    near = torch.minimum(*leads) < NEAR
    flipped = before.argmax(-1) != after.argmax(-1)
    return int(torch.where(near, given, flipped).sum())


def _script(both: Pair, bits: list[int], size: int, result: str) -> str:
    start = script.preamble(both.reference, both.ids)
    start += "\n".join(script.model_lines(both.other, both.other.precision, "other")) + "\n"
    return code(start, _CODE, blocks=_blocks(both.reference), size=size, bits=bits, result=result)


def _blocks(loaded: Loaded) -> str:
    return loaded.path("blocks")


_ONE = '{"simulated": kls[0], "executed": executed, "error": errors[0]}'
_MANY = """{f"mean KL at {bits} bits": kl.mean() for bits, kl in zip(tried, kls)} | {
        "errors": errors, "bits": [bits + 32 / size for bits in tried], "flips": flips, "executed": executed.mean()}"""

_CODE = """
    def rounded(weight, bits, size):
        '''Round to nearest on 2^bits - 1 even levels in each block of `size` along the rows.'''
        flat = weight.flatten()
        rows = torch.nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)
        scale = (rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp(min=1e-30)
        return ((rows / scale).round() * scale).flatten()[: len(flat)].view(weight.shape)


    def predictions(model):
        with torch.no_grad():
            return model(ids.to(model.device)).logits[0].double().cpu().log_softmax(-1)


    def kl(after):
        return (before.exp() * (before - after)).sum(-1)


    linear = [m for m in model.get_submodule("{blocks}").modules() if getattr(m, "weight", None) is not None]
    linear = [m for m in linear if m.weight.ndim == 2]
    before, weights = predictions(model), [m.weight.detach().clone() for m in linear]
    executed = kl(predictions(other))
    tried, size = {bits}, {size}
    kls, errors, flips = [], [], []
    for bits in tried:
        squares = 0.0
        for m, weight in zip(linear, weights):
            turned = type(m).__name__ == "Conv1D"  # GPT-2 stores (input, output)
            after = rounded(weight.T, bits, size).T if turned else rounded(weight, bits, size)
            with torch.no_grad():
                m.weight.copy_(after)
            squares += float((after - weight).double().square().sum())
        errors.append((squares / sum(float(w.double().square().sum()) for w in weights)) ** 0.5)
        after = predictions(model)
        kls.append(kl(after))
        flips.append(int((before.argmax(-1) != after.argmax(-1)).sum()))
    result = {result}
    print(result)
"""
