"""LLM.int8: the few inputs of a layer that are too large for eight bits, and what taking them apart is worth."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from engine.chapters.c15_quantization.pair import Get, OfModel, code, fraction
from engine.chapters.c15_quantization.weights import path, weight
from engine.evidence import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.copies import hooked
from engine.evidence.oracles import llm_int8
from engine.evidence.rounding import FLOOR
from engine.figures.post_training import columns as upright
from engine.figures.quantization import outlying
from engine.model.capturing import token
from engine.model.loaded import Loaded
from engine.model.trace import Array, Trace

PART = "down_proj"
"""The matrix that the MLP writes with: what enters it, the activations, has the largest numbers of a block."""

APART, TOGETHER = "as LLM.int8 does it", "without taking any apart"


@dataclass(frozen=True, eq=False)
class Entering(OfModel):
    """What enters an MLP's last matrix in a pass at int8, and the same matrix at 16 bits.

    get, get_half  give the checkpoint at int8, and at the 16 bits that bitsandbytes starts from
    """

    get_half: Get
    trace: Trace
    layer: int

    @property
    def half(self) -> Loaded:
        """The checkpoint at 16 bits."""
        return self.get_half()

    @property
    def inputs(self) -> Array:
        """seq, d_ff"""
        return cast("Array", self.trace.mlp_act[self.layer])

    @property
    def threshold(self) -> float:
        """The magnitude from which bitsandbytes takes a column apart."""
        return threshold(self.loaded, self.layer)

    @property
    def tokens(self) -> list[str]:
        return [token(self.loaded, id).display for id in self.trace.ids]

    @property
    def largest(self) -> Array:
        """d_ff: the largest magnitude of each column, over the tokens"""
        return cast("Array", np.abs(self.inputs).max(axis=0))


def threshold(loaded: Loaded, layer: int) -> float:
    """What bitsandbytes was told when the layer was made: `llm_int8_threshold`."""
    return float(cast("Any", loaded.part(PART, layer)).state.threshold)


def most(loaded: Loaded, trace: Trace) -> tuple[int, int]:
    """The layer with the most columns that are taken apart, and how many these are."""
    large = np.abs(trace.mlp_act).max(axis=1) >= threshold(loaded, 0)
    counts = large.sum(axis=1)
    return int(counts.argmax()), int(counts.max())


def outlier_columns(entering: Entering) -> Card:
    """The largest magnitude of every input; those past the threshold are taken apart."""
    largest, limit = entering.largest, entering.threshold
    apart = np.flatnonzero(largest >= limit)
    middle, highest = float(np.median(largest)), float(largest.max())
    title = (
        f"{len(apart)} of {len(largest):,} inputs reach {limit:g} or more: up to {highest:.4g}, where half stay below "
        f"{middle:.2g}"
        if len(apart)
        else f"None of {len(largest):,} inputs reaches {limit:g} in layer {entering.layer}, the largest {highest:.3g}"
    )
    where = np.abs(entering.inputs).argmax(axis=0)
    return Card(
        key="columns",
        title=title,
        alt=f"Points: the largest magnitude of each of the {len(largest)} inputs over the tokens of the prompt, on a "
        f"logarithmic axis, and a line at {limit:g}.",
        badge=Badge.LIVE,
        figure=outlying(largest, limit, [entering.tokens[i] for i in where]),
        table={
            "input": list(range(len(largest))),
            "largest magnitude": [float(x) for x in largest],
            "at token": [int(i) for i in where],
            "taken apart": [bool(x >= limit) for x in largest],
        },
        shown={"largest": largest, "apart": apart, "at": where},
        oracle=Oracle(
            "A new pass of a private copy with a plain hook of torch's on that matrix, and the largest of what enters "
            "it, column by column.",
            lambda: _columns_again(entering),
            {"largest": FLOOR, "apart": 0.0, "at": 0.0},
        ),
        code=code(_start(entering), _COLUMNS, limit=limit),
        note=f"What enters the matrix that the MLP of layer {entering.layer} writes with, in a pass at int8: one point "
        f"for each of its {len(largest):,} inputs.",
    )


def _columns_again(entering: Entering) -> dict[str, Any]:
    found = torch.tensor(hooked(entering.loaded, entering.trace.ids, entering.layer, PART)[PART]).abs()
    largest, at = found.max(0)
    return {"largest": largest, "apart": (largest >= entering.threshold).nonzero()[:, 0], "at": at}


def products(entering: Entering) -> dict[str, NDArray[np.float64]]:
    """What bitsandbytes makes of the inputs and the matrix (seq, d_model), with the threshold and without one."""
    from bitsandbytes.autograd._functions import MatmulLtState, matmul

    device, half = entering.loaded.model.device, entering.loaded.half
    inputs = torch.tensor(entering.inputs, dtype=half, device=device)
    matrix = torch.tensor(weight(entering.half, PART, entering.layer), dtype=half, device=device)
    found = {}
    for name, limit in ((APART, entering.threshold), (TOGETHER, 0.0)):
        state = MatmulLtState()
        state.is_training, state.threshold = False, limit
        with torch.no_grad():
            product = matmul(inputs.clone(), matrix, state=state)
        found[name] = product.double().cpu().numpy()
    return found


def decomposed(entering: Entering) -> Card:
    """How far the layer's output is off for each token, with the large columns apart and with all of them in 8 bits."""
    exact = (
        entering.inputs.astype(np.float64) @ weight(entering.half, PART, entering.layer).astype(np.float64).T
    )
    norms = np.linalg.norm(exact, axis=1)
    errors = {
        name: np.linalg.norm(found - exact, axis=1) / norms for name, found in products(entering).items()
    }
    means = {name: float(values.mean()) for name, values in errors.items()}
    count = int((entering.largest >= entering.threshold).sum())
    ratio = means[TOGETHER] / means[APART]
    title = (
        f"All in eight bits, the output errs {ratio:.3g} times as much: {means[APART]:.2%} → {means[TOGETHER]:.2%}"
        if count
        else f"Nothing is taken apart here, and the output errs by {means[APART]:.2%} either way"
    )
    return Card(
        key="decomposed",
        title=title,
        alt=f"Two bars for each token: the relative error of the layer's output, on average {means[APART]:.2%} "
        f"{APART}, and {means[TOGETHER]:.2%} {TOGETHER}.",
        badge=Badge.LIVE,
        figure=upright(
            entering.tokens,
            {name: 100 * values for name, values in errors.items()},
            colors={APART: "quantization_error", TOGETHER: "gradient"},
            y_name="‖difference‖ / ‖output‖, %",
        ),
        table={"token": entering.tokens, **{name: values.tolist() for name, values in errors.items()}},
        shown=errors,
        oracle=Oracle(
            "The same products by torch in whole numbers and double precision, without bitsandbytes, as the paper has "
            "them: rows and columns over their largest magnitude, times 127, rounded; the columns apart not rounded.",
            lambda: _decomposed_again(entering),
            {name: fraction(values) for name, values in errors.items()},
        ),
        code=code(
            _start(entering)
            + "\n".join(script.model_lines(entering.half, entering.half.precision, "half"))
            + "\n",
            _DECOMPOSED,
            limit=entering.threshold,
            apart=APART,
            together=TOGETHER,
            path=path(entering.half, PART, entering.layer),
        ),
        numbers={name: errors[name] for name in errors},
        atol=max(fraction(values) for values in errors.values()),
        note=f"The error is against the product of the same inputs with the 16-bit weights, in double precision. "
        f"{count:,} of {len(entering.largest):,} columns are apart, in 16 bits.",
    )


