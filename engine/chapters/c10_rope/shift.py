"""Move a query and its keys together: what the position scheme makes of the same words at another place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine import ReaderError
from engine.chapters.c10_rope.rotation import STEPS, before, narrower, rotation, rounding
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.comparing import max_difference
from engine.evidence.oracles.head import head_again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.oracles.rope import rope_again
from engine.evidence.oracles.shifted import attended, first_layer, read_off
from engine.evidence.rounding import pass_tolerance, tolerance
from engine.figures.axes import short
from engine.figures.rope import shifts as drawn
from engine.model.head import Head
from engine.model.loaded import Loaded
from engine.model.matrices import apply
from engine.model.trace import Trace
from engine.ops import attention as ops
from engine.ops.attention import Floats

LINES = 3
"""Keys that get a line of their own."""

MOST_SHIFTS = 129

_CONCEPTS = ("key", "value", "query")


@dataclass(frozen=True, eq=False)
class Moved:
    """Scores of one query (key) where the prompt has it and `shift` positions further, and the way between."""

    home: Floats
    there: Floats
    keys: list[int]
    shifts: list[int]
    curves: Floats  # (chosen key, shift)

    @property
    def change(self) -> float:
        return max_difference(self.there, self.home)


def room(loaded: Loaded, query: int) -> int:
    """By how many positions a query can move and still be inside the context."""
    return loaded.spec.context - 1 - query


def rotated(loaded: Loaded, trace: Trace, layer: int, head: int, query: int, shift: int) -> Card:
    """RoPE: the captured q and k, rotated by the model's own module at positions that are `shift` higher."""
    one = _checked(Head(loaded, trace, layer, head), query, shift)
    own, (q, k) = rotation(loaded), before(one)

    def row(by: int) -> Floats:
        return own.row(q[: query + 1], k[: query + 1], range(by, by + query + 1))

    def curves(keys: Sequence[int], steps: Sequence[int]) -> Floats:
        queries = own.turn(_repeat(q[query], steps), _repeat(q[query], steps), [query + s for s in steps])[0]
        turned = [
            own.turn(_repeat(k[i], steps), _repeat(k[i], steps), [i + s for s in steps])[1] for i in keys
        ]
        return np.stack([(queries * keys_i).sum(-1) for keys_i in turned]) * one.scale

    moved = _moved(one, query, shift, row, curves)
    near = rounding(own, q, k, query + shift)
    return _card(
        one,
        query,
        shift,
        moved,
        key="shift",
        title=f"Moved by {shift} positions, the scores of {one.quoted(query)} {_stay(moved.change)}",
        oracle=Oracle(
            "transformers ran the whole model with every position as it is, and once more with every position "
            f"{shift} higher: the logarithms of the attention that it returned are the scores, up to the number that a "
            "softmax leaves open. That number, the lines, and scores whose attention vanished are the real part of "
            "q·k̄·e^(i·distance·frequency), summed over the pairs, with q and k projected again.",
            lambda: _rotated_again(one, query, shift, moved.keys, len(moved.shifts)),
            _allowed(loaded, moved, near),
        ),
        script=_ROTATED.format(query=query, shift=shift),
        note="Queries and keys before RoPE are the captured ones; the rotation is the model’s own, in float32. What "
        "is left of a difference is rounding: the module computes position × frequency in float32.",
    )


def learned(loaded: Loaded, trace: Trace, head: int, query: int, shift: int) -> Card:
    """Learned positions: embedding + position vector, `shift` rows further down the table, into layer 0's q and k.

    Raises ReaderError for a checkpoint without a table of positions.
    """
    if loaded.spec.positions != "learned":
        raise ReaderError(f"{loaded.name} has no table of learned positions.")
    one = _checked(Head(loaded, trace, 0, head), query, shift)

    def row(by: int) -> Floats:
        q, k = _projected(one, list(range(query + 1)), [by])
        result: Floats = ops.scores(q[0, -1:], k[0], one.scale)[0]
        return result

    def curves(keys: Sequence[int], steps: Sequence[int]) -> Floats:
        q, k = _projected(one, [query, *keys], steps)
        result: Floats = (q[:, :1] * k[:, 1:]).sum(-1).T * one.scale
        return result

    moved = _moved(one, query, shift, row, curves)
    change = f"change by up to {short(moved.change)}" if shift else "are what they are; move them"
    return _card(
        one,
        query,
        shift,
        moved,
        key="learned",
        title=f"Moved by {shift} positions, the scores of {one.quoted(query)} {change}",
        oracle=Oracle(
            "transformers ran the whole model with every position as it is, and once more with every position "
            f"{shift} higher: the logarithms of the attention that it returned are the scores, up to the number that a "
            "softmax leaves open. That number, the lines, and scores whose attention vanished come from the queries "
            "and keys that leave the projections of a private copy which is given these positions.",
            lambda: _learned_again(one, query, shift, moved.keys, moved.shifts),
            _allowed(loaded, moved, 0.0),
        ),
        script=_LEARNED.format(query=query, shift=shift, heads=loaded.adapter.heads_lines),
        note="This is exact in layer 0, where a token’s vector is its embedding plus its position vector and no other "
        "token has been mixed in. Deeper layers read what the layers below wrote, and that changes too."
        + _first(moved),
    )


