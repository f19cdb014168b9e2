"""Two precisions on the same prompt: next-token distributions, KL at every token, drift of the residual stream."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from engine import ReaderError
from engine.chapters.c15_quantization.pair import Pair, code, fraction, head
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.copies import private_copy
from engine.evidence.oracle import Shown
from engine.evidence.oracles import by_hand
from engine.evidence.oracles.order import at_ranks
from engine.evidence.passes import returned_logits
from engine.figures import bars, heatmap
from engine.figures.quantization import columns
from engine.model.trace import Trace
from engine.ops import quantization as ops
from engine.ops.sampling import kl_divergence, softmax
from engine.tokens.text import plural

EACH = 6
"""Tokens drawn that gain probability, and as many that lose it."""

TIE = 1e-6
"""Changes of probability that lie so near to each other may stand in either order."""

DRIFTS = {"relative L2": "‖difference‖ / ‖reference‖", "cosine": "1 − cosine"}
"""Measures of drift and what is drawn."""


def next_token(pair: Pair, focus: int) -> Card:
    """The tokens that gain and lose most probability after token `focus`."""
    a, b = pair.traces
    p, q = softmax(a.logits[focus]), softmax(b.logits[focus])
    if not (np.isfinite(p).all() and np.isfinite(q).all()):
        raise ReaderError(
            "Some logits are not finite numbers at one of these precisions; choose another one."
        )
    best = _most_changed(p, q)
    change = q[best] - p[best]
    everywhere = _moved(a.logits, b.logits)
    moved, divergence = float(everywhere[focus]), float(kl_divergence(a.logits[focus], b.logits[focus]))
    most = int(np.nanargmax(everywhere))
    names, tokens = pair.names, [pair.named(i) for i in best]
    allowed = fraction(change)
    shown: Shown = {
        "tokens": best,
        "change": change,
        "reference": p[best],
        "other": q[best],
        "moved": moved,
        "moved at each token": everywhere,
    }
    return Card(
        key="next",
        title=_from_to(pair, best, change, moved),
        alt=f"Bars: how much probability tokens gain or lose after “{pair.named(pair.ids[focus])}”, from {names[0]} to "
        f"{names[1]}. " + ", ".join(f"“{t}” {x:+.2%}" for t, x in zip(tokens, change, strict=True)),
        badge=Badge.LIVE,
        figure=bars(
            tokens,
            100 * change,
            signed=True,
            value_name=f"percentage points from {names[0]} to {names[1]}",
            label_name="next token",
        ),
        table={
            "token": tokens,
            "id": best,
            names[0]: [float(x) for x in p[best]],
            names[1]: [float(x) for x in q[best]],
            "change": [float(x) for x in change],
        },
        shown=shown,
        oracle=Oracle(
            "Which tokens gain and lose most, their probabilities, and the share that moved after every token, by "
            f"torch's softmax of the logits that transformers returns from a pass of its own{_witness(pair)}.",
            lambda: _next_again(pair, focus, best),
            {**dict.fromkeys(shown, allowed), "tokens": 0.0},
        ),
        code=code(head(pair), _NEXT, focus=focus, ids=best),
        numbers={name: shown[name] for name in ("change", "reference", "other", "moved")},
        atol=allowed,
        note=f"{_favourites(pair, p, q)} KL({names[0]} ‖ {names[1]}) = {divergence:.3g} nats. Of the prompt's tokens, "
        f"most moved after “{pair.labels[most]}” (position {most}): {everywhere[most]:.2%}.",
    )


def _most_changed(p: np.ndarray, q: np.ndarray) -> list[int]:
    """The tokens that gain most and those that lose most, from the largest gain to the largest loss."""
    up, down = (np.lexsort((-p, change))[: 2 * EACH] for change in (p - q, q - p))
    gain = up[:EACH]
    loss = down[~np.isin(down, gain)][:EACH]
    return [int(i) for i in (*gain, *loss[::-1])]


def _from_to(pair: Pair, best: list[int], change: np.ndarray, moved: float) -> str:
    """How much moved, and where most of it went and came from."""
    said = f"From {pair.names[0]} to {pair.names[1]}, {moved:.2%} of the probability moved"
    if not moved:
        return said
    return f"{said}: most of all to “{pair.named(best[0])}” and away from “{pair.named(best[-1])}”"


def _favourites(pair: Pair, p: np.ndarray, q: np.ndarray) -> str:
    """Whether the first choice stays, as a sentence."""
    first, second = (pair.named(int(row.argmax())) for row in (p, q))
    if p.argmax() == q.argmax():
        return f"“{first}” is the first choice of both."
    return f"The first choice is “{first}” at {pair.names[0]} and “{second}” at {pair.names[1]}."


def _moved(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Total variation after every token, shape seq; NaN where logits are no numbers."""
    with np.errstate(invalid="ignore"):
        rows = zip(reference, other, strict=True)
        return np.array([ops.total_variation(softmax(a), softmax(b)) for a, b in rows])


