"""The loss of one next token, and its derivative with respect to every logit: where the backward pass begins."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.chapters.c06_backprop.loss_example import code, target_name
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.derivatives import returned_loss
from engine.evidence.rounding import EXACT, logit_tolerance
from engine.figures import bars
from engine.model.cache import traced
from engine.model.capturing import display
from engine.model.gradients import Example, logit_gradient
from engine.model.loaded import Loaded
from engine.ops.sampling import surprisal

SHOWN = 10


def loss(loaded: Loaded, asked: Example) -> Card:
    """The loss -ln p(target) and p - onehot for the logits with the largest gradients.

    Raises ReaderError for logits that are not finite.
    """
    trace = traced(loaded, asked.ids)
    gradient = logit_gradient(trace.logits[-1], asked.target)
    nats = float(surprisal(trace.logits[-1:], [asked.target])[0])
    order = np.argsort(-np.abs(gradient), kind="stable")[:SHOWN]
    if asked.target not in order:  # a target as good as certain has next to no gradient
        order = np.array([*order[:-1], asked.target])
    names = [display(loaded, id) for id in order]
    name = target_name(loaded, asked)

    return Card(
        key="loss",
        title=f"The loss is {nats:.3f} nats: its derivative is {_signed(gradient[asked.target])} at {name} and "
        f"positive at all others",
        alt=f"Signed bars: the derivative of the loss with respect to the logits of {len(names)} tokens.",
        badge=Badge.LIVE,
        figure=bars(
            names, gradient[order], signed=True, value_name="∂loss/∂logit = p − 1 at the target, p elsewhere",
            highlight=[int(np.flatnonzero(order == asked.target)[0])], label_name="token",
        ),
        table={
            "token": names,
            "is the target": [bool(id == asked.target) for id in order],
            "probability": (gradient[order] + (order == asked.target)).tolist(),
            "∂loss/∂logit": gradient[order].tolist(),
        },
        shown={"loss": nats, "gradient": gradient[order]},
        oracle=Oracle(
            "The loss by PyTorch's cross_entropy of the logits that transformers returns, and each derivative by "
            "torch.autograd through it.",
            lambda: _again(loaded, asked, order),
            # where logits move by d, neither moves by more than 2 d (1 - p of the target)
            EXACT + 2 * logit_tolerance(loaded) * -gradient[asked.target],
        ),
        code=code(
            loaded,
            asked,
            f"""
            logits = model(ids).logits[0, -1].detach().requires_grad_()
            value = torch.nn.functional.cross_entropy(logits[None], target)
            value.backward()
            result = {{"loss": value, "gradient": logits.grad[{order.tolist()}]}}
            """,
        ),
        note=f"Gradient descent goes against the derivative: it raises the logit of {name} and lowers all others. "
        f"The derivatives of all {len(gradient):,} logits add up to zero.",
    )  # fmt: skip


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _again(loaded: Loaded, asked: Example, order: NDArray[np.intp]) -> dict[str, Any]:
    nats, gradient = returned_loss(loaded, asked)
    return {"loss": nats, "gradient": gradient[order]}
