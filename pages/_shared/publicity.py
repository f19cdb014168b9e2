"""Whether this is a public copy: Streamlit's secrets are asked too, and what cannot be read counts as yes."""

import os
from collections.abc import Mapping
from typing import Any

import streamlit as st

from engine.checkpoints.catalogue import asks_for_public, make_public

NAME = "ANATOMY_PUBLIC"


def look() -> None:
    """Make the process public if the secrets ask for it. Call it before anything of a page is decided.

    Streamlit puts only some of the secrets into the environment, and takes them out again when their file changes.
    """
    if _asked():
        make_public()


def _asked() -> bool:
    try:
        return _says(st.secrets.to_dict())
    except Exception:  # no file at all, or one that nobody can read: a slip of a key must not open a server
        return any(os.path.lexists(path) for path in st.get_option("secrets.files"))


def _says(secrets: Mapping[str, Any]) -> bool:
    """Whether the name stands in the secrets, at the top or in any section, with a value that means yes."""
    return any(
        _says(value) if isinstance(value, Mapping) else name.upper() == NAME and asks_for_public(value)
        for name, value in secrets.items()
    )
