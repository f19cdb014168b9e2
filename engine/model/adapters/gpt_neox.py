"""GPT-NeoX (`transformers.models.gpt_neox`; Pythia): partial RoPE, LayerNorm, attention and MLP in parallel."""

from engine.model.adapters.base import Adapter

ADAPTER = Adapter(
    model_type="gpt_neox",
    parts={
        "embedding": "gpt_neox.embed_in",
        "rotary": "gpt_neox.rotary_emb",
        "blocks": "gpt_neox.layers",
        "final_norm": "gpt_neox.final_layer_norm",
        "unembedding": "lm_head",
    },
    layer={
        "attn_norm": "input_layernorm",
        "attention": "attention",
        "qkv": "attention.query_key_value",
        "o_proj": "attention.dense",
        "mlp_norm": "post_attention_layernorm",
        "mlp": "mlp",
        "up_proj": "mlp.dense_h_to_4h",
        "down_proj": "mlp.dense_4h_to_h",
    },
    qkv="interleaved",
    config={
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "d_model": "hidden_size",
        "d_ff": "intermediate_size",
        "context": "max_position_embeddings",
        "norm_eps": "layer_norm_eps",
        "activation": "hidden_act",
        "parallel": "use_parallel_residual",
    },
    norm="LayerNorm",
    positions="rotary",
    partial=True,
    neutral=frozenset(
        """attention_dropout hidden_dropout classifier_dropout attention_bias rotary_pct rotary_emb_base
        is_decoder""".split()
    ),
)
