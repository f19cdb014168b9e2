"""What a head looks for: its score of the induction key split over the parts that wrote the keys."""

from collections.abc import Sequence

import numpy as np

from engine import Loaded
from engine.chapters.c09_heads.key_parts import KeyLedger, Part, key_ledger
from engine.chapters.c09_heads.naming import name
from engine.chapters.c09_heads.repeats import HALF, repeated
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.keys import leads_again
from engine.evidence.rounding import same_pass, tolerance
from engine.figures import waterfall
from engine.model.head import Head
from engine.model.trace import Trace
from engine.ops.heads import Floats, scores

MOST = 10
"""Parts drawn one by one."""

SHORT = {"token embedding": "token emb.", "position embedding": "position emb."}


def looks(loaded: Loaded, seed: int, layer: int, head: int) -> Card:
    """By how much the induction key leads the other keys in a head's scores, and what each earlier part gives to it.

    Raises ReaderError where a score does not split over the parts that wrote the stream.
    """
    trace = repeated(loaded, seed)
    one = Head(loaded, trace, layer, head)
    book = key_ledger(one)
    previous = _on_previous(trace, book.parts)
    order, drawn = ranked(book.amounts)
    off = tolerance(loaded, book.amounts, steps=1)
    return Card(
        key="looks",
        title=_title(one, book, previous, order[0]),
        alt=f"A waterfall of what single parts add to the lead of the right key in the scores of {name(layer, head)}, "
        "the largest first, and of all others together.",
        badge=Badge.LIVE,
        figure=waterfall(
            _labels(book.parts, previous, order),
            drawn,
            colors=_colors(book.parts, previous, order),
            total_name="lead",
            value_name="difference of scores",
        ),
        table={
            "part": [part.name for part in book.parts],
            "difference of scores": book.amounts.tolist(),
            "weight on the previous token": previous.tolist(),
        },
        shown={
            "amounts": book.amounts,
            "drawn": drawn,
            "order": order,
            "previous": previous,
            "whole": book.whole,
        },
        oracle=Oracle(
            "Each part alone through the norm (its scale held), the key projection and RoPE, times the queries. All "
            "are made again: heads' writes from the attention and the cached values that transformers returns, by the "
            "output projection's own module; what leaves the MLPs of a private copy; the whole lead from the stream.",
            lambda: leads_again(one, order, off),
            {
                "amounts": off,
                "drawn": off,
                "order": 0.0,
                "previous": same_pass(),
                "whole": tolerance(loaded, book.whole, steps=0.5),
            },
        ),
        code=_script(one),
        numbers={"amounts": book.amounts, "previous": previous, "whole": book.whole},
        atol=off,
        note=_note(one, book, seed),
    )


def ranked(amounts: Floats) -> tuple[list[int], list[float]]:
    """The places of the largest parts by magnitude, and their amounts with the sum of all others behind them."""
    order = np.argsort(-np.abs(amounts), kind="stable")
    first, rest = order[:MOST].tolist(), order[MOST:]
    return first, [*amounts[first].tolist(), *([float(amounts[rest].sum())] if len(rest) else [])]


