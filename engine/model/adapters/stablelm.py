"""StableLM (`transformers.models.stablelm`): as Llama, with partial RoPE and LayerNorm."""

from engine.model.adapters.base import Adapter
from engine.model.adapters.llama import CONFIG, LAYER, PARTS

ADAPTER = Adapter(
    model_type="stablelm",
    parts=PARTS,
    layer=LAYER,
    qkv="separate",
    config=CONFIG | {"norm_eps": "layer_norm_eps"},
    norm="LayerNorm",
    positions="rotary",
    gated=True,
    partial=True,
    neutral=frozenset({"attention_dropout", "hidden_dropout", "use_qkv_bias"}),
    fixed={"qk_layernorm": (False,), "use_parallel_residual": (False,)},
)
