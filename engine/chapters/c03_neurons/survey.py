"""Every neuron's top tokens over the sample text, found in one reading."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.model import capturing
from engine.model.cache import ByteLRU
from engine.model.capturing import forward
from engine.model.loaded import Loaded
from engine.tokens import passages

COUNT, BEFORE, AFTER = 8, 8, 4
"""Occurrences kept for each neuron and sign, and the tokens kept before and after each."""

WINDOW = 128
"""Tokens read in one pass; the first of each is not counted: it sees nothing, and many models treat it specially."""


@dataclass(frozen=True, eq=False)
class Survey:
    """What each neuron did over a text. The first axis is the sign: 0 the highest activations, 1 the lowest.

    ids      the text's tokens
    values   sign, layer, d_ff, occurrence      activations, the most extreme first
    places   sign, layer, d_ff, occurrence      their positions in the text
    around   sign, layer, d_ff, occurrence, context   activations of the tokens around; NaN outside the window
    counted  tokens that could have been chosen
    """

    ids: tuple[int, ...]
    values: NDArray[np.float32]
    places: NDArray[np.int32]
    around: NDArray[np.float16]
    counted: int

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.places.nbytes + self.around.nbytes


_surveys: ByteLRU[Survey] = ByteLRU(limit=256 * 1024 * 1024)


def surveyed(loaded: Loaded, progress: Callable[[float, str], None] = lambda share, what: None) -> Survey:
    """`survey` of the sample text, remembered for the whole process by (checkpoint, revision, precision, device)."""
    return _surveys.get(_key(loaded), lambda: survey(loaded, progress))


def was_surveyed(loaded: Loaded) -> bool:
    """Whether `surveyed` has nothing to do."""
    return _key(loaded) in _surveys


def _key(loaded: Loaded) -> Hashable:
    return loaded.name, loaded.revision, loaded.precision, loaded.device


def windows(loaded: Loaded, text: str) -> tuple[tuple[int, ...], ...]:
    """The tokens of a text in runs of at most WINDOW (or the context), each with the start token where there is one."""
    return capturing.windows(loaded, text, min(WINDOW, loaded.spec.longest))


def survey(
    loaded: Loaded,
    progress: Callable[[float, str], None] = lambda share, what: None,
    text: str | None = None,
) -> Survey:
    """Read the sample text (or another) window by window. `progress(share, what)` is told before each window."""
    given = windows(loaded, passages.sample() if text is None else text)
    found: _Best | None = None
    start = 0
    for i, window in enumerate(given):
        progress(i / len(given), f"Reading window {i + 1} of {len(given)}")
        if len(window) > 1:
            best = _of_window(_activations(loaded, window), start)
            found = best if found is None else _merged(found, best)
        start += len(window)
    assert found is not None, "a text of at least two tokens"
    signs = np.array([1, -1], np.float32)[:, None, None, None]
    return Survey(
        tuple(id for window in given for id in window),
        found.extreme.numpy() * signs,
        found.places.numpy(),
        found.around.numpy(),
        sum(len(window) - 1 for window in given),
    )


@dataclass(frozen=True, eq=False)
class _Best:
    """As in `Survey`, but `extreme` is the activation, or minus the activation for the lowest: large is extreme."""

    extreme: torch.Tensor
    places: torch.Tensor
    around: torch.Tensor


def _activations(loaded: Loaded, window: Sequence[int]) -> torch.Tensor:
    """(layer, seq, d_ff)"""
    recorded = forward(loaded, window)
    return torch.stack([recorded["mlp_act", i][0].float().cpu() for i in range(loaded.spec.n_layer)])


def _of_window(acts: torch.Tensor, start: int) -> _Best:
    """The extremes of one window that begins at `start`; layer by layer, because the contexts need room."""
    found = [_of_layers(acts[i : i + 1], start) for i in range(acts.shape[0])]
    return _Best(
        torch.cat([one.extreme for one in found], dim=1),
        torch.cat([one.places for one in found], dim=1),
        torch.cat([one.around for one in found], dim=1),
    )


def _of_layers(acts: torch.Tensor, start: int) -> _Best:
    seq = acts.shape[1]
    signed = torch.stack([acts, -acts]).nan_to_num(float("-inf"))  # sign, layer, seq, d_ff
    best = signed[:, :, 1:].topk(min(COUNT, seq - 1), dim=2)
    at = best.indices + 1  # sign, layer, occurrence, d_ff
    context = at[..., None] + torch.arange(-BEFORE, AFTER + 1)  # sign, layer, occurrence, d_ff, context
    inside = (context >= 0) & (context < seq)
    flat = context.clamp(0, seq - 1).permute(0, 1, 2, 4, 3).reshape(2, acts.shape[0], -1, acts.shape[2])
    around = acts[None].expand(2, -1, -1, -1).gather(2, flat)
    around = around.reshape(*at.shape[:3], BEFORE + AFTER + 1, at.shape[3]).permute(0, 1, 2, 4, 3)
    around = around.masked_fill(~inside, float("nan")).half()
    return _Best(
        best.values.transpose(2, 3), (at + start).int().transpose(2, 3), around.transpose(2, 3).contiguous()
    )


def _merged(a: _Best, b: _Best) -> _Best:
    extreme, places, around = (
        torch.cat([x, y], dim=3)
        for x, y in ((a.extreme, b.extreme), (a.places, b.places), (a.around, b.around))
    )
    best = extreme.topk(min(COUNT, extreme.shape[3]), dim=3)
    wide = best.indices[..., None].expand(*best.indices.shape, around.shape[4])
    return _Best(best.values, places.gather(3, best.indices), around.gather(3, wide))
