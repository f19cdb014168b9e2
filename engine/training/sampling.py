"""Answers to many prompts at once, with a KV cache; each is the answer that its prompt alone would have got."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from engine.ops.sampling import Filters, filtered, softmax


@dataclass(frozen=True)
class Answer:
    """Drawn token ids without the end token; ``ended``: the model drew one before the limit."""

    ids: tuple[int, ...]
    ended: bool


@torch.no_grad()
def sample_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    stops: frozenset[int],
    most: int,
    temperature: float,
) -> list[Answer]:
    """One answer of up to ``most`` tokens to each prompt, drawn from softmax(logits / temperature).

    Each row has a generator of its own, so an answer depends on prompt and seed and not on its neighbours: it is that
    of ``engine.model.generation.generate``, up to the rounding of sums in batches of another size. Prompts are padded
    on the left, with positions counted from each one's first token.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    drawn: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    alive = list(range(len(prompts)))
    filters = Filters(temperature=temperature)
    for rows, logits in _steps(model, prompts, drawn, alive, most):
        probabilities = softmax(filtered(logits, [], filters))  # (rows, vocab)
        for row, weights in zip(rows, probabilities, strict=True):
            if row in alive:
                token = _choose(weights, generators[row])
                if token in stops:
                    ended[row] = True
                    alive.remove(row)
                else:
                    drawn[row].append(token)
        if not alive:
            break
    return [Answer(tuple(ids), end) for ids, end in zip(drawn, ended, strict=True)]


def _choose(weights: np.ndarray, generator: torch.Generator) -> int:
    """As in engine.model.generation, so that a seed gives the same answer there."""
    return int(torch.multinomial(torch.from_numpy(weights).to(torch.float32), 1, generator=generator))


def _steps(
    model: Any, prompts: Sequence[Sequence[int]], drawn: list[list[int]], alive: list[int], most: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Row numbers and their logits (rows, vocab), one token further each time; ``drawn`` is read between steps.

    Rows that are no longer alive are dropped from the cache once they are half of it.
    """
    rows = list(range(len(prompts)))
    cache = DynamicCache(config=model.config)
    ids, mask = left_padded(prompts)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for _ in range(most):
        output = model(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            position_ids=positions.to(model.device),
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        yield rows, output.logits[:, -1].float().cpu().numpy()
        if len(alive) <= len(rows) // 2:
            kept = torch.tensor([i for i, row in enumerate(rows) if row in alive], dtype=torch.long)
            cache.batch_select_indices(kept.to(model.device))
            rows, mask, positions = [rows[i] for i in kept.tolist()], mask[kept], positions[kept]
        ids = torch.tensor([[drawn[row][-1] if drawn[row] else 0] for row in rows])
        mask = torch.cat([mask, torch.ones(len(rows), 1, dtype=mask.dtype)], dim=1)
        positions = positions[:, -1:] + 1


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """ids and attention mask (batch, seq) that end with the prompts' last tokens."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return ids, mask