def _passes(pair: Pair) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The logits of both sides from a second pass each, and from passes of copies rounded by hand.

    Where no copy can be made by hand, the two are one.
    """
    found = [torch.tensor(returned_logits(side, pair.ids)).double() for side in pair.sides]
    hand = [by_hand.logits(side, pair.sides, pair.ids) for side in pair.sides]
    made = [plain if own is None else own for plain, own in zip(found, hand, strict=True)]
    return [(found[0], found[1]), (made[0], made[1])]


def _witness(pair: Pair) -> str:
    """What else stands for the comparison of two precisions, as the end of a sentence."""
    rounded = [side for side in pair.sides if by_hand.origin(side, pair.sides)]
    if not rounded:
        return ""
    names = " and ".join(dict.fromkeys(side.precision for side in rounded))
    return (
        f"; each number within {by_hand.WITHIN:.0%} of the largest effect of what a copy gives whose weights torch "
        f"rounded to {names} by hand, without bitsandbytes"
    )


def _next_again(pair: Pair, focus: int, given: list[int]) -> dict[str, Any]:
    plain, made = _passes(pair)
    change = plain[1].softmax(-1) - plain[0].softmax(-1)
    best = _again_changed(change[focus], given)
    found, hand = (_shares(p.softmax(-1), q.softmax(-1), focus, best) for p, q in (plain, made))
    moved = found["moved at each token"]
    # A copy strays as far at every position.
    effects = dict.fromkeys(("change", "reference", "other"), change)
    effects |= dict.fromkeys(("moved", "moved at each token"), moved)
    return {"tokens": best, **by_hand.witnessed(found, hand, effects)}


def _again_changed(change: torch.Tensor, given: list[int]) -> list[int]:
    """The ids of those that gain most and of those that lose most; near ties stand as they are given."""
    gain = at_ranks(given[:EACH], change, TIE)
    loss = at_ranks(given[EACH:][::-1], -change, TIE)
    return [int(i) for i in (*gain, *loss[::-1])]


def _shares(p: torch.Tensor, q: torch.Tensor, focus: int, best: list[int]) -> dict[str, torch.Tensor]:
    moved = (p - q).abs().sum(-1) / 2
    shown = {"change": (q - p)[focus, best], "reference": p[focus, best], "other": q[focus, best]}
    return {**shown, "moved": moved[focus], "moved at each token": moved}


_NEXT = """
    with torch.no_grad():
        p = reference(ids.to(reference.device)).logits[0, {focus}].float().cpu().softmax(-1)
        q = other(ids.to(other.device)).logits[0, {focus}].float().cpu().softmax(-1)
    best = {ids}
    change = q - p
    result = {{"change": change[best], "reference": p[best], "other": q[best], "moved": float(change.abs().sum() / 2)}}
    print([tokenizer.decode([i]) for i in best], result)
"""


def kl(pair: Pair) -> Card:
    """KL(reference ‖ other) after every token of the prompt, with the top-1 flips marked."""
    a, b = pair.traces
    divergence, flipped = kl_divergence(a.logits, b.logits), ops.flips(a.logits, b.logits)
    firsts = [(pair.named(int(i)), pair.named(int(j))) for i, j in zip(*map(_best, (a, b)), strict=True)]
    names = pair.names
    mean, worst = float(divergence.mean()), int(np.argmax(divergence))
    count = int(flipped.sum())
    flips = "no top-1 flip" if not count else f"{count} top-1 {'flip' if count == 1 else 'flips'}"
    return Card(
        key="kl",
        title=f"{names[1]} costs {mean:.3g} nats a token on average, with {flips} in "
        f"{plural(len(divergence), 'position')}",
        alt=f"Columns: KL divergence from {names[0]} to {names[1]} after each token of the prompt; the largest, "
        f"{divergence[worst]:.3g} nats, after “{pair.labels[worst]}”. {flips.capitalize()}.",
        badge=Badge.LIVE,
        figure=columns(
            pair.labels,
            divergence,
            flagged=[int(i) for i in np.flatnonzero(flipped)],
            flag_name="top-1 flip",
            details=[f"{x} → {y}" if x != y else f"both: {x}" for x, y in firsts],
            x_name="after this token",
            y_name=f"KL({names[0]} ‖ {names[1]}), nats",
        ),
        table={
            "token": pair.labels,
            "KL, nats": [float(x) for x in divergence],
            f"top-1 at {names[0]}": [x for x, _ in firsts],
            f"top-1 at {names[1]}": [y for _, y in firsts],
            "flip": [bool(x) for x in flipped],
        },
        shown={"kl": divergence, "flips": flipped},
        oracle=Oracle(
            "Every column by torch.nn.functional.kl_div of the logits that transformers returns, every flip by their "
            f"largest{_witness(pair)}.",
            lambda: _kl_again(pair),
            {"kl": fraction(divergence), "flips": 0.0},
        ),
        code=code(head(pair), _KL),
        numbers={"kl": divergence, "flips": count},
        atol=fraction(divergence),
    )


def _best(trace: Trace) -> np.ndarray:
    result: np.ndarray = np.argmax(trace.logits, axis=-1)
    return result


def _kl_again(pair: Pair) -> dict[str, Any]:
    (a, b), (hand, rounded) = _passes(pair)
    kls, by_copy = (
        F.kl_div(y.log_softmax(-1), x.log_softmax(-1), log_target=True, reduction="none").sum(-1)
        for x, y in ((a, b), (hand, rounded))
    )
    flips, again = a.argmax(-1) != b.argmax(-1), hand.argmax(-1) != rounded.argmax(-1)
    near = torch.stack([by_hand.leads(x) for x in (a, b, hand, rounded)]).amin(0) < by_hand.LEAD
    found = by_hand.witnessed({"kl": kls}, {"kl": by_copy}, {"kl": kls})
    return found | {"flips": torch.where(near, flips, again)}


_KL = """
    with torch.no_grad():
        log_p = reference(ids.to(reference.device)).logits[0].double().cpu().log_softmax(-1)
        log_q = other(ids.to(other.device)).logits[0].double().cpu().log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    flips = log_p.argmax(-1) != log_q.argmax(-1)
    result = {"kl": kl, "flips": int(flips.sum())}
    print(result)
