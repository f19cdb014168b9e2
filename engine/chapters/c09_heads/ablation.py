"""Take heads out and read what the model says next, before and after."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine import Loaded
from engine.chapters.c09_heads.naming import Heads, names, table
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.divergence import divergence, divergence_tolerance
from engine.evidence.oracles.favourites import favourites_again
from engine.evidence.oracles.silenced import logits_without
from engine.evidence.rounding import LOGIT, same_pass
from engine.evidence.script import preamble
from engine.figures import grouped_bars
from engine.model.cache import traced
from engine.model.capturing import token
from engine.model.interventions import AblateHeads
from engine.model.trace import Trace
from engine.ops.sampling import kl_divergence, leading, softmax
from engine.tokens.text import shorten


def without(loaded: Loaded, before: Trace, heads: Heads) -> Trace:
    """The same tokens with the outputs of these heads set to zero."""
    return traced(loaded, before.ids, (AblateHeads(heads),))


def ablation(loaded: Loaded, before: Trace, heads: Heads, position: int, count: int = 10) -> Card:
    """The next-token distribution at a position with all heads and without some."""
    ids, after = tuple(before.ids), without(loaded, before, heads)
    p, q = softmax(before.logits[position]), softmax(after.logits[position])
    shown = leading(p, q, count)
    kl = float(kl_divergence(before.logits[position], after.logits[position]))
    texts = [token(loaded, int(i)).display for i in shown]
    here = f"“{shorten(before.tokens[position].display)}”"
    which = names(heads) if len(heads) <= 3 else f"{len(heads)} heads"
    return Card(
        key="ablation",
        title=f"Without {which}, what follows {here} moves by {kl:.4f} nats (KL): {_top(texts, p, q, shown)}",
        alt=f"Probabilities of the likeliest next tokens after {here}, a bar with all heads and a bar without "
        f"{which} for each.",
        badge=Badge.LIVE,
        figure=grouped_bars(
            texts,
            {"all heads": p[shown], f"without {which}": q[shown]},
            colors={"all heads": "token", f"without {which}": "attention"},
            probability=True,
            value_name="probability of the next token",
            label_name="next token",
        ),
        table=table({"id": shown, "token": texts, "all heads": p[shown], "ablated": q[shown]}),
        shown={"ids": shown, "before": p[shown], "after": q[shown], "kl": kl},
        oracle=Oracle(
            "The probabilities before and after by torch's softmax, and their KL by its kl_div, from a private copy of "
            "the model in which first nothing and then the output projection's part of "
            f"{names(heads[:6])}{' …' if len(heads) > 6 else ''} is zero.",
            lambda: _again(loaded, ids, heads, position, shown, count),
            {
                "ids": 0.0,
                "before": same_pass(),
                "after": same_pass(),
                "kl": divergence_tolerance(kl, same_pass(LOGIT)),
            },
        ),
        code=preamble(loaded, ids) + _code(loaded, heads, position, shown),
        note="The bars are the likeliest tokens of both distributions. KL is the Kullback–Leibler divergence from the "
        "distribution with all heads to the one without, over the whole vocabulary.",
    )


def _top(texts: list[str], p: np.ndarray, q: np.ndarray, shown: np.ndarray) -> str:
    """The likeliest token before and after, in words."""
    if not (np.isfinite(p).all() and np.isfinite(q).all()):
        return "a probability is not a number"
    text = dict(zip(shown.tolist(), texts, strict=True))
    first, then = int(p.argmax()), int(q.argmax())
    if first == then:
        return f"“{shorten(text[first])}” stays first, {p[first]:.1%} → {q[first]:.1%}"
    return f"“{shorten(text[first])}” gives way to “{shorten(text[then])}”"


def _again(
    loaded: Loaded, ids: Sequence[int], heads: Heads, position: int, given: NDArray[np.int64], count: int
) -> dict[str, Any]:
    pair = [torch.tensor(logits_without(loaded, ids, some)[position]) for some in ((), heads)]
    p, q = (logits.double().softmax(-1) for logits in pair)
    chosen = favourites_again(torch.stack([q, p]), count, given.tolist(), same_pass(), most=count)
    return {"ids": chosen, "before": p[chosen], "after": q[chosen], "kl": divergence(*pair)}


def projection_path(loaded: Loaded) -> str:
    """Where a layer's output projection is in the model, with `{layer}` for its number."""
    return loaded.path("o_proj", "{layer}")


def ablation_code(loaded: Loaded) -> str:
    """Lines that define `logits_without(heads)` for the model and ids of a script."""
    return _LOGITS_WITHOUT.format(d_head=loaded.spec.d_head, path=projection_path(loaded))


def _code(loaded: Loaded, heads: Heads, position: int, shown: np.ndarray) -> str:
    return (
        ablation_code(loaded)
        + f"p = logits_without([])[{position}].log_softmax(-1)\n"
        + f"q = logits_without({[tuple(map(int, head)) for head in heads]})[{position}].log_softmax(-1)\n"
        + f"shown = {shown.tolist()}\n"
        + "kl = (p.exp() * (p - q)).sum()\n"
        + 'result = {"ids": shown, "before": p.exp()[shown], "after": q.exp()[shown], "kl": kl}\n'
    )


_LOGITS_WITHOUT = """\
d_head = {d_head}


def silenced(heads):
    \"\"\"Hooks that set the outputs of the (layer, head) pairs to zero before the output projection.\"\"\"
    hooks = []
    for layer, head in heads:
        def zero(module, args, start=head * d_head):
            joined = args[0].clone()  # batch, seq, head·d_head
            joined[..., start : start + d_head] = 0
            return (joined,)

        hooks.append(model.get_submodule(f"{path}").register_forward_pre_hook(zero))
    return hooks


def logits_without(heads):
    hooks = silenced(heads)
    with torch.no_grad():
        logits = model(ids).logits[0].float()
    for hook in hooks:
        hook.remove()
    return logits


"""
