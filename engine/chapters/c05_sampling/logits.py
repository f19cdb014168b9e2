"""The scores of the whole vocabulary, and the probabilities that softmax makes of them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine import ReaderError
from engine.chapters.c05_sampling.warpers import FORWARD
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.ends import logits_after
from engine.evidence.oracles.filtering import logits_again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.rounding import chance_tolerance, float_tolerance, largest, same_pass
from engine.evidence.script import script
from engine.figures.axes import short
from engine.figures.sampling import ranks, softmax_columns
from engine.model.capturing import display
from engine.model.loaded import Loaded
from engine.model.trace import Trace, inside
from engine.model.words import Word, word
from engine.ops.sampling import finite, softmax, top
from engine.tokens.text import quoted

REST = "all others"

SHOWN = 20
"""Top tokens that a *Code* script has to reproduce."""


def logits(loaded: Loaded, trace: Trace, position: int, look_up: str = "") -> Card:
    """Logits after the token at `position` by rank; `look_up` marks the token of a word of the reader's."""
    row = finite(trace.logits[inside(trace, position)])
    order = top(row, row.size)
    asked = word(loaded, look_up) if look_up else None
    found = _found(order, asked)
    places = _places(row.size, found)
    ids = order[places - 1]
    names = [display(loaded, i) for i in ids]
    named = dict(zip(places.tolist(), names, strict=True))
    read = quoted(trace.tokens[position].display)
    title = (
        f"{row.size:,} logits after {read}: from {_signed(row.max())} for {quoted(names[0])} "
        f"down to {_signed(row.min())}"
    )
    if found is not None:
        title += f"; {quoted(named[found])} is number {found:,}"

    read_ids, near = trace.ids, float_tolerance(loaded, row)
    best, p = order[:SHOWN], softmax(row)[ids]
    return Card(
        key="logits",
        title=title,
        alt=f"A falling curve of all {row.size:,} logits by rank, with the tokens at ranks 1, 10, 100 … named.",
        badge=Badge.LIVE,
        figure=ranks(
            places,
            row[ids],
            {r: named[r] for r in _decades(row.size)},
            (found, named[found]) if found else None,
        ),
        table={
            "rank": places.tolist(),
            "token": names,
            "id": ids.tolist(),
            "logit": row[ids].tolist(),
            "probability": p.tolist(),
        },
        shown={"rank": places, "id": ids, "logit": row[ids], "probability": p},
        oracle=Oracle(
            "The normalized stream that transformers returns for the same ids, times the unembedding’s rows, sorted "
            "by torch, and torch.softmax of that.",
            lambda: _ranked_again(loaded, read_ids, position, places.tolist(), ids.tolist(), near),
            {"rank": 0.0, "id": 0.0, "logit": near, "probability": chance_tolerance(loaded, p)},
        ),
        code=script(
            loaded,
            trace.ids,
            FORWARD,
            f"""
            row = logits[{position}]
            ranked = row.sort(descending=True, stable=True)
            result = {{"ids": ranked.indices[:{SHOWN}], "logits": ranked.values[:{SHOWN}], "lowest": row.min()}}
            print([tokenizer.decode([i]) for i in result["ids"]])
            """,
        ),
        numbers={"ids": best.tolist(), "logits": row[best].tolist(), "lowest": float(row.min())},
        atol=same_pass(row),
        note=asked.sentence if asked else "",
    )


