"""Llama (`transformers.models.llama`; SmolLM2 too): RoPE, RMSNorm, SwiGLU, grouped-query attention."""

from engine.model.adapters.base import Adapter

PARTS = {
    "embedding": "model.embed_tokens",
    "rotary": "model.rotary_emb",
    "blocks": "model.layers",
    "final_norm": "model.norm",
    "unembedding": "lm_head",
}

LAYER = {
    "attn_norm": "input_layernorm",
    "attention": "self_attn",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj",
    "mlp_norm": "post_attention_layernorm",
    "mlp": "mlp",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
}

CONFIG = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "d_model": "hidden_size",
    "d_head": "head_dim",
    "d_ff": "intermediate_size",
    "context": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "activation": "hidden_act",
}

ADAPTER = Adapter(
    model_type="llama",
    parts=PARTS,
    layer=LAYER,
    qkv="separate",
    config=CONFIG,
    norm="RMSNorm",
    positions="rotary",
    gated=True,
    neutral=frozenset({"attention_dropout", "attention_bias", "mlp_bias", "pretraining_tp"}),
)
