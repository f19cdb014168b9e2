"""How far post-training moved the next-token distribution, position by position."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from engine import ReaderError
from engine.cards.post_training.common import logits, script
from engine.cards.post_training.family import COLORS, Version
from engine.cards.sampling.common import difference, display, quoted, returned_logits, tolerance
from engine.evidence.card import Badge, Card, Proof
from engine.figures import grouped_bars
from engine.figures.post_training import columns
from engine.model.capturing import tokens_of
from engine.ops.quantization import kl as divergence
from engine.ops.sampling import Float, softmax, surprisal, top
from engine.tokens.chat import special_ids

SHOWN = 5
"""Favourites of each version at the focus token."""


def names_of(version: Version, ids: Sequence[int]) -> list[str]:
    """The tokens as text safe to display; special ones under their own names."""
    loaded = version.get()
    marks = special_ids(loaded.tokenizer)
    return [t.piece if t.id in marks else t.display for t in tokens_of(loaded, ids)]


def read(versions: Sequence[Version], ids: Sequence[int]) -> list[np.ndarray]:
    """Logits (seq, vocab) of every version, one after the other. Raises ReaderError where vocabularies differ."""
    rows = [logits(version, ids) for version in versions]
    if len({row.shape for row in rows}) > 1:
        raise ReaderError("These versions have vocabularies of different sizes, so they cannot be compared.")
    return rows


def moved(row: Any, base: Any, ids: Sequence[int]) -> Float:
    """ln π(token) − ln π_base(token) of every token after the first, in nats, shape seq - 1; from logits."""
    return surprisal(base[:-1], ids[1:]) - surprisal(row[:-1], ids[1:])


def kl(versions: Sequence[Version], ids: Sequence[int], focus: int) -> Card:
    """KL(tuned ‖ base) after every token of a text, for each tuned version."""
    base, *tuned = read(versions, ids)
    series = {v.label: divergence(row, base) for v, row in zip(versions[1:], tuned, strict=True)}
    names = names_of(versions[-1], ids)
    means = {label: float(values.mean()) for label, values in series.items()}
    places = {label: int(values.argmax()) for label, values in series.items()}
    came = [moved(row, base, ids) for row in tuned]
    furthest = max(means, key=lambda label: means[label])

    return Card(
        key="kl",
        title="Mean KL from base: "
        + ", ".join(f"{label} {mean:.3g} nats" for label, mean in means.items())
        + f"; the largest of {furthest} is after {quoted(names[places[furthest]])}",
        alt="Bars after each token: KL divergence from base in nats, for "
        + " and ".join(f"{label}, at most {series[label].max():.3g}" for label in series)
        + ".",
        badge=Badge.LIVE,
        figure=columns(
            names,
            series,
            colors=COLORS,
            y_name="KL(tuned ‖ base), nats",
            focus=focus if len(ids) > 1 else None,
        ),
        table={
            "token": names,
            **{f"KL({label} ‖ base)": values.tolist() for label, values in series.items()},
            **{
                f"ln {v.label}/base of this token": [float("nan"), *values.tolist()]
                for v, values in zip(versions[1:], came, strict=True)
            },
        },
        prove=lambda: _prove_kl(versions, ids, series),
        code=script(versions, _KL, ids),
        numbers={label: values.tolist() for label, values in series.items()},
        atol=_tolerance(versions),
        note="KL(tuned ‖ base) = Σ p·ln(p / p_base): the surprise that the tuned version's own choices would give "
        "the base, beyond the tuned version's own. The marked place is the token chosen.",
    )


def _tolerance(versions: Sequence[Version]) -> float:
    return max(tolerance(version.get()) for version in versions)


def _prove_kl(versions: Sequence[Version], ids: Sequence[int], shown: dict[str, Float]) -> Proof:
    base, *tuned = (
        torch.tensor(returned_logits(version.get(), ids)).double().log_softmax(-1) for version in versions
    )
    again = [F.kl_div(base, log_p, log_target=True, reduction="none").sum(-1) for log_p in tuned]
    return Proof(
        "Every bar against torch.nn.functional.kl_div of the logits that transformers returns.",
        max(difference(a, b) for a, b in zip(shown.values(), again, strict=True)),
        _tolerance(versions),
    )


_KL = """
    with torch.no_grad():
        log_p = {label: model(ids).logits[0].double().log_softmax(-1) for label, model in models.items()}
    base, *tuned = log_p
    result = {
        label: (log_p[label].exp() * (log_p[label] - log_p[base])).sum(-1) for label in tuned
    }
    print(result)
"""


def favourites(versions: Sequence[Version], ids: Sequence[int], focus: int) -> Card:
    """The most probable tokens after token `focus` in each version, side by side."""
    rows = [softmax(row[focus]) for row in read(versions, ids)]
    best = _best(rows)
    loaded = versions[-1].get()
    marks = special_ids(loaded.tokenizer)
    names = [loaded.tokenizer.convert_ids_to_tokens(i) if i in marks else display(loaded, i) for i in best]
    firsts = [names[best.index(int(row.argmax()))] for row in rows]
    after = quoted(names_of(versions[-1], ids)[focus])
    labels = [version.label for version in versions]

    return Card(
        key="favourites",
        title=f"After {after}: "
        + ", ".join(f"{label} expects {quoted(first)}" for label, first in zip(labels, firsts, strict=True)),
        alt=f"Bars: the most probable tokens after {after} in {', '.join(labels)}.",
        badge=Badge.LIVE,
        figure=grouped_bars(
            names,
            {label: row[best] for label, row in zip(labels, rows, strict=True)},
            colors=COLORS,
            probability=True,
            value_name="probability",
            label_name="next token",
        ),
        table={
            "token": names,
            "id": best,
            **{label: row[best].tolist() for label, row in zip(labels, rows, strict=True)},
        },
        prove=lambda: _prove_best(versions, ids, focus, best, rows),
        code=script(versions, _BEST.format(focus=focus, best=best), ids),
        numbers={label: row[best].tolist() for label, row in zip(labels, rows, strict=True)},
        atol=_tolerance(versions),
    )


def _best(rows: Sequence[Float]) -> list[int]:
    """The favourites of every version, in the order of the last one's probabilities."""
    wanted = {int(i) for row in rows for i in top(row, SHOWN if len(rows) < 3 else SHOWN - 1)}
    return sorted(wanted, key=lambda i: -rows[-1][i])


def _prove_best(
    versions: Sequence[Version], ids: Sequence[int], focus: int, best: list[int], rows: Sequence[Float]
) -> Proof:
    theirs = [returned_logits(version.get(), ids)[focus] for version in versions]
    again = [torch.tensor(row).double().softmax(-1).numpy()[best] for row in theirs]
    return Proof(
        "Every bar against the softmax of the logits that transformers returns from a pass of its own.",
        max(difference(row[best], a) for row, a in zip(rows, again, strict=True)),
        _tolerance(versions),
    )


_BEST = """
    best = {best}
    with torch.no_grad():
        result = {{label: model(ids).logits[0, {focus}].double().softmax(-1)[best] for label, model in models.items()}}
    print([tokenizer.decode([i]) for i in best], result)
"""
