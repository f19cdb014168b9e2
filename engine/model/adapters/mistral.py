"""Mistral (`transformers.models.mistral`): as Llama, with an attention that may be cut to a sliding window."""

from typing import Any

from engine.model.adapters.base import Adapter
from engine.model.adapters.llama import CONFIG, LAYER, PARTS


def window(config: Any) -> int | None:
    """Tokens that every layer's attention is cut to, the query's own included; None where it sees them all."""
    found: int | None = config.sliding_window
    return found


ADAPTER = Adapter(
    model_type="mistral",
    parts=PARTS,
    layer=LAYER,
    qkv="separate",
    config=CONFIG,
    norm="RMSNorm",
    positions="rotary",
    gated=True,
    window=window,
    neutral=frozenset({"attention_dropout", "sliding_window"}),
)
