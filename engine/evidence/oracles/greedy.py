"""Greedy texts once more: every token chosen anew, without a cache, by any transformers model."""

from collections.abc import Sequence
from typing import Any

import torch

from engine.evidence.oracles.drawn import ends_of
from engine.evidence.oracles.order import at_ranks
from engine.evidence.passes import logits_of, written_logits
from engine.evidence.rounding import logit_tolerance
from engine.model.loaded import Loaded

Tensor = torch.Tensor


@torch.no_grad()
def greedy_again(
    loaded: Loaded, model: Any, prompt: Sequence[int], given: Sequence[int], length: int, *, whole: bool
) -> tuple[list[int], Tensor]:
    """The ids that a model (the loaded one, or a changed copy) writes, and the probability of each.

    Of tokens whose logits rounding may have in either order the `given` one is kept. The text ends where the model
    ends it, where the context is full, or after `length` tokens, however many were given.

    whole   read the given text as `written_logits` does: right where no token sees a later one
    """
    ends, room = ends_of(loaded), min(length, loaded.spec.context - len(prompt) + 1)
    known = torch.tensor(written_logits(loaded, prompt, given, model)).double() if whole else ()
    new: list[int] = []
    chances: list[Tensor] = []
    while len(new) < room and not (new and new[-1] in ends):
        i = len(new)
        on_its_way = i < len(known) and new == list(given[:i])
        row = known[i] if on_its_way else torch.tensor(logits_of(model, [*prompt, *new])[-1]).double()
        new.append(int(at_ranks(given[i : i + 1] or [-1], row, logit_tolerance(loaded))[0]))
        chances.append(row.softmax(-1)[new[-1]])
    return new, torch.stack(chances)
