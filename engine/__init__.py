"""See inside a language model: load a checkpoint, capture a forward pass, compute on what it left behind.

Importing this package is cheap: torch and transformers come in with the first attribute that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.model.capturing import capture, tokenize
    from engine.model.loaded import Loaded
    from engine.model.loading import load
    from engine.model.trace import Trace
    from engine.tokens.token import Token

__all__ = ["Loaded", "ReaderError", "Token", "Trace", "capture", "load", "tokenize"]

_HOME = {
    "Loaded": "engine.model.loaded",
    "Token": "engine.tokens.token",
    "Trace": "engine.model.trace",
    "capture": "engine.model.capturing",
    "load": "engine.model.loading",
    "tokenize": "engine.model.capturing",
}


class ReaderError(Exception):
    """Something the reader can act on. The message is one plain sentence and is shown on the page as it is."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
