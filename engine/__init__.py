"""See inside a language model: load a checkpoint, capture a forward pass, compute on what it left behind.

Importing this package is cheap: torch and transformers come in with the first attribute that needs them.
"""

import gc
import os
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.model.capturing import capture, tokenize
    from engine.model.loaded import Loaded
    from engine.model.loading import load
    from engine.model.trace import Trace
    from engine.tokens.token import Token

__all__ = ["Loaded", "ReaderError", "Token", "Trace", "capture", "load", "tokenize", "warm"]

_HOME = {
    "Loaded": "engine.model.loaded",
    "Token": "engine.tokens.token",
    "Trace": "engine.model.trace",
    "capture": "engine.model.capturing",
    "load": "engine.model.loading",
    "tokenize": "engine.model.capturing",
}


# Before torch: threads that wait for the others sleep instead of spinning, which on busy cores costs tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Before torch: bitsandbytes asks it to compile what some processors may need. Nothing here is ever compiled, and
# getting ready for it takes a second in which every reader waits.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

_LATE = (
    "pandas",
    "pyarrow",
    "torch",
    "torch.nn.functional",
    "torch.func",
    "safetensors.torch",
    "tokenizers",
    "huggingface_hub",
    "jinja2.sandbox",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "plotly.graph_objects",
    "plotly.subplots",
    "plotly.io",
)
_late = threading.Lock()
_warm = False


def warm() -> None:
    """Import the libraries that are imported late, once, before two threads do it at the same time.

    Python gives a half-imported module to a thread that would otherwise wait for ever: the modules of pandas, plotly
    and transformers import one another in circles.

    No garbage is collected meanwhile: there is none, and each walk through what is there takes longer than the last.
    """
    global _warm
    if _warm:
        return
    with _late:
        collecting = gc.isenabled()
        gc.disable()
        try:
            for name in _LATE:
                import_module(name)
        finally:
            if collecting:
                gc.enable()
        _warm = True


class ReaderError(Exception):
    """Something the reader can act on. The message is one plain sentence and is shown on the page as it is."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
