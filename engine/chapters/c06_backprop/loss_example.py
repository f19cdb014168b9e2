"""What the cards of this chapter share: the example whose loss is taken."""

from collections.abc import Sequence

import numpy as np

from engine import ReaderError
from engine.evidence.script import script
from engine.model.cache import traced
from engine.model.capturing import display
from engine.model.gradients import Example
from engine.model.loaded import Loaded
from engine.model.words import word as looked_up
from engine.ops.sampling import finite
from engine.tokens.text import quoted
from engine.tokens.token import Token

WORD = 40
"""Characters of a typed target that are read."""
FAVOURITES, SEARCHED = 5, 20
"""Targets that are offered, and how far down the list of the most probable tokens they are looked for."""


def example(loaded: Loaded, tokens: Sequence[Token], word: str = "") -> Example:
    """The token of `word` after the whole prompt; without a word, the prompt's last token after the others.

    A prompt of one token has no others: then the target is the token that the model expects most.
    """
    ids = tuple(token.id for token in tokens)
    if word:
        return Example(ids, looked_up(loaded, word[:WORD]).token.id)
    if len(ids) > 1:
        return Example(ids[:-1], ids[-1])
    return Example(ids, int(finite(traced(loaded, ids).logits[-1]).argmax()))


def favourites(loaded: Loaded, tokens: Sequence[Token]) -> list[str]:
    """The words, as one would type them, of the tokens that the model expects most after the prompt.

    One that a typed word does not lead to, such as a space alone, is left out.
    """
    logits = finite(traced(loaded, tuple(token.id for token in tokens)).logits[-1])
    words = (_typed(loaded, int(id)) for id in np.argsort(-logits, kind="stable")[:SEARCHED])
    return [word for word in words if word][:FAVOURITES]


def _typed(loaded: Loaded, id: int) -> str:
    """The word that is looked up as this token; empty if there is none."""
    text = loaded.tokenizer.decode([id]).strip()[:WORD]
    try:
        return text if text and looked_up(loaded, text).token.id == id else ""
    except ReaderError:
        return ""


def target_name(loaded: Loaded, asked: Example) -> str:
    """The target token in quotation marks, as plain text."""
    return quoted(display(loaded, asked.target))


def code(loaded: Loaded, asked: Example, *parts: str) -> str:
    """A script in which `loss()` is the loss of the example."""
    start = f"""
    target = torch.tensor([{asked.target}])

    def loss():
        return torch.nn.functional.cross_entropy(model(ids, use_cache=False).logits[0, -1:], target)
    """
    return script(loaded, asked.ids, start, *parts)
