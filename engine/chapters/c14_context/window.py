"""What is lost when a text outgrows the window, and what keeping the first tokens changes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import ReaderError, figures
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.reading import nats, nats_of, probability_in_two_steps
from engine.evidence.rounding import chance_tolerance, logit_tolerance
from engine.evidence.script import preamble
from engine.model import kv_cache
from engine.model.capturing import start_tokens
from engine.model.loaded import Loaded
from engine.ops.sampling import surprisal
from engine.tokens.text import markdown
from engine.tokens.token import Token


def forgotten(loaded: Loaded, tokens: Sequence[Token], target: Token) -> Card:
    """Probability of a next token as the model reads more and more of the text's end.

    `tokens` are those of the text alone: what the tokenizer puts before a text is read before each part of it too.
    Raises ReaderError for a text without tokens.
    """
    start = [t.id for t in start_tokens(loaded)]
    tokens = tokens[-(loaded.spec.context - len(start)) :]
    ids, count = [t.id for t in tokens], len(tokens)
    if not ids:
        raise ReaderError("This text has no tokens to read; please write something.")
    windows = sorted({max(1, round(x)) for x in np.linspace(min(4, count), count, 24)})
    found = kv_cache.remembered(loaded, ids, target.id, windows, start)
    held = [i for i, t in enumerate(tokens) if t.id == target.id]
    reach = count - held[-1] if held else None
    return Card(
        key="forgotten",
        title=_gain(target.display, windows, found.tolist()),
        alt="Probability of the chosen next token against the number of tokens the model may read.",
        badge=Badge.LIVE,
        figure=figures.lines(
            windows,
            {f"P({target.display})": found},
            colors={f"P({target.display})": "logits"},
            x_name="tokens the model may read (the last ones)",
            y_name="probability",
            mark_x=reach,
            zero=True,
        ),
        table={"tokens read": windows, "probability": found.tolist()},
        shown={"probability": found},
        oracle=Oracle(
            "Every window read in two steps, all but its last token into transformers' cache and then that one.",
            lambda: {
                "probability": [
                    probability_in_two_steps(loaded, [*start, *ids[-window:]], target.id)
                    for window in windows
                ]
            },
            chance_tolerance(loaded, found),
        ),
        code=preamble(loaded, ids)
        + f"""
windows, target = {windows}, {target.id}
start = torch.tensor([{start}], dtype=torch.long)  # what the tokenizer puts before every text
read = [torch.cat([start, ids[:, -w:]], dim=1) for w in windows]
with torch.no_grad():
    last = [model(input_ids=each, use_cache=False).logits[0, -1].float().softmax(-1) for each in read]
