"""Any number of bits, simulated: the checkpoint's real weights rounded in a private copy and run by torch."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from engine.chapters.c15_quantization.pair import Pair, code, fraction
from engine.chapters.c15_quantization.weights import linears, matrix
from engine.evidence import script
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.comparing import max_difference
from engine.figures import lines
from engine.figures.axes import across
from engine.model.cache import ByteLRU, traced
from engine.model.loaded import Loaded
from engine.model.precisions import precision
from engine.ops import quantization as ops
from engine.ops.sampling import kl_divergence

BITS = (2, 3, 4, 5, 6, 7, 8)


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

    after = _logits(_changed(loaded, rounded), ids).numpy()
    before = traced(loaded, ids).logits
    error = float(np.sqrt(squares[0] / squares[1])) if squares[1] else 0.0
    return Simulation(bits, size, error, kl_divergence(before, after), ops.flips(before, after))


def _changed(loaded: Loaded, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> nn.Module:
    """A private copy of a model whose linear layers hold changed weights; all other tensors are shared with it."""
    shared = {id(tensor): tensor for tensor in (*loaded.model.parameters(), *loaded.model.buffers())}
    model: nn.Module = copy.deepcopy(loaded.model, shared)
    for module in linears(loaded, model):
        values = change(matrix(module))
        weight = torch.from_numpy(values.T.copy() if isinstance(module, Conv1D) else values)
        module.weight = nn.Parameter(weight.to(loaded.model.device), requires_grad=False)
    return model


@torch.no_grad()
def _logits(model: nn.Module, ids: tuple[int, ...]) -> torch.Tensor:
    device = next(model.parameters()).device
    logits: torch.Tensor = model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False).logits
    return logits[0].float().cpu()


def simulated(loaded: Loaded, other: Loaded, ids: tuple[int, ...], bits: int, size: int) -> Card:
    """KL at every token for the simulated weights, beside a precision that is really executed."""
    found = simulate(loaded, ids, bits, size)
    executed = Pair(loaded, other, ids)
    measured = kl_divergence(*(trace.logits for trace in executed.traces))
    names = (f"simulated: {bits} bits, blocks of {size}", f"executed: {other.precision}")
    labels = executed.labels
    mean = float(found.kl.mean())
    figure = lines(
        np.arange(len(ids)),
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
        prove=lambda: _prove(loaded, ids, found),
        code=code(
            script.preamble(loaded, ids), _CODE, blocks=_blocks(loaded), size=size, bits=[bits], result=_ONE
        ),
        numbers={"error": found.error, "kl": found.kl},
        atol=fraction(found.kl),
        note=f"A simulation: the checkpoint's real weights rounded to the nearest of {2**bits - 1} even levels, run "
        f"by torch in fp32. The other line, {other.precision}, is really executed. Both against fp32.",
    )


def _prove(loaded: Loaded, ids: tuple[int, ...], found: Simulation) -> Proof:
    again = _again(loaded, ids, found.bits, found.size)
    return Proof(
        "Every value against weights rounded by torch.fake_quantize_per_channel_affine and torch's own kl_div.",
        max_difference(again, found.kl),
        2
        * fraction(
            found.kl
        ),  # it multiplies by 1/scale, so weights halfway between two levels may go the other way
    )


def _again(loaded: Loaded, ids: tuple[int, ...], bits: int, size: int) -> NDArray[np.float64]:
    most = 2 ** (bits - 1) - 1

    def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
        flat = torch.tensor(values).flatten()
        rows = F.pad(flat, (0, -len(flat) % size)).view(-1, size)
        scale = (rows.abs().amax(1) / most).clamp(min=1e-30)
        zero = torch.zeros(len(rows), dtype=torch.int32)
        after = torch.fake_quantize_per_channel_affine(rows, scale, zero, 0, -most, most)
        result: NDArray[np.float32] = after.flatten()[: len(flat)].view(values.shape).numpy()
        return result

    log_p = _logits(loaded.model, ids).double().log_softmax(-1)
    log_q = _logits(_changed(loaded, rounded), ids).double().log_softmax(-1)
    again: NDArray[np.float64] = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).numpy()
    return again


def sweep(
    loaded: Loaded, ids: tuple[int, ...], size: int, progress: Callable[[float, str], None]
) -> tuple[Simulation, ...]:
    """The simulation at 2 to 8 bits."""
    done = []
    for i, bits in enumerate(BITS):
        progress(i / len(BITS), f"{bits} bits")
        done.append(simulate(loaded, ids, bits, size))
    return tuple(done)


def curve(loaded: Loaded, other: Loaded, ids: tuple[int, ...], runs: tuple[Simulation, ...]) -> Card:
    """Mean KL at 2 to 8 bits, with the executed precision where its bits are."""
    means = [float(run.kl.mean()) for run in runs]
    executed = float(kl_divergence(traced(loaded, ids).logits, traced(other, ids).logits).mean())
    at = precision(other.precision).bits
    series = {"simulated": means}
    if other.quantized:
        series[f"executed: {other.precision}"] = [
            executed if run.bits == at else float("nan") for run in runs
        ]
    size = runs[0].size
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
            "bits with 32-bit scales": [ops.bits_per_weight(run.bits, run.size) for run in runs],
            "relative error of the weights": [run.error for run in runs],
            "mean KL, nats": means,
            "top-1 flips": [int(run.flipped.sum()) for run in runs],
        },
        prove=lambda: _prove_curve(loaded, ids, runs),
        code=code(
            script.preamble(loaded, ids),
            _CODE,
            blocks=_blocks(loaded),
            size=size,
            bits=list(BITS),
            result=_MANY,
        ),
        numbers={"mean_kl": means},
        atol=0.05 * means[-1] + 1e-6,
        note=f"A simulation on the checkpoint's real weights, in blocks of {size}, run by torch in fp32.",
    )


def _prove_curve(loaded: Loaded, ids: tuple[int, ...], runs: tuple[Simulation, ...]) -> Proof:
    again = [float(_again(loaded, ids, run.bits, run.size).mean()) for run in runs]
    gaps = [
        abs(a - float(run.kl.mean())) / max(float(run.kl.mean()), 1e-9)
        for a, run in zip(again, runs, strict=True)
    ]
    return Proof(
        "Every mean against weights rounded by torch.fake_quantize_per_channel_affine, as a relative difference.",
        max(gaps),
        0.1,  # as above
    )


def _blocks(loaded: Loaded) -> str:
    return loaded.path("blocks")


_ONE = '{"error": errors[0], "kl": kls[0]}'
_MANY = '{"mean_kl": [kl.mean() for kl in kls]}'

_CODE = """
    def rounded(weight, bits, size):
        '''Round to nearest on 2^bits - 1 even levels in each block of `size` along the rows.'''
        flat = weight.flatten()
        rows = torch.nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)
        scale = (rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp(min=1e-30)
        return ((rows / scale).round() * scale).flatten()[: len(flat)].view(weight.shape)


    def predictions():
        return model(ids.to(model.device)).logits[0].double().cpu().log_softmax(-1)


    linear = [m for m in model.get_submodule("{blocks}").modules() if getattr(m, "weight", None) is not None]
    linear = [m for m in linear if m.weight.ndim == 2]
    kls, errors = [], []
    with torch.no_grad():
        before, weights = predictions(), [m.weight.clone() for m in linear]
        for bits in {bits}:
            squares = 0.0
            for m, weight in zip(linear, weights):
                turned = type(m).__name__ == "Conv1D"  # GPT-2 stores (input, output)
                after = rounded(weight.T, bits, {size}).T if turned else rounded(weight, bits, {size})
                m.weight.copy_(after)
                squares += float((after - weight).double().square().sum())
            errors.append((squares / sum(float(w.double().square().sum()) for w in weights)) ** 0.5)
            kls.append((before.exp() * (before - predictions())).sum(-1))
    result = {result}
    print(result)
"""
