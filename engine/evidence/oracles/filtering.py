"""From logits to tokens once more: transformers' own filters, and torch's own draws."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine.evidence.passes import returned_logits, written_logits
from engine.model.loaded import Loaded
from engine.ops.sampling import Filters

Tensor = torch.Tensor


def logits_again(loaded: Loaded, ids: Sequence[int]) -> Tensor:
    """Logits (seq, vocab) that transformers returns, float64 on the CPU."""
    return torch.tensor(returned_logits(loaded, ids)).double()


def written_again(loaded: Loaded, prompt: Sequence[int], text: Sequence[int]) -> Tensor:
    """Logits (len(text), vocab) before each token of a text written after a prompt, float64 on the CPU."""
    return torch.tensor(written_logits(loaded, prompt, text)).double()


def processors(filters: Filters) -> dict[str, LogitsProcessor]:
    """transformers' own filters by their names, in the order in which `generate` builds them; those that change."""
    chosen: dict[str, LogitsProcessor] = {}
    if filters.repetition_penalty != 1:
        chosen["repetition penalty"] = RepetitionPenaltyLogitsProcessor(float(filters.repetition_penalty))
    if filters.temperature != 1:
        chosen["temperature"] = TemperatureLogitsWarper(float(filters.temperature))
    if filters.top_k:
        chosen["top-k"] = TopKLogitsWarper(filters.top_k)
    if filters.top_p is not None and filters.top_p < 1:
        chosen["top-p"] = TopPLogitsWarper(filters.top_p)
    if filters.min_p:
        chosen["min-p"] = MinPLogitsWarper(filters.min_p)
    return chosen


def passed(row: Tensor, seen: Sequence[int], filters: Filters) -> dict[str, Tensor]:
    """Logits (vocab) as they are, under "logits", and after each filter; -inf where a token was removed."""
    ids: Any = torch.tensor([list(seen)])
    scores: Any = row.double()[None]
    done = {"logits": scores[0]}
    for name, processor in processors(filters).items():
        scores = processor(ids, scores)
        done[name] = scores[0]
    return done


def probabilities(row: Tensor, seen: Sequence[int], filters: Filters) -> Tensor:
    """Probabilities (vocab) after all filters."""
    *_, last = passed(row, seen, filters).values()
    return last.softmax(-1)


def chosen(
    rows: Tensor,
    seen: Sequence[int],
    given: Sequence[int],
    filters: Filters,
    seed: int | None,
    allowed: float,
) -> list[int]:
    """The token of every row: the likeliest, or with a seed the one that torch.multinomial draws after the filters.

    rows   seq, vocab: the logits before each of the `given` tokens, which follow those `seen`

    A given token is kept where it is the one that is taken with its logit raised by twice `allowed`: two passes whose
    logits differ by that much may decide either way.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    found = []
    for i, id in enumerate(given):
        before = (*seen, *given[:i])
        state = None if generator is None else generator.get_state()
        own = _one(rows[i], before, filters, generator)
        if own != id and 0 <= id < rows.shape[1]:
            raised = rows[i].clone()
            raised[id] += 2 * allowed
            if generator is not None and state is not None:
                generator.set_state(state)
            own = id if _one(raised, before, filters, generator) == id else own
        found.append(own)
    return found


def _one(row: Tensor, seen: Sequence[int], filters: Filters, generator: torch.Generator | None) -> int:
    p = probabilities(row, seen, filters)
    return int(p.argmax()) if generator is None else int(torch.multinomial(p.float(), 1, generator=generator))
