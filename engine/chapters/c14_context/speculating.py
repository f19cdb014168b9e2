"""Speculative decoding: a cheap drafter proposes tokens, and the model checks all of them in one pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from engine import ReaderError
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import drafting as again
from engine.evidence.script import model_lines, place, preamble
from engine.figures.drafting import Row, passes
from engine.model.capturing import display
from engine.model.generation import end_of_text
from engine.model.loaded import Loaded
from engine.ops.drafting import LONGEST

PARTNERS = {"pocket-gpt2": "pocket-llama", "pocket-llama": "pocket-gpt2"}
"""A checkpoint -> another one on every reader's machine that has the same vocabulary."""

ECHO = (
    "The king lived in a castle by the sea. The king had a daughter. The queen lived in a castle by the sea. "
    "The queen"
)
"""A text that repeats itself, and goes on otherwise."""

Drafter = Callable[[list[int], int], tuple[int, ...]]
"""(the text so far, how many tokens at most) -> a draft."""


@dataclass(frozen=True)
class Round:
    """One pass of the model: the draft that it read, how many tokens of it were kept, and the one that it added.

    own  None where the last token that was kept ends the text
    """

    drafted: tuple[int, ...]
    accepted: int
    own: int | None

    @property
    def written(self) -> tuple[int, ...]:
        """The tokens that this pass has added to the text."""
        return (*self.drafted[: self.accepted], *(() if self.own is None else (self.own,)))


def by_model(drafter: Loaded) -> Drafter:
    """Drafts that another model writes greedily, token by token."""

    @torch.no_grad()
    def draft(ids: list[int], count: int) -> tuple[int, ...]:
        found: list[int] = []
        while len(found) < count and not (found and found[-1] in end_of_text(drafter)):
            batch = torch.tensor([[*ids, *found]], device=drafter.model.device)
            found.append(int(drafter.model(batch, use_cache=False).logits[0, -1].argmax()))
        return tuple(found)

    return draft


def same_tokens(loaded: Loaded, drafter: Loaded) -> None:
    """Raises ReaderError where a token id of one checkpoint does not mean the same to the other."""
    if loaded.tokenizer.get_vocab() != drafter.tokenizer.get_vocab():
        raise ReaderError(f"{drafter.name} has other tokens than {loaded.name}, so it cannot draft for it.")


def beginning(loaded: Loaded, ids: Sequence[int], length: int) -> tuple[int, ...]:
    """A text that leaves room for `length` more tokens: its last ones, where it is too long.

    One place more stays free, because a cache whose window is full gives no rejected token back.
    """
    return tuple(ids)[-(loaded.spec.longest - length - 1) :]


@torch.no_grad()
def speculate(
    loaded: Loaded, ids: Sequence[int], length: int, count: int, draft: Drafter
) -> Iterator[tuple[Round, ...]]:
    """The passes so far, after each pass, until `length` tokens are written after `ids` or the text has ended.

    Greedy: each pass reads what is not yet in the cache and a draft of up to `count` tokens, and its own most probable
    tokens decide how much of the draft stays (Leviathan et al. 2022, arXiv:2211.17192, at temperature 0).
    """
    cache, ends = DynamicCache(config=loaded.model.config), end_of_text(loaded)
    text, unread = list(ids), list(ids)
    rounds: tuple[Round, ...] = ()
    left = length
    while left > 0:
        drafted = draft(text, min(count, left - 1))
        batch = torch.tensor([[*unread, *drafted]], device=loaded.model.device)
        logits = loaded.model(input_ids=batch, cache=cache, use_cache=True).logits[0]
        best = logits[-len(drafted) - 1 :].argmax(-1).tolist()
        one = _judged(drafted, best, ends)
        rejected = len(drafted) - one.accepted
        if rejected:
            cache.crop(-rejected)
        text += one.written
        unread, left = list(one.written[-1:]), left - len(one.written)
        rounds = (*rounds, one)
        yield rounds
        if one.written[-1] in ends:
            return


def _judged(drafted: tuple[int, ...], best: Sequence[int], ends: frozenset[int]) -> Round:
    """What stays of a draft, given the most probable token at each of its places and after it."""
    accepted = 0
    while accepted < len(drafted) and drafted[accepted] == best[accepted]:
        accepted += 1
        if drafted[accepted - 1] in ends:
            return Round(drafted, accepted, None)
    return Round(drafted, accepted, best[accepted])


