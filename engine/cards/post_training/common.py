"""What the cards of this chapter share: the logits of one version, scripts with several, text through a template."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import dedent

import numpy as np

from engine import ReaderError
from engine.cards.post_training.family import Version
from engine.evidence.script import preamble
from engine.model.cache import ByteLRU
from engine.model.capturing import capture, tokenize
from engine.model.loading import Loaded
from engine.model.trace import Array
from engine.ops.sampling import finite
from engine.tokens.chat import Rendered, has_template, render
from engine.tokens.text import clean_prompt

LONGEST = 600
"""Characters of a request or of an answer that are read."""


@dataclass(frozen=True, eq=False)
class _Logits:
    values: Array

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


_passes: "ByteLRU[_Logits]" = ByteLRU(limit=96 * 1024 * 1024)


def logits(version: Version, ids: Sequence[int]) -> Array:
    """Logits (seq, vocab) of one pass over ids, remembered. Raises ReaderError for a number that is not finite."""
    key = (version.name, tuple(ids))
    return _passes.get(key, lambda: _Logits(_pass(version.get(), ids))).values


def _pass(loaded: Loaded, ids: Sequence[int]) -> Array:
    kept = np.array(capture(loaded, ids).logits)
    finite(kept)
    kept.setflags(write=False)
    return kept


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


def head(versions: Sequence[Version], ids: Sequence[int] | None = None) -> str:
    """The start of a script: `models` and `tokenizers`, both by label, and `ids` if they are given."""
    parts = ["models, tokenizers = {}, {}\n"]
    for version in versions:
        parts.append(preamble(version.get()))
        parts.append(f"models[{version.label!r}], tokenizers[{version.label!r}] = model, tokenizer\n\n")
    if ids is not None:
        parts.append(f"ids = torch.tensor([{[int(i) for i in ids]}])\n")
    return "".join(parts)


def script(versions: Sequence[Version], body: str, ids: Sequence[int] | None = None) -> str:
    """A whole *Code* script: `head`, then `body` without the indentation that it has in the source."""
    return head(versions, ids) + dedent(body).strip("\n") + "\n"


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
