"""One step of gradient descent on a private copy: what it was for, and what else it changed."""

from collections.abc import Sequence

import numpy as np
import torch

from engine import ReaderError, tokenize
from engine.cards.backprop.common import code, target_name, trained_copy
from engine.cards.sampling.common import difference, display, quoted
from engine.evidence.card import Badge, Card, Proof
from engine.figures import grouped_bars
from engine.model.loading import Loaded
from engine.ops.gradients import Example, descended, gradients, next_log_probabilities, skeleton, weights
from engine.ops.sampling import Float
from engine.tokens.passages import control_prompts
from engine.tokens.text import display as visible
from engine.tokens.text import shorten

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
LETTERS = ("A", "B", "C")
CONTROLS = len(LETTERS)
TOLERANCE = 2e-3
"""Probabilities after one step: fp32 gradients whose sums run in another order, times the learning rate."""


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
    kl = divergence(before, after)
    squared = sum(float(g.double().square().sum()) for g in gradient.values())
    change = float(after[0, asked.target] - before[0, asked.target])
    favourites = [
        (display(loaded, int(a.argmax())), _favourite(loaded, b)) for a, b in zip(before, after, strict=True)
    ]
    names = ["yours", *LETTERS]
    labels = [f"{name}: {shorten(display(loaded, id), 9)}" for name, id in zip(names, followed, strict=True)]
    texts = ", ".join(
        f"{name} {quoted(text)}" for name, text in zip(LETTERS, control_prompts(), strict=False)
    )

    def prove() -> Proof:
        theirs = np.exp(_stepped_by_torch(loaded, asked, rate, prompts)[range(len(prompts)), followed])
        return Proof(
            "The probabilities after the step against those of a private copy that torch.optim.SGD moved once, on "
            "the loss that transformers returns.",
            difference(*(np.nan_to_num(each, nan=-1.0) for each in (q, theirs))),
            TOLERANCE,
        )

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
        prove=prove,
        code=code(
            loaded,
            asked,
            f"""
            prompts = {[list(ids) for ids in prompts]}

            @torch.no_grad()
            def probabilities():
                logits = [model(torch.tensor([p]), use_cache=False).logits[0, -1] for p in prompts]
                return torch.stack(logits).double().softmax(-1)[range(len(prompts)), {followed}]

            before = probabilities()
            optimizer = torch.optim.SGD(model.parameters(), lr={rate!r})
            loss().backward()
            optimizer.step()
            result = {{"before": before, "after": probabilities()}}
            """,
        ),
        numbers={"before": p.tolist(), "after": q.tolist()},
        atol=TOLERANCE,
        note=f"A straight line of this slope would lower the loss by rate · |gradient|² = {rate * squared:.3g} nats; "
        f"the step {'lowered' if change > 0 else 'raised'} it by {abs(change):.3g}. Controls, each "
        f"followed at the token it expected most before: {texts}.",
    )  # fmt: skip


def divergence(before: Float, after: Float) -> Float:
    """KL(before ‖ after) of each row of ln p, in nats; NaN where the step left no finite numbers."""
    result: Float = (np.exp(before) * (before - after)).sum(-1)
    return result


def _title(name: str, p: float, q: float, worst: float) -> str:
    if not np.isfinite(q):
        return "The step was so large that the model computes no finite number any more"
    return f"{name} goes from {p:.1%} to {q:.1%}; the controls move by up to {worst:.2g} nats (KL)"


def _favourite(loaded: Loaded, row: Float) -> str:
    return display(loaded, int(row.argmax())) if np.isfinite(row).all() else "none: not finite"


def _stepped_by_torch(loaded: Loaded, asked: Example, rate: float, prompts: Sequence[Sequence[int]]) -> Float:
    model, own = trained_copy(loaded, asked)
    own.backward()
    torch.optim.SGD(model.parameters(), lr=rate).step()
    return next_log_probabilities(model, weights(model), prompts)
