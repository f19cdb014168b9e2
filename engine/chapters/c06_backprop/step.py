"""One step of gradient descent on a private copy: what it was for, and what else it changed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from engine import ReaderError, tokenize
from engine.chapters.c06_backprop.loss_example import code, target_name
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.derivatives import stepped
from engine.evidence.oracles.divergence import divergence, divergence_tolerance
from engine.figures import grouped_bars
from engine.model.capturing import display
from engine.model.gradients import Example, descended, gradients, next_log_probabilities, skeleton, weights
from engine.model.loaded import Loaded
from engine.ops.sampling import Float, kl_divergence
from engine.tokens.passages import control_prompts
from engine.tokens.text import display as visible
from engine.tokens.text import quoted, shorten

RATES = (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
LETTERS = ("A", "B", "C")
CONTROLS = len(LETTERS)
SMALL = 0.1
"""Nats by which the step that a page begins with would lower the loss, if the loss were a straight line."""
OFF = 3e-5
"""Logits and probabilities after one step: fp32 gradients whose sums run in another order, times the learning rate."""


def small_rate(loaded: Loaded, asked: Example) -> tuple[float, float]:
    """The rate on offer with which a straight line along the gradient falls by about `SMALL`, and by what, in nats."""
    squared = _squared(gradients(loaded, asked))
    wanted = SMALL / max(squared, 1e-30)
    rate = min(RATES, key=lambda rate: abs(np.log(rate / wanted)))
    return rate, rate * squared


def _squared(gradient: Mapping[str, torch.Tensor]) -> float:
    return sum(float(g.double().square().sum()) for g in gradient.values())


def step(loaded: Loaded, asked: Example, rate: float) -> Card:
    """Probabilities before and after w ← w - rate · ∂loss/∂w: of the target, and of three controls' favourites."""
    module = skeleton(loaded)
    gradient = gradients(loaded, asked)
    controls = [tuple(t.id for t in tokenize(loaded, text)) for text in control_prompts()[:CONTROLS]]
    prompts = [asked.ids, *controls]
    before = next_log_probabilities(module, weights(module), prompts)
    if not np.isfinite(before).all():
        raise ReaderError("Some logits of this model are not finite numbers, so there is no loss to lower.")
    after = next_log_probabilities(module, descended(module, gradient, rate), prompts)
    followed = [asked.target, *(int(row.argmax()) for row in before[1:])]
    p, q = (np.exp(rows[range(len(prompts)), followed]) for rows in (before, after))
    kl = kl_divergence(before, after)
    squared = _squared(gradient)
    change = float(after[0, asked.target] - before[0, asked.target])
    favourites = [
        (display(loaded, int(a.argmax())), _favourite(loaded, b)) for a, b in zip(before, after, strict=True)
    ]
    names = ["yours", *LETTERS]
    labels = [f"{name}: {shorten(display(loaded, id), 9)}" for name, id in zip(names, followed, strict=True)]
    texts = ", ".join(
        f"{name} {quoted(text)}" for name, text in zip(LETTERS, control_prompts(), strict=False)
    )

    def again() -> dict[str, Any]:
        was, now = stepped(loaded, asked, rate, prompts)
        moved = divergence(was, now)
        old, new = (rows[range(len(prompts)), followed].exp().numpy() for rows in (was, now))
        return {"before": old, "after": _finite(new), **_divergences(moved)}

    return Card(
        key="step",
        title=_title(target_name(loaded, asked), float(p[0]), float(q[0]), float(kl[1:].max())),
        alt="Bars before and after the step: the probability of the target, and of each control prompt's favourite.",
        badge=Badge.LIVE,
        figure=grouped_bars(
            labels, {"before": p, "after": q}, colors={"before": "token", "after": "gradient"}, probability=True,
            value_name="probability of the token", label_name="",
        ),
        table={
            "prompt": names,
            "text": ["(yours)", *(visible(text) for text in control_prompts()[:CONTROLS])],
            "token": [display(loaded, id) for id in followed],
            "probability before": p.tolist(),
            "probability after": q.tolist(),
            "favourite before": [a for a, _ in favourites],
            "favourite after": [b for _, b in favourites],
            "KL from before (nats)": kl.tolist(),
        },
        shown={"before": p, "after": _finite(q), **_divergences(kl)},
        oracle=Oracle(
            "The probabilities before and after the step, and torch's kl_div, from the logits of a private copy that "
            "torch.optim.SGD moves once, on the loss that transformers returns.",
            again,
            {"before": OFF, "after": OFF}
            | {name: divergence_tolerance(values, OFF) for name, values in _divergences(kl).items()},
        ),
        code=code(
            loaded,
            asked,
            f"""
            prompts = {[list(ids) for ids in prompts]}

            @torch.no_grad()
            def log_probabilities():
                logits = [model(torch.tensor([p]), use_cache=False).logits[0, -1] for p in prompts]
                return torch.stack(logits).double().log_softmax(-1)

            before = log_probabilities()
            optimizer = torch.optim.SGD(model.parameters(), lr={rate!r})
            loss().backward()
            optimizer.step()
            after = log_probabilities()
            followed = (range(len(prompts)), {followed})
            kl = (before.exp() * (before - after)).sum(-1)
            result = {{"before": before[followed].exp(), "after": after[followed].exp(), "kl": kl}}
            """,
        ),
        numbers={"before": p, "after": q, "kl": kl},
        atol=max(OFF, divergence_tolerance(kl, OFF)),
        note=f"A straight line of this slope would lower the loss by rate · |gradient|² = {rate * squared:.3g} nats; "
        f"the step {'lowered' if change > 0 else 'raised'} it by {abs(change):.3g}. Controls, each "
        f"followed at the token it expected most before: {texts}.",
    )  # fmt: skip


def _title(name: str, p: float, q: float, worst: float) -> str:
    if not np.isfinite(q):
        return "The step was so large that the model computes no finite number any more"
    what = "helps" if q > p else "hurts"
    return (
        f"The step {what}: {name} goes from {_chance(p)} to {_chance(q)}; the controls move by up to {worst:.2g} "
        "nats (KL)"
    )


def _chance(p: float) -> str:
    """A probability in per cent, also where it is a tiny one."""
    return f"{p:.1%}" if p >= 0.001 else f"{100 * p:.2g}%"


def _favourite(loaded: Loaded, row: Float) -> str:
    return display(loaded, int(row.argmax())) if np.isfinite(row).all() else "none: not finite"


def _divergences(kl: Float) -> dict[str, Float]:
    """The prompt's own, and the controls', which may be a thousandth of it."""
    return {"kl": _finite(kl[:1]), "kl of the controls": _finite(kl[1:])}


def _finite(values: Float) -> Float:
    """Without the bars that are not drawn: a step may be so large that nothing is a number any more."""
    return values[np.isfinite(values)]
