"""How well a model reads beyond the context that it was trained on, as trained and with slower rotations."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine import ReaderError
from engine.chapters.c10_rope.rotation import rotation, with_theta
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.copies import private_copy
from engine.evidence.oracles.reading import nats
from engine.evidence.oracles.stretching import nats_stretched
from engine.evidence.passes import logits_of, returned_logits
from engine.evidence.rounding import logit_tolerance
from engine.evidence.script import preamble
from engine.figures import lines
from engine.model import capturing
from engine.model.cache import ByteLRU
from engine.model.loaded import Loaded
from engine.ops.sampling import surprisal

Floats = NDArray[np.float64]

TIMES = 2
"""How many contexts the text is long."""

RUNS = 16
"""Runs of tokens that the text is divided into; each point of the figure is the mean of one of them."""

PASSAGES = 1
"""How many such texts are read."""

LONGEST = 1024
"""Tokens of a context up to which a text of twice its length is read here: the maps grow with its square."""

OWN, HALVED, SLOWED, APART = "as trained", "positions halved", "θ scaled", "each half by itself"
COLORS = {OWN: "key", HALVED: "value", SLOWED: "query", APART: "token"}


@dataclass(frozen=True, eq=False)
class _Read:
    """Surprisal in nats of every token but the first, (window, token − 1)."""

    rows: Floats

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes


_kept: ByteLRU[_Read] = ByteLRU(2 * 1024 * 1024)


def readable(loaded: Loaded) -> bool:
    """Whether a checkpoint has plain RoPE, no window and a context short enough to be read beyond."""
    spec = loaded.spec
    plain = spec.positions == "rotary" and spec.window is None and spec.context <= LONGEST
    return plain and rotation(loaded).kind == "default"


def scaled_theta(loaded: Loaded) -> float:
    """θ·s^(d/(d − 2)) for a text of s contexts, d the number of rotated dimensions.

    The slowest pair then turns as slowly as with all positions divided by s, the fastest as before ("NTK-aware"
    scaling; Peng et al. 2024, arXiv:2309.00071, section 3.1).
    """
    own = rotation(loaded)
    return float(own.theta * TIMES ** (own.pairs / (own.pairs - 1)))


def beyond(loaded: Loaded, text: str) -> Card:
    """The mean surprisal by position in a text of two contexts, with three rotations and with each half read alone.

    Raises ReaderError for a checkpoint that is not `readable`, and for a text that is too short.
    """
    if not readable(loaded):
        raise ReaderError(f"{loaded.name} cannot be read beyond its context here.")
    windows, context = long_windows(loaded, text), loaded.spec.context
    by_name = {
        OWN: _rows(loaded, windows, OWN),
        HALVED: _rows(loaded, windows, HALVED),
        SLOWED: _rows(loaded, windows, SLOWED),
        APART: _rows(loaded, windows, APART),
    }
    shown = {name: _means(rows) for name, rows in by_name.items()}
    inside, outside = ({name: _mean(rows, context, far) for name, rows in by_name.items()} for far in (0, 1))
    width = TIMES * context // RUNS
    middles = [(i + 0.5) * width for i in range(RUNS)]
    return Card(
        key="beyond",
        title=f"After position {context} the mean surprisal is {outside[OWN]:.2f} nats as trained, "
        f"{outside[SLOWED]:.2f} with θ scaled and {outside[HALVED]:.2f} with the positions halved",
        alt=f"Four lines of mean surprisal over {RUNS} runs of {width} tokens. Up to position {context} they stand at "
        + _said(inside)
        + "; beyond it at "
        + _said(outside)
        + ".",
        badge=Badge.LIVE,
        figure=lines(
            middles,
            shown,
            colors=COLORS,
            x_name="position in the text, tokens",
            y_name="surprisal, nats (mean of a run)",
            mark_x=float(context),
        ),
        table={"first position": [i * width for i in range(RUNS)], **{n: v.tolist() for n, v in shown.items()}},
        shown=shown,
        oracle=Oracle(
            "The same text read by private copies with transformers' own rotary modules: its rule “linear” with "
            f"factor {TIMES} for the halved positions, its rule “dynamic” for the scaled θ, and torch's cross-entropy; "
            "each half in a pass of its own.",
            lambda: _again(loaded, windows),
            logit_tolerance(loaded),
        ),
        code=preamble(loaded) + _SCRIPT.format(
            rotary=loaded.path("rotary"), windows=[list(window) for window in windows], times=TIMES, runs=RUNS
        ),
        note=f"{loaded.name}, whose context is {context} tokens (dotted), on one passage of {TIMES * context:,} "
        "tokens; the weights are the same in all lines. Within the context the means are "
        + _said(inside)
        + ".",
    )  # fmt: skip


def long_windows(loaded: Loaded, text: str) -> tuple[tuple[int, ...], ...]:
    """The beginning of a text, in windows of two whole contexts. Raises ReaderError where there is none."""
    length = TIMES * loaded.spec.context
    found = tuple(window for window in capturing.windows(loaded, text, length) if len(window) == length)
    if not found:
        raise ReaderError(f"This text is shorter than {length:,} tokens of {loaded.name}.")
    return found[:PASSAGES]


def _rows(loaded: Loaded, windows: tuple[tuple[int, ...], ...], rule: str) -> Floats:
    key: Hashable = (loaded.name, loaded.revision, loaded.precision, loaded.device, rule, windows)
    return _kept.get(key, lambda: _Read(np.stack([_read(loaded, window, rule) for window in windows]))).rows


def _read(loaded: Loaded, window: tuple[int, ...], rule: str) -> Floats:
    if rule == APART:
        halves = (window[: len(window) // TIMES], window[len(window) // TIMES :])
        read = [np.append(surprisal(returned_logits(loaded, half)[:-1], half[1:]), np.nan) for half in halves]
        return np.concatenate(read)[:-1]  # nothing foretells the first token of a half
    if rule == OWN:
        return np.asarray(surprisal(returned_logits(loaded, window)[:-1], window[1:]))
    model = private_copy(loaded)
    rotary = loaded.adapter.module(model, "rotary")
    own: Any = rotary.inv_freq
    slower = (
        own / TIMES if rule == HALVED else with_theta(loaded, scaled_theta(loaded)).module.inv_freq.to(own)
    )
    rotary.inv_freq = slower
    return np.asarray(surprisal(logits_of(model, window)[:-1], window[1:]))


def _means(rows: Floats) -> Floats:
    """The mean of each run of tokens, over all windows."""
    padded = np.concatenate(
        [np.full((len(rows), 1), np.nan), rows], axis=1
    )  # the first token is not predicted
    result: Floats = np.nanmean(padded.reshape(len(rows), RUNS, -1), axis=(0, 2))
    return result


def _mean(rows: Floats, context: int, half: int) -> float:
    """The mean before the end of the context (0), or after it (1)."""
    return float(np.nanmean(rows[:, : context - 1] if half == 0 else rows[:, context - 1 :]))


def _said(means: dict[str, float]) -> str:
    return ", ".join(f"{value:.2f} {name}" for name, value in means.items())


def _again(loaded: Loaded, windows: tuple[tuple[int, ...], ...]) -> dict[str, Any]:
    rules = {
        HALVED: {"rope_type": "linear", "factor": float(TIMES)},
        SLOWED: {"rope_type": "dynamic", "factor": TIMES - 1.0},
    }
    rows = {
        OWN: [nats(loaded, window) for window in windows],
        APART: [_halves(loaded, window) for window in windows],
    }
    rows |= {
        name: [nats_stretched(loaded, window, rule) for window in windows] for name, rule in rules.items()
    }
    return {name: _by_run(torch.stack(found)) for name, found in rows.items()}


def _halves(loaded: Loaded, window: tuple[int, ...]) -> torch.Tensor:
    middle, gap = len(window) // TIMES, torch.full((1,), torch.nan, dtype=torch.float64)
    return torch.cat([nats(loaded, window[:middle]), gap, nats(loaded, window[middle:])])


def _by_run(rows: torch.Tensor) -> list[float]:
    """Means of the runs, counted token by token."""
    width = (rows.shape[1] + 1) // RUNS
    run = (torch.arange(rows.shape[1]) + 1) // width
    return [float(rows[:, run == i].nanmean()) for i in range(RUNS)]


_SCRIPT = """
import copy
from torch.nn.functional import cross_entropy

windows = {windows}
context = len(windows[0]) // {times}
parent, _, name = {rotary!r}.rpartition(".")
own = model.get_submodule({rotary!r})


@torch.no_grad()
def nats(ids):  # of every token but the first
    logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1].float().double()
    return cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def stretched(**rule):  # transformers' own rotary module with another rule
    config = copy.deepcopy(model.config)
    config.rope_parameters = {{**config.rope_parameters, **rule}}
    setattr(model.get_submodule(parent), name, type(own)(config))
    found = [nats(ids) for ids in windows]
    setattr(model.get_submodule(parent), name, own)
    return found


def means(rows):
    run = (torch.arange(len(rows[0])) + 1) // ((len(rows[0]) + 1) // {runs})
    return torch.stack([torch.stack(rows)[:, run == i].nanmean() for i in range({runs})])


gap = torch.tensor([torch.nan], dtype=torch.float64)
result = {{
    "as trained": means([nats(ids) for ids in windows]),
    "positions halved": means(stretched(rope_type="linear", factor={times}.0)),
    "θ scaled": means(stretched(rope_type="dynamic", factor={times} - 1.0)),
    "each half by itself": means([torch.cat([nats(ids[:context]), gap, nats(ids[context:])]) for ids in windows]),
}}
"""
