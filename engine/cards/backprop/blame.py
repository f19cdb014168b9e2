"""Which tokens of the prompt the loss depends on: gradient times embedding."""

import numpy as np

from engine.cards.backprop.common import code, target_name
from engine.cards.sampling.common import difference, display, quoted
from engine.evidence.card import Badge, Card, Proof
from engine.figures import bars
from engine.model.loading import Loaded
from engine.ops.gradients import Example, embedding_gradient, scaled_embedding_slopes

SHOWN = 16
PROVED = 6
ORDERS = ("by strength", "as in the prompt")


def blame(loaded: Loaded, asked: Example, order: str = ORDERS[0]) -> Card:
    """(∂loss/∂embedding) · embedding of every token, the strongest first or in reading order."""
    vectors, gradient = embedding_gradient(loaded, asked)
    scores = (vectors.double() * gradient.double()).sum(-1).cpu().numpy()
    lengths = gradient.double().norm(dim=-1).cpu().numpy()
    ranked = np.argsort(-np.abs(scores), kind="stable")
    kept = ranked[:SHOWN] if order == ORDERS[0] else np.sort(ranked[:SHOWN])
    tokens = [display(loaded, id) for id in asked.ids]
    labels = [f"{i} {tokens[i]}" for i in kept]
    first = int(ranked[0])
    tolerance = max(1e-4, 1e-3 * float(np.abs(scores).max()))
    more = "" if len(tokens) <= SHOWN else f" The {SHOWN} strongest of {len(tokens)} tokens are shown."

    def prove() -> Proof:
        some = ranked[:PROVED].tolist()
        return Proof(
            f"The scores of the {len(some)} strongest tokens against the rate at which the loss changes when their "
            f"embeddings are made longer or shorter: central differences in float64, without a backward pass.",
            difference(scores[some], scaled_embedding_slopes(loaded, asked, some)),
            tolerance,
        )

    return Card(
        key="blame",
        title=f"{quoted(tokens[first])} matters most: {scores[first]:+.3g} nats for the loss of "
        f"{target_name(loaded, asked)}",
        alt=f"Signed bars for {len(kept)} tokens of the prompt: gradient times embedding.",
        badge=Badge.LIVE,
        figure=bars(
            labels, scores[kept], signed=True, value_name="gradient · embedding (nats)", label_name="token"
        ),
        table={
            "position": [int(i) for i in kept],
            "token": [tokens[i] for i in kept],
            "gradient · embedding": scores[kept].tolist(),
            "length of the gradient": lengths[kept].tolist(),
        },
        prove=prove,
        code=code(
            loaded,
            asked,
            """
            vectors = model.get_input_embeddings()(ids).detach().requires_grad_()
            logits = model(inputs_embeds=vectors, use_cache=False).logits[0, -1:]
            torch.nn.functional.cross_entropy(logits, target).backward()
            result = {"scores": (vectors.grad * vectors)[0].sum(-1)}
            """,
        ),
        numbers={"scores": scores.tolist()},
        atol=tolerance,
        note=f"Positive: a longer embedding of this token would raise the loss.{more}",
    )