def _on_previous(trace: Trace, parts: Sequence[Part]) -> Floats:
    """The mean weight that each part, if it is a head, gives to the token before; else 0."""
    found = scores(trace.attention, (len(trace.tokens) - 1) // 2)["previous"]
    return np.array([0.0 if part.head is None else found[part.head] for part in parts], np.float64)


def _labels(parts: Sequence[Part], previous: Floats, order: Sequence[int]) -> list[str]:
    labels = [
        SHORT.get(parts[i].name, parts[i].name) + (" (prev.)" if previous[i] >= HALF else "") for i in order
    ]
    rest = len(parts) - len(order)
    return [*labels, *([f"{rest} other{'s' if rest > 1 else ''}"] if rest else [])]


def _colors(parts: Sequence[Part], previous: Floats, order: Sequence[int]) -> list[str]:
    """Previous-token heads in a colour of their own, what is all others in that of the stream."""
    colors = ["key" if previous[i] >= HALF else parts[i].kind for i in order]
    return colors + ["residual"] * (len(parts) > len(order))


def _title(one: Head, book: KeyLedger, previous: Floats, first: int) -> str:
    heads = previous >= HALF
    count, together = int(heads.sum()), f"{book.amounts[heads].sum():+.2f}"
    kind = ", a previous-token head" if heads[first] else ""
    if not count:
        rest = "no previous-token head is below it"
    elif count == 1:
        rest = "no other is below it" if heads[first] else f"the previous-token head below it, {together}"
    else:
        rest = f"all {count} previous-token heads below it, {together}"
    return (
        f"{name(one.layer, one.index)} scores the right key {abs(book.whole):.2f} "
        f"{'above' if book.whole >= 0 else 'below'} the others; the largest part is {book.parts[first].name}{kind}, "
        f"{book.amounts[first]:+.2f}; {rest}"
    )


def _note(one: Head, book: KeyLedger, seed: int) -> str:
    what = "q·k/√d_head" if one.loaded.spec.scaled else "q·k"
    return (
        f"Scores are {what}, before the softmax. From the right key's score the mean score of all other keys that the "
        f"query sees is taken away; mean over the second half's queries. prev.: a head with at least half of its "
        f"attention on the token before. The parts sum to the head's own scores but for {abs(book.remainder):.1g}, "
        f"rounding. Seed {seed}."
    )


def _script(one: Head) -> str:
    spec = one.loaded.spec
    path = {part: one.loaded.path(part, "{block}") for part in ("o_proj", "mlp")}
    learned = spec.positions == "learned"
    places = (
        f"[model.get_submodule({code.path(one, 'positions')!r}).weight[:seq].float()]" if learned else "[]"
    )
    turn = "apply_rotary_pos_emb(keys[None, None], keys[None, None], cos, sin)[1][0, 0]"
    return code.script(
        one,
        code.projection(one, "key"),
        _LEAD.format(turn=f"keys = {turn}  # RoPE\n    " if one.rotary else ""),
        _HELD.format(
            centre="x - x.mean(-1, keepdim=True)" if spec.centred else "x",
            how="the mean taken away" if spec.centred else "nothing is taken away",
            eps=spec.norm_eps,
        ),
        _PARTS.format(heads=spec.n_head, o_proj=path["o_proj"], mlp=path["mlp"], places=places),
    )


_LEAD = """
n = (seq - 1) // 2
query = torch.arange(n + 1, 2 * n + 1)  # the second half


def lead(scores):  # of the induction key over the mean of the other keys that a query sees
    right = scores[query, query - n + 1]
    others = (scores.tril()[query].sum(-1) - right) / query
    return (right - others).mean()


def lead_of(keys):  # seq, d_head, before RoPE
    {turn}return lead(q @ keys.T * scale)
"""

_HELD = """
norm = model.get_submodule(watched["attn_norm"])
gain, shift = norm.weight.detach().float(), getattr(norm, "bias", None)


def centred(x):  # {how}
    return {centre}


held = (centred(took["attn_norm"][0].float()).square().mean(-1, keepdim=True) + {eps}).sqrt()


def share(part):  # of the lead: a part of the stream (seq, d_model), with the norm's scale held
    return lead_of(centred(part) / held * gain @ W)
"""

_PARTS = """
joined, mlps = [], []  # of each earlier block: the heads' outputs side by side, and what the MLP writes
for block in range(layer):
    o_proj, mlp = (model.get_submodule(place) for place in (f"{o_proj}", f"{mlp}"))
    o_proj.register_forward_hook(lambda module, args, output: joined.append(args[0]))
    mlp.register_forward_hook(lambda module, args, output: mlps.append(output[0].float()))
own = torch.eye({heads}).repeat_interleave(d_head, 1)[:, None]  # head, 1, head·d_head
with torch.no_grad():
    model(ids, use_cache=False)
    start, places = out.hidden_states[0][0].float(), {places}
    amounts = [share(part) for part in (start - sum(places), *places)]
    biases = lead_of((b + (0 if shift is None else shift.float() @ W)).expand(seq, -1))
    for block in range(layer):
        o_proj = model.get_submodule(f"{o_proj}")
        nothing = o_proj.forward(torch.zeros_like(joined[block]))[0].float()  # its bias (forward: no hook)
        writes = o_proj.forward(joined[block] * own.to(joined[block].dtype)).float() - nothing
        amounts += [share(write) for write in (*writes, mlps[block])]
        biases += share(nothing)
    looked = torch.stack(out.attentions)[:, 0].float()[..., query, query - 1].mean(-1)  # layer, head
none = torch.zeros(1)
previous = [none] * (1 + len(places)) + [x for row in looked[:layer] for x in (row, none)] + [none]
result = {{"amounts": torch.stack([*amounts, biases]), "previous": torch.cat(previous), "whole": lead(q @ k.T * scale)}}
"""
