"""Take heads out and read what the model says next, before and after."""

import numpy as np

from engine import Loaded
from engine.cards.heads.common import Heads, largest_difference, logits_without, names, table, tolerance
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.script import preamble
from engine.figures import grouped_bars
from engine.model.cache import traced
from engine.model.capturing import token
from engine.model.interventions import AblateHeads
from engine.model.trace import Array, Trace
from engine.ops.heads import kl_divergence, log_softmax
from engine.tokens.text import shorten


def without(loaded: Loaded, before: Trace, heads: Heads) -> Trace:
    """The same tokens with the outputs of these heads set to zero."""
    return traced(loaded, before.ids, (AblateHeads(heads),))


def ablation(loaded: Loaded, before: Trace, heads: Heads, position: int, count: int = 10) -> Card:
    """The next-token distribution at a position with all heads and without some."""
    after = without(loaded, before, heads)
    p, q = _probabilities(before.logits[position]), _probabilities(after.logits[position])
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
        prove=lambda: _prove(loaded, before, after, heads, position),
        code=preamble(loaded, before.ids) + _code(loaded, heads, position, shown),
        numbers={"before": p[shown], "after": q[shown], "kl": kl},
        atol=tolerance(loaded),
        note="The bars are the likeliest tokens of both distributions. KL is the Kullback–Leibler divergence from the "
        "distribution with all heads to the one without, over the whole vocabulary.",
    )


def leading(p: np.ndarray, q: np.ndarray, count: int) -> np.ndarray:
    """Ids of the likeliest tokens before and after, in turn from both lists, at most `count`; ordered by p."""
    before, after = (np.argsort(-values, kind="stable")[:count].tolist() for values in (p, q))
    either = dict.fromkeys(i for pair in zip(before, after, strict=True) for i in pair)
    return np.array(sorted(list(either)[:count], key=lambda i: (-p[i], i)))


def _top(texts: list[str], p: np.ndarray, q: np.ndarray, shown: np.ndarray) -> str:
    """The likeliest token before and after, in words."""
    if not (np.isfinite(p).all() and np.isfinite(q).all()):
        return "a probability is not a number"
    text = dict(zip(shown.tolist(), texts, strict=True))
    first, then = int(p.argmax()), int(q.argmax())
    if first == then:
        return f"“{shorten(text[first])}” stays first, {p[first]:.1%} → {q[first]:.1%}"
    return f"“{shorten(text[first])}” gives way to “{shorten(text[then])}”"


def _probabilities(logits: Array) -> np.ndarray:
    return np.asarray(np.exp(log_softmax(logits)))


def _prove(loaded: Loaded, before: Trace, after: Trace, heads: Heads, position: int) -> Proof:
    pairs = ((before, ()), (after, heads))
    ours = [_probabilities(trace.logits[position]) for trace, _ in pairs]
    others = [
        _probabilities(logits_without(loaded, trace.ids, removed)[position]) for trace, removed in pairs
    ]
    return Proof(
        claim="The probabilities before and after, against a private copy of the model in which first nothing and then "
        f"the output projection's part of {names(heads[:6])}{' …' if len(heads) > 6 else ''} is zero.",
        max_abs_diff=largest_difference(np.stack(ours), np.stack(others)),
        tolerance=tolerance(loaded),
    )


def projection_path(loaded: Loaded) -> str:
    """Where a layer's output projection is in the model, with `{layer}` for its number."""
    return f"{loaded.adapter.parts['blocks']}.{{layer}}.{loaded.adapter.layer['o_proj']}"


def ablation_code(loaded: Loaded) -> str:
    """Lines that define `logits_without(heads)` for the model and ids of a script."""
    return _LOGITS_WITHOUT.format(d_head=loaded.spec.d_head, path=projection_path(loaded))


def _code(loaded: Loaded, heads: Heads, position: int, shown: np.ndarray) -> str:
    return (
        ablation_code(loaded)
        + f"p = logits_without([])[{position}].log_softmax(-1)\n"
        + f"q = logits_without({[tuple(map(int, head)) for head in heads]})[{position}].log_softmax(-1)\n"
        + f"shown = {shown.tolist()}\n"
        + 'result = {"before": p.exp()[shown], "after": q.exp()[shown], "kl": (p.exp() * (p - q)).sum()}\n'
    )


_LOGITS_WITHOUT = """\
d_head = {d_head}


def logits_without(heads):
    \"\"\"Logits (seq, vocab) when the outputs of the (layer, head) pairs are zero before the output projection.\"\"\"
    hooks = []
    for layer, head in heads:
        def zero(module, args, start=head * d_head):
            joined = args[0].clone()  # batch, seq, head·d_head
            joined[..., start : start + d_head] = 0
            return (joined,)

        hooks.append(model.get_submodule(f"{path}").register_forward_pre_hook(zero))
    with torch.no_grad():
        logits = model(ids).logits[0].float()
    for hook in hooks:
        hook.remove()
    return logits


"""
