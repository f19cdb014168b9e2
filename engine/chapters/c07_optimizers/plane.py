"""A plane in the real model's weights: its loss as a landscape, and optimizers walking in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import ReaderError
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.descent import BlockMoved, next_points
from engine.evidence.rounding import largest
from engine.evidence.script import script
from engine.figures import lines
from engine.figures.learning import contours
from engine.model.loaded import Loaded
from engine.model.one_text import Floats, Plane, Report
from engine.ops.optimizers import Path, descend

REACH, CUT, SIDE = 0.8, 7, 13
PLANE_RATES = {
    "SGD": 0.02,
    "Momentum": 0.005,
    "Nesterov": 0.005,
    "RMSProp": 0.02,
    "Adam": 0.05,
    "AdamW": 0.05,
}
"""Learning rates for coordinates of size 1; the reader multiplies them all."""
TOLERANCE = 5e-4
"""Two fp32 passes through moved weights, in nats."""


def cuts(loaded: Loaded, ids: Sequence[int], seed: int) -> Card:
    """The loss along each of the two directions alone. Raises ReaderError for a text of one token."""
    offsets = np.linspace(-REACH, REACH, CUT)
    points = np.concatenate([np.stack([offsets, 0 * offsets], 1), np.stack([0 * offsets, offsets], 1)])
    first, second = Plane(loaded, ids, seed).losses(points).reshape(2, CUT)
    rises = np.concatenate([first[[0, -1]], second[[0, -1]]]) - first[CUT // 2]
    return Card(
        key="cuts",
        title=f"The trained weights have a loss of {first[CUT // 2]:.3f}; at the ends of the two lines it is "
        f"{_between(float(rises.min()), float(rises.max()))}",
        alt="Two curves: the loss of the prompt while the last block's weights move along one direction or the other.",
        badge=Badge.LIVE,
        figure=lines(
            offsets, {"direction 1": first, "direction 2": second}, y_name="loss of the prompt (nats)",
            x_name="distance, in lengths of the weights", mark_x=0.0,
        ),
        table={"distance": offsets.tolist(), "direction 1": first.tolist(), "direction 2": second.tolist()},
        shown={"direction 1": first, "direction 2": second},
        oracle=Oracle(
            "Losses that transformers returns for a private copy with its weights overwritten, along directions drawn "
            "again from the seed.",
            lambda: dict(
                zip(
                    ("direction 1", "direction 2"),
                    BlockMoved(loaded, ids, seed).losses(points).reshape(2, CUT),
                    strict=True,
                )
            ),
            TOLERANCE,
        ),
        code=_code(loaded, ids, seed, _CUTS.format(offsets=offsets.tolist())),
        note=f"All weights of block {loaded.spec.n_layer - 1}, moved along seeded random directions in which each "
        f"tensor is as long as the one it moves. fp32.",
    )  # fmt: skip


def _between(low: float, high: float) -> str:
    if low > 0:
        return f"{low:.2f} to {high:.2f} nats higher"
    if high < 0:
        return f"{-high:.2f} to {-low:.2f} nats lower"
    return f"between {-low:.2f} nats lower and {high:.2f} nats higher"


@dataclass(frozen=True, eq=False)
class Survey:
    """Losses on a grid (b, a) of the plane, and the paths of the optimizers in it."""

    offsets: Floats
    heights: Floats
    paths: dict[str, Path]


def survey(
    loaded: Loaded, ids: Sequence[int], seed: int, start: tuple[float, float], factor: float, steps: int,
    report: Report, side: int = SIDE,
) -> Survey:  # fmt: skip
    """Measure the plane and let every optimizer that can move a point walk in it. Slow."""
    plane = Plane(loaded, ids, seed)
    offsets = np.linspace(-REACH, REACH, side)
    a, b = np.meshgrid(offsets, offsets)
    heights = plane.losses(np.stack([a.ravel(), b.ravel()], 1), lambda share, text: report(share / 2, text))
    paths = {}
    for i, (name, rate) in enumerate(PLANE_RATES.items()):
        paths[name] = descend(
            plane.loss, start, name, rate * factor, steps, report=_told(report, name, i, steps)
        )
    return Survey(offsets, heights.reshape(a.shape), paths)


def _told(report: Report, name: str, i: int, steps: int) -> Callable[[int], None]:
    return lambda step: report(0.5 + 0.5 * (i + step / steps) / len(PLANE_RATES), f"{name}: step {step}")


def plane(
    loaded: Loaded,
    ids: Sequence[int],
    seed: int,
    start: tuple[float, float],
    found: Survey,
    shown: Sequence[str],
) -> Card:
    """The measured plane as contours with the chosen optimizers' paths."""
    paths = {name: path for name, path in found.paths.items() if name in shown}
    if not paths:
        raise ReaderError("Choose at least one optimizer.")
    names = {
        name if path.diverged is None else f"{name} (diverges)": path.points for name, path in paths.items()
    }
    ends = {name: float(path.losses[-1]) for name, path in paths.items() if path.diverged is None}
    best = min(ends, key=lambda name: ends[name]) if ends else None
    first = next(iter(paths.values())).losses[0]
    lowest = np.unravel_index(int(np.nanargmin(found.heights)), found.heights.shape)
    a, b = found.offsets[lowest[1]], found.offsets[lowest[0]]
    points = np.stack(np.meshgrid(found.offsets, found.offsets), -1).reshape(-1, 2)
    some = np.linspace(0, len(points) - 1, 9).astype(int)
    flat = found.heights.ravel()
    walked = {
        f"{name}, {what}": array for name, path in paths.items() for what, array in _finite(path).items()
    }
    rates = {name: float(path.rates[0]) if len(path.rates) else 0.0 for name, path in paths.items()}
    rows = [(name, i, *point, loss) for name, path in paths.items()
            for i, (point, loss) in enumerate(zip(path.points, path.losses, strict=True))]  # fmt: skip
    return Card(
        key="plane",
        title=f"From a loss of {first:.2f}, {best} gets lowest, to {ends[best]:.3f}" if best else "All paths diverge",
        alt=f"Contours of the prompt's loss over a plane of weights, with the paths of {', '.join(paths)}.",
        badge=Badge.LIVE,
        figure=contours(
            found.offsets, found.offsets, found.heights, names, lowest=(0.0, 0.0),
            lowest_name="trained weights", x_name="along direction 1",
            y_name="along direction 2",
        ),
        table={name: [row[i] for row in rows] for i, name in enumerate(("optimizer", "step", "a", "b", "loss"))},
        shown={"heights": found.heights} | walked,
        oracle=Oracle(
            "Losses that transformers returns for a private copy with its weights overwritten, on the grid and along "
            "the paths; each step of a path by its paper's formula from the points before it, with the gradient of "
            "all weights by .backward() along the directions, which are drawn again from the seed.",
            lambda: _again(loaded, ids, seed, points, start, rates, walked),
            {"heights": TOLERANCE} | {name: _allowed(name, array) for name, array in walked.items()},
        ),
        code=_code(loaded, ids, seed, f"result = {{'losses': [loss(a, b) for a, b in {points[some].tolist()}]}}"),
        numbers={"losses": flat[some].tolist()},
        atol=TOLERANCE,
        note=f"The star marks the trained weights; the lowest of the {flat.size} grid points is at {a:+.2f}, {b:+.2f}. "
        f"The script recomputes nine of them.",
    )  # fmt: skip


