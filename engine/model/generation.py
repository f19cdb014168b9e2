"""Text, one token at a time: with a KV cache, or recomputed from scratch when interventions change the pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache

from engine import ReaderError
from engine.model import hooks
from engine.model.interventions import Intervention, check
from engine.model.trace import Array
from engine.ops.sampling import Filters, filtered, softmax, top

if TYPE_CHECKING:
    from engine.model.loaded import Loaded


@dataclass(frozen=True, eq=False)
class Step:
    """One generated token.

    id            the token chosen
    probability   its probability in the distribution it was chosen from, so after all filters
    alternatives  (id, probability) of the most probable tokens of that distribution, most probable first; the
                  chosen one may be among them
    logits        vocab: as the model gave them, before any filter
    end           whether this is the end-of-text token; nothing follows it
    """

    id: int
    probability: float
    alternatives: tuple[tuple[int, float], ...]
    logits: Array
    end: bool = False


def generate(
    loaded: "Loaded",
    ids: Sequence[int],
    n: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    interventions: Sequence[Intervention] = (),
    alternatives: int = 8,
) -> Iterator[Step]:
    """Up to `n` tokens after `ids`, each yielded as soon as it is known; close the iterator to stop.

    seed=None takes the most probable token at every step (greedy): of the filters only the repetition penalty can
    change that, as in transformers. With a seed, tokens are drawn after all filters by `torch.multinomial` from
    a generator of this call's own, and equal those of `model.generate` after `torch.manual_seed(seed)`.
    Stops after an end-of-text token and where the model's context is full.
    Raises ReaderError, at the call, for an empty or too long prompt, a filter out of range, or an intervention
    on something the model does not have; while iterating, when logits are not finite.
    """
    chosen = tuple(interventions)
    spec = loaded.spec
    check(chosen, spec)
    if seed is None:
        filters = Filters(repetition_penalty=repetition_penalty)
    else:
        filters = Filters(repetition_penalty, temperature, top_k, top_p, min_p)
    prompt = [int(i) for i in ids]
    if not prompt:
        raise ReaderError("A model needs at least one token to run on.")
    if len(prompt) > spec.context:
        raise ReaderError(
            f"This prompt has {len(prompt):,} tokens; {loaded.name} reads at most {spec.context:,}."
        )
    room = min(n, spec.context - len(prompt) + 1)
    return _steps(loaded, prompt, room, filters, seed, chosen, alternatives)


def end_of_text(loaded: "Loaded") -> frozenset[int]:
    """Ids after which generation stops: the checkpoint's own list, else the tokenizer's end-of-text token."""
    config = getattr(loaded.model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    if named is None:
        named = loaded.tokenizer.eos_token_id
    if named is None:
        return frozenset()
    return frozenset(named if isinstance(named, list | tuple) else [named])


def _steps(
    loaded: "Loaded",
    ids: list[int],
    n: int,
    filters: Filters,
    seed: int | None,
    interventions: tuple[Intervention, ...],
    alternatives: int,
) -> Iterator[Step]:
    ends = end_of_text(loaded)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    cache = None if interventions else DynamicCache(config=loaded.model.config)
    unread = ids
    for _ in range(n):
        logits = _next_logits(loaded, ids if cache is None else unread, cache, interventions)
        scores = filtered(logits, ids, filters)
        probabilities = softmax(scores)
        id = _choose(probabilities, generator)
        best = [int(i) for i in top(scores, alternatives) if np.isfinite(scores[i])]
        roads = tuple((i, float(probabilities[i])) for i in best)
        yield Step(id, float(probabilities[id]), roads, logits, id in ends)
        if id in ends:
            return
        ids, unread = [*ids, id], [id]


@torch.no_grad()
def _next_logits(
    loaded: "Loaded", ids: list[int], cache: Any, interventions: tuple[Intervention, ...]
) -> Array:
    """Logits after the last of `ids`, shape vocab, read-only. The pass ends before anything is yielded."""
    batch = torch.tensor([ids], device=loaded.model.device)
    if cache is not None:
        output = loaded.model(input_ids=batch, cache=cache, use_cache=True)
    else:
        with hooks.running(hooks.Pass(interventions)):
            output = loaded.model(input_ids=batch, use_cache=False)
    logits: Array = output.logits[0, -1].to("cpu", torch.float32).numpy()
    logits = logits.copy()  # one position's row, not a view that keeps all of them
    logits.setflags(write=False)
    return logits


def _choose(probabilities: Any, generator: torch.Generator | None) -> int:
    if generator is None:
        return int(np.argmax(probabilities))
    weights = torch.from_numpy(probabilities).to(torch.float32)
    return int(torch.multinomial(weights, 1, generator=generator))
