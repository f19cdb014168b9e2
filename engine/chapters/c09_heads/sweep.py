"""Every head taken out in turn, ranked by how far the next-token distribution moves. Can stop and go on."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from engine import Loaded
from engine.chapters.c09_heads.ablation import ablation_code
from engine.chapters.c09_heads.naming import PICKS, Heads, name
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.divergence import divergence, divergence_tolerance
from engine.evidence.oracles.order import at_ranks
from engine.evidence.oracles.silenced import logits_without
from engine.evidence.rounding import LOGIT, same_pass
from engine.evidence.script import preamble
from engine.figures import bars, heatmap
from engine.figures.axes import exact
from engine.figures.targets import frame, targets
from engine.model.cache import ByteLRU
from engine.model.capturing import forward
from engine.model.interventions import AblateHeads
from engine.model.trace import Trace
from engine.ops.sampling import kl_divergence


@dataclass(eq=False)
class Sweep:
    """A measurement under way: KL in nats for each head measured so far, at one set of positions of one prompt.

    Where there are several positions the KL is their mean. One thread at a time adds to it.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    n_layer: int
    n_head: int
    kl: dict[tuple[int, int], float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """A short text that differs between sweeps, for widget keys."""
        return hashlib.sha256(repr((self.ids, self.positions)).encode()).hexdigest()[:12]

    @property
    def todo(self) -> Heads:
        """Heads not measured yet, in the order of the layers."""
        every = ((layer, head) for layer in range(self.n_layer) for head in range(self.n_head))
        return tuple(pair for pair in every if pair not in self.kl)

    @property
    def total(self) -> int:
        return self.n_layer * self.n_head

    @property
    def done(self) -> bool:
        return len(self.kl) == self.total

    @property
    def nbytes(self) -> int:
        """What a complete one will hold: the cache counts it once."""
        return 1000 + 64 * self.total + 8 * (len(self.ids) + len(self.positions))


_sweeps: ByteLRU[Sweep] = ByteLRU(limit=4 * 1024 * 1024)


def sweep_of(loaded: Loaded, ids: Sequence[int], positions: Sequence[int]) -> Sweep:
    """The sweep of this checkpoint, these ids and positions; the same object every time, so that it can go on."""
    ids, positions = tuple(ids), tuple(positions)
    key = (loaded.name, loaded.revision, loaded.precision, loaded.device, ids, positions)
    return _sweeps.get(key, lambda: Sweep(ids, positions, loaded.spec.n_layer, loaded.spec.n_head))


def advance(loaded: Loaded, before: Trace, sweep: Sweep, seconds: float) -> None:
    """Measure heads for about so many seconds, at least one of them. `before` is the trace with all heads."""
    end = monotonic() + seconds
    logits = before.logits[list(sweep.positions)]
    with sweep.lock:
        for pair in sweep.todo:
            recorded = forward(loaded, sweep.ids, (AblateHeads((pair,)),))
            after = recorded["logits", 0][0, list(sweep.positions)].float().cpu().numpy()
            sweep.kl[pair] = float(kl_divergence(logits, after).mean())
            if monotonic() >= end:
                break


def ranked(sweep: Sweep) -> list[tuple[tuple[int, int], float]]:
    """Measured heads and their KL, the largest first; heads without a number last."""
    return sorted(dict(sweep.kl).items(), key=lambda item: -np.nan_to_num(item[1], nan=-1.0))


def sweep_map(loaded: Loaded, sweep: Sweep, where: str, chosen: tuple[int, int] | None = None) -> Card:
    """KL of every head by layer and head. `where` says in words at which positions it was measured.

    `chosen` is the (layer, head) to be framed.
    """
    order = ranked(sweep)
    grid = np.full((sweep.n_layer, sweep.n_head), np.nan)
    for (layer, head), value in order:
        grid[layer, head] = value
    missing = np.ones_like(grid, bool)
    for layer, head in sweep.kl:
        missing[layer, head] = False
    (first, largest), count = order[0], len(order)
    part = f"All {count} heads" if sweep.done else f"{count} of {sweep.total} heads"
    so_far = "" if sweep.done else "so far "
    return Card(
        key="sweep-map",
        title=f"{part} measured: {so_far}{name(*first)} has the largest effect, without it the distribution moves by "
        f"{largest:.4f} nats",
        alt="Heat map of layers and heads; darker cells are heads whose removal moves the distribution further; "
        "heads not measured are hatched.",
        badge=Badge.LIVE,
        figure=_map(grid, missing, chosen),
        **_evidence(loaded, sweep, order),  # type: ignore[arg-type]
        note=f"KL of the next-token distribution {where}, one head taken out at a time. Hatched: not measured yet.",
        picks=PICKS if sweep.done else (),  # while it runs, it is redrawn too often to be clicked
    )


def _map(grid: np.ndarray, missing: np.ndarray, chosen: tuple[int, int] | None) -> go.Figure:
    """A heat map of KL by layer and head in which a cell can be clicked."""
    figure = heatmap(
        grid,
        concept="logits",
        masked=missing,
        masked_name="not measured",
        row_name="layer",
        column_name="head",
        value_name="KL (nats)",
    )
    places = list(np.ndindex(*grid.shape))
    targets(
        figure,
        [head for _, head in places],
        [layer for layer, _ in places],
        places,
        [
            f"layer {layer}, head {head}<br>"
            + (
                "not measured yet"
                if missing[layer, head]
                else f"KL (nats) <b>{exact(float(grid[layer, head]))}</b>"
            )
            for layer, head in places
        ],
    )
    if chosen is not None:
        frame(figure, chosen[1], chosen[0])
    return figure


def sweep_ranking(loaded: Loaded, sweep: Sweep, where: str, count: int = 12) -> Card:
    """The heads with the largest KL as bars."""
    order = ranked(sweep)
    half = _heads_for_half([value for _, value in order])
    return Card(
        key="sweep-ranking",
        title=f"{half} of {len(order)} heads make up half of the sum of all single-head effects",
        alt=f"Bars of the {min(count, len(order))} heads with the largest KL, the largest on top.",
        badge=Badge.LIVE,
        figure=bars(
            [name(*pair) for pair, _ in order[:count]],
            [value for _, value in order[:count]],
            concept="logits",
            value_name="KL (nats)",
            label_name="head",
        ),
        **_evidence(loaded, sweep, order),  # type: ignore[arg-type]
        note=f"The {min(count, len(order))} largest, measured {where}. Effects of single heads do not add up to the "
        "effect of removing several at once.",
    )


def _heads_for_half(values: list[float]) -> int:
    finite = np.array([value for value in values if np.isfinite(value)])
    if not finite.sum() > 0:
        return 0
    return int(np.searchsorted(np.cumsum(finite), finite.sum() / 2) + 1)


def _evidence(loaded: Loaded, sweep: Sweep, order: list[tuple[tuple[int, int], float]]) -> dict[str, object]:
    """Table, numbers, oracle and code that both figures share."""
    pairs = [pair for pair, _ in order]
    values = np.array([value for _, value in order])
    ids, at, off = sweep.ids, sweep.positions, divergence_tolerance(values, same_pass(LOGIT))
    return {
        "table": {
            "rank": list(range(1, len(order) + 1)),
            "layer": [layer for layer, _ in pairs],
            "head": [head for _, head in pairs],
            "KL (nats)": values,
        },
        "shown": {"heads": np.array(pairs), "kl": values},
        "oracle": Oracle(
            f"The KL of each of the {len(pairs)} heads by torch.nn.functional.kl_div, and their order, from private "
            "copies of the model in which that head's part of the output projection is zero.",
            lambda: _again(loaded, ids, at, pairs, off),
            {"heads": 0.0, "kl": off},
        ),
        "code": preamble(loaded, ids) + _code(loaded, sweep, pairs),
    }


def _again(
    loaded: Loaded, ids: Sequence[int], at: Sequence[int], pairs: Sequence[tuple[int, int]], off: float
) -> dict[str, Any]:
    """All that were measured again, in the order of the layers, and then ranked."""
    before = torch.from_numpy(logits_without(loaded, ids, ())[list(at)])
    measured = sorted(pairs)
    kl = torch.tensor(
        [
            divergence(before, torch.from_numpy(logits_without(loaded, ids, (pair,))[list(at)])).mean()
            for pair in measured
        ]
    )
    order = at_ranks([measured.index(pair) for pair in pairs], kl, off)
    return {"heads": [measured[i] for i in order], "kl": kl[order]}


def _code(loaded: Loaded, sweep: Sweep, pairs: list[tuple[int, int]]) -> str:
    return (
        ablation_code(loaded)
        + f"at = {list(sweep.positions)}\n"
        + "p = logits_without([])[at].log_softmax(-1)\n"
        + "kl = []\n"
        + f"pairs = {pairs}\n"
        + "for pair in pairs:\n"
        + "    q = logits_without([pair])[at].log_softmax(-1)\n"
        + "    kl.append((p.exp() * (p - q)).sum(-1).mean())\n"
        + 'result = {"heads": pairs, "kl": torch.stack(kl)}\n'
    )
