"""How far post-training moved the next-token distribution, position by position."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from engine import ReaderError
from engine.chapters.c13_post_training.family import COLORS, Version
from engine.chapters.c13_post_training.logits import logits
from engine.chapters.c13_post_training.scripts import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.favourites import favourites_again
from engine.evidence.oracles.reading import nats_of
from engine.evidence.passes import returned_logits
from engine.evidence.rounding import logit_tolerance, probability_tolerance
from engine.figures import grouped_bars
from engine.figures.post_training import columns
from engine.model.capturing import display, tokens_of
from engine.ops.sampling import Float, kl_divergence, softmax, surprisal, top
from engine.tokens.chat import special_ids
from engine.tokens.text import quoted

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
    series = {v.label: kl_divergence(row, base) for v, row in zip(versions[1:], tuned, strict=True)}
    names = names_of(versions[-1], ids)
    means = {label: float(values.mean()) for label, values in series.items()}
    places = {label: int(values.argmax()) for label, values in series.items()}
    came = [moved(row, base, ids) for row in tuned]
    furthest = max(means, key=lambda label: means[label])

    return Card(
        key="kl",
        title="Mean KL from base: "
        + ", ".join(f"{label} {mean:.3g} nats" for label, mean in means.items())
        + f"; {furthest} moved most after {quoted(names[places[furthest]])}",
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
        shown={**series, **{f"ln {v.label}/base": row for v, row in zip(versions[1:], came, strict=True)}},
        oracle=Oracle(
            "Every bar against torch.nn.functional.kl_div, and every ratio in the table against torch's cross_entropy, "
            "of the logits of a second pass through the same models.",
            lambda: _kl_again(versions, ids),
            _tolerance(versions),
        ),
        code=script(versions, _KL, ids),
        note="KL(tuned ‖ base) = Σ p·ln(p / p_base): how much more the tuned version's choices surprise the base than "
        "the tuned version itself, on average. The marked place is the token chosen.",
    )


def _tolerance(versions: Sequence[Version]) -> float:
    return max(logit_tolerance(version.get()) for version in versions)


def _kl_again(versions: Sequence[Version], ids: Sequence[int]) -> dict[str, Any]:
    rows = [torch.tensor(returned_logits(version.get(), ids)).double() for version in versions]
    base, *tuned = (row.log_softmax(-1) for row in rows)
    found: dict[str, Any] = {}
    for version, row, log_p in zip(versions[1:], rows[1:], tuned, strict=True):
        found[version.label] = F.kl_div(base, log_p, log_target=True, reduction="none").sum(-1)
        found[f"ln {version.label}/base"] = nats_of(rows[0], ids) - nats_of(row, ids)
    return found


_KL = """
    with torch.no_grad():
        log_p = {label: model(ids).logits[0].double().log_softmax(-1) for label, model in models.items()}
    base, *tuned = log_p
    result = {}
    for label in tuned:
        ratio = log_p[label] - log_p[base]
        result[label] = (log_p[label].exp() * ratio).sum(-1)
        result[f"ln {label}/base"] = ratio[:-1].gather(1, ids[0, 1:, None])[:, 0]
    print(result)
"""


def favourites(versions: Sequence[Version], ids: Sequence[int], focus: int) -> Card:
    """The most probable tokens after token `focus` in each version, side by side."""
    rows = [softmax(row[focus]) for row in read(versions, ids)]
    best = _best(rows)
    labels = [version.label for version in versions]
    series = {label: row[best] for label, row in zip(labels, rows, strict=True)}
    loaded = versions[-1].get()
    marks = special_ids(loaded.tokenizer)
    names = [loaded.tokenizer.convert_ids_to_tokens(i) if i in marks else display(loaded, i) for i in best]
    firsts = [names[int(values.argmax())] for values in series.values()]
    after = quoted(names_of(versions[-1], ids)[focus])
    allowed = max(probability_tolerance(version.get()) for version in versions)

    return Card(
        key="favourites",
        title=f"After {after}: "
        + ", ".join(f"{label} expects {quoted(first)}" for label, first in zip(labels, firsts, strict=True)),
        alt=f"Bars: the most probable tokens after {after} in {', '.join(labels)}.",
        badge=Badge.LIVE,
        figure=grouped_bars(
            names,
            series,
            colors=COLORS,
            probability=True,
            value_name="probability",
            label_name="next token",
        ),
        table={
            "token": names,
            "id": best,
            **{label: values.tolist() for label, values in series.items()},
        },
        shown={"id": best, **series},
        oracle=Oracle(
            "The likeliest tokens of every version and all bars, against torch's topk and softmax of the logits of a "
            "second pass through the same models.",
            lambda: _best_again(versions, ids, focus, best, allowed),
            {"id": 0, **dict.fromkeys(labels, allowed)},
        ),
        code=script(versions, _BEST.format(focus=focus, best=best), ids),
    )


def _best(rows: Sequence[Float]) -> list[int]:
    """The favourites of every version, in the order of the last one's probabilities."""
    wanted = {int(i) for row in rows for i in top(row, _each(rows))}
    return sorted(wanted, key=lambda i: -rows[-1][i])


def _each(versions: Sequence[Any]) -> int:
    """How many favourites each version names."""
    return SHOWN if len(versions) < 3 else SHOWN - 1


def _best_again(
    versions: Sequence[Version], ids: Sequence[int], focus: int, best: Sequence[int], allowed: float
) -> dict[str, Any]:
    rows = [
        torch.tensor(returned_logits(version.get(), ids)[focus]).double().softmax(-1) for version in versions
    ]
    found = favourites_again(torch.stack(rows), _each(versions), best, allowed)
    return {"id": found, **{version.label: row[found] for version, row in zip(versions, rows, strict=True)}}


_BEST = """
    best = {best}
    result = {{"id": best}}
    with torch.no_grad():
        for label, model in models.items():
            result[label] = model(ids).logits[0, {focus}].double().softmax(-1)[best]
    print([tokenizer.decode([i]) for i in best], result)
"""