"""


def drift(pair: Pair, measure: str) -> Card:
    """How far the residual stream of `other` is from the reference's, before each block and after the last one."""
    a, b = pair.traces
    values = (
        ops.relative_l2(a.hidden, b.hidden)
        if measure == "relative L2"
        else np.maximum(1 - ops.cosine(a.hidden, b.hidden), 0)
    )
    depth = [f"block {i}" for i in range(len(values) - 1)] + ["the end"]
    first, last = float(values[0].mean()), float(values[-1].mean())
    names = pair.names
    return Card(
        key="drift",
        title=f"Mean drift: {first:.2g} going into block 0, {last:.2g} coming out of the last block",
        alt=f"Heat map, layer by token: {DRIFTS[measure]} of the residual stream at {names[1]} against {names[0]}.",
        badge=Badge.LIVE,
        figure=heatmap(
            values,
            depth,
            pair.labels,
            concept="quantization_error",
            row_name="stream entering",
            column_name="token",
            value_name=DRIFTS[measure],
        ),
        table={"token": pair.labels}
        | {name: [float(x) for x in row] for name, row in zip(depth, values, strict=True)},
        shown={"drift": values},
        oracle=Oracle(
            "Every row from the hidden states that transformers returns, the last one from what enters the final norm "
            f"of a private copy{_witness(pair)}.",
            lambda: _drift_again(pair, measure),
            fraction(values),
        ),
        code=code(head(pair), _DRIFT, norm=pair.reference.path("final_norm"), measure=_MEASURES[measure]),
    )


def _drift_again(pair: Pair, measure: str) -> dict[str, Any]:
    plain = [_streams(private_copy(side), pair) for side in pair.sides]
    bases = [by_hand.origin(side, pair.sides) for side in pair.sides]
    hand = [
        own if base is None else _streams(by_hand.made(side, base), pair)
        for own, side, base in zip(plain, pair.sides, bases, strict=True)
    ]
    found, again = (_apart(a, b, measure) for a, b in (plain, hand))
    return by_hand.witnessed({"drift": found}, {"drift": again}, {"drift": found})


def _apart(a: torch.Tensor, b: torch.Tensor, measure: str) -> torch.Tensor:
    share: torch.Tensor = (b - a).norm(dim=-1) / a.norm(dim=-1)
    return share if measure == "relative L2" else 1 - F.cosine_similarity(a, b, -1)


@torch.no_grad()
def _streams(model: Any, pair: Pair) -> torch.Tensor:
    """The residual stream before each block, as transformers returns it, and what enters the final norm.

    `model` is private: it is hooked.
    """
    last = list[torch.Tensor]()
    norm = model.get_submodule(pair.reference.path("final_norm"))
    norm.register_forward_pre_hook(lambda _, given: last.append(given[0]))
    batch = torch.tensor([list(pair.ids)], device=model.device)
    states = model(input_ids=batch, use_cache=False, output_hidden_states=True).hidden_states
    return torch.stack([state[0].double().cpu() for state in (*states[:-1], last[0])])


_MEASURES = {
    "relative L2": "(b - a).norm(dim=-1) / a.norm(dim=-1)",
    "cosine": "1 - torch.nn.functional.cosine_similarity(a, b, dim=-1)",
}

_DRIFT = """
    def streams(model):
        '''The residual stream before each block, and what enters the final norm.'''
        last = []
        model.get_submodule("{norm}").register_forward_pre_hook(lambda _, given: last.append(given[0]))
        with torch.no_grad():
            states = model(ids.to(model.device), output_hidden_states=True).hidden_states
        return torch.stack([state[0].double().cpu() for state in (*states[:-1], last[0])])


    a, b = streams(reference), streams(other)
    result = {{"drift": {measure}}}
    print(result["drift"].mean(-1))
"""
