"""Induction: what a model does with a random sequence that it reads twice.

A sequence of random tokens r₁…rₙ followed by itself has no meaning, so the only way to predict its second half is
to look back: find where the present token stood before, and read what came after. A head that attends there is an
induction head (Olsson et al. 2022, In-context Learning and Induction Heads).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel


@dataclass(frozen=True)
class InductionReport:
    """Per-head scores, shape (layer, head), in 0…1; losses in nats per token over the two halves."""

    induction: Tensor
    previous_token: Tensor
    first_half_loss: float
    second_half_loss: float


def repeated_random_tokens(vocab: int, length: int, count: int, seed: int, bos: int = 0) -> Tensor:
    """``count`` sequences ``bos, r₁…rₙ, r₁…rₙ`` with n = ``length``; shape (count, 1 + 2·length), int64.

    The tokens of one half are all different, so that each has exactly one earlier occurrence.
    """
    if length >= vocab:
        raise ValueError(f"{length} different tokens cannot be drawn from a vocabulary of {vocab}.")
    generator = torch.Generator().manual_seed(seed)
    halves = []
    for _ in range(count):
        others = torch.randperm(vocab - 1, generator=generator)[:length]
        halves.append(others + (others >= bos))  # skip bos itself
    half = torch.stack(halves)
    start = torch.full((count, 1), bos)
    return torch.cat([start, half, half], dim=1)


def induction_score(attention: Tensor, length: int) -> Tensor:
    """Mean attention from position i of the second half to the position after its token's first occurrence.

    ``attention``: (..., head, query, key) on sequences of :func:`repeated_random_tokens`; the result drops query
    and key. Position i holds the same token as i - length, so the target is i - length + 1.
    """
    seq = attention.shape[-1]
    query = torch.arange(length + 1, seq, device=attention.device)
    return attention[..., query, query - length + 1].mean(-1)


def previous_token_score(attention: Tensor) -> Tensor:
    """Mean attention from each position but the first to the one before it; drops query and key."""
    return attention.diagonal(offset=-1, dim1=-2, dim2=-1).mean(-1)


def eager_copy(model: PreTrainedModel) -> PreTrainedModel:
    """An fp32 copy that returns attention weights; the model itself is left alone."""
    # from_config writes the attention implementation into the config it is given, which the model goes on using.
    config = deepcopy(model.config)
    copy = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    copy.load_state_dict(model.state_dict())
    result: PreTrainedModel = copy.to(next(model.parameters()).device).eval()
    return result


@torch.no_grad()
def measure_induction(
    model: PreTrainedModel, length: int = 128, count: int = 4, seed: int = 0
) -> InductionReport:
    """Scores of every head and the loss on both halves of ``count`` repeated random sequences.

    ``model`` must return attention weights (``attn_implementation="eager"``); see :func:`eager_copy`.
    """
    device = next(model.parameters()).device
    ids = repeated_random_tokens(model.config.vocab_size, length, count, seed).to(device)  # (count, seq)
    out = model(input_ids=ids, output_attentions=True, use_cache=False)
    attention = torch.stack([a.float().mean(0) for a in out.attentions])  # (layer, head, query, key)
    loss = F.cross_entropy(
        out.logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none"
    )  # (count, seq-1)
    return InductionReport(
        induction=induction_score(attention, length).cpu(),
        previous_token=previous_token_score(attention).cpu(),
        first_half_loss=float(loss[:, :length].mean()),
        # The second half's first token cannot be foreseen: nothing announces that the sequence starts again.
        second_half_loss=float(loss[:, length + 1 :].mean()),
    )
