"""Cards of chapter 14: what the key/value cache holds, saves and forgets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import figures
from engine.card import Badge, Card, Proof
from engine.loading import Loaded
from engine.ops import kv_cache
from engine.published import MODELS, cache_bytes, sources
from engine.rounding import tolerance
from engine.script import preamble
from engine.trace import Token, Trace

_DECODE = """
from transformers import DynamicCache

cache = DynamicCache(config=model.config)
with torch.no_grad():
    rows = [model(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits[0, -1]
            for i in range(ids.shape[1])]
    whole = model(input_ids=ids, use_cache=False).logits[0].float()
stepwise = torch.stack(rows).float()
"""


def held_bytes(loaded: Loaded, trace: Trace) -> Card:
    """Bytes of the cache after each of several prompt lengths, summed from its tensors, on the formula's line."""
    ids, spec = trace.ids, loaded.spec
    lengths = sorted({1, *(max(1, round(len(ids) * share)) for share in (0.25, 0.5, 0.75, 1.0))})
    held = [kv_cache.nbytes(kv_cache.prefill(loaded, ids[:n])) for n in lengths]
    width = torch.finfo(loaded.model.dtype).bits // 8
    formula = [cache_bytes(spec.n_layer, spec.n_kv_head, spec.d_head, n, width) for n in lengths]
    per_token = int(formula[0] / lengths[0])
    figure = figures.curve_with_points(
        lengths,
        np.array(formula) / 1024,
        lengths,
        np.array(held) / 1024,
        concept="key",
        point_concept="value",
        x_name="tokens in the cache",
        y_name="KiB",
    )
    return Card(
        key="bytes",
        title=f"Every token of context costs {per_token:,} bytes",
        alt=f"Measured cache sizes at {len(lengths)} lengths lie on the straight line of the formula.",
        badge=Badge.LIVE,
        figure=figure,
        table={"tokens": lengths, "bytes in the tensors": held, "bytes by the formula": formula},
        prove=lambda: _bytes_proof(loaded, ids, formula[-1]),
        code=preamble(loaded, ids) + _BYTES.format(lengths=lengths),
        numbers={"bytes": held},
        atol=0,
        note="Points: summed from the tensors of transformers' DynamicCache. Line: "
        "2 · layers · kv_heads · d_head · bytes per number · tokens.",
    )


_BYTES = """
from transformers import DynamicCache

def held(n):
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=ids[:, :n], past_key_values=cache, use_cache=True)
    return sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))

result = {{"bytes": [held(n) for n in {lengths}]}}
"""


def _bytes_proof(loaded: Loaded, ids: Sequence[int], expected: float) -> Proof:
    """The raw buffers of the keys and values, as the allocator sees them, against the formula."""
    cache = kv_cache.prefill(loaded, ids)
    buffers = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for p in kv_cache.tensors(cache)
        for t in p
    }
    return Proof(
        "The memory behind the cache's tensors, counted buffer by buffer, against the formula (bytes).",
        abs(sum(buffers.values()) - expected),
        0,
    )


def same_answers(loaded: Loaded, trace: Trace) -> Card:
    """Surprisal of each prompt token, decoded one by one through the cache and in one pass without it."""
    ids = trace.ids
    if len(ids) < 2:
        return _too_short()
    stepwise = kv_cache.surprisals(kv_cache.decoded_logits(loaded, ids), ids)
    whole = kv_cache.surprisals(trace.logits, ids)
    apart = float(np.abs(stepwise - whole).max())
    positions = list(range(1, len(ids)))
    return Card(
        key="equal",
        title=f"With the cache and without it: the same answers, to {apart:.1g} nats",
        alt=f"Two lines of surprisal over {len(positions)} tokens lie on each other.",
        badge=Badge.LIVE,
        figure=figures.lines(
            positions,
            {"one pass, no cache": whole, "token by token, cache": stepwise},
            colors={"one pass, no cache": "logits", "token by token, cache": "key"},
            x_name="position",
            y_name="surprisal (nats)",
        ),
        table={
            "position": positions,
            "token": [t.display for t in trace.tokens[1:]],
            "without cache (nats)": whole.tolist(),
            "with cache (nats)": stepwise.tolist(),
        },
        prove=lambda: Proof(
            "All logits at all positions: fed token by token through the cache, against one pass without it.",
            float(np.abs(kv_cache.decoded_logits(loaded, ids) - trace.logits).max()),
            tolerance(loaded, trace.logits),
        ),
        code=preamble(loaded, ids)
        + _DECODE
        + """
score = lambda logits: -logits[:-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
result = {"stepwise": score(stepwise), "whole": score(whole)}
""",
        numbers={"stepwise": stepwise, "whole": whole},
        atol=tolerance(loaded, trace.logits),
    )


