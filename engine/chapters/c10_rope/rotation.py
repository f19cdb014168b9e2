"""The rotation that a loaded checkpoint applies to its queries and keys, by its own module and function."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from engine import ReaderError
from engine.evidence.rounding import FLOOR, largest
from engine.model import hooks
from engine.model.head import Head
from engine.model.loaded import Loaded
from engine.model.trace import Array
from engine.ops import attention as scores
from engine.ops import rope
from engine.ops.attention import Floats


@dataclass(frozen=True, eq=False)
class Rotation:
    """A private rotary module (a dynamic one changes itself when it is asked for a position beyond the context)."""

    loaded: Loaded
    module: Any

    @property
    def inv_freq(self) -> Floats:
        """Radians per token, shape pair: the buffer that the model multiplies positions with."""
        frequencies: Floats = self.module.inv_freq.detach().to("cpu", torch.float64).numpy()
        return frequencies

    @property
    def pairs(self) -> int:
        return len(self.inv_freq)

    @property
    def factor(self) -> float:
        """What cosines and sines are multiplied by: 1, except in YaRN."""
        return float(self.module.attention_scaling)

    @cached_property
    def theta(self) -> float:
        return float(self.module.config.rope_parameters["rope_theta"])

    @property
    def kind(self) -> str:
        """The config's `rope_type`: default, linear, dynamic, llama3 or yarn."""
        return str(self.module.config.rope_parameters.get("rope_type", "default"))

    def angles(self, positions: ArrayLike) -> Floats:
        """position × frequency in radians, shape (seq, pair)."""
        return np.asarray(positions, np.float64)[:, None] * self.inv_freq

    @torch.no_grad()
    def cos_sin(self, positions: Sequence[int]) -> tuple[Array, Array]:
        """The module's own cosines and sines, each (seq, pair)."""
        cos, sin = self._tables(positions)
        return cos[0, :, : self.pairs].cpu().numpy(), sin[0, :, : self.pairs].cpu().numpy()

    @torch.no_grad()
    def turn(self, q: ArrayLike, k: ArrayLike, positions: Sequence[int]) -> tuple[Array, Array]:
        """q and k (seq, d_head) after RoPE at the given positions, by the model's own function, in float32."""
        cos, sin = self._tables(positions)
        before = [torch.tensor(np.asarray(x, np.float32), device=cos.device)[None, None] for x in (q, k)]
        after = hooks.rotate(self.loaded.part("attention", 0), before[0], before[1], cos, sin)
        turned_q, turned_k = (x[0, 0].cpu().numpy() for x in after)
        return turned_q, turned_k

    def row(self, q: ArrayLike, k: ArrayLike, positions: Sequence[int]) -> Floats:
        """Scores of the last of these tokens with all of them (key), from q and k before RoPE, (seq, d_head)."""
        turned_q, turned_k = self.turn(q, k, positions)
        result: Floats = scores.scores(turned_q[-1:], turned_k)[0]
        return result

    def _tables(self, positions: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.module.inv_freq.device
        ids = torch.tensor([[int(i) for i in positions]], device=device)
        cos, sin = self.module(torch.zeros(1, device=device), ids)
        return cos, sin


def rotation(loaded: Loaded) -> Rotation:
    """The checkpoint's own rotation. Raises ReaderError where positions are learned."""
    if loaded.spec.positions != "rotary":
        raise ReaderError(f"{loaded.name} has learned positions, so there is no rotation to show.")
    return Rotation(loaded, copy.deepcopy(loaded.part("rotary")))


def with_theta(loaded: Loaded, theta: float) -> Rotation:
    """The rotation of the same config with another θ, made by the same `transformers` class."""
    own = rotation(loaded)
    config = own.module.config
    config.rope_parameters = {**config.rope_parameters, "rope_theta": float(theta)}
    return Rotation(loaded, type(own.module)(config))


def before(one: Head) -> tuple[Array, Array]:
    """The head's q and k (seq, d_head) before RoPE. Raises ReaderError where positions are learned."""
    if not one.rotary:
        raise ReaderError(f"{one.loaded.name} has learned positions, so there is no rotation to show.")
    return one.unrotated("query"), one.unrotated("key")


ROUNDED = 6 * 2.0**-23
"""How far, as a part of it, an angle may be off: transformers makes frequencies and angles in float32."""


STEPS = 8
"""Roundings between a head's vectors in the model's pass and the same ones projected again; int8 needs the most."""


def rounding(rotation: Rotation, q: ArrayLike, k: ArrayLike, furthest: float) -> float:
    """How far a score may be off because the module computes frequencies, angles and their cosines in float32.

    The error of an angle grows with the position; pair i adds at most |q_i||k_i|/√d_head to a score.
    """
    sizes = rotation.factor**2 * _sizes(rotation, q) * _sizes(rotation, k)
    scale = scores.scale(rotation.loaded.spec.d_head)
    return max(FLOOR, scale * float((sizes * _missed(rotation, furthest)).sum()))


def turning(rotation: Rotation, vectors: ArrayLike, furthest: float) -> float:
    """The same for a number of a rotated vector."""
    return max(
        FLOOR, rotation.factor * float((_sizes(rotation, vectors) * _missed(rotation, furthest)).max())
    )


def narrower(allowed: float, shown: ArrayLike) -> float:
    """A tolerance, but at most half of what it is for: a pair can be small beside the vector it is a part of."""
    return min(allowed, largest(shown) / 2 or allowed)


def _sizes(rotation: Rotation, vectors: ArrayLike) -> Floats:
    """The largest length of each pair, (pair)."""
    points = np.nan_to_num(rope.split(vectors, rotation.pairs))
    result: Floats = scores.length(points).reshape(-1, rotation.pairs).max(axis=0)
    return result


def _missed(rotation: Rotation, furthest: float) -> Floats:
    """Radians by which an angle may be off at this position, (pair), and the rounding of its cosine."""
    return ROUNDED * furthest * rotation.inv_freq + 2.0**-20