def speculative(
    loaded: Loaded,
    ids: Sequence[int],
    rounds: Sequence[Round],
    length: int,
    count: int,
    drafter: Loaded | None = None,
) -> Card:
    """Every pass with its draft: what was kept, what was not, and the token that the model added."""
    drafted = np.full((len(rounds), count), -1)
    for row, one in zip(drafted, rounds, strict=True):
        row[: len(one.drafted)] = one.drafted
    accepted = [one.accepted for one in rounds]
    own = [-1 if one.own is None else one.own for one in rounds]
    text = [id for one in rounds for id in one.written]
    proposed = sum(len(one.drafted) for one in rounds)
    said = [[display(loaded, id) for id in one.drafted] for one in rounds]
    added = ["" if one.own is None else display(loaded, one.own) for one in rounds]
    return Card(
        key="speculative",
        title=f"{len(text)} token{'s' * (len(text) != 1)} in {len(rounds)} pass{'es' * (len(rounds) != 1)} of "
        f"{loaded.name}: {sum(accepted)} of {proposed} drafted tokens were accepted",
        alt=f"{len(rounds)} rows, one for each pass: its drafted tokens, of which {sum(accepted)} in all are accepted, "
        "and the token that the model adds.",
        badge=Badge.LIVE,
        figure=passes([Row(*row) for row in zip(said, accepted, added, strict=True)], count),
        table={
            "pass": list(range(1, len(rounds) + 1)),
            "drafted": [" ".join(row) for row in said],
            "tokens drafted": [len(row) for row in said],
            "accepted": accepted,
            "rejected": [len(row) - fits for row, fits in zip(said, accepted, strict=True)],
            "added by the model": added,
        },
        shown={"drafted": drafted, "accepted": accepted, "own": own},
        oracle=Oracle(
            "The same text written by transformers greedily, with no draft and no cache (of tokens that are equally "
            "probable but for rounding either counts); each draft made again, and compared with that text.",
            lambda: _again(loaded, ids, rounds, length, count, drafter),
            0,
        ),
        code=preamble(loaded, ids) + _code(loaded, drafter, length, count),
        numbers={"text": text, "accepted": accepted},
        atol=0,
        note=_note(loaded, drafter, len(text), len(rounds)),
    )


def _note(loaded: Loaded, drafter: Loaded | None, tokens: int, rounds: int) -> str:
    plain = f"Without drafts these {tokens} tokens take {tokens} passes. " if tokens > 1 else ""
    if drafter is None:
        return (
            f"{plain}A draft is what followed the last {LONGEST} tokens, or fewer, where they last stood before. A "
            "pass without a draft writes one token as usual."
        )
    times = drafter.nbytes / loaded.nbytes
    return (
        f"{plain}{drafter.name} has the same vocabulary and drafts greedily, with weights of {drafter.nbytes:,} bytes, "
        f"{times:.2g} times those of {loaded.name}. Passes are saved here; only a far smaller one saves time as well."
    )


def _again(
    loaded: Loaded,
    ids: Sequence[int],
    rounds: Sequence[Round],
    length: int,
    count: int,
    drafter: Loaded | None,
) -> dict[str, Any]:
    def draft(text: list[int], most: int, shown: Sequence[int]) -> list[int]:
        if drafter is None:
            return again.copied(text, most, LONGEST)
        return again.drafted_by(drafter, text, most, shown)

    text = [id for one in rounds for id in one.written]
    drafts = [one.drafted for one in rounds]
    proposed, accepted, own = again.replayed(loaded, ids, text, drafts, length, count, draft)
    return {
        "drafted": [now + [-1] * (count - len(now)) for now in proposed],
        "accepted": accepted,
        "own": own,
    }


def _code(loaded: Loaded, drafter: Loaded | None, length: int, count: int) -> str:
    """The lines behind the preamble: a drafter, the loop, and the greedy text it is checked against."""
    if drafter is None:
        head = _LOOKUP.format(longest=LONGEST)
    else:
        lines = model_lines(drafter, drafter.precision, "drafter")
        head = "\n".join(["", f"name = {place(drafter.source)}", *lines]) + _SECOND
    return head + _LOOP.format(length=length, count=count, ends=sorted(end_of_text(loaded)))


_LOOKUP = """

def draft(text, most):
    for length in range(min({longest}, len(text) - 1), 0, -1):
        for start in range(len(text) - length - 1, -1, -1):
            if text[start : start + length] == text[-length:]:
                return text[start + length : start + length + most]
    return []

"""

_SECOND = """

def draft(text, most):
    found = []
    while len(found) < most and not (found and found[-1] in ends):
        with torch.no_grad():
            found.append(int(drafter(torch.tensor([text + found]), use_cache=False).logits[0, -1].argmax()))
    return found

"""

_LOOP = """
length, count, ends = {length}, {count}, {ends}
prompt = ids[0].tolist()
text, accepted = [], []
while len(text) < length and not (text and text[-1] in ends):
    proposed = draft(prompt + text, min(count, length - len(text) - 1))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + text + proposed]), use_cache=False).logits[0]
    best = logits[-len(proposed) - 1 :].argmax(-1).tolist()
    fits = 0
    while fits < len(proposed) and proposed[fits] == best[fits] and not (fits and proposed[fits - 1] in ends):
        fits += 1
    accepted.append(fits)
    text += proposed[:fits]
    if not (fits and proposed[fits - 1] in ends):
        text.append(best[fits])

greedy = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False,
                        repetition_penalty=1.0, eos_token_id=ends or None)[0, len(prompt) :].tolist()
print(text == greedy)
result = {{"text": text, "accepted": accepted}}
"""
