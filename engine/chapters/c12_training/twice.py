"""A text read twice by every stage: whoever can look back knows the second half already."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import ReaderError
from engine.chapters.c12_training.live import COLORS, Origin, Stage, bundled, origin, script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.reading import nats_of
from engine.evidence.oracles.snapshots import best_induction, stage_logits
from engine.evidence.rounding import logit_tolerance, probability_tolerance
from engine.figures import lines
from engine.model.cache import traced
from engine.model.repeated import repeated_ids
from engine.ops.heads import scores
from engine.ops.sampling import surprisal

LONGEST = 48
"""Tokens of the prompt that are read twice."""


def doubled(stages: Sequence[Stage], ids: Sequence[int] | None, seed: int | None) -> tuple[int, ...]:
    """A start token and the same tokens twice: random ones of a seed, or the first ones of a prompt.

    Raises ReaderError for a prompt of one token.
    """
    checkpoint = bundled(stages)
    if ids is None:
        return repeated_ids(checkpoint, seed or 0)
    half = tuple(ids)[: min(LONGEST, (checkpoint.spec.longest - 1) // 2)]
    if len(half) < 2:
        raise ReaderError("Reading twice needs a prompt of at least two tokens.")
    return (checkpoint.tokenizer.bos_token_id or 0, *half, *half)


def second_reading(stages: Sequence[Stage], ids: Sequence[int] | None, seed: int | None) -> Card:
    """Surprisal of each token at its second reading, one line for each stage; `ids` None reads random tokens."""
    both = doubled(stages, ids, seed)
    n = (len(both) - 1) // 2
    traces = [traced(stage.loaded, both) for stage in stages]
    costs = np.stack([surprisal(trace.logits[:-1], both[1:]) for trace in traces])  # stage, 2n
    # The first token of the second half cannot be foreseen: nothing announces that the text starts again.
    first, second = costs[:, 1:n], costs[:, n + 1 :]
    heads = np.array([scores(trace.attention, n)["induction"].max() for trace in traces])
    names = [stage.name for stage in stages]
    what = "the prompt" if seed is None else f"random tokens, seed {seed}"
    texts = [token.display for token in traces[-1].tokens[n + 2 :]]
    columns: dict[str, list[Any]] = {"place": list(range(2, n + 1)), "token": texts}
    for reading, rows in (("first", first), ("second", second)):
        columns |= {f"{name}, {reading} reading": row.tolist() for name, row in zip(names, rows, strict=True)}
    checkpoint, where = bundled(stages), origin(stages)
    nats = logit_tolerance(checkpoint)
    return Card(
        key="twice",
        title=f"{checkpoint.name}, {what}: second reading "
        + " → ".join(f"{mean:.1f}" for mean in second.mean(1))
        + " nats per token; first reading "
        + " → ".join(f"{mean:.1f}" for mean in first.mean(1)),
        alt="One line for each stage of training: the surprisal of every token at its second reading.",
        badge=Badge.LIVE,
        figure=lines(
            np.arange(2, n + 1),
            dict(zip(names, second, strict=True)),
            colors=dict(zip(names, COLORS[-len(names) :], strict=True)),
            x_name="place of the token in the text that is read twice",
            y_name="surprisal at the second reading (nats)",
            zero=True,
            height=380,
        ),
        table=columns,
        shown={"first reading": first, "second reading": second, "induction": heads},
        oracle=Oracle(
            "Every surprisal of both readings against torch's cross_entropy of the logits of transformers' own model, "
            "whose weights numpy read from the kept file; the induction scores from the attention that it returns.",
            lambda: _twice_again(where, both),
            {"first reading": nats, "second reading": nats, "induction": probability_tolerance(checkpoint)},
        ),
        code=script(stages, both, _CODE),
        note="The best head's induction score on these tokens: "
        + ", ".join(f"{name} {score:.2f}" for name, score in zip(names, heads, strict=True))
        + f". A uniform guess costs {np.log(checkpoint.spec.vocab):.2f} nats. The first token is left out: "
        "nothing announces that the text starts again.",
    )


def _twice_again(where: Origin, ids: Sequence[int]) -> dict[str, Any]:
    n = (len(ids) - 1) // 2
    logits = stage_logits(where.checkpoint, where.files, ids)
    nats = torch.stack([nats_of(rows, ids) for rows in logits])  # stage, 2n
    first, second = nats.unflatten(1, (2, n))[:, :, 1:].unbind(1)
    return {
        "first reading": first,
        "second reading": second,
        "induction": best_induction(where.checkpoint, where.files, ids),
    }


_CODE = """\
n = (ids.shape[1] - 1) // 2
query = torch.arange(n + 1, 2 * n + 1)  # the second half
nats, induction = [], []
with torch.no_grad():
    for stage in stages():
        output = stage(ids, output_attentions=True)
        logits = output.logits[0, :-1].float()
        nats.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
        weights = torch.stack(output.attentions)[:, 0]  # layer, head, query, key
        induction.append(weights[..., query, query - n + 1].mean(-1).max())
first, second = torch.stack(nats).unflatten(1, (2, n))[:, :, 1:].unbind(1)  # without the first token of each reading
result = {"first reading": first, "second reading": second, "induction": torch.stack(induction)}
"""