def probabilities(
    loaded: Loaded,
    trace: Trace,
    position: int,
    count: int = 12,
    shift: float = 0.0,
    temperature: float = 1.0,
) -> Card:
    """Softmax in columns for the `count` most probable tokens after `position`, and all others in one row.

    `shift` is added to every logit first; then it is divided by the `temperature`.
    """
    row = finite(trace.logits[inside(trace, position)]) + shift
    p = softmax(row / temperature)
    best = top(row, min(count, row.size)).copy()
    names = [display(loaded, i) for i in best]
    powers = np.exp(row / temperature)
    whole = best.size == row.size
    left = [float(values.sum() - values[best].sum()) for values in (powers, p)]
    power, shown = (
        np.append(values[best], 0.0 if whole else max(0.0, rest))
        for values, rest in zip((powers, p), left, strict=True)
    )
    read, near = trace.ids, same_pass(row)
    return Card(
        key="softmax",
        title=(
            f"At temperature {temperature:g}, {quoted(names[0])} gets {p[best[0]]:.1%}: its e^(z/T) is "
            f"{short(power[0])} of {short(float(powers.sum()))} in all"
        ),
        alt=f"Three columns of bars for the {len(best)} most probable next tokens and one for all others: the logit, "
        f"e to the power of logit over temperature, and the probability, the largest {p[best[0]]:.3f}.",
        badge=Badge.LIVE,
        figure=softmax_columns([*names, REST], row[best], power, shown, temperature),
        table={
            "token": [*names, REST],
            "id": [*(str(i) for i in best), ""],
            "logit": [*(f"{row[i]:.6g}" for i in best), ""],
            "e^(z/T)": power.tolist(),
            "probability": shown.tolist(),
            "surprisal (nats)": (-np.log(np.maximum(shown, 1e-300))).tolist(),
        },
        shown={"id": best, "logit": row[best], "power": power, "probability": shown},
        oracle=Oracle(
            "torch.exp and torch.softmax of the logits that transformers returns for the same ids; the probabilities "
            "without the added constant.",
            lambda: _softmax_again(loaded, read, position, best.tolist(), shift, temperature, near),
            {
                "id": 0.0,
                "logit": near,
                "power": largest(power) * math.expm1(near / temperature),
                "probability": same_pass() / min(1.0, temperature),
            },
        ),
        code=script(
            loaded,
            trace.ids,
            FORWARD,
            f"""
            row, T = logits[{position}] + {shift!r}, {temperature!r}
            best = row.sort(descending=True, stable=True).indices[:{len(best)}]
            power = (row / T).exp()
            p = power / power.sum()
            result = {{
                "id": best,
                "logit": row[best],
                "power": torch.cat([power[best], (power.sum() - power[best].sum())[None]]),
                "probability": torch.cat([p[best], 1 - p[best].sum(0, keepdim=True)]),
            }}
            """,
        ),
        note=f"The other {row.size - best.size:,} tokens share {shown[-1]:.1%}. Each column has a scale of its own.",
    )


def _ranked_again(
    loaded: Loaded, ids: Sequence[int], position: int, ranks: list[int], given: list[int], near: float
) -> dict[str, Any]:
    row = logits_after(loaded, ids, position).double()
    chosen = at_ranks(given, row, near, [rank - 1 for rank in ranks])
    own = [1 + int((row > row[i] + near).sum()) for i in chosen]  # the first rank that a tie with it allows
    last = [int((row >= row[i] - near).sum()) for i in chosen]
    fits = [rank if a <= rank <= b else a for rank, a, b in zip(ranks, own, last, strict=True)]
    return {"rank": fits, "id": chosen, "logit": row[chosen], "probability": row.softmax(-1)[chosen]}


def _softmax_again(
    loaded: Loaded,
    ids: Sequence[int],
    position: int,
    given: list[int],
    shift: float,
    temperature: float,
    near: float,
) -> dict[str, Any]:
    row = logits_again(loaded, ids)[position]
    chosen, p = at_ranks(given, row, near), (row / temperature).softmax(-1)
    powers = ((row + shift) / temperature).exp()
    rest = torch.ones(len(row), dtype=torch.bool).index_fill(0, torch.tensor(chosen), False)
    return {
        "id": chosen,
        "logit": row[chosen] + shift,
        "power": [*powers[chosen], powers[rest].sum()],
        "probability": [*p[chosen], p[rest].sum()],
    }


def _places(size: int, found: int | None) -> NDArray[np.int64]:
    """Ranks to draw: every early one, then evenly on the log axis, and all that carry a name."""
    even = np.unique(np.geomspace(1, size, 300).round().astype(np.int64))
    extra = [*_decades(size), *([found] if found else [])]
    return np.unique(np.concatenate([even, np.arange(1, min(size, SHOWN) + 1), extra]))


def _decades(size: int) -> list[int]:
    tens = [10**i for i in range(8) if 10**i * 4 <= size]
    return [*tens, size]


def _found(order: NDArray[np.int64], asked: Word | None) -> int | None:
    """Rank of the token that was asked for, None for no word."""
    if asked is None:
        return None
    places = np.flatnonzero(order == asked.token.id)
    if not places.size:
        raise ReaderError("This model has no logit for that token.")
    return int(places[0]) + 1


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
