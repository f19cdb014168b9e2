"""Greedy decoding and beam search once more, by transformers' own."""

from collections.abc import Sequence
from typing import Any

import torch

from engine.evidence.oracles.filtering import chosen, logits_again
from engine.model.loaded import Loaded
from engine.ops.sampling import Filters

Tensor = torch.Tensor


def beams_again(
    loaded: Loaded, ids: Sequence[int], given: Sequence[list[int]], width: int, apart: float
) -> dict[str, Any]:
    """The greedy text and the likeliest of beam search, the probability of each token, and the texts' logarithms.

    Of the `given` two the first keeps what is the likeliest token but for `apart`; the second is kept where no text
    that transformers finds is likelier by more than that for each token.
    """
    greedy, best = given
    greedy = chosen(_rows(loaded, ids, greedy), ids, greedy, Filters(), None, apart)
    theirs = _beam_search(loaded, ids, len(best), width)
    if float(logs_of(loaded, ids, best).sum()) < float(logs_of(loaded, ids, theirs).sum()) - apart * len(
        best
    ):
        best = theirs
    logs = [logs_of(loaded, ids, text) for text in (greedy, best)]
    return {
        "greedy": greedy,
        "beams": best,
        "greedy: each": logs[0].exp(),
        "beams: each": logs[1].exp(),
        "logarithms": [each.sum() for each in logs],
    }


def logs_of(loaded: Loaded, ids: Sequence[int], text: Sequence[int]) -> Tensor:
    """Logarithms of the probabilities of a text's tokens after `ids`, by one pass over the whole."""
    logs: Tensor = _rows(loaded, ids, text).log_softmax(-1).gather(1, torch.tensor(text)[:, None])[:, 0]
    return logs


def _rows(loaded: Loaded, ids: Sequence[int], text: Sequence[int]) -> Tensor:
    return logits_again(loaded, [*ids, *text[:-1]])[len(ids) - 1 :]


@torch.no_grad()
def _beam_search(loaded: Loaded, ids: Sequence[int], n: int, width: int) -> list[int]:
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    written = loaded.model.generate(
        batch,
        attention_mask=torch.ones_like(batch),
        max_new_tokens=n,
        do_sample=False,
        num_beams=width,
        length_penalty=0.0,
        repetition_penalty=1.0,
        eos_token_id=None,
        pad_token_id=0,
    )
    found: list[int] = written[0, len(ids) :].tolist()
    return found