def _first(moved: Moved) -> str:
    """A sentence where the largest step of all lines is the first, in which the first token leaves row 0."""
    if len(moved.shifts) < 3 or not np.isfinite(moved.curves).all():
        return ""
    steps = np.abs(np.diff(moved.curves, axis=1))
    if steps[:, 0].max() < 2 * steps[:, 1:].max():
        return ""
    return " The lines change most in the first step: it leads away from row 0 of the table, where every text begins."


def _stay(change: float) -> str:
    if not np.isfinite(change):
        return "cannot be compared: some of them overflowed"
    return f"stay: the largest change is {change:.0e}"


def _checked(one: Head, query: int, shift: int) -> Head:
    one.position(query)
    if not 0 <= shift <= max(0, room(one.loaded, query)):
        raise ReaderError(
            f"The context of {one.loaded.name} ends at position {one.loaded.spec.context - 1}; "
            f"from position {query} there is room for {room(one.loaded, query)} more."
        )
    return one


def _moved(
    one: Head,
    query: int,
    shift: int,
    row: Callable[[int], Floats],
    curves: Callable[[Sequence[int], Sequence[int]], Floats],
) -> Moved:
    seen = np.nan_to_num(one.weights[query, : query + 1])
    keys = np.argsort(-seen, kind="stable")[:LINES].tolist()
    spread = np.linspace(0, max(0, room(one.loaded, query)), MOST_SHIFTS).astype(int)
    steps = sorted({*spread.tolist(), shift})
    return Moved(row(0), row(shift), keys, steps, curves(keys, steps))


def _projected(one: Head, tokens: Sequence[int], steps: Sequence[int]) -> tuple[Floats, Floats]:
    """Layer 0's q and k (shift, token, d_head) of tokens of the prompt at positions `shift` higher."""
    x = _embedded(one, tokens, steps)
    made = []
    for part in ("query", "key"):
        weight, bias = one.projection(part)
        made.append(x @ weight.astype(np.float64) + bias)
    return made[0], made[1]


@torch.no_grad()
def _embedded(one: Head, tokens: Sequence[int], steps: Sequence[int]) -> NDArray[np.float64]:
    """Embedding + position vector behind the first block's norm, (shift, token, d_model)."""
    loaded, device = one.loaded, one.loaded.model.device
    ids = torch.tensor([one.trace.ids[i] for i in tokens], device=device)
    places = torch.tensor([[i + step for i in tokens] for step in steps], device=device)
    stream = loaded.part("embedding")(ids)[None] + loaded.part("positions")(places)
    normed = apply(loaded.part("attn_norm", 0), stream.to("cpu", torch.float32).numpy())
    return normed.astype(np.float64)


def _repeat(vector: NDArray[np.float32], steps: Sequence[int]) -> NDArray[np.float32]:
    return np.repeat(vector[None], len(steps), axis=0)


def _allowed(loaded: Loaded, moved: Moved, near: float) -> dict[str, float]:
    """`near` is what the rotation may be off by in float32; that of the model's pass is as coarse as its weights."""
    rows = max(near, pass_tolerance(loaded, moved.home, moved.there, steps=20))
    return {
        "as_it_is": narrower(rows, moved.home),
        "moved": narrower(rows, moved.there),
        "lines": narrower(max(near, tolerance(loaded, moved.home, moved.curves, steps=STEPS)), moved.curves),
        "keys of the lines": 0.0,
    }