def _too_short() -> Card:
    return Card(
        key="equal",
        title="This prompt has one token: there is nothing to compare yet",
        alt="No figure: type a longer prompt.",
        badge=Badge.TOY,
        figure=None,
        table={"tokens": [1]},
    )


def work_per_step(loaded: Loaded, measured: Sequence[kv_cache.Latency] | None, context: int) -> Card:
    """Positions a step has to compute with and without the cache; measured milliseconds once there are any."""
    if measured:
        return _measured(loaded, measured)
    lengths = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048) if n <= context]
    return Card(
        key="work",
        title="Without the cache each new token makes the model read everything again",
        alt="Positions computed per new token: constant with the cache, growing with the context without it.",
        badge=Badge.TOY,
        figure=figures.lines(
            lengths,
            {"without cache": lengths, "with cache": [1] * len(lengths)},
            colors={"without cache": "logits", "with cache": "key"},
            x_name="tokens of context",
            y_name="positions computed per new token",
            log_x=True,
            log_y=True,
        ),
        table={"tokens of context": lengths, "without cache": lengths, "with cache": [1] * len(lengths)},
        note="Counted, not measured: press Measure for milliseconds on this machine.",
    )


def _measured(loaded: Loaded, measured: Sequence[kv_cache.Latency]) -> Card:
    contexts = [m.context for m in measured]
    kinds = {
        "without cache": [m.uncached for m in measured],
        "with cache": [m.cached for m in measured],
        "prefill": [m.prefill for m in measured],
    }
    last = measured[-1]
    ids = list(range(16))
    return Card(
        key="work",
        title=f"At {last.context} tokens a step takes {last.cached.median:.3g} ms with the cache, "
        f"{last.uncached.median:.3g} ms without",
        alt="Median milliseconds of one decode step by context length, with and without the cache, and of prefill.",
        badge=Badge.LIVE,
        figure=figures.lines(
            contexts,
            {name: [t.median for t in timings] for name, timings in kinds.items()},
            colors={"without cache": "logits", "with cache": "key", "prefill": "residual"},
            x_name="tokens of context",
            y_name="milliseconds (median)",
            zero=True,
        ),
        table={"tokens of context": contexts}
        | {
            f"{name}, {what} (ms)": [getattr(t, what) for t in timings]
            for name, timings in kinds.items()
            for what in ("median", "low", "high")
        },
        prove=lambda: Proof(
            "What is timed computes the same logits: 16 tokens through the cache and in one pass.",
            float(
                np.abs(
                    kv_cache.decoded_logits(loaded, ids)
                    - kv_cache.masked_logits(loaded, ids, kv_cache.kept_keys(16, 16, 0))
                ).max()
            ),
            tolerance(loaded, 16.0),
        ),
        code=preamble(loaded, ids) + _DECODE + '\nresult = {"stepwise": stepwise[-1, :100]}\n',
        numbers={"stepwise": kv_cache.decoded_logits(loaded, ids)[-1, :100]},
        atol=tolerance(loaded, 16.0),
        note=f"{len(last.cached.milliseconds)} repeats each; low and high in the table are the quartiles. "
        "The times are this machine's, now, and move with what else it does; the script checks the logits, "
        "not the clock.",
    )


