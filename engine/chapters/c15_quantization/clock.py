"""What a precision costs in time: milliseconds of a forward pass, measured now."""

import threading
from dataclasses import dataclass
from statistics import median

from cachetools import LRUCache

from engine.chapters.c15_quantization.pair import Pair, code, head, repacked
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.passes import returned_logits
from engine.figures.quantization import repeats
from engine.model.loaded import Loaded
from engine.ops import timing


@dataclass(frozen=True)
class Timings:
    """Milliseconds of repeated forward passes of both precisions, measured in turns."""

    reference: timing.Timing
    other: timing.Timing


_KEPT = 64
_latest: LRUCache[object, Timings] = LRUCache(_KEPT)
_lock = threading.Lock()


def measured(pair: Pair, rounds: int, again: bool = False) -> Timings:
    """The last measurement of this pair on these tokens in this process, or a new one."""
    sides = tuple((s.name, s.revision, s.precision, s.device) for s in (pair.reference, pair.other))
    key = (sides, pair.ids, rounds)
    with _lock:
        found = None if again else _latest.get(key)
    if found is None:
        found = measure(pair, rounds)
        with _lock:
            _latest[key] = found
    return found


def measure(pair: Pair, rounds: int = 7, seconds: float = 2.0) -> Timings:
    """Forward passes over the prompt, the two precisions taking turns so that both meet the same disturbances.

    At least three rounds; after that no more once `seconds` are over.
    """
    sides = (pair.reference, pair.other)
    for side in sides:
        returned_logits(side, pair.ids)
    found: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for side, runs in zip(sides, found, strict=True):
            runs.append(timing.once(lambda side=side: returned_logits(side, pair.ids)))  # type: ignore[misc]
        if i >= 2 and sum(map(sum, found)) > 1000 * seconds:
            break
    return Timings(*(timing.Timing(tuple(runs)) for runs in found))


def time(pair: Pair, timings: Timings) -> Card:
    """Milliseconds of one forward pass at both precisions, every repeat shown."""
    names = pair.names
    both = dict(zip(names, (timings.reference, timings.other), strict=True))
    ratio = timings.other.median / timings.reference.median
    said = f"takes {ratio:.2g} times as long as" if ratio >= 1 else f"is {1 / ratio:.2g} times as fast as"
    spread = "; ".join(
        f"{name}: median {_ms(t.median)}, half of the repeats between {_ms(t.low)} and {_ms(t.high)}"
        for name, t in both.items()
    )
    device = "CPU" if pair.other.device == "cpu" else pair.other.device.upper()
    return Card(
        key="time",
        title=f"On this {device}, a pass at {names[1]} {said} one at {names[0]}",
        alt=f"Dots: every repeat, in milliseconds; bars: the medians. {spread}.",
        badge=Badge.LIVE,
        figure=repeats(
            {name: t.milliseconds for name, t in both.items()},
            x_name=f"milliseconds for one forward pass over {len(pair.ids)} tokens",
        ),
        table={
            "precision": list(names),
            "median, ms": [t.median for t in both.values()],
            "first quartile, ms": [t.low for t in both.values()],
            "third quartile, ms": [t.high for t in both.values()],
            "fastest, ms": [min(t.milliseconds) for t in both.values()],
            "repeats": [len(t.milliseconds) for t in both.values()],
        },
        shown={"medians": [t.median for t in both.values()], "next": _following(pair)},
        oracle=Oracle(
            "The medians from every repeat that is drawn, and the token that each timed pass predicts, by a pass of "
            "its own. (No proof can run the clock a second time.)",
            lambda: {
                "medians": [median(t.milliseconds) for t in both.values()],
                "next": [int(returned_logits(side, pair.ids)[-1].argmax()) for side in pair.sides],
            },
            {"medians": 1e-9, "next": 0.0},
        ),
        code=code(head(pair), _TIME),
        numbers={"tokens": len(pair.ids), "next": _following(pair)},
        atol=0,
        note=f"{spread}. Measured just now, one pass after another, on a machine that may be doing other work."
        + _layout(pair.other),
    )


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"


def _layout(loaded: Loaded) -> str:
    if not repacked(loaded):
        return ""
    return (
        f" At {loaded.precision} bitsandbytes has laid the weights out for this CPU's bfloat16 instructions, and "
        "rounds what enters its layers to bfloat16."
    )


def _following(pair: Pair) -> list[int]:
    """Ids of the tokens that both passes predict."""
    return [int(trace.logits[-1].argmax()) for trace in pair.traces]


_TIME = """
    from torch.utils import benchmark


    def measured(model):
        given = ids.to(model.device)
        with torch.no_grad():
            following = int(model(given, use_cache=False).logits[0, -1].argmax())
            clock = benchmark.Timer("model(given, use_cache=False)", globals={"model": model, "given": given})
            print(clock.timeit(7))
        return following


    result = {"tokens": ids.shape[1], "next": [measured(reference), measured(other)]}
    print(result)
"""
