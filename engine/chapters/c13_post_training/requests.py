"""A reader's request and answer, and what a version reads for them."""

from collections.abc import Sequence

from engine import ReaderError
from engine.chapters.c13_post_training.family import Version
from engine.model.capturing import tokenize
from engine.tokens.chat import Rendered, has_template, render
from engine.tokens.text import clean_prompt

LONGEST = 600
"""Characters of a request or of an answer that are read."""


def checked(text: str, what: str) -> str:
    """A reader's text as it may be read. Raises ReaderError when it is empty or too long."""
    cleaned = clean_prompt(text[: LONGEST + 1])
    if not cleaned.strip():
        raise ReaderError(f"The {what} is empty; please write one.")
    if len(cleaned) > LONGEST:
        raise ReaderError(f"The {what} is longer than {LONGEST} characters, which is the limit here.")
    return cleaned


def speaker(versions: Sequence[Version]) -> Version:
    """The first version whose tokenizer brings a chat template: all of them read what it renders."""
    for version in versions:
        if has_template(version.get().tokenizer):
            return version
    raise ReaderError("None of these versions has a chat template.")


def rendered(version: Version, request: str, answer: str | None) -> Rendered:
    """A request, and an answer if there is one, through the template of `version`, no longer than its context."""
    loaded = version.get()
    made = render(loaded.tokenizer, request, answer)
    if len(made.ids) > loaded.spec.context:
        raise ReaderError(
            f"Request and answer make {len(made.ids):,} tokens; {loaded.name} reads at most {loaded.spec.context:,}."
        )
    return made


def prompt_ids(version: Version, request: str, template: bool = True) -> tuple[int, ...]:
    """What a version reads before it answers: through its template where it has one, else the bare text."""
    loaded = version.get()
    if template and has_template(loaded.tokenizer):
        return rendered(version, request, None).ids
    return tuple(token.id for token in tokenize(loaded, request))


def reader(version: Version) -> bool:
    """Whether a version reads requests through a chat template of its own."""
    return has_template(version.get().tokenizer)
