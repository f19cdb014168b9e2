"""GPT-Neo (`transformers.models.gpt_neo`; TinyStories): GPT-2's parts, scores that are not scaled, local attention."""

from typing import Any

from engine.model.adapters.base import Adapter


def window(config: Any) -> int | None:
    """Tokens that the local layers' attention is cut to, the query's own included; None where all layers are global."""
    size: int = config.window_size
    return size if "local" in config.attention_layers else None


def exact(model: "Any") -> None:  # quoted, because scripts print this function
    """Let a private copy of a model compute in the dtype of its weights: its attention casts q and k to float32."""

    def attend(
        module: "Any", query: "Any", key: "Any", value: "Any", attention_mask: "Any" = None
    ) -> "tuple[Any, Any]":
        seen = module.bias[:, :, : query.shape[-2], : key.shape[-2]]
        weights = (query @ key.transpose(-1, -2)).masked_fill(~seen, float("-inf")).softmax(-1)
        return weights @ value, weights

    for part in [part for part in model.modules() if type(part).__name__ == "GPTNeoSelfAttention"]:
        part._attn = lambda *args, module=part: attend(module, *args)


ADAPTER = Adapter(
    model_type="gpt_neo",
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
        "q": "attn.attention.q_proj",
        "k": "attn.attention.k_proj",
        "v": "attn.attention.v_proj",
        "q_proj": "attn.attention.q_proj",
        "k_proj": "attn.attention.k_proj",
        "v_proj": "attn.attention.v_proj",
        "o_proj": "attn.attention.out_proj",
        "mlp_norm": "ln_2",
        "mlp": "mlp",
        "up_proj": "mlp.c_fc",
        "down_proj": "mlp.c_proj",
    },
    qkv="separate",
    config={
        "n_layer": "num_layers",
        "n_head": "num_heads",
        "d_model": "hidden_size",
        "d_ff": "intermediate_size",
        "context": "max_position_embeddings",
        "norm_eps": "layer_norm_epsilon",
        "activation": "activation_function",
    },
    norm="LayerNorm",
    positions="learned",
    scaled=False,
    own_mask=True,
    window=window,
    exact=exact,
    leftovers=(r"\.attn\.attention\.(masked_)?bias$",),  # the masks
    neutral=frozenset(
        """attention_dropout resid_dropout embed_dropout classifier_dropout attention_types attention_layers
        window_size""".split()
    ),
)
