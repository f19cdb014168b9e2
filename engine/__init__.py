"""See inside a language model: load a checkpoint, capture a forward pass, compute on what it left behind.

Importing this package is cheap: torch and transformers come in with the first attribute that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.capturing import capture, tokenize
    from engine.errors import ReaderError
    from engine.loading import Loaded, load
    from engine.trace import Token, Trace

__all__ = ["Loaded", "ReaderError", "Token", "Trace", "capture", "load", "tokenize"]

_HOME = {
    "Loaded": "engine.loading",
    "ReaderError": "engine.errors",
    "Token": "engine.trace",
    "Trace": "engine.trace",
    "capture": "engine.capturing",
    "load": "engine.loading",
    "tokenize": "engine.capturing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
