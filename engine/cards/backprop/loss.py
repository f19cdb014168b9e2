"""The loss of one next token, and its derivative with respect to every logit: where the backward pass begins."""

import numpy as np
import torch

from engine.cards.backprop.common import code, target_name
from engine.cards.sampling.common import difference, display, tolerance
from engine.evidence.card import Badge, Card, Proof
from engine.figures import bars
from engine.model.cache import traced
from engine.model.loading import Loaded
from engine.ops.gradients import Example, logit_gradient, loss_of, skeleton, weights
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

    def prove() -> Proof:
        module = skeleton(loaded)
        logits = torch.tensor(trace.logits[-1], requires_grad=True)
        torch.nn.functional.cross_entropy(logits[None], torch.tensor([asked.target])).backward()
        again = float(loss_of(module, weights(module), asked).detach())
        assert logits.grad is not None
        return Proof(
            "Every logit's derivative against torch.autograd through cross_entropy, and the loss against a new "
            "pass of the model.",
            max(difference(gradient, logits.grad), abs(again - nats)),
            tolerance(loaded),
        )

    return Card(
        key="loss",
        title=f"The loss is {nats:.3f} nats: it pulls {name} up by {-gradient[asked.target]:.3f} and pushes all "
        f"others down",
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
        prove=prove,
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
        numbers={"loss": nats, "gradient": gradient[order].tolist()},
        atol=tolerance(loaded),
        note=f"The derivatives of all {len(gradient):,} logits add up to zero: what the target gains, the others lose.",
    )  # fmt: skip
