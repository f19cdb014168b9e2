"""One entry of a vocabulary, as it stands in a text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """One token of a prompt: its id, its raw vocabulary piece, its bytes, and text that is safe to display.

    `display` has visible whitespace and no control characters, but still needs the escaper of its sink
    (`engine.tokens.text.markdown` or `engine.tokens.text.label`). A `special` token is one that no typed text is
    encoded to, such as a start token: it stands for no text and has no bytes, and its display is its name.
    """

    id: int
    piece: str
    bytes: bytes
    display: str
    special: bool = False
