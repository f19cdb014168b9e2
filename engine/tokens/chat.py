"""A request and an answer as tokens, through the checkpoint's own chat template, and which of them carry loss.

The template is applied by ``tokenizer.apply_chat_template`` alone. Text that spells a special token, such as an
``<|end|>`` typed into a request, is encoded as the ordinary text that it is.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from engine import ReaderError
from engine.tokens.guarding import one_sentence

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
"""The three special tokens of the bundled tuned checkpoints."""

_STEPS, _SECONDS = 3_000_000, 20.0
"""Lines of Python, and seconds, after which a template is stopped. The longest published ones take some thousand."""


@dataclass(frozen=True)
class Rendered:
    """A conversation of one request and at most one answer.

    ids           seq: what the model reads
    carries_loss  seq: whether fine-tuning trains the model to predict this token, True on the answer and its end mark
    """

    ids: tuple[int, ...]
    carries_loss: tuple[bool, ...]


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer brings a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def render(tokenizer: Any, request: str, answer: str | None) -> Rendered:
    """The tokens of a request and its answer; without an answer they end where the assistant's turn begins.

    The loss begins after the longest common start of the two renderings, with and without the answer, and ends with
    the first special token behind it: what a template writes after its end mark is not the assistant's.
    Raises ReaderError when the tokenizer has no chat template, or one that does not take a single request.
    """
    if not has_template(tokenizer):
        raise ReaderError(
            "This checkpoint has no chat template: it was not tuned to answer, and reads the bare text."
        )
    question = [{"role": "user", "content": request}]
    prompt = _apply(tokenizer, question, add_generation_prompt=True)
    if answer is None:
        return Rendered(prompt, (False,) * len(prompt))
    ids = _apply(
        tokenizer, [*question, {"role": "assistant", "content": answer}], add_generation_prompt=False
    )
    first = next((i for i, (a, b) in enumerate(zip(ids, prompt, strict=False)) if a != b), len(prompt))
    marks = special_ids(tokenizer)
    last = next((i for i in range(first, len(ids)) if ids[i] in marks), len(ids) - 1)
    return Rendered(ids, tuple(first <= i <= last for i in range(len(ids))))


def without_system(tokenizer: Any, request: str) -> tuple[int, ...] | None:
    """The tokens of a request without the system turn that a template puts before it unasked; None where it puts none.

    A later turn of a conversation has no such turn before it, so what a template writes for a second request, behind
    a first one and its answer, is what it writes for a first one without its system turn. A mark that begins every
    text stays.
    """
    opening = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    asked = {"role": "user", "content": request}
    try:
        before = _apply(tokenizer, opening, add_generation_prompt=False)
        both = _apply(tokenizer, [*opening, asked], add_generation_prompt=True)
        alone = _apply(tokenizer, [asked], add_generation_prompt=True)
    except ReaderError:  # a template that takes a single request only
        return None
    own = both[len(before) :]
    lead, marks = alone[: -len(own)] if own else (), special_ids(tokenizer)
    if (*before, *own) != both or (*lead, *own) != alone or marks.issuperset(lead):
        return None
    start = lead[: lead.index(own[0])] if own[0] in lead else ()
    return (*start, *own) if marks.issuperset(start) else None


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that no text is encoded to."""
    return frozenset(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)


def _apply(tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> tuple[int, ...]:
    with one_sentence("This checkpoint's chat template does not take this request"), _in_time():
        ids = tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=add_generation_prompt,
            sanitize_control_tokens=True,
            return_dict=False,
        )
        return tuple(int(i) for i in ids)


@contextmanager
def _in_time() -> Iterator[None]:
    """End the Python that runs in the block, loops of a template among it, after a while and after many steps.

    A template is a program of a stranger: it can loop for ever, and Python has no other way to stop it in a thread.
    """
    before, begun, steps = sys.gettrace(), time.monotonic(), 0

    def trace(_frame: Any, event: str, _value: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        if steps > _STEPS or (steps % 256 == 0 and time.monotonic() - begun > _SECONDS):
            raise TimeoutError("it takes too long.")
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
