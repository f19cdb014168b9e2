"""Many seeded draws from one distribution beside what probability theory expects of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine.chapters.c05_sampling.warpers import FORWARD, filter_lines
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.filtering import logits_again, probabilities
from engine.evidence.oracles.order import at_ranks
from engine.evidence.rounding import same_pass
from engine.evidence.script import script
from engine.figures.sampling import counts
from engine.model.capturing import display
from engine.model.loaded import Loaded
from engine.model.trace import Trace, inside
from engine.ops.sampling import Filters, Float, filtered, inverse_cdf, softmax, top

SHOWN = 12


def draws(loaded: Loaded, trace: Trace, position: int, chosen: Filters, seed: int, count: int = 500) -> Card:
    """`count` draws of the token after `position`: how often each token came up, and how often it should."""
    row = trace.logits[inside(trace, position)]
    seen = trace.ids[: position + 1]
    p = softmax(filtered(row, seen, chosen))
    tally = np.bincount(inverse_cdf(p, uniform(seed, count)), minlength=p.size)
    best = top(p, min(SHOWN, int((p > 0).sum()))).copy()
    others = int((p > 0).sum()) - best.size
    share = np.append(p[best], max(0.0, 1 - p[best].sum()))
    observed = np.append(tally[best], count - tally[best].sum())
    names = [display(loaded, i) for i in best] + ["all others"]
    if not others:
        share, observed, names = share[:-1], observed[:-1], names[:-1]
    expected, spread = count * share, np.sqrt(count * share * (1 - share))
    outside = int((np.abs(observed - expected) > 2 * spread + 1e-9).sum())

    ids = trace.ids

    return Card(
        key="draws",
        title=(
            f"{count} draws with seed {seed}: {len(names) - outside} of {len(names)} counts lie within "
            "two standard deviations of theory"
        ),
        alt="Bars of expected counts with their binomial spread, and a point for each observed count.",
        badge=Badge.LIVE,
        figure=counts(names, expected, spread, observed),
        table={
            "token": names,
            "probability": share.tolist(),
            "expected": expected.tolist(),
            "standard deviation": spread.tolist(),
            "observed": observed.tolist(),
            "z": ((observed - expected) / np.maximum(spread, 1e-12)).tolist(),
        },
        shown={"id": best, "expected": expected, "spread": spread, "observed": observed},
        oracle=Oracle(
            "Logits that transformers returns for the same ids through its own filters, then torch.searchsorted on the "
            "same uniform numbers, taken one at a time.",
            lambda: _again(loaded, ids, position, chosen, seed, count, best.tolist()),
            {"id": 0.0, "expected": count * same_pass(), "spread": count * same_pass(), "observed": 0.0},
        ),
        code=script(
            loaded,
            trace.ids,
            FORWARD,
            filter_lines(chosen),
            _CODE.format(position=position, seed=seed, count=count, shown=best.size),
        ),
        note="σ is the standard deviation of a binomial count, √(n·p·(1 − p)). About one count in twenty lies more "
        "than 2 σ off by chance; those of rare tokens, whole numbers near zero, stray a little differently.",
    )


_CODE = """
    seen, scores = ids[:, : {position} + 1], logits[{position}][None]
    for name, processor in filters:
        scores = processor(seen, scores)
    p = scores.softmax(-1)[0]
    u = torch.rand({count}, generator=torch.Generator().manual_seed({seed}), dtype=torch.float64)
    drawn = torch.searchsorted(p.cumsum(0), u, right=True).bincount(minlength=len(p))
    best = p.sort(descending=True, stable=True).indices[:{shown}]
    share, observed = p[best], drawn[best]
    if (p > 0).sum() > {shown}:  # all other tokens together
        share = torch.cat([share, 1 - share.sum(0, keepdim=True)])
        observed = torch.cat([observed, {count} - observed.sum(0, keepdim=True)])
    result = {{
        "id": best,
        "expected": {count} * share,
        "spread": ({count} * share * (1 - share)).sqrt(),
        "observed": observed,
    }}
"""


def _again(
    loaded: Loaded,
    ids: Sequence[int],
    position: int,
    chosen: Filters,
    seed: int,
    count: int,
    given: list[int],
) -> dict[str, Any]:
    p = probabilities(logits_again(loaded, ids)[position], ids[: position + 1], chosen)
    best, tally = at_ranks(given, p, same_pass()), _torch_draws(p, seed, count)
    share, observed = list(p[best]), list(tally[best])
    if int((p > 0).sum()) > len(best):
        rest = torch.ones(len(p), dtype=torch.bool).index_fill(0, torch.tensor(best), False)
        share, observed = [*share, p[rest].sum()], [*observed, tally[rest].sum()]
    return {
        "id": best,
        "expected": [count * x for x in share],
        "spread": [(count * x * (1 - x)).clamp(min=0).sqrt() for x in share],
        "observed": observed,
    }


def uniform(seed: int, count: int) -> Float:
    """Uniform numbers in [0, 1) from a generator of their own, shape count."""
    generator = torch.Generator().manual_seed(seed)
    numbers: Float = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    return numbers


def _torch_draws(p: torch.Tensor, seed: int, count: int) -> torch.Tensor:
    """How often each token comes up when numbers are drawn one by one, shape vocab."""
    generator = torch.Generator().manual_seed(seed)
    edges = p.cumsum(0)
    tally = torch.zeros(len(p), dtype=torch.int64)
    for number in torch.rand(count, generator=generator, dtype=torch.float64):
        tally[int(torch.searchsorted(edges, number, right=True))] += 1
    return tally
