"""OLMo 2 (`transformers.models.olmo2`): Llama's parts, a norm behind each sublayer, and one over all of q and of k."""

from engine.model.adapters.base import Adapter
from engine.model.adapters.llama import CONFIG, LAYER, PARTS

ADAPTER = Adapter(
    model_type="olmo2",
    parts=PARTS,
    layer=LAYER
    | {
        "q": "self_attn.q_norm",
        "k": "self_attn.k_norm",
        "attn_norm": "post_attention_layernorm",
        "mlp_norm": "post_feedforward_layernorm",
    },
    qkv="separate",
    config={name: attribute for name, attribute in CONFIG.items() if name != "d_head"},
    norm="RMSNorm",
    norms="behind",
    qk_norm="width",
    positions="rotary",
    gated=True,
    neutral=frozenset({"attention_dropout", "attention_bias"}),
)
