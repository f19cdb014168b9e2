"""Qwen2 and Qwen2.5 (`transformers.models.qwen2`): as Llama, with biases on q, k and v."""

from engine.model.adapters.base import Adapter
from engine.model.adapters.llama import CONFIG, LAYER, PARTS

ADAPTER = Adapter(
    model_type="qwen2",
    parts=PARTS,
    layer=LAYER,
    qkv="separate",
    config=CONFIG,
    norm="RMSNorm",
    positions="rotary",
    gated=True,
    neutral=frozenset({"attention_dropout", "max_window_layers", "sliding_window", "layer_types"}),
    fixed={"use_sliding_window": (False,), "use_mrope": (False,)},
)
