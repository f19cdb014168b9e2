"""The reader's prompt through the kept snapshots: what comes next, and what each token cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine import ReaderError
from engine.chapters.c12_training.live import COLORS, Origin, Stage, bundled, origin, script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.favourites import favourites_again
from engine.evidence.oracles.reading import nats_of
from engine.evidence.oracles.snapshots import stage_logits
from engine.evidence.rounding import logit_tolerance, probability_tolerance
from engine.figures import grouped_bars, heatmap
from engine.model.capturing import token
from engine.model.trace import Trace
from engine.ops.sampling import softmax
from engine.ops.sampling import surprisal as surprisal_of
from engine.tokens.text import shorten

Floats = NDArray[np.float64]


def next_token(stages: Sequence[Stage], traces: Sequence[Trace], position: int, count: int = 6) -> Card:
    """The next-token distributions of every stage after the token at `position`."""
    position = min(position, len(traces[-1].tokens) - 1)
    p = np.stack([softmax(trace.logits[position]) for trace in traces])  # stage, vocab
    shown = leading(p, count)
    probabilities = p[:, shown]
    checkpoint = bundled(stages)
    texts = [token(checkpoint, int(i)).display for i in shown]
    names = [stage.name for stage in stages]
    favourites = [texts[best] for best in probabilities.argmax(1)]
    here = shorten(traces[-1].tokens[position].display)
    where, ids, allowed = origin(stages), traces[-1].ids, probability_tolerance(checkpoint)
    return Card(
        key="next-token",
        title=f"{checkpoint.name}, what follows “{here}”: "
        + " → ".join(
            f"“{shorten(text)}” {row.max():.0%}" for text, row in zip(favourites, probabilities, strict=True)
        ),
        alt=f"Probabilities of the likeliest next tokens after “{here}”; for each token a bar for each of "
        + ", ".join(names),
        badge=Badge.LIVE,
        figure=grouped_bars(
            texts,
            dict(zip(names, probabilities, strict=True)),
            colors=dict(zip(names, COLORS[-len(names) :], strict=True)),
            probability=True,
            value_name="probability of the next token",
            label_name="next token",
        ),
        table={"id": shown.tolist(), "token": texts}
        | {name: row.tolist() for name, row in zip(names, probabilities, strict=True)},
        shown={"id": shown, "probabilities": probabilities},
        oracle=Oracle(
            "The likeliest tokens of every stage and their probabilities, against torch's topk and softmax of the "
            "logits of transformers' own model, whose weights numpy read from the kept file.",
            lambda: _next_again(where, ids, position, shown.tolist(), count, allowed),
            {"id": 0, "probabilities": allowed},
        ),
        code=script(
            stages,
            ids,
            f"shown = torch.tensor({shown.tolist()})\nrows = []\nwith torch.no_grad():\n    for stage in stages():\n"
            f"        rows.append(stage(ids).logits[0, {position}].float().softmax(-1)[shown])\n"
            'result = {"id": shown, "probabilities": torch.stack(rows)}\n',
        ),
        note="The bars are the likeliest tokens of all stages, in the order of the last.",
    )


def leading(p: Floats, count: int) -> NDArray[np.intp]:
    """Ids of the likeliest tokens of all rows of p (stage, vocab), in turn, at most `count`; by the last row's p."""
    ranked = np.argsort(-p, axis=1, kind="stable")[::-1, :count]  # the last one chooses first
    either = list(dict.fromkeys(ranked.T.ravel().tolist()))[:count]
    return np.array(sorted(either, key=lambda i: (-p[-1, i], i)), dtype=np.intp)


def _next_again(
    where: Origin, ids: Sequence[int], position: int, shown: Sequence[int], count: int, allowed: float
) -> dict[str, Any]:
    p = stage_logits(where.checkpoint, where.files, ids)[:, position].softmax(-1)
    found = favourites_again(p, count, shown, allowed, most=count)
    return {"id": found, "probabilities": p[:, found]}


def surprisal(stages: Sequence[Stage], traces: Sequence[Trace]) -> Card:
    """Surprisal of every token of the prompt in every stage. Raises ReaderError for a prompt of one token."""
    if len(traces[-1].tokens) < 2:
        raise ReaderError("Surprisal needs at least two tokens: nothing stands before the first one.")
    nats = np.stack([surprisal_of(trace.logits[:-1], trace.ids[1:]) for trace in traces])  # stage, seq-1
    names = [stage.name for stage in stages]
    texts = [one.display for one in traces[-1].tokens[1:]]
    drop = nats[0] - nats[-1]
    most = int(np.argmax(drop))
    gained = (
        f"; “{shorten(texts[most])}” fell most, from {nats[0, most]:.1f} to {nats[-1, most]:.1f}"
        if len(stages) > 1 and drop[most] > 0
        else ""
    )
    where, ids = origin(stages), traces[-1].ids
    return Card(
        key="surprisal",
        title="Mean surprisal of your prompt: "
        + " → ".join(f"{mean:.2f}" for mean in nats.mean(1))
        + f" nats{gained}",
        alt="A heat map of the prompt's tokens across and the stages of training down; darker cells are tokens that "
        "surprised the model more.",
        badge=Badge.LIVE,
        figure=heatmap(
            nats,
            names,
            texts,
            concept="logits",
            column_name="token",
            row_name="model",
            value_name="surprisal (nats)",
            print_values=".1f" if len(texts) <= 14 else "",
            height=118 + 72 + 30 * len(names),
        ),
        table={"token": texts} | {name: row.tolist() for name, row in zip(names, nats, strict=True)},
        shown={"nats": nats},
        oracle=Oracle(
            "Every surprisal against torch's cross_entropy of the logits of transformers' own model, whose weights "
            "numpy read from the kept file.",
            lambda: {"nats": _nats_again(where, ids)},
            logit_tolerance(bundled(stages)),
        ),
        code=script(
            stages,
            ids,
            "rows = []\nwith torch.no_grad():\n    for stage in stages():\n"
            "        logits = stage(ids).logits[0, :-1].float()\n"
            '        rows.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))\n'
            'result = {"nats": torch.stack(rows)}\n',
        ),
        note="The first token has no surprisal: nothing stands before it.",
    )


def _nats_again(where: Origin, ids: Sequence[int]) -> torch.Tensor:
    return torch.stack([nats_of(logits, ids) for logits in stage_logits(where.checkpoint, where.files, ids)])
