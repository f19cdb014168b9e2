"""What the cache changes: nothing in the answers, much in the work of a step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine import figures
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.comparing import max_difference
from engine.evidence.oracles.reading import nats, nats_step_by_step
from engine.evidence.passes import returned_logits
from engine.evidence.rounding import logit_tolerance, pass_tolerance
from engine.evidence.script import preamble
from engine.model import kv_cache
from engine.model.capturing import tokenize
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops.sampling import surprisal
from engine.tokens.passages import passage

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Floats = NDArray[np.floating[Any]]

_DECODE = """
from transformers import DynamicCache

cache = DynamicCache(config=model.config)
with torch.no_grad():
    rows = [model(input_ids=ids[:, i : i + 1], cache=cache, use_cache=True).logits[0, -1]
            for i in range(ids.shape[1])]
    whole = model(input_ids=ids, use_cache=False).logits[0].float()
stepwise = torch.stack(rows).float()
"""


def same_answers(loaded: Loaded, trace: Trace) -> Card:
    """Surprisal of each prompt token, decoded one by one through the cache and in one pass without it."""
    ids = trace.ids
    if len(ids) < 2:
        return _too_short()
    stepwise = surprisal(kv_cache.decoded_logits(loaded, ids)[:-1], ids[1:])
    whole = surprisal(trace.logits[:-1], ids[1:])
    apart = max_difference(stepwise, whole)
    positions = list(range(1, len(ids)))
    return Card(
        key="equal",
        title=f"With the cache and without it: the same answers, to {apart:.1g} nats",
        alt=f"Two lines of surprisal over {len(positions)} tokens lie on each other.",
        badge=Badge.LIVE,
        figure=_line_and_points(positions, whole, stepwise),
        table={
            "position": positions,
            "token": [t.display for t in trace.tokens[1:]],
            "without cache (nats)": whole.tolist(),
            "with cache (nats)": stepwise.tolist(),
        },
        shown={"stepwise": stepwise, "whole": whole},
        oracle=Oracle(
            "Both lines by transformers alone, token by token into its own cache and in one pass without one, with "
            "torch's cross-entropy.",
            lambda: {"stepwise": nats_step_by_step(loaded, ids), "whole": nats(loaded, ids)},
            logit_tolerance(loaded),
        ),
        code=preamble(loaded, ids)
        + _DECODE
        + """
score = lambda logits: -logits[:-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
result = {"stepwise": score(stepwise), "whole": score(whole)}
""",
    )


def _line_and_points(positions: Sequence[int], whole: Floats, stepwise: Floats) -> "Figure":
    """Two rows of numbers that lie on each other: a line, and rings around its corners."""
    names = ("one pass, no cache", "token by token, cache")
    figure = figures.lines(
        positions,
        dict(zip(names, (whole, stepwise), strict=True)),
        colors=dict(zip(names, ("logits", "key"), strict=True)),
        x_name="position",
        y_name="surprisal (nats)",
    )
    line, rings = figure.data
    line.mode, rings.mode = "lines", "markers"
    rings.marker.symbol, rings.marker.size = "circle-open", 13
    rings.marker.line = {"width": 2.5}
    return figure


def _too_short() -> Card:
    return Card(
        key="equal",
        title="This prompt has one token, so there is nothing to compare yet",
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
    ids = [token.id for token in tokenize(loaded, passage())[:16]]
    timed = kv_cache.decoded_logits(loaded, ids)[-1, :100]
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
        shown={name: [t.median for t in timings] for name, timings in kinds.items()} | {"logits": timed},
        oracle=Oracle(
            "The medians of the repeats, sorted and taken from the middle; and the logits of what is timed, 16 tokens "
            "through the cache, against one pass without it. (No proof can run the clock a second time.)",
            lambda: (
                {name: [_middle(t.milliseconds) for t in timings] for name, timings in kinds.items()}
                | {"logits": returned_logits(loaded, ids)[-1, :100]}
            ),
            dict.fromkeys(kinds, 1e-9) | {"logits": pass_tolerance(loaded, timed)},
        ),
        code=preamble(loaded, ids) + _DECODE + '\nresult = {"stepwise": stepwise[-1, :100]}\n',
        numbers={"stepwise": timed},
        atol=pass_tolerance(loaded, timed),
        note=f"{_phases(last)} {len(last.cached.milliseconds)} repeats each, whose quartiles are in the table. "
        "Measured on this machine when the button was pressed; the times move with what else it does. The script "
        "checks the logits, not the clock.",
    )


def _phases(last: kv_cache.Latency) -> str:
    """What a token costs while a prompt is read and while a text is written, as a sentence."""
    read = last.prefill.median / (last.context - 1)
    return (
        f"Prefill reads {last.context - 1:,} tokens in {last.prefill.median:.3g} ms, {read:.2g} ms for each; a decode "
        f"step takes {last.cached.median:.3g} ms for one token, {last.cached.median / read:.2g} times as long for each."
    )


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