def large_models(loaded: Loaded, tokens: int, bytes_per_number: float) -> Card:
    """The same formula on published sizes: as published, as if every head kept its own keys, as if all shared one."""
    spec = loaded.spec
    rows: list[tuple[str, int, int, int, int, str]] = [
        (m.name, m.n_layer, m.n_head, m.n_kv_head, m.d_head, m.source) for m in MODELS
    ]
    rows.insert(0, (loaded.name, spec.n_layer, spec.n_head, spec.n_kv_head, spec.d_head, "loaded now"))
    gib = {
        label: [
            cache_bytes(n, pick(h, kv), d, tokens, bytes_per_number) / 2**30 for _, n, h, kv, d, _ in rows
        ]
        for label, pick in (
            ("every head its own (MHA)", lambda h, kv: h),
            ("as published", lambda h, kv: kv),
            ("one for all heads (MQA)", lambda h, kv: 1),
        )
    }
    names, largest = [row[0].replace("Llama-3.1-", "Llama ") for row in rows], rows[-1][0]
    ids = list(range(8))
    width = torch.finfo(loaded.model.dtype).bits // 8
    one = int(cache_bytes(spec.n_layer, spec.n_kv_head, spec.d_head, 1, width))
    return Card(
        key="large",
        title=f"{largest} keeps {gib['as published'][-1]:,.3g} GiB of keys and values for {tokens:,} tokens",
        alt="Gibibytes of cache per model for multi-head, published and multi-query attention.",
        badge=Badge.LIVE,
        figure=figures.grouped_bars(
            names,
            gib,
            colors={
                "every head its own (MHA)": "query",
                "as published": "key",
                "one for all heads (MQA)": "value",
            },
            value_name="GiB",
        ),
        table={
            "model": names,
            **{f"{k} (GiB)": v for k, v in gib.items()},
            "sizes from": [row[5] for row in rows],
        },
        prove=lambda: Proof(
            f"The formula on {loaded.name}, against the tensors of a real cache of 8 tokens (bytes).",
            abs(kv_cache.nbytes(kv_cache.prefill(loaded, ids)) - 8 * one),
            0,
        ),
        code=preamble(loaded, ids) + _BYTES.format(lengths=[8]) + "result = {'bytes': result['bytes'][0]}\n",
        numbers={"bytes": 8 * one},
        atol=0,
        note=f"Sizes: {sources()}. "
        "The script counts the loaded "
        "checkpoint's cache; the other rows are the same formula on the published sizes.",
    )


def forgotten(loaded: Loaded, tokens: Sequence[Token], target: Token) -> Card:
    """Probability of a next token as the model reads more and more of the text's end."""
    ids, count = [t.id for t in tokens], len(tokens)
    windows = sorted({max(1, round(x)) for x in np.linspace(min(4, count), count, 24)})
    found = kv_cache.remembered(loaded, ids, target.id, windows)
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
        prove=lambda: _window_proof(loaded, ids, target.id, windows, found),
        code=preamble(loaded, ids)
        + f"""
windows, target = {windows}, {target.id}
with torch.no_grad():
    last = [model(input_ids=ids[:, -w:], use_cache=False).logits[0, -1].float().softmax(-1) for w in windows]
result = {{"probability": [float(p[target]) for p in last]}}
""",
        numbers={"probability": found},
        atol=tolerance(loaded, 1.0),
        note="The dotted line is where the token itself, last seen earlier in the text, comes into view."
        if reach
        else "This token does not occur earlier in the text.",
    )


def _window_proof(loaded: Loaded, ids: list[int], target: int, windows: Sequence[int], found: Any) -> Proof:
    """Feed each window through a cache in two halves instead of in one pass."""
    apart = 0.0
    for i in (0, len(windows) // 2, len(windows) - 1):
        window = ids[-windows[i] :]
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
