"""The reader's prompt through the kept snapshots: what comes next, and what each token cost."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from engine import ReaderError
from engine.cards.heads.common import largest_difference
from engine.cards.training_phases.live import ATOL, COLORS, Stage, bundled, independent_logits, script
from engine.evidence.card import Badge, Card, Proof
from engine.figures import grouped_bars, heatmap
from engine.model.capturing import token
from engine.model.trace import Trace
from engine.ops.heads import log_softmax
from engine.ops.heads import surprisal as surprisal_of
from engine.tokens.text import shorten

Floats = NDArray[np.float64]


def next_token(stages: Sequence[Stage], traces: Sequence[Trace], position: int, count: int = 6) -> Card:
    """The next-token distributions of every stage after the token at `position`."""
    position = min(position, len(traces[-1].tokens) - 1)
    p = np.exp(np.stack([log_softmax(trace.logits[position]) for trace in traces]))  # stage, vocab
    shown = leading(p, count)
    checkpoint = bundled(stages)
    texts = [token(checkpoint, int(i)).display for i in shown]
    names = [stage.name for stage in stages]
    favourites = [token(checkpoint, int(row.argmax())).display for row in p]
    here = shorten(traces[-1].tokens[position].display)
    return Card(
        key="next-token",
        title=f"{checkpoint.name}, what follows “{here}”: "
        + " → ".join(f"“{shorten(text)}” {row.max():.0%}" for text, row in zip(favourites, p, strict=True)),
        alt=f"Probabilities of the likeliest next tokens after “{here}”; for each token a bar for each of "
        + ", ".join(names),
        badge=Badge.LIVE,
        figure=grouped_bars(
            texts,
            {name: row[shown] for name, row in zip(names, p, strict=True)},
            colors=dict(zip(names, COLORS[-len(names) :], strict=True)),
            probability=True,
            value_name="probability of the next token",
            label_name="next token",
        ),
        table={"id": shown.tolist(), "token": texts}
        | {name: row[shown].tolist() for name, row in zip(names, p, strict=True)},
        prove=lambda: _prove_next(stages, traces, position),
        code=script(
            stages,
            traces[-1].ids,
            f"shown = {shown.tolist()}\nrows = []\nwith torch.no_grad():\n    for stage in stages():\n"
            f"        rows.append(stage(ids).logits[0, {position}].float().softmax(-1)[shown])\n"
            'result = {"probabilities": torch.stack(rows)}\n',
        ),
        numbers={"probabilities": p[:, shown]},
        atol=ATOL,
        note="The bars are the likeliest tokens of all stages, in the order of the last.",
    )


def leading(p: Floats, count: int) -> NDArray[np.intp]:
    """Ids of the likeliest tokens of all rows of p (stage, vocab), in turn, at most `count`; by the last row's p."""
    ranked = np.argsort(-p, axis=1, kind="stable")[::-1, :count]  # the last one chooses first
    either = list(dict.fromkeys(ranked.T.ravel().tolist()))[:count]
    return np.array(sorted(either, key=lambda i: (-p[-1, i], i)), dtype=np.intp)


def _prove_next(stages: Sequence[Stage], traces: Sequence[Trace], position: int) -> Proof:
    gaps = []
    for stage, trace in zip(stages, traces, strict=True):
        theirs = torch.tensor(independent_logits(stage, bundled(stages).name, trace.ids)[position])
        ours = np.exp(log_softmax(trace.logits[position]))
        gaps.append(largest_difference(ours, theirs.softmax(-1).numpy()))
    return Proof(
        claim="All probabilities of every stage, the whole vocabulary, against transformers' own model whose weights "
        "numpy read from the kept file.",
        max_abs_diff=float(np.max(gaps)),
        tolerance=ATOL,
    )


def surprisal(stages: Sequence[Stage], traces: Sequence[Trace]) -> Card:
    """Surprisal of every token of the prompt in every stage. Raises ReaderError for a prompt of one token."""
    if len(traces[-1].tokens) < 2:
        raise ReaderError("Surprisal needs at least two tokens: nothing stands before the first one.")
    nats = np.stack([surprisal_of(trace.logits, np.array(trace.ids)) for trace in traces])  # stage, seq-1
    names = [stage.name for stage in stages]
    texts = [one.display for one in traces[-1].tokens[1:]]
    drop = nats[0] - nats[-1]
    most = int(np.argmax(drop))
    gained = (
        f"; “{shorten(texts[most])}” fell most, from {nats[0, most]:.1f} to {nats[-1, most]:.1f}"
        if len(stages) > 1 and drop[most] > 0
        else ""
    )
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
        prove=lambda: _prove_surprisal(stages, traces, nats),
        code=script(
            stages,
            traces[-1].ids,
            "rows = []\nwith torch.no_grad():\n    for stage in stages():\n"
            "        logits = stage(ids).logits[0, :-1].float()\n"
            '        rows.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))\n'
            'result = {"nats": torch.stack(rows)}\n',
        ),
        numbers={"nats": nats},
        atol=10 * ATOL,  # nats up to about 20
        note="The first token has no surprisal: nothing stands before it.",
    )


def _prove_surprisal(stages: Sequence[Stage], traces: Sequence[Trace], nats: Floats) -> Proof:
    gaps = []
    for stage, trace, row in zip(stages, traces, nats, strict=True):
        logits = torch.tensor(independent_logits(stage, bundled(stages).name, trace.ids))
        theirs = F.cross_entropy(logits[:-1], torch.tensor(trace.ids[1:]), reduction="none")
        gaps.append(largest_difference(row, theirs.numpy()))
    return Proof(
        claim="Every surprisal against torch's cross_entropy on the logits of transformers' own model, whose weights "
        "numpy read from the kept file.",
        max_abs_diff=float(np.max(gaps)),
        tolerance=10 * ATOL,
    )
