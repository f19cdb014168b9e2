"""A conversation's tokens once more: the template's text cut at its marks, each piece encoded by tokenizers alone."""

import re
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

_REQUEST, _ANSWER = "\ue0f1request\ue0f2", "\ue0f1answer\ue0f2"
"""Stand-ins that show where the template puts what was typed; private characters, which no template has."""


@dataclass(frozen=True)
class ConversationAgain:
    """The tokens that a model reads.

    ids           seq
    special       seq: whether the template's own mark stands there, and not what was typed
    carries_loss  seq: whether it belongs to the answer, with its end mark
    """

    ids: list[int]
    special: list[bool]
    carries_loss: list[bool]


def conversation_again(tokenizer: Any, request: str, answer: str | None) -> ConversationAgain:
    """A request, and an answer if there is one, through the template of a tokenizer."""
    ids, special = _encoded(tokenizer, _pieces(tokenizer, request, answer))
    if answer is None:
        return ConversationAgain(ids, special, [False] * len(ids))
    asked, _ = _encoded(tokenizer, _pieces(tokenizer, request, None))
    start = next((i for i in range(len(asked)) if ids[: i + 1] != asked[: i + 1]), len(asked))
    end = special.index(True, start) if True in special[start:] else len(ids) - 1
    return ConversationAgain(ids, special, [start <= i <= end for i in range(len(ids))])


def _encoded(tokenizer: Any, pieces: list[tuple[str, bool]]) -> tuple[list[int], list[bool]]:
    """Ids of pieces and whether each is a mark; text that spells a mark is encoded as the text that it is."""
    backend = Tokenizer.from_str(
        tokenizer.backend_tokenizer.to_str()
    )  # a copy: the shared one stays as it is
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    ids: list[int] = []
    special: list[bool] = []
    for text, mark in pieces:
        new: list[int] = [tokenizer.convert_tokens_to_ids(text)]
        if not mark:
            new = backend.encode(text, add_special_tokens=False).ids
        ids += new
        special += [mark] * len(new)
    return ids, special


def _pieces(tokenizer: Any, request: str, answer: str | None) -> list[tuple[str, bool]]:
    """What the template writes, cut into its own marks (True) and the texts between them, what was typed in place.

    A mark that was typed is a text of its own as well, as transformers has it.
    """
    marks = sorted(_marks(tokenizer), key=len, reverse=True)
    anywhere = re.compile(f"({'|'.join(map(re.escape, marks)) or '(?!)'})")  # (?!) is found nowhere
    typed = {_REQUEST: _kept(tokenizer, request, answer, _REQUEST)}
    if answer is not None:
        typed[_ANSWER] = _kept(tokenizer, answer, answer, _ANSWER)
    pieces = []
    for i, piece in enumerate(anywhere.split(_bare(tokenizer, answer))):
        for stand_in, text in typed.items():
            piece = piece.replace(stand_in, text)
        mark = i % 2 == 1  # re.split puts what it cut at between the rest
        pieces += [(piece, True)] if mark else [(part, False) for part in anywhere.split(piece) if part]
    return pieces


def _marks(tokenizer: Any) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def _kept(tokenizer: Any, text: str, answer: str | None, stand_in: str) -> str:
    """What the template keeps of a typed text; some take blanks off its ends."""
    before, after = _bare(tokenizer, answer).split(stand_in)
    written = _written(
        tokenizer,
        text if stand_in == _REQUEST else _REQUEST,
        None if answer is None else text if stand_in == _ANSWER else _ANSWER,
    )
    return written[len(before) : len(written) - len(after)]


def _bare(tokenizer: Any, answer: str | None) -> str:
    return _written(tokenizer, _REQUEST, None if answer is None else _ANSWER)


def _written(tokenizer: Any, request: str, answer: str | None) -> str:
    """The text that transformers renders; it ends where the assistant's turn begins, or after the answer."""
    turns = [{"role": "user", "content": request}]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer is None)
    return text
