"""Random tokens that come twice: a text without meaning, in which only copying helps."""

import torch

from engine import ReaderError
from engine.model.loaded import Loaded

LENGTH = 32
"""Random tokens in each half, fewer where the model's context does not hold two halves and a start token."""


def half_length(loaded: Loaded) -> int:
    """Random tokens in each half. Raises ReaderError when the context is too short to tell the kinds apart."""
    length = min(LENGTH, (loaded.spec.longest - 1) // 2)
    if length < 3:
        raise ReaderError(f"{loaded.name} reads too few tokens for a sequence that repeats.")
    return length


def repeated_ids(loaded: Loaded, seed: int) -> tuple[int, ...]:
    """A start token, random tokens drawn from `seed` without repetition, and the same random tokens again.

    The start token is the tokenizer's beginning-of-text token, or its end-of-text token, or one more random token.
    Ids that the tokenizer does not know and special tokens are never drawn.
    """
    special, start, length = set(loaded.tokenizer.all_special_ids), _start(loaded), half_length(loaded)
    known = min(loaded.spec.vocab, len(loaded.tokenizer))
    order = torch.randperm(known, generator=torch.Generator().manual_seed(seed))
    drawn = [i for i in order[: length + 1 + len(special)].tolist() if i not in special]
    if len(drawn) <= length:
        raise ReaderError(f"{loaded.name} has too few tokens to draw from.")
    half = drawn[:length]
    return (drawn[length] if start is None else start, *half, *half)


def _start(loaded: Loaded) -> int | None:
    tokenizer = loaded.tokenizer
    start: int | None = (
        tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    )
    return start
