"""Which tokens of a request and its answer carry loss, and the loss of fine-tuning that comes out."""

from typing import Any

import numpy as np
import torch

from engine import ReaderError
from engine.chapters.c13_post_training.family import Version
from engine.chapters.c13_post_training.logits import logits
from engine.chapters.c13_post_training.requests import rendered
from engine.chapters.c13_post_training.scripts import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.chat import conversation_again
from engine.evidence.oracles.reading import nats_of
from engine.evidence.rounding import logit_tolerance
from engine.figures.post_training import loss_mask
from engine.model.capturing import tokens_of
from engine.ops.sampling import surprisal
from engine.tokens.chat import Rendered, special_ids

IGNORED = -100
"""The label that torch's cross_entropy and transformers leave out of the mean."""


def labels(made: Rendered) -> list[int]:
    """What training compares each position with: the token itself where it carries loss, else -100. Shape seq."""
    return [id if counted else IGNORED for id, counted in zip(made.ids, made.carries_loss, strict=True)]


def loss(version: Version, speaker: Version, request: str, answer: str, everything: bool = False) -> Card:
    """Surprisal of every token of a request and its answer under `version`; the mean over those that carry loss.

    speaker     the version whose template renders the text
    everything  let all tokens carry loss, as in pre-training, instead of the answer alone
    """
    made = rendered(speaker, request, answer)
    if everything:
        made = Rendered(made.ids, (False, *[True] * (len(made.ids) - 1)))
    counted = np.array(made.carries_loss[1:])
    if not counted.any():
        raise ReaderError("No token of this text carries loss, so there is nothing to train on.")
    nats = surprisal(logits(version, made.ids)[:-1], made.ids[1:])
    mean, rest = float(nats[counted].mean()), nats[~counted]
    allowed = logit_tolerance(version.get())
    marks = special_ids(speaker.get().tokenizer)
    tokens = tokens_of(speaker.get(), made.ids)
    names = [token.piece if token.id in marks else token.display for token in tokens]

    return Card(
        key="loss",
        title=f"{int(counted.sum())} of {len(made.ids)} tokens {'carries' if counted.sum() == 1 else 'carry'} loss: "
        f"their mean surprisal under {version.label} is {mean:.3f} nats",
        alt=f"A bar for each token: surprisal under {version.label}. Hatched bars, {len(rest)} of them, do not count.",
        badge=Badge.LIVE,
        figure=loss_mask(names, nats, made.carries_loss, mean),
        table={
            "position": list(range(len(made.ids))),
            "token": names,
            "id": list(made.ids),
            "label in training": labels(made),
            "surprisal (nats)": [float("nan"), *nats.tolist()],
        },
        shown={"id": made.ids, "label": labels(made), "nats": nats, "loss": mean},
        oracle=Oracle(
            "The tokens and their labels against the template's text, cut at its marks and encoded by tokenizers; "
            "every bar against torch's cross_entropy of the logits of a second pass through the same model; the loss "
            "against the one that transformers returns for these labels.",
            lambda: _loss_again(version, speaker, request, answer, everything),
            {"id": 0, "label": 0, "nats": allowed, "loss": allowed},
        ),
        code=script([version], _CODE.format(labels=labels(made)), made.ids),
        note=_note(rest, nats),
    )


def _note(rest: np.ndarray, nats: np.ndarray) -> str:
    if not rest.size:
        return "Every token but the first, which nothing stands before, carries loss: this is the loss of pre-training."
    return (
        f"Mean over the hatched tokens, which training ignores: {rest.mean():.3f} nats; over all of them: "
        f"{nats.mean():.3f}. The first token has no bar: nothing stands before it."
    )


@torch.no_grad()
def _loss_again(
    version: Version, speaker: Version, request: str, answer: str, everything: bool
) -> dict[str, Any]:
    again = conversation_again(speaker.get().tokenizer, request, answer)
    wanted = [
        id if counted or (everything and i > 0) else IGNORED
        for i, (id, counted) in enumerate(zip(again.ids, again.carries_loss, strict=True))
    ]
    model = version.get().model
    ids, targets = (torch.tensor([row], device=model.device) for row in (again.ids, wanted))
    output = model(input_ids=ids, labels=targets, use_cache=False)
    nats = nats_of(output.logits[0].float(), again.ids)
    return {"id": again.ids, "label": wanted, "nats": nats, "loss": float(output.loss)}


_CODE = """
    labels = torch.tensor([{labels}])
    with torch.no_grad():
        output = model(ids, labels=labels)
    each = torch.nn.functional.cross_entropy(output.logits[0, :-1].float(), ids[0, 1:], reduction="none")
    result = {{"id": ids[0], "label": labels[0], "nats": each, "loss": float(output.loss)}}
    print(result)
"""
