"""A field for a word of the reader's, with the token that it became below it."""

from typing import TYPE_CHECKING

import streamlit as st

from engine.tokens.text import markdown
from pages._shared.view import View

if TYPE_CHECKING:
    from engine import Loaded
    from engine.model.words import Word


def field(
    view: View, name: str, label: str, default: str = "", loaded: "Loaded | None" = None
) -> "Word | None":
    """A text field for one word, None while it is empty. Raises ReaderError for a word without a token."""
    from engine.model.words import word

    text = view.text(name, label, default, limit=40, hint="castle")
    if not text:
        return None
    found = word(loaded or view.loaded, text)
    st.caption(markdown(found.sentence))
    return found
