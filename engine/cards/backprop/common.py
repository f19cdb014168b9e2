"""What the cards of this chapter share: the example whose loss is taken, and transformers' own loss of it."""

import copy
from collections.abc import Sequence

import torch

from engine.cards.sampling.common import display, quoted, script
from engine.model.cache import traced
from engine.model.loading import Loaded
from engine.model.trace import Token
from engine.model.words import word as looked_up
from engine.ops.gradients import Example
from engine.ops.sampling import finite

WORD = 40
"""Characters of a typed target that are read."""


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


def trained_copy(loaded: Loaded, asked: Example) -> tuple[torch.nn.Module, torch.Tensor]:
    """A full private copy of the model and the loss that transformers itself returns for the example, in nats.

    Backward passes through that loss change nothing but the copy.
    """
    model = copy.deepcopy(loaded.model).requires_grad_(True)
    ids = torch.tensor([[*asked.ids, asked.target]], device=model.device)
    labels = torch.full_like(ids, -100)  # transformers leaves these out of its mean
    labels[0, -1] = asked.target
    return model, model(input_ids=ids, labels=labels, use_cache=False).loss
