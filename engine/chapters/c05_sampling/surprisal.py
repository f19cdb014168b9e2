"""How surprised the model is by the prompt itself, token by token."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from engine import ReaderError
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.filtering import logits_again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.rounding import LOGIT, same_pass
from engine.evidence.script import script
from engine.figures.sampling import surprisals
from engine.model.capturing import display
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops.sampling import finite, surprisal, top
from engine.tokens.text import quoted

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
    favourites = top(rows, 1)[:, 0].copy()
    worst = int(nats.argmax())
    size = UNITS[unit]

    uniform, read = math.log(rows.shape[1]) / size, trace.ids
    bars = nats / size

    return Card(
        key="surprisal",
        title=(
            f"{quoted(names[worst + 1])} surprises most, {nats[worst] / size:.2f} {unit}; mean {mean:.2f} nats = "
            f"{mean / math.log(2):.2f} bits, perplexity {math.exp(mean):.1f}"
        ),
        alt=f"A bar for each token of the prompt after the first: its surprisal in {unit}, with the mean as a line.",
        badge=Badge.LIVE,
        figure=surprisals(names, bars, unit=unit, mean=mean / size, uniform=uniform),
        table={
            "token": names[1:],
            "surprisal (nats)": nats.tolist(),
            "surprisal (bits)": (nats / math.log(2)).tolist(),
            "probability": np.exp(-nats).tolist(),
            "rank": rank.tolist(),
            "favourite instead": [display(loaded, i) for i in favourites],
        },
        shown={
            "surprisal": bars,
            "mean": mean / size,
            "uniform": uniform,
            "rank": rank,
            "favourite": favourites,
        },
        oracle=Oracle(
            "Each surprisal by torch's cross_entropy of the logits that transformers returns, their mean as the loss "
            "that it returns for the prompt as its own labels, and each rank by torch's sorting.",
            lambda: _again(loaded, read, size, favourites.tolist()),
            {
                "surprisal": same_pass(LOGIT),
                "mean": same_pass(LOGIT),
                "uniform": same_pass(uniform),
                "rank": 0.0,
                "favourite": 0.0,
            },
        ),
        code=script(
            loaded,
            trace.ids,
            f"""
            with torch.no_grad():
                output = model(ids, labels=ids)
            rows, new = output.logits[0, :-1].float(), ids[0, 1:]
            each = torch.nn.functional.cross_entropy(rows, new, reduction="none")
            size = {size!r}  # nats in one {unit.removesuffix("s")}
            result = {{
                "surprisal": each / size,
                "mean": output.loss / size,
                "uniform": torch.tensor(rows.shape[1]).log() / size,
                "rank": 1 + (rows > rows.gather(1, new[:, None])).sum(1),
                "favourite": rows.argmax(1),
            }}
            """,
        ),
        note=f"The first token has no surprisal here: the model is never asked for it. {quoted(names[1])} is predicted "
        "from one token alone"
        + ("." if trace.tokens[0].special else ", and without a start token that can be a bad guess."),
    )


@torch.no_grad()
def _again(loaded: Loaded, ids: Sequence[int], size: float, given: list[int]) -> dict[str, Any]:
    rows, new = logits_again(loaded, ids)[:-1], torch.tensor(ids[1:])
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    loss = float(loaded.model(input_ids=batch, labels=batch, use_cache=False).loss)
    order = rows.argsort(dim=1, descending=True, stable=True)
    own = rows.gather(1, new[:, None])
    return {
        "surprisal": F.cross_entropy(rows, new, reduction="none") / size,
        "mean": loss / size,
        "uniform": math.log2(order.shape[1]) * math.log(2) / size,
        "rank": (rows.gather(1, order) <= own).int().argmax(1) + 1,
        "favourite": [int(at_ranks([id], row, 0.0)[0]) for id, row in zip(given, rows, strict=True)],
    }
