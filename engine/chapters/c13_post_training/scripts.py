"""*Code* scripts with several versions of one checkpoint."""

from collections.abc import Sequence
from textwrap import dedent

from engine.chapters.c13_post_training.family import Version
from engine.evidence.script import preamble


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
