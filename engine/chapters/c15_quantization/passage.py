"""Perplexity of a held-out passage at two precisions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine import ReaderError
from engine.chapters.c15_quantization.cost import linear_weights
from engine.chapters.c15_quantization.pair import Pair, code, fraction, head
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracle import Shown
from engine.evidence.oracles.reading import nats
from engine.evidence.passes import returned_logits
from engine.figures import histogram
from engine.model import capturing
from engine.model.cache import ByteLRU
from engine.model.loaded import Loaded
from engine.ops.sampling import surprisal

WINDOW = 128
"""Tokens in one window; shorter where the context is."""

SINGLE = 1e-5
"""How exactly transformers' own loss, a sum in single precision, tells a perplexity of 1."""

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


SMALL = 50_000_000
"""Parameters up to which a checkpoint reads the whole passage at once."""


def small(loaded: Loaded) -> bool:
    """Whether reading the whole passage takes no more than a moment."""
    return linear_weights(loaded) <= SMALL


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
    lost, error = float(change.mean()), standard_error(change)
    ratio = exp(lost)
    windows = [_by_window(reading, side) for side in (reading.reference, reading.other)]
    shown: Shown = {
        "change": change,
        "tokens": [len(window) for window in reading.windows],
        "windows, reference": windows[0],
        "windows, other": windows[1],
        "reference": before,
        "other": after,
        "standard error": error,
    }
    allowed = SINGLE * max(*windows[0], *windows[1])
    return Card(
        key="perplexity",
        title=f"Perplexity {before:.2f} at {names[0]}, {after:.2f} at {names[1]}: {_verdict(lost, error)}",
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
        table={
            "window": list(range(1, len(reading.windows) + 1)),
            "tokens": [len(window) for window in reading.windows],
            f"perplexity at {names[0]}": windows[0],
            f"perplexity at {names[1]}": windows[1],
        },
        shown=shown,
        oracle=Oracle(
            "Both perplexities, of every window and of all, against exp of the loss that transformers itself returns "
            "when the text is its own label; every token's change by torch's cross-entropy.",
            lambda: _again(pair, reading.windows),
            {
                "change": fraction(change),
                "tokens": 0.0,
                "standard error": fraction(error),
                **dict.fromkeys(("windows, reference", "windows, other", "reference", "other"), allowed),
            },
        ),
        code=code(head(pair, reading.windows[0]), _CODE, windows=listed(reading.windows)),
        numbers={name: value for name, value in shown.items() if name != "standard error"},
        atol=min(allowed, fraction(change)),
        note=f"{change.size:,} predicted tokens in {_windows(len(reading.windows))}. {worse:.0%} of "
        f"them became more surprising. exp of the mean change is the ratio of the perplexities: {ratio:.3f} ± "
        f"{ratio * error:.3f} (one standard error, token by token on the same text).",
    )


def standard_error(change: NDArray[np.float64]) -> float:
    """Of the mean change of a token's surprisal, in nats: both precisions read the same tokens, so it is paired."""
    return float(change.std(ddof=1) / sqrt(change.size)) if change.size > 1 else 0.0


def _verdict(lost: float, error: float) -> str:
    """Whether a mean change stands out from its error, as the end of a title."""
    if lost == 0:
        return "no difference"
    if abs(lost) < 2 * error:
        return "these tokens are too few to tell them apart"
    return f"{exp(lost):.3f} times, ± {exp(lost) * error:.3f}"


def _windows(count: int) -> str:
    return f"{count} windows without overlap" if count > 1 else "one window"


def _span(change: NDArray[np.float64]) -> tuple[float, float]:
    reach = float(np.abs(change).max()) or 1e-6
    return -reach, reach


def _by_window(reading: Reading, nats: NDArray[np.float64]) -> list[float]:
    """The perplexity of each window."""
    ends = np.cumsum([len(window) - 1 for window in reading.windows])[:-1]
    return [exp(float(part.mean())) for part in np.split(nats, ends)]


def listed(given: Sequence[Window]) -> str:
    """Windows as a list in a script."""
    return "[\n" + "".join(f"    {list(window)},\n" for window in given) + "]"


def _again(pair: Pair, windows: Sequence[Window]) -> dict[str, Any]:
    count = torch.tensor([len(window) - 1 for window in windows], dtype=torch.float64)
    found: dict[str, Any] = {"tokens": [len(window) for window in windows]}
    surprisals = []
    for name, side in zip(("reference", "other"), pair.sides, strict=True):
        losses = torch.tensor([loss(side, window) for window in windows], dtype=torch.float64)
        found[f"windows, {name}"] = losses.exp()
        found[name] = (losses @ count / count.sum()).exp()
        surprisals.append(torch.cat([nats(side, window) for window in windows]))
    change = surprisals[1] - surprisals[0]
    spread = change.std() / len(change) ** 0.5 if len(change) > 1 else 0.0
    return found | {"change": change, "standard error": spread}


@torch.no_grad()
def loss(loaded: Loaded, window: Window) -> float:
    """transformers' own loss: the mean surprisal of the predicted tokens."""
    ids = torch.tensor([window], device=loaded.model.device)
    return float(loaded.model(input_ids=ids, labels=ids, use_cache=False).loss)


SURPRISALS = """
    windows = {windows}


    def surprisals(model):
        found = []
        for window in windows:
            given = torch.tensor([window]).to(model.device)
            with torch.no_grad():
                logits = model(given).logits[0, :-1].float().double()
            found.append(torch.nn.functional.cross_entropy(logits, given[0, 1:], reduction="none").cpu())
        return found
"""
"""In a script: what each window of `windows` costs a model, token by token."""

_CODE = (
    SURPRISALS
    + """

    read = {{"reference": surprisals(reference), "other": surprisals(other)}}
    result = {{"change": torch.cat(read["other"]) - torch.cat(read["reference"]), "tokens": [len(w) for w in windows]}}
    for name, found in read.items():
        result |= {{name: torch.cat(found).mean().exp(), f"windows, {{name}}": [float(s.mean().exp()) for s in found]}}
    print(result["reference"], result["other"])
"""
)
