"""Qwen3 (`transformers.models.qwen3`): as Llama, with an RMSNorm on each head's q and k before RoPE."""

from engine.model.adapters.base import Adapter
from engine.model.adapters.llama import CONFIG, LAYER, PARTS

ADAPTER = Adapter(
    model_type="qwen3",
    parts=PARTS,
    layer=LAYER | {"q": "self_attn.q_norm", "k": "self_attn.k_norm"},
    qkv="separate",
    config=CONFIG,
    norm="RMSNorm",
    positions="rotary",
    gated=True,
    qk_norm="head",
    neutral=frozenset(
        {"attention_dropout", "attention_bias", "max_window_layers", "sliding_window", "layer_types"}
    ),
    fixed={"use_sliding_window": (False,)},
)
