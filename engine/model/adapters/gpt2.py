"""GPT-2 (`transformers.models.gpt2`): learned positions, LayerNorm, fused Conv1D q/k/v, plain MLP."""

from engine.model.adapters.base import Adapter

ADAPTER = Adapter(
    model_type="gpt2",
    parts={
        "embedding": "transformer.wte",
        "positions": "transformer.wpe",
        "blocks": "transformer.h",
        "final_norm": "transformer.ln_f",
        "unembedding": "lm_head",
    },
    layer={
        "attn_norm": "ln_1",
        "attention": "attn",
        "qkv": "attn.c_attn",
        "o_proj": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp": "mlp",
        "up_proj": "mlp.c_fc",
        "down_proj": "mlp.c_proj",
    },
    qkv="split",
    config={
        "n_layer": "n_layer",
        "n_head": "n_head",
        "d_model": "n_embd",
        "d_ff": "n_inner",
        "context": "n_positions",
        "norm_eps": "layer_norm_epsilon",
        "activation": "activation_function",
    },
    norm="LayerNorm",
    positions="learned",
    transposed=True,
    neutral=frozenset(
        """n_ctx resid_pdrop embd_pdrop attn_pdrop summary_type summary_use_proj summary_activation
        summary_proj_to_labels summary_first_dropout""".split()
    ),
    fixed={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "reorder_and_upcast_attn": (False,),
        "add_cross_attention": (False,),
    },
)
