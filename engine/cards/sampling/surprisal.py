"""How surprised the model is by the prompt itself, token by token."""

import math

import numpy as np
import torch
from torch.nn import functional as F

from engine import ReaderError
from engine.cards.sampling.common import difference, display, quoted, script, tolerance
from engine.evidence.card import Badge, Card, Proof
from engine.figures.sampling import surprisals
from engine.model.loading import Loaded
from engine.model.trace import Trace
from engine.ops.sampling import finite, surprisal, top

UNITS = {"nats": 1.0, "bits": math.log(2)}
"""Nats in one unit."""


def prompt(loaded: Loaded, trace: Trace, unit: str = "nats") -> Card:
    """Surprisal of every token of the prompt given those before it, the mean, and the perplexity.

    Raises ReaderError for a prompt of one token.
    """
    if len(trace.ids) < 2:
        raise ReaderError("Surprisal needs at least two tokens: nothing stands before the first one.")
    rows, ids = finite(trace.logits[:-1]), trace.ids[1:]
    nats = surprisal(rows, ids)
    mean = float(nats.mean())
    names = [token.display for token in trace.tokens]
    rank = 1 + (rows > rows[np.arange(len(ids)), ids][:, None]).sum(axis=1)
    expected = [display(loaded, i) for i in top(rows, 1)[:, 0]]
    worst = int(nats.argmax())
    size = UNITS[unit]

    def prove() -> Proof:
        each = F.cross_entropy(torch.tensor(trace.logits[:-1]), torch.tensor(ids), reduction="none")
        return Proof(
            "Each surprisal against torch's cross_entropy, and their mean against the loss that transformers "
            "returns for the prompt as its own labels.",
            max(difference(nats, each), abs(mean - _loss(loaded, trace))),
            tolerance(loaded),
        )

    return Card(
        key="surprisal",
        title=(
            f"{quoted(names[worst + 1])} surprises most, {nats[worst] / size:.2f} {unit}; mean {mean:.2f} nats = "
            f"{mean / math.log(2):.2f} bits, perplexity {math.exp(mean):.1f}"
        ),
        alt=f"A bar for each token of the prompt after the first: its surprisal in {unit}, with the mean as a line.",
        badge=Badge.LIVE,
        figure=surprisals(
            names, nats / size, unit=unit, mean=mean / size, uniform=math.log(rows.shape[1]) / size
        ),
        table={
            "token": names[1:],
            "surprisal (nats)": nats.tolist(),
            "surprisal (bits)": (nats / math.log(2)).tolist(),
            "probability": np.exp(-nats).tolist(),
            "rank": rank.tolist(),
            "favourite instead": expected,
        },
        prove=prove,
        code=script(
            loaded,
            trace.ids,
            """
            with torch.no_grad():
                output = model(ids, labels=ids)
            each = torch.nn.functional.cross_entropy(output.logits[0, :-1].float(), ids[0, 1:], reduction="none")
            result = {"nats": each, "mean": output.loss, "perplexity": output.loss.exp()}
            """,
        ),
        numbers={"nats": nats.tolist(), "mean": mean, "perplexity": math.exp(mean)},
        atol=max(tolerance(loaded), 1e-5 * math.exp(mean)),
        note="The first token has no surprisal here: the model is never asked for it.",
    )


@torch.no_grad()
def _loss(loaded: Loaded, trace: Trace) -> float:
    ids = torch.tensor([trace.ids], device=loaded.model.device)
    return float(loaded.model(input_ids=ids, labels=ids, use_cache=False).loss)
