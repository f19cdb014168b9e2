"""Move a query and its keys together: what the position scheme makes of the same words at another place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine import ReaderError
from engine.chapters.c10_rope.rotation import before, rotation, rounding
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.comparing import max_difference
from engine.evidence.rounding import float_tolerance, probability_tolerance, tolerance
from engine.figures.axes import short
from engine.figures.rope import shifts as drawn
from engine.model.head import Head
from engine.model.loaded import Loaded
from engine.model.matrices import apply
from engine.model.trace import Trace
from engine.ops import attention as ops
from engine.ops.attention import Floats
from engine.ops.sampling import softmax

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
        prove=lambda: _proof(one, query, shift, moved),
        script=_ROTATED.format(query=query, shift=shift),
        near=max(near, float_tolerance(loaded, moved.home)),
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
        prove=lambda: _proof(one, query, shift, moved),
        script=_LEARNED.format(query=query, shift=shift, heads=loaded.adapter.heads_lines),
        near=tolerance(loaded, moved.home, moved.there),
        note="This is exact in layer 0, where a token’s vector is its embedding plus its position vector and no other "
        "token has been mixed in. Deeper layers read what the layers below wrote, and that changes too.",
    )


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


@torch.no_grad()
def _proof(one: Head, query: int, shift: int, moved: Moved) -> Proof:
    """Run the whole model on the prompt with shifted position_ids and compare this query's softmax weights."""
    device = one.loaded.model.device
    ids = torch.tensor([one.trace.ids[: query + 1]], device=device)
    places = torch.arange(query + 1, device=device)[None] + shift
    returned = one.loaded.model(ids, position_ids=places, output_attentions=True, use_cache=False).attentions
    there = returned[one.layer][0, one.index, query].to("cpu", torch.float32).numpy()
    here = one.weights[query, : query + 1]
    return Proof(
        f"transformers ran the whole model once with every position {shift} higher: softmax of the moved scores is the "
        "attention it returned, and softmax of the scores as they are is the captured attention.",
        max(max_difference(softmax(moved.there), there), max_difference(softmax(moved.home), here)),
        probability_tolerance(one.loaded),
    )


def _card(
    one: Head,
    query: int,
    shift: int,
    moved: Moved,
    *,
    key: str,
    title: str,
    prove: Callable[[], Proof],
    script: str,
    near: float,
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
        prove=prove,
        code=code.script(one, script),
        numbers={"as_it_is": moved.home, "moved": moved.there},
        atol=near,
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

result = {{"as_it_is": row(0), "moved": row({shift})}}
"""

_LEARNED = """
query = {query}

def row(shift):
    with torch.no_grad():  # the hooks above keep what the projections gave
        model(ids[:, : query + 1], position_ids=torch.arange(query + 1)[None] + shift)
    seq = query + 1
    {heads}
    return k[kv_head].float() @ q[head, query].float() * scale

result = {{"as_it_is": row(0), "moved": row({shift})}}
"""
