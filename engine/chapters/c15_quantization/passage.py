"""Perplexity of a held-out passage at two precisions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
import torch
from numpy.typing import NDArray

from engine import ReaderError
from engine.chapters.c15_quantization.pair import Pair, code, head
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.passes import returned_logits
from engine.figures import histogram
from engine.model import capturing
from engine.model.cache import ByteLRU
from engine.model.loaded import Loaded
from engine.ops.sampling import surprisal

WINDOW = 128
"""Tokens in one window; shorter where the context is."""

Window = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Reading:
    """Surprisal in nats of every predicted token of the windows, at both precisions (window·(seq−1))."""

    windows: tuple[Window, ...]
    reference: NDArray[np.float64]
    other: NDArray[np.float64]

    @property
    def perplexities(self) -> tuple[float, float]:
        """exp of the mean surprisal."""
        return exp(float(self.reference.mean())), exp(float(self.other.mean()))

    @property
    def nbytes(self) -> int:
        return 2 * self.reference.nbytes + 64 * sum(map(len, self.windows))


_kept: ByteLRU[Reading] = ByteLRU(8 * 1024 * 1024)


def cut(loaded: Loaded, text: str) -> tuple[Window, ...]:
    """The windows of a text for a checkpoint, each with the start token where there is one."""
    found = capturing.windows(loaded, text, min(WINDOW, loaded.spec.longest))
    return tuple(window for window in found if len(window) > 1)


def read(
    pair: Pair, given: Sequence[Window], progress: Callable[[float, str], None] = lambda share, what: None
) -> Reading:
    """Read every window at both precisions; kept for the process. `progress(share, what)` is told before each pass.

    Raises ReaderError where the logits are not finite.
    """
    sides = tuple((s.name, s.revision, s.precision, s.device) for s in (pair.reference, pair.other))
    return _kept.get((sides, tuple(given)), lambda: _read(pair, given, progress))


def _read(pair: Pair, given: Sequence[Window], progress: Callable[[float, str], None]) -> Reading:
    found: list[list[NDArray[np.float64]]] = [[], []]
    for i, window in enumerate(given):
        for side, (loaded, rows) in enumerate(zip((pair.reference, pair.other), found, strict=True)):
            progress(
                (2 * i + side) / (2 * len(given)), f"Window {i + 1} of {len(given)} at {loaded.precision}"
            )
            rows.append(surprisal(returned_logits(loaded, window)[:-1], window[1:]))
    reading = Reading(tuple(given), np.concatenate(found[0]), np.concatenate(found[1]))
    if not (np.isfinite(reading.reference).all() and np.isfinite(reading.other).all()):
        raise ReaderError(
            "Some logits are not finite numbers at one of these precisions, so there is no perplexity."
        )
    return reading


def perplexity(pair: Pair, reading: Reading) -> Card:
    """How much every token's surprisal changed, and what that does to the perplexity of the passage."""
    before, after = reading.perplexities
    change = reading.other - reading.reference
    names = pair.names
    worse = float((change > 0).mean())
    lost = float(change.mean())
    return Card(
        key="perplexity",
        title=f"Perplexity {before:.2f} at {names[0]}, {after:.2f} at {names[1]}",
        alt=f"Histogram: surprisal at {names[1]} minus surprisal at {names[0]} for {change.size} tokens of a "
        f"held-out passage. {worse:.0%} of the tokens became more surprising; the mean change is {lost:+.3g} nats.",
        badge=Badge.LIVE,
        figure=histogram(
            {f"{names[1]} − {names[0]}": change},
            bins=61,
            span=_span(change),
            colors={f"{names[1]} − {names[0]}": "quantization_error"},
            x_name="change of a token's surprisal, nats",
            y_name="tokens",
            marks={f"mean {lost:+.3g}": lost},
        ),
        table=_table(pair, reading),
        prove=lambda: _prove(pair, reading),
        code=code(head(pair, reading.windows[0]), _CODE, windows=_listed(reading.windows)),
        numbers={"reference": before, "other": after},
        atol=1e-3 + 0.05 * abs(after - before),
        note=f"{change.size:,} predicted tokens in {_windows(len(reading.windows))}. {worse:.0%} of "
        f"them became more surprising; exp of the mean change, {exp(lost):.4f}, is the ratio of the perplexities.",
    )


def _windows(count: int) -> str:
    return f"{count} windows without overlap" if count > 1 else "one window"


def _span(change: NDArray[np.float64]) -> tuple[float, float]:
    reach = float(np.abs(change).max()) or 1e-6
    return -reach, reach


def _table(pair: Pair, reading: Reading) -> dict[str, list[float]]:
    ends = np.cumsum([len(window) - 1 for window in reading.windows])[:-1]
    means = [
        [float(part.mean()) for part in np.split(side, ends)] for side in (reading.reference, reading.other)
    ]
    return {
        "window": list(range(1, len(reading.windows) + 1)),
        "tokens": [len(window) for window in reading.windows],
        f"perplexity at {pair.names[0]}": [exp(m) for m in means[0]],
        f"perplexity at {pair.names[1]}": [exp(m) for m in means[1]],
    }


def _listed(given: Sequence[Window]) -> str:
    return "[\n" + "".join(f"    {list(window)},\n" for window in given) + "]"


@torch.no_grad()
def _loss(loaded: Loaded, given: Sequence[Window]) -> float:
    """transformers' own loss, summed over windows: the mean surprisal of all predicted tokens."""
    total = 0.0
    for window in given:
        ids = torch.tensor([window], device=loaded.model.device)
        loss = loaded.model(input_ids=ids, labels=ids, use_cache=False).loss
        total += float(loss) * (len(window) - 1)
    return total / sum(len(window) - 1 for window in given)


def _prove(pair: Pair, reading: Reading) -> Proof:
    again = [exp(_loss(side, reading.windows)) for side in (pair.reference, pair.other)]
    before, after = reading.perplexities
    return Proof(
        "Both perplexities against exp of the loss that transformers itself returns when the text is its own label.",
        max(abs(a - b) for a, b in zip(again, (before, after), strict=True)),
        1e-3 + 0.05 * abs(after - before),
    )


_CODE = """
    windows = {windows}


    def perplexity(model):
        total = count = 0
        for window in windows:
            given = torch.tensor([window]).to(model.device)
            with torch.no_grad():
                loss = model(given, labels=given).loss
            total, count = total + float(loss) * (len(window) - 1), count + len(window) - 1
        return float(torch.tensor(total / count).exp())


    result = {{"reference": perplexity(reference), "other": perplexity(other)}}
    print(result)
"""
