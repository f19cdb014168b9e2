"""What a precision costs in time: milliseconds of a forward pass over one token and over many."""

from dataclasses import dataclass
from statistics import median

from engine.chapters.c15_quantization.pair import Pair, code, head, repacked
from engine.chapters.c15_quantization.passage import cut
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.passes import returned_logits
from engine.figures.quantization import repeats
from engine.model.cache import traced
from engine.model.loaded import Loaded
from engine.ops import timing
from engine.tokens.passages import passage


@dataclass(frozen=True)
class Turns:
    """Milliseconds of repeated forward passes over some tokens at both precisions, measured in turns."""

    ids: tuple[int, ...]
    reference: timing.Timing
    other: timing.Timing

    @property
    def both(self) -> tuple[timing.Timing, timing.Timing]:
        return self.reference, self.other

    @property
    def ratio(self) -> float:
        """How many times as long the other one takes."""
        return self.other.median / self.reference.median

    @property
    def clear(self) -> bool:
        """Whether half of the repeats of one precision are all faster than half of those of the other."""
        return self.reference.high < self.other.low or self.other.high < self.reference.low


Timings = tuple[Turns, ...]

MANY = 64
"""Tokens that are read at once."""


def measure(pair: Pair, rounds: int = 7, seconds: float = 2.0) -> Timings:
    """Passes over one token, as in writing, and over many at once, as in reading a prompt."""
    many = cut(pair.reference, passage())[0][:MANY]
    return tuple(_turns(pair, ids, rounds, seconds) for ids in (many[:1], many))


def _turns(pair: Pair, ids: tuple[int, ...], rounds: int, seconds: float) -> Turns:
    """The two precisions take turns so that both meet the same disturbances.

    At least three rounds; after that no more once `seconds` are over.
    """
    for side in pair.sides:
        returned_logits(side, ids)
    found: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for side, runs in zip(pair.sides, found, strict=True):
            runs.append(timing.once(lambda side=side: returned_logits(side, ids)))  # type: ignore[misc]
        if i >= 2 and sum(map(sum, found)) > 1000 * seconds:
            break
    return Turns(ids, *(timing.Timing(tuple(runs)) for runs in found))


def time(pair: Pair, timings: Timings) -> Card:
    """Milliseconds of a forward pass over one token and over many, at both precisions; every repeat shown."""
    names = pair.names
    rows = {
        f"{name}, {len(turns.ids)}": t for turns in timings for name, t in zip(names, turns.both, strict=True)
    }
    few, many = timings
    spread = "; ".join(
        f"{name} token{'s' * (not name.endswith(', 1'))}: median {_ms(t.median)}, half of "
        f"the repeats between {_ms(t.low)} and {_ms(t.high)}"
        for name, t in rows.items()
    )
    device = "CPU" if pair.other.device == "cpu" else pair.other.device.upper()
    medians = [t.median for t in rows.values()]
    following = _following(pair, timings)
    return Card(
        key="time",
        title=f"On this {device}, {names[1]} takes {_compared(few)} as {names[0]} for one token, and {_compared(many)} "
        f"for {len(many.ids)} at once",
        alt=f"Dots: every repeat, in milliseconds; upright strokes: the medians. {spread}.",
        badge=Badge.LIVE,
        figure=repeats(
            {name: t.milliseconds for name, t in rows.items()},
            x_name="milliseconds for one forward pass, logarithmic",
            y_name="precision, tokens",
        ),
        table={
            "precision and tokens": list(rows),
            "median, ms": medians,
            "first quartile, ms": [t.low for t in rows.values()],
            "third quartile, ms": [t.high for t in rows.values()],
            "fastest, ms": [min(t.milliseconds) for t in rows.values()],
            "repeats": [len(t.milliseconds) for t in rows.values()],
        },
        shown={"medians": medians, "next": following},
        oracle=Oracle(
            "The medians from every repeat that is drawn, and the token that each timed pass predicts, by a pass "
            "without the cache of this process. (No proof can run the clock a second time.)",
            lambda: {
                "medians": [median(t.milliseconds) for t in rows.values()],
                "next": [
                    int(returned_logits(side, t.ids)[-1].argmax()) for t in timings for side in pair.sides
                ],
            },
            {"medians": 1e-9, "next": 0.0},
        ),
        code=code(head(pair), _TIME, texts=[list(turns.ids) for turns in timings]),
        numbers={"tokens": [len(turns.ids) for turns in timings], "next": following},
        atol=0,
        note=f"{spread}. Measured on this machine, one pass after another, whatever else it was doing."
        + _layout(pair.other),
    )


def _compared(turns: Turns) -> str:
    return f"{turns.ratio:.2g} times as long" if turns.clear else "about as long"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms" if milliseconds >= 100 else f"{milliseconds:.3g} ms"


def _layout(loaded: Loaded) -> str:
    if not repacked(loaded):
        return ""
    return (
        f" At {loaded.precision} bitsandbytes has laid the weights out for this CPU's bfloat16 instructions, and "
        "rounds what enters its layers to bfloat16."
    )


def _following(pair: Pair, timings: Timings) -> list[int]:
    """Ids of the tokens that the timed passes predict."""
    found = [traced(side, turns.ids).logits[-1] for turns in timings for side in pair.sides]
    return [int(logits.argmax()) for logits in found]


_TIME = """
    from torch.utils import benchmark


    def measured(model, text):
        given = torch.tensor([text], device=model.device)
        with torch.no_grad():
            following = int(model(given, use_cache=False).logits[0, -1].argmax())
            clock = benchmark.Timer("model(given, use_cache=False)", globals={{"model": model, "given": given}})
            print(clock.timeit(7))
        return following


    texts = {texts}
    result = {{
        "tokens": [len(text) for text in texts],
        "next": [measured(model, text) for text in texts for model in (reference, other)],
    }}
    print(result)
"""
