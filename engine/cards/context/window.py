"""What is lost when a text outgrows the window, and what keeping the first tokens changes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import ReaderError, figures
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.rounding import tolerance
from engine.evidence.script import preamble
from engine.model.capturing import start_tokens
from engine.model.loading import Loaded
from engine.model.trace import Token
from engine.ops import kv_cache


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
    step = found[-1] / max(float(found[0]), 1e-12)
    return Card(
        key="forgotten",
        title=f"Reading all {count} tokens makes “{target.display}” {step:,.3g} times as probable "
        f"as reading the last {windows[0]}",
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
        prove=lambda: _window_proof(loaded, start, ids, target.id, windows, found),
        code=preamble(loaded, ids)
        + f"""
windows, target = {windows}, {target.id}
start = torch.tensor([{start}], dtype=torch.long)  # what the tokenizer puts before every text
read = [torch.cat([start, ids[:, -w:]], dim=1) for w in windows]
with torch.no_grad():
    last = [model(input_ids=each, use_cache=False).logits[0, -1].float().softmax(-1) for each in read]
result = {{"probability": [float(p[target]) for p in last]}}
""",
        numbers={"probability": found},
        atol=tolerance(loaded, 1.0),
        note=(
            "The dotted line is where the token itself, last seen earlier in the text, comes into view."
            if reach
            else "This token does not occur earlier in the text."
        )
        + _before(loaded),
    )


def _before(loaded: Loaded) -> str:
    names = " ".join(t.display for t in start_tokens(loaded))
    return f" Each time {names} is read first, which the tokenizer puts before every text." if names else ""


def _window_proof(
    loaded: Loaded, start: list[int], ids: list[int], target: int, windows: Sequence[int], found: Any
) -> Proof:
    """Feed each window through a cache in two halves instead of in one pass."""
    apart = 0.0
    for i in (0, len(windows) // 2, len(windows) - 1):
        window = [*start, *ids[-windows[i] :]]
        logits = torch.tensor(kv_cache.decoded_logits(loaded, window)[-1])
        apart = max(apart, abs(float(logits.softmax(-1)[target]) - float(found[i])))
    return Proof(
        "Three of the windows decoded token by token through a cache (probability).",
        apart,
        tolerance(loaded, 1.0),
    )


def sinks(loaded: Loaded, tokens: Sequence[Token], window: int, first: int) -> Card:
    """Running mean of surprisal with the whole cache, with a sliding window, and with a window plus first tokens."""
    ids, seq = [t.id for t in tokens], len(tokens)
    kinds = {
        "everything kept": (seq, 0),
        f"last {window} only": (window, 0),
        f"last {window} and the first {first}": (window, first),
    }
    found = {
        name: kv_cache.surprisals(kv_cache.masked_logits(loaded, ids, kv_cache.kept_keys(seq, w, f)), ids)
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
        prove=lambda: _sink_proof(loaded, ids, window, first),
        code=preamble(loaded, ids) + _SINKS.format(window=window, first=first),
        numbers={"kept": found[names[0]], "window": found[names[1]], "sink": found[names[2]]},
        atol=tolerance(loaded, 16.0),
        note="Evicted keys are masked, so the remaining ones keep their positions. The dotted line is where the "
        "window is full.",
    )


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


def _sink_proof(loaded: Loaded, ids: list[int], window: int, first: int) -> Proof:
    """Really evict: drop the keys and values from a cache, token by token, instead of masking them."""
    part = ids[: window + 24]
    masked = kv_cache.masked_logits(loaded, part, kv_cache.kept_keys(len(part), window, first))
    return Proof(
        f"The first {len(part)} tokens again, with keys and values really dropped from the cache (logits).",
        float(np.abs(kv_cache.evicting_logits(loaded, part, window, first) - masked).max()),
        tolerance(loaded, 16.0),
    )


def _running_mean(values: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """Mean of the last `width` values at each place, of fewer at the start."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    mean: np.ndarray[Any, Any] = (total[ends] - total[starts]) / (ends - starts)
    return mean
