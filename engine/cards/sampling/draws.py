"""Many seeded draws from one distribution beside what probability theory expects of them."""

import numpy as np
import torch
from numpy.typing import NDArray

from engine.cards.sampling.common import (
    FORWARD,
    difference,
    display,
    filter_lines,
    inside,
    reference,
    script,
)
from engine.evidence.card import Badge, Card, Proof
from engine.figures.sampling import counts
from engine.model.loading import Loaded
from engine.model.trace import Trace
from engine.ops.sampling import Filters, Float, filtered, inverse_cdf, softmax, top

SHOWN = 12


def draws(loaded: Loaded, trace: Trace, position: int, chosen: Filters, seed: int, count: int = 500) -> Card:
    """`count` draws of the token after `position`: how often each token came up, and how often it should."""
    row = trace.logits[inside(trace, position)]
    seen = trace.ids[: position + 1]
    p = softmax(filtered(row, seen, chosen))
    tally = np.bincount(inverse_cdf(p, uniform(seed, count)), minlength=p.size)
    best = top(p, min(SHOWN, int((p > 0).sum())))
    others = int((p > 0).sum()) - best.size
    share = np.append(p[best], max(0.0, 1 - p[best].sum()))
    observed = np.append(tally[best], count - tally[best].sum())
    names = [display(loaded, i) for i in best] + ["all others"]
    if not others:
        share, observed, names = share[:-1], observed[:-1], names[:-1]
    expected, spread = count * share, np.sqrt(count * share * (1 - share))
    outside = int((np.abs(observed - expected) > 2 * spread + 1e-9).sum())

    def prove() -> Proof:
        theirs = reference(row, seen, chosen)
        again = _torch_draws(theirs, seed, count)
        return Proof(
            "Every expected and observed count against transformers' filters, then torch.searchsorted on the same "
            "uniform numbers, taken one at a time.",
            max(difference(count * p, count * theirs), difference(tally, again)),
            1e-6,
        )

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
        prove=prove,
        code=script(
            loaded,
            seen,
            FORWARD,
            filter_lines(chosen),
            _CODE.format(seed=seed, count=count, shown=best.size),
        ),
        numbers={
            "expected": expected[: best.size].tolist(),
            "observed": observed[: best.size].tolist(),
            "draws": inverse_cdf(p, uniform(seed, count))[:20].tolist(),
        },
        atol=1e-4 * count,
        note="σ is the standard deviation of a binomial count, √(n·p·(1 − p)).",
    )


_CODE = """
    scores = logits[-1:]
    for name, processor in filters:
        scores = processor(ids, scores)
    p = scores.softmax(-1)[0]
    u = torch.rand({count}, generator=torch.Generator().manual_seed({seed}), dtype=torch.float64)
    drawn = torch.searchsorted(p.cumsum(0), u, right=True)
    best = p.sort(descending=True, stable=True).indices[:{shown}]
    result = {{
        "expected": {count} * p[best],
        "observed": drawn.bincount(minlength=len(p))[best],
        "draws": drawn[:20],
    }}
"""


def uniform(seed: int, count: int) -> Float:
    """Uniform numbers in [0, 1) from a generator of their own, shape count."""
    generator = torch.Generator().manual_seed(seed)
    numbers: Float = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    return numbers


def _torch_draws(p: Float, seed: int, count: int) -> NDArray[np.int64]:
    """How often each token comes up when numbers are drawn one by one, shape vocab."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.tensor(p).cumsum(0)
    tally = torch.zeros(len(p), dtype=torch.int64)
    for number in torch.rand(count, generator=generator, dtype=torch.float64):
        tally[int(torch.searchsorted(edges, number, right=True))] += 1
    result: NDArray[np.int64] = tally.numpy()
    return result
