"""Speculative decoding once more: the plain greedy text, and how far each draft goes along with it."""

from collections.abc import Callable, Sequence

import torch

from engine.evidence.oracles.greedy import greedy_again
from engine.model.loaded import Loaded

Draft = Callable[[list[int], int, Sequence[int]], list[int]]
"""(the text so far, how many tokens at most, those that are shown) -> the tokens of a draft."""


def copied(ids: list[int], count: int, longest: int) -> list[int]:
    """What followed the last earlier place of a text's ending, the longest that has one, found by comparing windows."""
    text = torch.tensor(ids)
    for length in range(longest, 0, -1):
        if len(ids) <= length:
            continue
        windows = text.unfold(0, length, 1)
        places = (windows[:-1] == windows[-1]).all(dim=1).nonzero()[:, 0]
        if len(places):
            after = int(places[-1]) + length
            return ids[after : after + count]
    return []


def drafted_by(drafter: Loaded, ids: list[int], count: int, given: Sequence[int]) -> list[int]:
    """What another model writes greedily after a text."""
    if count < 1:
        return []
    return greedy_again(drafter, drafter.model, ids, given, count, whole=True)[0]


def replayed(
    loaded: Loaded,
    prompt: Sequence[int],
    given: Sequence[int],
    drafts: Sequence[Sequence[int]],
    length: int,
    count: int,
    draft: Draft,
) -> tuple[list[list[int]], list[int], list[int]]:
    """Of each pass: the draft, how many of its tokens stand in the greedy text, and the token that comes after them.

    The greedy text is written token by token without a draft; -1 where an accepted token has ended it.

    given   the text that is shown        drafts  the drafts that are shown
    """
    text = greedy_again(loaded, loaded.model, list(prompt), list(given), length, whole=True)[0]
    proposed: list[list[int]] = []
    accepted: list[int] = []
    own: list[int] = []
    done = 0
    while done < len(text):
        shown = drafts[len(proposed)] if len(proposed) < len(drafts) else ()
        now = draft([*prompt, *text[:done]], min(count, length - done - 1), shown)
        fits = 0
        while fits < len(now) and done + fits < len(text) and now[fits] == text[done + fits]:
            fits += 1
        proposed.append(now)
        accepted.append(fits)
        own.append(text[done + fits] if done + fits < len(text) else -1)
        done += fits + 1
    return proposed, accepted, own
