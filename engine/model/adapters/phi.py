"""Phi-1, Phi-1.5 and Phi-2 (`transformers.models.phi`): partial RoPE, attention and MLP in parallel behind one norm."""

from engine.model.adapters.base import Adapter

ADAPTER = Adapter(
    model_type="phi",
    parts={
        "embedding": "model.embed_tokens",
        "rotary": "model.rotary_emb",
        "blocks": "model.layers",
        "final_norm": "model.final_layernorm",
        "unembedding": "lm_head",
    },
    layer={
        "attn_norm": "input_layernorm",
        "attention": "self_attn",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "q_proj": "self_attn.q_proj",
        "k_proj": "self_attn.k_proj",
        "v_proj": "self_attn.v_proj",
        "o_proj": "self_attn.dense",
        "mlp_norm": "input_layernorm",
        "mlp": "mlp",
        "up_proj": "mlp.fc1",
        "down_proj": "mlp.fc2",
    },
    qkv="separate",
    config={
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_kv_head": "num_key_value_heads",
        "d_model": "hidden_size",
        "d_ff": "intermediate_size",
        "context": "max_position_embeddings",
        "norm_eps": "layer_norm_eps",
        "activation": "hidden_act",
    },
    norm="LayerNorm",
    norms="shared",
    positions="rotary",
    partial=True,
    neutral=frozenset({"attention_dropout", "resid_pdrop", "embd_pdrop"}),
    fixed={"qk_layernorm": (False,)},
)
