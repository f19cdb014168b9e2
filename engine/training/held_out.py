"""Held-out loss, defined once for the training log, the model card and the chapters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from engine.training.data import read_books

FIRST_CHARACTER = 20_000
CHARACTERS = 30_000


@dataclass(frozen=True)
class HeldOut:
    """Windows of held-out text, each (seq,) int64, and the number of characters they stand for."""

    windows: tuple[Tensor, ...]
    characters: int


@dataclass(frozen=True)
class HeldOutLoss:
    """Loss on :class:`HeldOut` text. ``nats``: summed over ``predicted`` tokens; ``characters``: of all the text."""

    nats: float
    predicted: int
    characters: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats per predicted token."""
        return self.nats / self.predicted

    @property
    def perplexity(self) -> float:
        """exp of the mean cross-entropy, per token of this tokenizer."""
        return math.exp(self.loss)

    @property
    def bits_per_character(self) -> float:
        """Comparable between tokenizers, as perplexity per token is not."""
        return self.nats / self.characters / math.log(2)


def held_out_passages(corpus: Path) -> list[str]:
    """30 000 characters of every held-out book from character 20 000 on (past prefaces and tables of contents)."""
    return [
        book[FIRST_CHARACTER : FIRST_CHARACTER + CHARACTERS] for book in read_books(corpus / "held_out.txt")
    ]


def held_out_windows(passages: list[str], tokenizer: Tokenizer, seq: int) -> HeldOut:
    """``passages`` in windows of ``seq`` tokens without overlap, each passage for itself, the last one shorter."""
    windows: list[Tensor] = []
    for passage in passages:
        ids = torch.tensor(tokenizer.encode(passage, add_special_tokens=False).ids)
        windows += [window for window in ids.split(seq) if len(window) > 1]
    return HeldOut(tuple(windows), sum(len(passage) for passage in passages))


@torch.no_grad()
def held_out_loss(model: nn.Module, held_out: HeldOut, batch: int = 8) -> HeldOutLoss:
    """Cross-entropy of every token but each window's first, in fp32."""
    device = next(model.parameters()).device
    nats, predicted = 0.0, 0
    full = max((len(window) for window in held_out.windows), default=0)
    whole = [window for window in held_out.windows if len(window) == full]
    rest = [window for window in held_out.windows if len(window) < full]
    for group in [
        *(whole[i : i + batch] for i in range(0, len(whole), batch)),
        *([window] for window in rest),
    ]:
        ids = torch.stack(group).to(device)  # (batch, seq)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()  # (batch, seq-1, vocab)
        nats += float(F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))
        predicted += ids[:, 1:].numel()
    return HeldOutLoss(nats, predicted, held_out.characters)
