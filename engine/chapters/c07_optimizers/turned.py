"""The ravine turned against the axes: what an optimizer with a rate for each coordinate then loses."""

from collections.abc import Sequence
from dataclasses import replace
from math import isclose

import numpy as np
import torch
from torch import Tensor

from engine import ReaderError
from engine.chapters.c07_optimizers.best import ends
from engine.chapters.c07_optimizers.toy import heights_again, surface
from engine.evidence.card import Badge, Card, Oracle
from engine.figures import lines
from engine.ops.optimizers import SURFACES, VECTOR, Floats, rates_of
from engine.ops.optimizers import turned as turned_by

GROUND, PLAN = "ravine", "constant"
TURNABLE = tuple(name for name in VECTOR if name != "AdamW")
"""AdamW is left out: its weight decay pulls to the origin, which is this surface's lowest point."""
ANGLES = tuple(range(0, 50, 5))
FLOOR = 1e-12
"""What is lower is drawn here."""
CLOSE = 1e-5
"""In powers of ten, between two walks of some dozens of steps in float64."""


def turned(degrees: int, optimizers: Sequence[str], steps: int) -> list[Card]:
    """The optimizers' paths down the ravine turned by an angle, and how low each gets at every angle.

    Each walks at the rate with which it ends lowest at that angle. The start is turned with the ravine.
    """
    chosen = [one for one in TURNABLE if one in optimizers]
    if not chosen:
        raise ReaderError("Choose at least one optimizer.")
    start = turned_by(SURFACES[GROUND], degrees).start
    paths = surface(GROUND, start, chosen, None, steps, PLAN, degrees)[0]
    return [replace(paths, key="turned"), _by_angle(degrees, chosen, steps)]


def _by_angle(degrees: int, chosen: Sequence[str], steps: int) -> Card:
    found = {one: _lowest(one, steps) for one in chosen}
    return Card(
        key="turned-ends",
        title=_told(degrees, {one: (values[0], values[ANGLES.index(degrees)]) for one, values in found.items()}),
        alt=f"A line for each of {', '.join(chosen)}: its height after {steps} steps, by the angle of the ravine.",
        badge=Badge.TOY,
        figure=lines(
            ANGLES, found, x_name="the ravine is turned by (°)", y_name=f"height after {steps} steps", log_y=True,
            mark_x=degrees, height=280,
        ),
        table={"angle": list(ANGLES), **{one: values.tolist() for one, values in found.items()}},
        shown={one: np.log10(values) for one, values in found.items()},
        oracle=Oracle(
            "The logarithm of every height by its formula in numpy, where torch.optim leads at the best of the rates "
            "that were tried, with derivatives worked out on paper.",
            lambda: {one: np.log10(_lowest_again(one, steps)) for one in chosen},
            CLOSE,
        ),
        note=f"At each angle at the best of eleven rates. What is lower than {FLOOR:g} is drawn there.",
    )  # fmt: skip


def _starts() -> list[tuple[float, float]]:
    return [turned_by(SURFACES[GROUND], angle).start for angle in ANGLES]


def _turned_back(z: Tensor) -> Tensor:
    """The heights of points (angle, …, 2), each on the ravine that is turned by its angle."""
    radians = torch.tensor(np.radians(ANGLES))[:, None]
    c, s, x, y = radians.cos(), radians.sin(), z[..., 0], z[..., 1]
    return SURFACES[GROUND].function(torch.stack([c * x + s * y, c * y - s * x], -1))


def _lowest(one: str, steps: int) -> Floats:
    """The lowest end of any rate at each angle; shape angle."""
    heights = ends(_turned_back, _starts(), one, rates_of(PLAN, 1.0, steps))
    found: Floats = np.maximum(FLOOR, np.nanmin(heights, axis=-1))
    return found


def _lowest_again(one: str, steps: int) -> Floats:
    heights = heights_again(GROUND, np.array(ANGLES), _starts(), one, steps, PLAN)
    found: Floats = np.maximum(FLOOR, heights.min(axis=0))
    return found


def _told(degrees: int, ends_of: dict[str, tuple[float, float]]) -> str:
    """Whom the angle costs most, in words, and whom it costs nothing."""
    if not degrees:
        best = min(ends_of, key=lambda one: ends_of[one][0])
        return f"In the ravine along an axis {best} ends lowest, {_height(ends_of[best][0])}"
    worst = max(ends_of, key=lambda one: ends_of[one][1] / ends_of[one][0])
    same = [one for one, (a, b) in ends_of.items() if isclose(a, b, rel_tol=1e-6) and b > FLOOR]
    untouched = f"{_listed(same)} as low as before" if same else ""
    before, after = ends_of[worst]
    if worst in same or after <= FLOOR:
        return f"Turned by {degrees}°, {untouched or f'{worst} still ends {_height(after)}'}"
    told = f"Turned by {degrees}°, {worst} ends {_height(after)} instead of {_height(before)}"
    return f"{told}, while {untouched}" if same else told


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]} end" if len(names) > 1 else f"{names[0]} ends"


def _height(value: float) -> str:
    return f"below {FLOOR:g}" if value <= FLOOR else f"at {value:.2g}"
