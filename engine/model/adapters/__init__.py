"""Architectures as data: where each part lives in the `transformers` module tree, and what its config may say.

To add one: add a file with an `ADAPTER`, add its name to `SUPPORTED`, and add its configs to `tests/test_parity.py`.
"""

from importlib import import_module

from engine import ReaderError
from engine.model.adapters.base import Adapter, Spec

SUPPORTED = (
    "gpt2",
    "llama",
    "qwen2",
    "qwen3",
    "gpt_neox",
    "mistral",
    "stablelm",
    "phi",
    "olmo2",
    "gpt_neo",
    "starcoder2",
)
"""The `model_type`s with an adapter."""

__all__ = ["SUPPORTED", "Adapter", "Spec", "adapter_for"]


def adapter_for(model_type: str) -> Adapter:
    """The adapter of a `model_type`. Raises ReaderError for a type that has none."""
    if model_type not in SUPPORTED:
        known = ", ".join(SUPPORTED)
        raise ReaderError(f"The architecture “{model_type}” is not supported; supported are {known}.")
    adapter: Adapter = import_module(f"engine.model.adapters.{model_type}").ADAPTER
    return adapter
