"""Text files to packed windows of token ids.

The batch of a step is a pure function of (seed, step): a run that was killed and continued sees the same
windows in the same order as one that was not.
"""

from __future__ import annotations

import hashlib
import lzma
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

BOOK_SEPARATOR = "\0"
END_OF_TEXT = "<|endoftext|>"


def read_books(path: Path) -> list[str]:
    """The books of one corpus file (``.txt`` or ``.txt.xz``), in order; books are joined by a NUL byte.

    Raises FileNotFoundError when neither file exists.
    """
    packed = path.with_name(path.name + ".xz")
    if packed.exists():
        text = lzma.decompress(packed.read_bytes()).decode("utf-8")
    elif path.exists():
        text = path.read_text(encoding="utf-8")
    else:
        raise FileNotFoundError(f"The corpus has neither {path.name} nor {packed.name}.")
    return [book for book in text.split(BOOK_SEPARATOR) if book.strip()]


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder, in its bare form (no Python wrapper: three times as fast on books)."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def token_stream(corpus: Path, source: str, tokenizer: Tokenizer, cache: Path) -> np.ndarray:
    """All tokens of ``corpus/source.txt[.xz]`` as one read-only uint16 array, with ``<|endoftext|>`` before each book.

    Tokenized once: the file under ``cache`` is named after the tokenizer's and the text's fingerprints.
    Shape: (tokens,).
    """
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    if end_of_text is None or tokenizer.get_vocab_size() > 1 << 16:
        raise ValueError(f"The tokenizer needs {END_OF_TEXT} and at most 65 536 tokens.")
    books = read_books(corpus / f"{source}.txt")
    fingerprint = hashlib.sha256(tokenizer.to_str().encode())
    for book in books:
        fingerprint.update(book.encode() + b"\0")
    path = cache / f"{source}-{fingerprint.hexdigest()[:12]}.u16"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as out:
            for book in books:
                ids = tokenizer.encode(book, add_special_tokens=False).ids
                np.asarray([end_of_text, *ids], dtype=np.uint16).tofile(out)
        partial.replace(path)
    return np.memmap(path, dtype=np.uint16, mode="r")


@dataclass(frozen=True)
class Repeats:
    """The induction mix: in which share of the windows text recurs, and how.

    Plain prose gives a small model too few reasons to copy from its context; these windows give it some.
    """

    recur_share: float = 0.15
    recur_tokens: tuple[int, int] = (24, 200)
    tile_share: float = 0.20
    tile_tokens: tuple[int, int] = (16, 128)
    random_share: float = 0.0
    """Windows that tile a segment, as long as ``tile_tokens`` says, of tokens drawn evenly from the vocabulary."""

    def __post_init__(self) -> None:
        shares = (self.recur_share, self.tile_share, self.random_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError("The shares of windows that repeat lie in 0…1 and so does their sum.")


def with_recurring_stretch(
    window: np.ndarray, shortest: int, longest: int, rng: np.random.Generator
) -> np.ndarray:
    """A copy of ``window`` (seq,) in which one stretch of ``shortest``…``longest`` tokens occurs again further on."""
    seq = len(window)
    length = min(int(rng.integers(shortest, longest + 1)), seq // 2)
    first = int(rng.integers(0, seq - 2 * length + 1))
    second = int(rng.integers(first + length, seq - length + 1))
    out = window.copy()
    out[second : second + length] = window[first : first + length]
    return out


def tiled(window: np.ndarray, shortest: int, longest: int, rng: np.random.Generator) -> np.ndarray:
    """A window (seq,) filled with copies of one random segment of ``shortest``…``longest`` tokens of ``window``."""
    length = min(int(rng.integers(shortest, longest + 1)), len(window) // 2)
    start = int(rng.integers(0, len(window) - length + 1))
    return np.resize(window[start : start + length], len(window))


def apply_repeats(
    windows: np.ndarray, repeats: Repeats, rng: np.random.Generator, vocab: int = 0
) -> np.ndarray:
    """``windows`` (batch, seq) with the induction mix applied to a random share of the rows.

    ``vocab``: number of tokens that random ones are drawn from; needed where ``random_share`` is not 0.
    """
    out = windows.copy()
    recur, tile = repeats.recur_share, repeats.recur_share + repeats.tile_share
    for row, draw in enumerate(rng.random(len(windows))):
        if draw < recur:
            out[row] = with_recurring_stretch(windows[row], *repeats.recur_tokens, rng)
        elif draw < tile:
            out[row] = tiled(windows[row], *repeats.tile_tokens, rng)
        elif draw < tile + repeats.random_share:
            out[row] = tiled(rng.integers(0, vocab, len(windows[row])), *repeats.tile_tokens, rng)
    return out


def batch_at(
    step: int,
    streams: Mapping[str, np.ndarray],
    shares: Mapping[str, float],
    batch: int,
    seq: int,
    seed: int,
    repeats: Repeats | None = None,
    vocab: int = 0,
) -> np.ndarray:
    """The windows of update ``step``: int64, shape (batch, seq + 1); inputs are [:, :-1], targets [:, 1:].

    Each window comes from the source drawn by ``shares`` at a uniformly drawn offset. The repeats have a random
    stream of their own, so switching them on leaves the untouched windows as they were.
    """
    rng = np.random.default_rng([seed, step])
    names = sorted(shares)
    weights = np.array([shares[name] for name in names])
    windows = np.empty((batch, seq + 1), dtype=np.int64)
    for row, source in enumerate(rng.choice(len(names), size=batch, p=weights / weights.sum())):
        stream = streams[names[source]]
        if len(stream) <= seq:
            raise ValueError(f"{names[source]} has {len(stream)} tokens: too few for a window of {seq + 1}.")
        start = int(rng.integers(0, len(stream) - seq))
        windows[row] = stream[start : start + seq + 1]
    if repeats is None:
        return windows
    return apply_repeats(windows, repeats, np.random.default_rng([seed, step, 1]), vocab)


def blend(start: Mapping[str, float], end: Mapping[str, float], progress: float) -> dict[str, float]:
    """Source shares on the straight line from ``start`` (progress 0) to ``end`` (progress 1)."""
    return {
        name: (1 - progress) * start.get(name, 0.0) + progress * end.get(name, 0.0)
        for name in sorted({*start, *end})
    }
