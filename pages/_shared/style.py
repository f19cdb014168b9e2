"""The only place with CSS."""

from pathlib import Path

import streamlit as st

_HERE = Path(__file__).parent


def apply(projector: bool) -> None:
    """Add the stylesheet, and the projector's on top of it."""
    st.html(_HERE / "page.css")
    if projector:
        st.html(_HERE / "projector.css")
