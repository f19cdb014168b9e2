"""All precisions on one map: megabytes against perplexity on the same passage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine import ReaderError
from engine.chapters.c15_quantization.cost import by_shape, inventory
from engine.chapters.c15_quantization.pair import code, fraction
from engine.chapters.c15_quantization.passage import SINGLE, SURPRISALS, Window, listed, loss, standard_error
from engine.evidence import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.reading import nats
from engine.evidence.passes import returned_logits
from engine.figures.quantization import weighed
from engine.model.loaded import Loaded
from engine.ops.sampling import surprisal

GetAt = Callable[[str], Loaded]
"""Gives the checkpoint at a precision, so that a card and its proof hold no models."""


@dataclass(frozen=True, eq=False)
class Point:
    """One precision: bytes in memory, and the surprisal in nats of every predicted token of the windows."""

    name: str
    bytes: int
    nats: NDArray[np.float64]

    @property
    def perplexity(self) -> float:
        """exp of the mean surprisal."""
        return exp(float(self.nats.mean()))


def points(
    get: GetAt,
    names: Sequence[str],
    windows: Sequence[Window],
    progress: Callable[[float, str], None] = lambda share, what: None,
) -> tuple[Point, ...]:
    """Read the windows at every precision, one after the other. Raises ReaderError where logits are not finite."""
    found = []
    for i, name in enumerate(names):
        progress(i / len(names), name)
        loaded = get(name)
        rows = [surprisal(returned_logits(loaded, window)[:-1], window[1:]) for window in windows]
        point = Point(name, sum(inventory(loaded).values()), np.concatenate(rows))
        if not np.isfinite(point.nats).all():
            raise ReaderError(f"Some logits are not finite numbers at {name}, so there is no perplexity.")
        found.append(point)
    return tuple(found)


def overview(get: GetAt, found: Sequence[Point], windows: Sequence[Window]) -> Card:
    """Megabytes across, perplexity upwards; the bars are standard errors of the difference from the first precision."""
    names, sizes = [point.name for point in found], [point.bytes for point in found]
    perplexities, errors = [point.perplexity for point in found], _errors(found)
    light = min(range(len(found)), key=lambda i: (sizes[i], perplexities[i]))
    return Card(
        key="overview",
        title=f"From {names[0]} to {names[light]}: {sizes[0] / 1e6:.1f} → {sizes[light] / 1e6:.1f} MB, perplexity "
        f"{perplexities[0]:.2f} → {perplexities[light]:.2f} ± {errors[light]:.2f}",
        alt="Points: "
        + "; ".join(
            f"{name} {size / 1e6:.1f} MB, perplexity {p:.2f} ± {error:.2f}"
            for name, size, p, error in zip(names, sizes, perplexities, errors, strict=True)
        ),
        badge=Badge.LIVE,
        figure=weighed([size / 1e6 for size in sizes], perplexities, errors, names),
        table={
            "precision": names,
            "bytes": sizes,
            "perplexity": perplexities,
            f"standard error against {names[0]}": errors,
        },
        shown={"bytes": sizes, "perplexities": perplexities, "errors": errors},
        oracle=Oracle(
            "Bytes by the shapes of the layers and the widths of the stored types; perplexities by the loss that "
            "transformers itself returns; their errors from torch's cross-entropy, token by token.",
            lambda: _again(get, names, windows),
            {"bytes": 0, "perplexities": SINGLE * max(perplexities), "errors": fraction(errors)},
        ),
        code=_script(get(names[0]), names, windows),
        numbers={"perplexities": perplexities},
        atol=SINGLE * max(perplexities),
        note=f"{found[0].nats.size:,} predicted tokens of a held-out passage. Bars: one standard error of the "
        f"difference from {names[0]}, whose own place is exact; all precisions read the same tokens.",
    )


def _errors(found: Sequence[Point]) -> list[float]:
    """Perplexity times the standard error of the mean change against the first precision."""
    first = found[0].nats
    return [point.perplexity * standard_error(point.nats - first) for point in found]


def _again(get: GetAt, names: Sequence[str], windows: Sequence[Window]) -> dict[str, Any]:
    counts = torch.tensor([len(window) - 1 for window in windows], dtype=torch.float64)
    found: dict[str, Any] = {"bytes": [], "perplexities": [], "errors": []}
    first = None
    for name in names:
        loaded = get(name)
        losses = torch.tensor([loss(loaded, window) for window in windows], dtype=torch.float64)
        perplexity = float((losses @ counts / counts.sum()).exp())
        each = torch.cat([nats(loaded, window) for window in windows])
        first = each if first is None else first
        found["bytes"].append(by_shape(loaded)[-1])
        found["perplexities"].append(perplexity)
        found["errors"].append(perplexity * float((each - first).std()) / len(each) ** 0.5)
    return found


def _script(reference: Loaded, names: Sequence[str], windows: Sequence[Window]) -> str:
    parts = [script.preamble(reference, windows[0]), f"models = {{{names[0]!r}: model}}\n"]
    for name in names[1:]:
        parts.append(
            "\n".join(script.model_lines(reference, name, "other")) + f"\nmodels[{name!r}] = other\n"
        )
    return "".join(parts) + code("", _CODE, windows=listed(windows))


_CODE = (
    SURPRISALS
    + """

    result = {{"perplexities": [float(torch.cat(surprisals(model)).mean().exp()) for model in models.values()]}}
    print(dict(zip(models, result["perplexities"])))
"""
)
