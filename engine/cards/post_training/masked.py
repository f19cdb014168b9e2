"""Which tokens of a request and its answer carry loss, and the loss of fine-tuning that comes out."""

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from engine import ReaderError
from engine.cards.post_training.common import logits, rendered, script
from engine.cards.post_training.family import Version
from engine.cards.sampling.common import difference, returned_logits, tolerance
from engine.evidence.card import Badge, Card, Proof
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
    loaded = version.get()
    marks = special_ids(speaker.get().tokenizer)
    tokens = tokens_of(speaker.get(), made.ids)
    names = [token.piece if token.id in marks else token.display for token in tokens]

    def prove() -> Proof:
        rows = torch.tensor(returned_logits(loaded, made.ids)[:-1])
        again = cross_entropy(rows, torch.tensor(labels(made)[1:]), ignore_index=IGNORED)
        each = cross_entropy(rows, torch.tensor(made.ids[1:]), reduction="none")
        return Proof(
            "The mean against torch.nn.functional.cross_entropy with ignore_index −100 and against the loss that "
            "transformers returns for these labels; every bar against cross_entropy without a mask.",
            max(abs(mean - float(again)), abs(mean - _returned(version, made)), difference(nats, each)),
            tolerance(loaded),
        )

    return Card(
        key="loss",
        title=f"{int(counted.sum())} of {len(made.ids)} tokens carry loss: their mean surprisal under "
        f"{version.label} is {mean:.3f} nats",
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
        prove=prove,
        code=script([version], _CODE.format(labels=labels(made)), made.ids),
        numbers={"loss": mean, "nats": nats.tolist()},
        atol=tolerance(loaded),
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
def _returned(version: Version, made: Rendered) -> float:
    model = version.get().model
    ids, wanted = (torch.tensor([list(row)], device=model.device) for row in (made.ids, labels(made)))
    return float(model(input_ids=ids, labels=wanted, use_cache=False).loss)


_CODE = """
    labels = torch.tensor([{labels}])
    with torch.no_grad():
        output = model(ids, labels=labels)
    each = torch.nn.functional.cross_entropy(output.logits[0, :-1].float(), ids[0, 1:], reduction="none")
    result = {{"loss": float(output.loss), "nats": each}}
    print(result)
"""