def _rotated_again(one: Head, query: int, shift: int, keys: list[int], count: int) -> dict[str, Any]:
    head, turner, seen = head_again(one), rope_again(one.loaded), query + 1
    parts = [
        turner.by_distance(head.before["query"][query], head.before["key"][i], [query - i])
        for i in range(seen)
    ]
    scores = torch.stack([waves.sum() + still for waves, still in parts]) * one.scale
    ids = one.trace.ids[:seen]
    home, there = (attended(one.loaded, ids, by, one.layer, one.index) for by in (0, shift))
    found = _favourite_keys(one, home, keys)
    return {
        "as_it_is": read_off(home, scores, one.loaded),
        "moved": read_off(there, scores, one.loaded),
        "lines": scores[found][:, None].expand(-1, count),
        "keys of the lines": found,
    }


def _learned_again(
    one: Head, query: int, shift: int, keys: list[int], shifts: Sequence[int]
) -> dict[str, Any]:
    ids = one.trace.ids[: query + 1]
    weights = [attended(one.loaded, ids, by, 0, one.index) for by in (0, shift)]
    found = _favourite_keys(one, weights[0], keys)
    rows = []
    for by, returned in zip((0, shift), weights, strict=True):
        q, k = first_layer(one, range(query + 1), [by])
        rows.append(read_off(returned, k[0] @ q[0, -1] * one.scale, one.loaded))
    q, k = first_layer(one, [query, *found], shifts)
    lines = torch.einsum("sd,skd->ks", q[:, 0], k[:, 1:]) * one.scale
    return {"as_it_is": rows[0], "moved": rows[1], "lines": lines, "keys of the lines": found}


def _favourite_keys(one: Head, weights: torch.Tensor, keys: list[int]) -> list[int]:
    """The keys with the largest attention; where rounding decides, those that have lines."""
    found: list[int] = at_ranks(
        keys, weights, tolerance(one.loaded, 1.0, steps=2), range(min(LINES, len(weights)))
    ).tolist()
    return found


def _card(
    one: Head,
    query: int,
    shift: int,
    moved: Moved,
    *,
    key: str,
    title: str,
    oracle: Oracle,
    script: str,
    note: str,
) -> Card:
    names = [f"key {i} {one.tokens[i]}" for i in moved.keys]
    return Card(
        key=key,
        title=title,
        alt=f"Scores of {one.quoted(query)} with {len(names)} keys while both move up by 0 to {moved.shifts[-1]} "
        f"positions. At {shift} the largest change over all {query + 1} keys is {moved.change:.3g}.",
        badge=Badge.LIVE,
        figure=drawn(
            moved.shifts,
            dict(zip(names, moved.curves, strict=True)),
            colors=dict(zip(names, _CONCEPTS, strict=False)),
            mark=shift,
            y_name="score q·k / √d_head" if one.loaded.spec.scaled else "score q·k",
        ),
        table={
            "key position": list(range(query + 1)),
            "key": one.tokens[: query + 1],
            "score as it is": moved.home.tolist(),
            f"score at +{shift}": moved.there.tolist(),
            "change": (moved.there - moved.home).tolist(),
        },
        shown={
            "as_it_is": moved.home,
            "moved": moved.there,
            "lines": moved.curves,
            "keys of the lines": moved.keys,
        },
        oracle=oracle,
        code=code.script(one, script + _LINES.format(shifts=moved.shifts, lines=LINES)),
        note=f"{one.name[0].upper()}{one.name[1:]} of {one.loaded.name}. {note}",
    )


_ROTATED = """
query = {query}

def row(shift):
    places = torch.arange(query + 1)[None] + shift
    cos, sin = rotary(torch.zeros(1), places)
    parts = (before[part][None, None, : query + 1] for part in ("query", "key"))
    turned_q, turned_k = apply_rotary_pos_emb(*parts, cos, sin)
    return turned_k[0, 0] @ turned_q[0, 0, query] * scale

home, there = row(0), row({shift})
"""

_LEARNED = """
query = {query}

def row(shift):
    with torch.no_grad():  # the hooks above keep what the projections gave
        model(ids[:, : query + 1], position_ids=torch.arange(query + 1)[None] + shift)
    seq = query + 1
    {heads}
    return k[kv_head].float() @ q[head, query].float() * scale

home, there = row(0), row({shift})
"""

_LINES = """
favourites = weights[query, : query + 1].sort(descending=True, stable=True).indices[:{lines}]
result = {{
    "as_it_is": home,
    "moved": there,
    "lines": torch.stack([row(shift)[favourites] for shift in {shifts}], dim=1),
    "keys of the lines": favourites,
}}
"""
