"""What the gradient says about each token of the prompt, and what the loss does without the token."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.chapters.c06_backprop.loss_example import code, target_name
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.derivatives import embeddings_again, silenced
from engine.evidence.rounding import largest, logit_tolerance
from engine.figures import grouped_bars
from engine.model.capturing import display
from engine.model.gradients import Example, embedding_gradient, loss_of, skeleton, weights
from engine.model.loaded import Loaded
from engine.tokens.text import quoted

Floats = NDArray[np.float64]

SHOWN = 16
MOVED = 6
RELATIVE = 1e-3
"""fp32 through all layers against float64, as a part of the largest."""
ORDERS = ("by strength", "as in the prompt")


def blame(loaded: Loaded, asked: Example, order: str = ORDERS[0]) -> Card:
    """The change of the loss without each token: predicted, −(∂loss/∂embedding) · embedding, and measured.

    The tokens with the strongest gradient first, or in reading order.
    """
    vectors, gradient = embedding_gradient(loaded, asked)
    scores = (vectors.double() * gradient.double()).sum(-1).cpu().numpy()
    lengths = gradient.double().norm(dim=-1).cpu().numpy()
    ranked = np.argsort(-np.abs(scores), kind="stable")
    kept = ranked[:SHOWN] if order == ORDERS[0] else np.sort(ranked[:SHOWN])
    tokens = [display(loaded, id) for id in asked.ids]
    labels = [f"{i} {tokens[i]}" for i in kept]
    predicted, measured = -scores[kept], _without(loaded, asked, kept.tolist())
    first, most = int(np.abs(predicted).argmax()), int(np.abs(measured).argmax())
    more = "" if len(tokens) <= SHOWN else f" The {SHOWN} strongest of {len(tokens)} tokens are shown."

    return Card(
        key="blame",
        title=_title([tokens[i] for i in kept], predicted, measured, first, most),
        alt=f"Two signed bars for each of {len(kept)} tokens of the prompt: the change of the loss without its "
        f"embedding that the gradient predicts, and the measured one.",
        badge=Badge.LIVE,
        figure=grouped_bars(
            labels,
            {"predicted by the gradient": predicted, "measured": measured},
            colors={"predicted by the gradient": "gradient", "measured": "token"},
            value_name="change of the loss without this embedding (nats)",
            label_name="token",
        ),
        table={
            "position": [int(i) for i in kept],
            "token": [tokens[i] for i in kept],
            "predicted without it (nats)": predicted.tolist(),
            "measured without it (nats)": measured.tolist(),
            "length of the gradient": lengths[kept].tolist(),
        },
        shown={"predicted": predicted, "measured": measured, "lengths": lengths[kept]},
        oracle=Oracle(
            f"The predictions for the {min(MOVED, len(kept))} strongest tokens against the rate at which the loss "
            f"changes when their embeddings are made longer or shorter: central differences in float64, without a "
            f"backward pass. The others' and the lengths by .backward() from transformers' logits on the embeddings it "
            f"looks up; the measured changes by cross_entropy of its logits with the embedding set to zero.",
            lambda: _again(loaded, asked, kept, ranked[:MOVED]),
            {
                "predicted": RELATIVE * largest(scores),
                "measured": logit_tolerance(loaded),
                "lengths": RELATIVE * largest(lengths),
            },
        ),
        code=code(
            loaded,
            asked,
            f"""
            vectors = model.get_input_embeddings()(ids).detach().requires_grad_()
            logits = model(inputs_embeds=vectors, use_cache=False).logits[0, -1:]
            torch.nn.functional.cross_entropy(logits, target).backward()
            kept = {kept.tolist()}

            @torch.no_grad()
            def without(positions):
                left = vectors.detach().clone()
                left[0, positions] = 0
                logits = model(inputs_embeds=left, use_cache=False).logits[0, -1:]
                return torch.nn.functional.cross_entropy(logits, target)

            result = {{
                "predicted": -(vectors.grad * vectors)[0, kept].sum(-1),
                "measured": torch.stack([without([i]) - without([]) for i in kept]),
                "lengths": vectors.grad[0, kept].norm(dim=-1),
            }}
            """,
        ),
        note=f"For the loss of {target_name(loaded, asked)}. Predicted: −gradient · embedding, the end of a straight "
        f"line. Measured: the loss with this embedding set to zero, minus the loss as it is; no text has such an "
        f"embedding.{more}",
    )


def _title(tokens: list[str], predicted: Floats, measured: Floats, first: int, most: int) -> str:
    start = (
        f"The gradient predicts the largest change without {quoted(tokens[first])}: {predicted[first]:+.2g} nats; "
        f"measured {measured[first]:+.2g}"
    )
    if first == most:
        return start + ", the largest of those shown"
    return f"{start}, but {measured[most]:+.2g} without {quoted(tokens[most])}"


@torch.no_grad()
def _without(loaded: Loaded, asked: Example, positions: list[int]) -> Floats:
    """By how much the loss changes when the embedding at each of these positions is zero."""
    module = skeleton(loaded)
    at, rows = weights(module), loaded.part("embedding").get_parameter("weight").detach()
    vectors = rows[torch.tensor(asked.ids, device=rows.device)]
    measured = []
    for position in (None, *positions):
        left = vectors.clone()
        if position is not None:
            left[position] = 0
        measured.append(float(loss_of(module, at, asked, inputs_embeds=left[None])))
    return np.array(measured[1:]) - measured[0]


def _again(loaded: Loaded, asked: Example, kept: NDArray[np.intp], moved: NDArray[np.intp]) -> dict[str, Any]:
    scores, lengths = embeddings_again(loaded, asked, moved.tolist())
    measured = silenced(loaded, asked, kept.tolist())
    return {"predicted": -scores[kept], "measured": measured, "lengths": lengths[kept]}