def _decomposed_again(entering: Entering) -> dict[str, Any]:
    inputs = torch.tensor(hooked(entering.loaded, entering.trace.ids, entering.layer, PART)[PART]).double()
    module = entering.half.part(PART, entering.layer)
    matrix = llm_int8.outputs_first(module).double()
    exact = inputs @ matrix.T
    found = {}
    for name, limit in ((APART, entering.threshold), (TOGETHER, float("inf"))):
        off = llm_int8.product(inputs, matrix, limit) - exact
        found[name] = torch.linalg.vector_norm(off, dim=1) / torch.linalg.vector_norm(exact, dim=1)
    return found


def _start(entering: Entering) -> str:
    """The head of a script that has `x`, what enters the matrix (seq, d_ff)."""
    loaded = entering.loaded
    place = path(loaded, PART, entering.layer)
    return code(script.preamble(loaded, entering.trace.ids), _ENTERING, path=place)


_ENTERING = """
    took = []
    model.get_submodule("{path}").register_forward_pre_hook(lambda module, given: took.append(given[0][0]))
    with torch.no_grad():
        model(ids.to(model.device))
    x = took[0]  # what enters the matrix, (seq, d_ff)
"""

_COLUMNS = """
    largest, at = x.abs().max(0)
    result = {{"largest": largest.float(), "apart": (largest >= {limit}).nonzero()[:, 0], "at": at}}
    print(result["apart"], largest[largest >= {limit}])
"""

_DECOMPOSED = """
    import bitsandbytes

    module = half.get_submodule("{path}")
    weight = module.weight.detach().to(x)
    if type(module).__name__ == "Conv1D":  # GPT-2 stores (input, output)
        weight = weight.T.contiguous()
    exact = x.double() @ weight.double().T


    def error(threshold):
        state = bitsandbytes.MatmulLtState()
        state.is_training, state.threshold = False, threshold
        with torch.no_grad():
            product = bitsandbytes.matmul(x.clone(), weight, state=state)
        return (product.double() - exact).norm(dim=1) / exact.norm(dim=1)


    result = {{"{apart}": error({limit}), "{together}": error(0.0)}}
    print({{name: float(values.mean()) for name, values in result.items()}})
"""