result = {{"probability": [float(p[target]) for p in last]}}
""",
        note=(
            "The dotted line is where the token itself, last seen earlier in the text, comes into view."
            if reach
            else "This token does not occur earlier in the text."
        )
        + _before(loaded),
    )


def _gain(name: str, windows: Sequence[int], found: Sequence[float]) -> str:
    """What reading all of a text does to the probability of a token, as a title."""
    if len(windows) < 2:
        return (
            f"This text has {windows[0]} token{'s' * (windows[0] != 1)}: write more, and see what it changes"
        )
    least, whole = max(float(found[0]), 1e-12), max(float(found[-1]), 1e-12)
    times, way = (whole / least, "more") if whole >= least else (least / whole, "less")
    few = f"the last {windows[0]}" if windows[0] > 1 else "the last one"
    return f"Reading all {windows[-1]} tokens makes “{name}” {_rounded(times)} times {way} probable than reading {few}"


def _rounded(times: float) -> str:
    return f"{float(f'{times:.3g}'):,.0f}" if times >= 100 else f"{times:.3g}"


def about_length(loaded: Loaded) -> str:
    """What a checkpoint does with a text that is longer than its context. Markdown, a sentence or two."""
    name, longest = markdown(loaded.name), loaded.spec.context
    if loaded.spec.positions == "learned":
        return f"{name} has position vectors for {longest:,} tokens and cannot read more: a longer text has to be cut."
    return (
        f"{name} was made for texts of at most {longest:,} tokens. Its rotary positions go on beyond that, but its "
        "predictions get worse there (chapter 10), so a longer text is usually cut."
    )


def _before(loaded: Loaded) -> str:
    names = " ".join(t.display for t in start_tokens(loaded))
    return f" Each time {names} is read first, which the tokenizer puts before every text." if names else ""


def sinks(loaded: Loaded, tokens: Sequence[Token], window: int, first: int) -> Card:
    """Running mean of surprisal with the whole cache, with a sliding window, and with a window plus first tokens."""
    ids, seq = [t.id for t in tokens], len(tokens)
    kinds = {
        "everything kept": (seq, 0),
        f"last {window} only": (window, 0),
        f"last {window} and the first {first}": (window, first),
    }
    found = {
        name: surprisal(kv_cache.masked_logits(loaded, ids, kv_cache.kept_keys(seq, w, f))[:-1], ids[1:])
        for name, (w, f) in kinds.items()
    }
    after = {name: float(s[window:].mean()) for name, s in found.items()}
    smooth = {name: _running_mean(s, 16) for name, s in found.items()}
    names = list(kinds)
    return Card(
        key="sinks",
        title=f"After the window is full: {after[names[0]]:.2f} nats per token with everything, "
        f"{after[names[1]]:.2f} with the window, {after[names[2]]:.2f} with the first {first} kept too",
        alt="Surprisal along the text, averaged over 16 tokens, for three ways to keep the cache.",
        badge=Badge.LIVE,
        figure=figures.lines(
            list(range(1, seq)),
            smooth,
            colors={names[0]: "logits", names[1]: "gradient", names[2]: "key"},
            x_name="position",
            y_name="surprisal (nats, mean of 16)",
            markers=False,
            mark_x=window,
        ),
        table={"position": list(range(1, seq)), "token": [t.display for t in tokens[1:]]}  # type: ignore[arg-type]
        | {f"{name} (nats)": s.tolist() for name, s in found.items()},
        shown={"kept": smooth[names[0]], "window": smooth[names[1]], "sink": smooth[names[2]]},
        oracle=Oracle(
            "Everything kept: one pass and torch's cross-entropy. The other two: token by token, with keys and values "
            "really dropped from transformers' cache. Averages by definition.",
            lambda: {
                "kept": _mean_of_last(nats(loaded, ids).tolist(), 16),
                "window": _mean_of_last(_evicting(loaded, ids, window, 0), 16),
                "sink": _mean_of_last(_evicting(loaded, ids, window, first), 16),
            },
            logit_tolerance(loaded),
        ),
        code=preamble(loaded, ids) + _SINKS.format(window=window, first=first),
        numbers={"kept": found[names[0]], "window": found[names[1]], "sink": found[names[2]]},
        atol=logit_tolerance(loaded),
        note=_won_back(first, *after.values())
        + "Evicted keys are masked, so the remaining ones keep their positions. The dotted line is where the window is "
        "full.",
    )


def _won_back(first: int, everything: float, window: float, sink: float) -> str:
    """How much of what a window loses comes back with the first tokens kept, as a sentence; empty if it loses none."""
    if window <= everything:
        return ""
    share, kept = (
        (window - sink) / (window - everything),
        f"the first {first}" if first > 1 else "the first token",
    )
    if share <= 0:
        return f"Keeping {kept} does not help here. "
    return f"Keeping {kept} wins back {share:.0%} of what the window loses. "


_SINKS = """
def surprisal(window, first):
    query, key = torch.arange(ids.shape[1])[:, None], torch.arange(ids.shape[1])[None]
    allowed = (key <= query) & ((query - key < window) | (key < first))
    mask = torch.zeros(1, 1, *allowed.shape, dtype=model.dtype)
    mask[0, 0][~allowed] = torch.finfo(model.dtype).min
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0].float()
    return -logits[:-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]

result = {{"kept": surprisal(ids.shape[1], 0), "window": surprisal({window}, 0), "sink": surprisal({window}, {first})}}
"""


def _evicting(loaded: Loaded, ids: list[int], window: int, first: int) -> list[float]:
    """Surprisals with a cache that really loses keys and values, token by token, instead of a mask over them."""
    logits = torch.tensor(kv_cache.evicting_logits(loaded, ids, window, first))
    values: list[float] = nats_of(logits, ids).tolist()
    return values


def _mean_of_last(values: list[float], width: int) -> list[float]:
    ends = range(1, len(values) + 1)
    return [sum(values[max(0, end - width) : end]) / min(end, width) for end in ends]


def _running_mean(values: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """Mean of the last `width` values at each place, of fewer at the start."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    mean: np.ndarray[Any, Any] = (total[ends] - total[starts]) / (ends - starts)
    return mean
