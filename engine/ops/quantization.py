"""What rounding weights does: to a block of numbers, and to the distributions a model predicts.

A *block* is a run of consecutive weights along the input of a linear layer that share one scale, the block's
largest magnitude (absmax). Dettmers et al. 2023, “QLoRA”, section 3; Dettmers et al. 2022, arXiv:2110.02861.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


# Distributions


def flips(reference: ArrayLike, other: ArrayLike) -> NDArray[np.bool_]:
    """Where the most probable next token is another one, shape seq, from logits (seq, vocab)."""
    result: NDArray[np.bool_] = np.argmax(reference, axis=-1) != np.argmax(other, axis=-1)
    return result


def total_variation(p: ArrayLike, q: ArrayLike) -> float:
    """½·Σ|p − q|: the probability that moved to other tokens, between 0 and 1."""
    return float(np.abs(np.asarray(p, np.float64) - np.asarray(q, np.float64)).sum() / 2)


def parting(first: Sequence[int], second: Sequence[int]) -> int | None:
    """The first position at which two sequences of ids differ, or None when neither says anything else."""
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    return None if len(first) == len(second) else min(len(first), len(second))


# Residual streams


def relative_l2(reference: ArrayLike, other: ArrayLike) -> Floats:
    """‖other − reference‖ / ‖reference‖ over the last axis (d_model)."""
    a, b = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share: Floats = np.linalg.norm(b - a, axis=-1) / np.linalg.norm(a, axis=-1)
    return share


def cosine(reference: ArrayLike, other: ArrayLike) -> Floats:
    """The cosine of the angle between two vectors over the last axis (d_model): 1 when they point the same way."""
    a, b = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        angle: Floats = (a * b).sum(axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return angle


# Blocks of weights


def blocks(weights: ArrayLike, size: int) -> NDArray[Any]:
    """Weights row by row in blocks of `size`, shape (block, size); the last one is filled up with zeros."""
    flat = np.asarray(weights).ravel()
    return np.pad(flat, (0, -flat.size % size)).reshape(-1, size)


def unpack(packed: ArrayLike) -> Ints:
    """The two 4-bit indices in each byte, the high half first, as `bitsandbytes.functional.quantize_4bit` packs."""
    octets = np.asarray(packed, np.int64).ravel()
    return np.stack([octets >> 4, octets & 15], axis=1).ravel()


def relative_error(weights: ArrayLike, rounded: ArrayLike) -> float:
    """‖rounded − weights‖ / ‖weights‖ over all entries: 0.1 means noise of a tenth of the weights' own size."""
    a, b = np.asarray(weights, np.float64), np.asarray(rounded, np.float64)
    size = float(np.linalg.norm(a))
    return float(np.linalg.norm(b - a)) / size if size else 0.0


def peakiness(weights: ArrayLike, size: int) -> Floats:
    """absmax / root mean square of each block, shape block: how far its largest weight stands out. 0 if all are 0."""
    values = blocks(np.asarray(weights, np.float64), size)
    rms = np.sqrt((values**2).mean(axis=1))
    result: Floats = np.divide(np.abs(values).max(axis=1), rms, out=np.zeros_like(rms), where=rms > 0)
    return result


def bits_per_weight(bits: float, size: int, scale_bits: int = 32) -> float:
    """Bits that one weight costs when each block of `size` also stores a scale."""
    return bits + scale_bits / size


@dataclass(frozen=True, eq=False)
class Rounded:
    """Weights after rounding to nearest: `values` as the weights are shaped, whole numbers `index`, a scale a block."""

    values: NDArray[Any]
    index: NDArray[np.int8]
    scale: NDArray[Any]


def round_to_nearest(weights: ArrayLike, bits: int, size: int) -> Rounded:
    """Symmetric absmax rounding: 2ᵇ − 1 evenly spaced levels from −absmax to absmax in each block.

    The textbook scheme, for 2 to 8 bits; values keep the shape and the type of `weights`.
    Raises ValueError for other numbers of bits: with 1 there is no level beside 0.
    """
    if not 2 <= bits <= 8:
        raise ValueError("round-to-nearest with a level at 0 needs 2 bits or more, and this one stops at 8")
    given = np.asarray(weights)
    values = blocks(given, size)
    scale = np.abs(values).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    index = np.rint(np.divide(values, scale, out=np.zeros_like(values), where=scale > 0))
    rounded = (index * scale).ravel()[: given.size].reshape(given.shape)
    return Rounded(rounded, index.astype(np.int8).ravel()[: given.size], scale.ravel())


SUPER = 256
"""Weights in a super-block of Q4_K: eight blocks of 32."""