def _finite(path: Path) -> dict[str, Floats]:
    """The part of a path that can be drawn."""
    kept = np.isfinite(path.losses) & np.isfinite(path.points).all(-1)
    return {"points": path.points[kept], "losses": path.losses[kept]}


def _allowed(name: str, array: Floats) -> float:
    return TOLERANCE if name.endswith("losses") else TOLERANCE * max(1.0, largest(array))


def _again(
    loaded: Loaded, ids: Sequence[int], seed: int, grid: Floats, start: tuple[float, float],
    rates: dict[str, float], walked: dict[str, Floats],
) -> dict[str, Any]:  # fmt: skip
    moved, side = BlockMoved(loaded, ids, seed), int(len(grid) ** 0.5)
    found = {"heights": moved.losses(grid).reshape(side, side)}
    for name, rate in rates.items():
        points = walked[f"{name}, points"]
        steps = [rate] * (len(points) - 1)
        found[f"{name}, points"] = next_points(name, start, steps, points, moved.slope)
        found[f"{name}, losses"] = moved.losses(points)
    return found


def _code(loaded: Loaded, ids: Sequence[int], seed: int, end: str) -> str:
    prefix = f"{loaded.path('block', loaded.spec.n_layer - 1)}."
    return script(
        loaded,
        ids,
        f"""
        named = [p for name, p in model.named_parameters() if name.startswith({prefix!r})]
        trained = [p.detach().clone() for p in named]
        generator = torch.Generator().manual_seed({seed})
        directions = []
        for _ in range(2):
            drawn = [torch.randn(w.shape, generator=generator) for w in trained]
            directions.append([d * (w.norm() / d.norm()) for d, w in zip(drawn, trained)])

        @torch.no_grad()
        def loss(a, b):
            for p, w, first, second in zip(named, trained, *directions):
                p.copy_(w + a * first + b * second)
            return float(model(ids, labels=ids, use_cache=False).loss)
        """,
        end,
    )


_CUTS = """\
offsets = {offsets}
result = {{"direction 1": [loss(a, 0) for a in offsets], "direction 2": [loss(0, b) for b in offsets]}}
"""
