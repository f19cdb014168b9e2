"""Momentum on the ravine: how the share of the last step that is kept decides how fast the distance shrinks."""

from functools import partial
from math import isclose

import numpy as np
from torch import Tensor

from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.oscillating import distances, rate_map
from engine.evidence.rounding import EXACT, largest
from engine.figures import heatmap, lines
from engine.ops.optimizers import Floats, descend

FLAT, STEEP = 1.0, 25.0
"""The curvatures of the ravine, along and across."""
RATES = tuple(round(0.01 * i, 2) for i in range(1, 21))
BETAS = tuple(round(0.05 * i, 2) for i in range(20))
STEPS = 40
TINY = 1e-16
"""Nothing smaller has a place on a logarithmic axis."""
DOUBLE = 1e-6
"""Where the two roots are nearly one, an eigenvalue is known to half of the digits."""


def momentum(beta: float, rate: float) -> list[Card]:
    """The distance along and across the ravine at each step, and how fast it shrinks for each rate and β."""
    return [_walk(beta, rate), _map(beta, rate)]


def factor(rate: float, beta: float) -> float:
    """What a step multiplies the distance by in the long run, in the slower of the two directions.

    On a parabola of curvature c it is the larger |root| of λ² − (1 + β − rate · c) λ + β (Goh 2017,
    distill.pub/2017/momentum).
    """
    return max(_root(rate * FLAT, beta), _root(rate * STEEP, beta))


def _root(step: float, beta: float) -> float:
    middle = (1 + beta - step) / 2
    inside = middle**2 - beta
    return float(beta**0.5 if inside < 0 else abs(middle) + inside**0.5)


def _parabola(curvature: float, z: Tensor) -> Tensor:
    return curvature * z[0] ** 2 / 2


def _walk(beta: float, rate: float) -> Card:
    walked = {
        f"{way}, curvature {c:g}": np.abs(
            descend(partial(_parabola, c), [1.0], "Momentum", rate, STEPS, momentum=beta).points[:, 0]
        )
        for way, c in (("along", FLAT), ("across", STEEP))
    }
    series = {name: _padded(values) for name, values in walked.items()}
    kept, plain = factor(rate, beta), factor(rate, 0.0)
    return Card(
        key="momentum",
        title=f"In the long run a step multiplies the distance by {kept:.3g}: {_fate(kept)}; "
        f"without momentum it would be {plain:.3g}",
        alt=f"Two lines on a logarithmic axis: the distance from the minimum over {STEPS} steps.",
        badge=Badge.TOY,
        figure=lines(
            np.arange(STEPS + 1),
            series,
            x_name="step",
            y_name="distance from the minimum",
            log_y=True,
            height=280,
        ),
        table={"step": list(range(STEPS + 1)), **{name: values.tolist() for name, values in series.items()}},
        shown=walked | {"factors": [kept, plain]},
        oracle=Oracle(
            "The distances by the recursion v ← β v + c x, x ← x − rate · v in numpy; the factors as eigenvalues of "
            "the matrix of one such step.",
            lambda: {
                **{
                    name: distances(c, beta, rate, len(walked[name]))
                    for name, c in zip(walked, (FLAT, STEEP), strict=True)
                },
                "factors": rate_map([rate], [beta, 0.0], (FLAT, STEEP))[:, 0],
            },
            {name: EXACT * max(1.0, largest(values)) for name, values in walked.items()}
            | {"factors": DOUBLE},
        ),
        note="Both directions start at a distance of 1, with torch.optim.SGD. In a dip the path crosses the minimum.",
    )


def _padded(values: Floats) -> Floats:
    full = np.full(STEPS + 1, np.nan)
    full[: len(values)] = np.where(values > TINY, values, np.nan)
    return full


def _fate(kept: float) -> str:
    if isclose(kept, 1):
        return "it comes no nearer"
    return "it converges" if kept < 1 else "it diverges"


def _map(beta: float, rate: float) -> Card:
    lost = np.array([[max(0.0, 1 - factor(r, b)) for r in RATES] for b in BETAS])
    lost[lost < EXACT] = 0.0
    best = np.unravel_index(int(lost.argmax()), lost.shape)
    plain = int(lost[0].argmax())
    rows, columns = [f"{b:.2f}" for b in BETAS], [f"{r:.2f}" for r in RATES]
    return Card(
        key="momentum-map",
        title=f"The fastest here is β {rows[best[0]]} at rate {columns[best[1]]}: {lost[best]:.0%} of the distance is "
        f"lost at each step; without momentum {lost[0, plain]:.0%}, at rate {columns[plain]}",
        alt="A map of learning rates and values of β: the share of the distance that each step takes away in the end.",
        badge=Badge.TOY,
        figure=heatmap(
            lost, rows, columns, concept="gradient", masked=lost == 0, masked_name="does not converge",
            row_name="β", column_name="learning rate", value_name="share of the distance lost per step",
            outline_row=_at(BETAS, beta), outline_column=_at(RATES, rate), height=420,
        ),
        table={"β": rows, **{f"rate {name}": lost[:, i].tolist() for i, name in enumerate(columns)}},
        shown={"lost": lost},
        oracle=Oracle(
            "1 − the largest |eigenvalue| of the matrix of one step, in both directions, by numpy.",
            lambda: {"lost": np.maximum(0.0, 1 - rate_map(RATES, BETAS, (FLAT, STEEP)))},
            DOUBLE,
        ),
        note="In the long run, in the slower of the two directions. The frames cross at what you chose.",
    )  # fmt: skip


def _at(values: tuple[float, ...], value: float) -> int | None:
    return values.index(value) if value in values else None