def q4_k(weights: ArrayLike) -> NDArray[np.uint8]:
    """The super-blocks of Q4_K, shape (super-block, 144) in bytes; a last one is filled up with zeros.

    A block of 32 weights is scale · index − minimum, index from 0 to 15; its scale and its minimum, 0 or more, are
    whole numbers of 6 bits times one of two 16-bit floats that the super-block has (llama.cpp, `block_q4_K` in
    ggml-common.h, and pull request 1684). Everything is rounded to nearest; llama.cpp itself tries several scales for
    each block and keeps the one that errs least.
    """
    flat = np.asarray(weights, np.float32).ravel()
    values = np.pad(flat, (0, -flat.size % SUPER)).reshape(-1, 8, 32)
    lowest = np.minimum(values.min(axis=2), 0)
    steps = (values.max(axis=2) - lowest) / np.float32(15)
    scale, scales = _six_bits(steps)
    minimum, minima = _six_bits(-lowest)
    step, least = (x[:, None].astype(np.float32) * y for x, y in ((scale, scales), (minimum, minima)))
    above = values + least[..., None]
    index = np.divide(above, step[..., None], out=np.zeros_like(above), where=step[..., None] > 0)
    whole = np.clip(np.rint(index), 0, 15).astype(np.uint8).reshape(-1, 4, 2, 32)
    halves = (whole[:, :, 0] | whole[:, :, 1] << 4).reshape(len(values), -1)
    six = [  # of blocks 0 to 3 in six bits of a byte each; blocks 4 to 7 have the four lower bits elsewhere
        scales[:, :4] | (scales[:, 4:] >> 4) << 6,
        minima[:, :4] | (minima[:, 4:] >> 4) << 6,
        (scales[:, 4:] & 15) | (minima[:, 4:] & 15) << 4,
    ]
    floats = [x[:, None].view(np.uint8) for x in (scale, minimum)]
    return np.concatenate([*floats, *six, halves], axis=1)


def _six_bits(values: NDArray[np.float32]) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Numbers from 0 on, (super-block, block), as a 16-bit float for each super-block times whole numbers of 6 bits."""
    unit = (values.max(axis=1) / np.float32(63)).astype(np.float16)
    width = unit.astype(np.float32)[:, None]
    whole = np.divide(values, width, out=np.zeros_like(values), where=width > 0)
    return unit, np.clip(np.rint(whole), 0, 63).astype(np.uint8)


# What models weigh


@dataclass(frozen=True)
class Counts:
    """A decoder's weights by what quantization does to them.

    linear      entries of the linear layers inside the blocks: the only ones that bitsandbytes quantizes
    rows        output rows of those layers: int8 keeps a scale for each
    matrices    how many layers: a 4-bit one keeps a code book each
    embeddings  entries of the embedding and, unless tied, the unembedding
    other       norms and biases
    """

    linear: int
    rows: int
    matrices: int
    embeddings: int
    other: int

    @property
    def total(self) -> int:
        return self.linear + self.embeddings + self.other


def llama_counts(
    *, d_model: int, n_layer: int, d_ff: int, n_head: int, n_kv_head: int, vocab: int, tied: bool = False
) -> Counts:
    """Weights of a Llama (`transformers.models.llama`, no biases) from the dimensions in its config."""
    kv = d_model // n_head * n_kv_head
    outputs = (d_model, kv, kv, d_model, d_ff, d_ff)  # q, k, v, o, gate, up: all but down read d_model
    return Counts(
        linear=n_layer * (sum(outputs) * d_model + d_ff * d_model),
        rows=n_layer * (sum(outputs) + d_model),
        matrices=n_layer * 7,
        embeddings=vocab * d_model * (1 if tied else 2),
        other=(2 * n_layer + 1) * d_model,
    )


@dataclass(frozen=True)
class Storage:
    """What a model's parts take in memory, in bytes; only linear layers inside the blocks may be quantized.

    linear     an entry of a linear layer inside a block, its scales aside
    other      any other number
    row        the scale that each output row of a linear layer has; 0 where there is none
    block      how many entries of a linear layer share a scale (a number, not bytes); 0 where there are no blocks
    code_book  the levels that each linear layer has; 0 where it has none
    """

    linear: float
    other: float
    row: float = 0
    block: int = 0
    code_book: float = 0


def weight_bytes(counts: Counts, stored: Storage, scale_bytes: int = 4) -> int:
    """Bytes of a model's weights; the scale of a block takes `scale_bytes`."""
    scales = counts.linear / stored.block * scale_bytes if stored.block else 0.0
    layers = counts.linear * stored.linear + counts.rows * stored.row + counts.matrices * stored.code_book
    return int(layers + scales + (counts.embeddings + counts.other) * stored.other)
