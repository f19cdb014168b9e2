"""Drafts that need no model: what followed the same tokens earlier in a text."""

from collections.abc import Sequence

LONGEST = 3
"""Tokens at the end of a text that are looked for in it; fewer, where so many have not stood there before."""


def looked_up(ids: Sequence[int], count: int, longest: int = LONGEST) -> tuple[int, ...]:
    """Up to `count` tokens that followed the last earlier place of the text's own ending; empty where there is none.

    The longest ending that occurs earlier counts, from `longest` tokens down to one: prompt lookup decoding, as
    transformers has it (`PromptLookupCandidateGenerator`), with the last place instead of the first.
    """
    for length in range(min(longest, len(ids) - 1), 0, -1):
        ending = list(ids[-length:])
        for start in range(len(ids) - length - 1, -1, -1):
            if list(ids[start : start + length]) == ending:
                return tuple(ids[start + length : start + length + count])
    return ()
