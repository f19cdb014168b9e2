"""StarCoder2 (`transformers.models.starcoder2`): Llama's attention with biases, LayerNorm, an MLP without a gate."""

from engine.model.adapters.base import Adapter
from engine.model.adapters.llama import CONFIG, LAYER, PARTS
from engine.model.adapters.mistral import window

ADAPTER = Adapter(
    model_type="starcoder2",
    parts=PARTS,
    layer={name: path for name, path in LAYER.items() if name != "gate_proj"}
    | {"up_proj": "mlp.c_fc", "down_proj": "mlp.c_proj"},
    qkv="separate",
    config={name: attribute for name, attribute in CONFIG.items() if name != "d_head"}
    | {"norm_eps": "norm_epsilon"},
    norm="LayerNorm",
    positions="rotary",
    window=window,
    neutral=frozenset("attention_dropout residual_dropout embedding_dropout use_bias sliding_window".split()),
)
