"""Written texts once more: one pass over the whole text, and every token chosen anew from what stands before it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import TemperatureLogitsWarper

from engine.evidence.oracles.order import at_ranks
from engine.model.loaded import Loaded

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class DrawnAgain:
    """A text as it is chosen anew; it stops where the model ends it.

    ids          the tokens
    own          the probability of each in the model's own distribution
    drawn_with   the same after the temperature
    ended        whether the last one ends the text
    """

    ids: list[int]
    own: Tensor
    drawn_with: Tensor
    ended: bool


@torch.no_grad()
def drawn_again(
    loaded: Loaded,
    prompt: Sequence[int],
    written: Sequence[int],
    seed: int | None,
    temperature: float,
    allowed: float,
) -> DrawnAgain:
    """Choose every token of a text again: with a seed by torch.multinomial, else greedily.

    If all tokens before one are right, so is the distribution that it is drawn from; the first wrong one differs.
    Greedily, the written token stays where its logit is within `allowed` of the largest.
    """
    batch = torch.tensor([[*prompt, *written[:-1]]], device=loaded.model.device)
    logits = loaded.model(batch, use_cache=False).logits[0, len(prompt) - 1 :].float().cpu().double()
    scores = logits if seed is None else TemperatureLogitsWarper(float(temperature))(batch, logits)
    p = scores.softmax(-1)
    if seed is None:
        ids = [int(at_ranks([id], row, allowed)[0]) for id, row in zip(written, logits, strict=True)]
    else:
        generator = torch.Generator().manual_seed(seed)
        ids = [int(torch.multinomial(row.float(), 1, generator=generator)) for row in p]
    ends = ends_of(loaded)
    stop = next((i + 1 for i, id in enumerate(ids) if id in ends), len(ids))
    ids = ids[:stop]
    chosen = torch.tensor(ids)[:, None]
    own, drawn_with = (rows[:stop].gather(1, chosen)[:, 0] for rows in (logits.softmax(-1), p))
    return DrawnAgain(ids, own, drawn_with, ids[-1] in ends)


def ends_of(loaded: Loaded) -> set[int]:
    """The ids at which transformers' own generate stops."""
    named = loaded.model.generation_config.eos_token_id
    if named is None:
        named = loaded.tokenizer.eos_token_id
    return set(named) if isinstance(named, list) else set() if named is None else {named}
