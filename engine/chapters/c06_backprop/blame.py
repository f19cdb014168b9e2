"""Which tokens of the prompt the loss depends on: gradient times embedding."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.chapters.c06_backprop.loss_example import code, target_name
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.derivatives import embeddings_again
from engine.evidence.rounding import largest
from engine.figures import bars
from engine.model.capturing import display
from engine.model.gradients import Example, embedding_gradient
from engine.model.loaded import Loaded
from engine.tokens.text import quoted

SHOWN = 16
MOVED = 6
RELATIVE = 1e-3
"""fp32 through all layers against float64, as a part of the largest."""
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
    more = "" if len(tokens) <= SHOWN else f" The {SHOWN} strongest of {len(tokens)} tokens are shown."

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
        shown={"scores": scores[kept], "lengths": lengths[kept]},
        oracle=Oracle(
            f"The scores of the {min(MOVED, len(kept))} strongest tokens against the rate at which the loss changes "
            f"when their embeddings are made longer or shorter: central differences in float64, without a backward "
            f"pass. Everything else by .backward() from transformers' logits on the embeddings it looks up.",
            lambda: _again(loaded, asked, kept, ranked[:MOVED]),
            {"scores": RELATIVE * largest(scores), "lengths": RELATIVE * largest(lengths)},
        ),
        code=code(
            loaded,
            asked,
            f"""
            vectors = model.get_input_embeddings()(ids).detach().requires_grad_()
            logits = model(inputs_embeds=vectors, use_cache=False).logits[0, -1:]
            torch.nn.functional.cross_entropy(logits, target).backward()
            kept = {kept.tolist()}
            result = {{
                "scores": (vectors.grad * vectors)[0, kept].sum(-1),
                "lengths": vectors.grad[0, kept].norm(dim=-1),
            }}
            """,
        ),
        note=f"Positive: a longer embedding of this token would raise the loss.{more}",
    )


def _again(loaded: Loaded, asked: Example, kept: NDArray[np.intp], moved: NDArray[np.intp]) -> dict[str, Any]:
    scores, lengths = embeddings_again(loaded, asked, moved.tolist())
    return {"scores": scores[kept], "lengths": lengths[kept]}
