"""The two architectures of the bundled pair, built from transformers' own classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

ARCHITECTURES = ("gpt2", "llama")


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; ``kv_heads`` and ``d_ff`` concern llama only (GPT-2 has 4 × d_model and no groups)."""

    vocab: int = 8192
    layers: int = 6
    d_model: int = 320
    heads: int = 10
    kv_heads: int = 2
    d_ff: int = 896
    context: int = 512


def gpt2_config(shape: Shape) -> GPT2Config:
    """GPT-2: learned positions, LayerNorm, GELU (tanh), multi-head attention; no dropout."""
    return GPT2Config(
        vocab_size=shape.vocab,
        n_positions=shape.context,
        n_embd=shape.d_model,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


def llama_config(shape: Shape) -> LlamaConfig:
    """Llama: RoPE, RMSNorm, SwiGLU, grouped-query attention, tied embeddings."""
    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.d_model // shape.heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def build(arch: str, shape: Shape, seed: int) -> PreTrainedModel:
    """A freshly initialised fp32 model; the weights depend on ``seed`` alone.

    Raises ValueError for an architecture other than gpt2 and llama.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"Unknown architecture {arch!r}: choose one of {', '.join(ARCHITECTURES)}.")
    # transformers initialises from torch's global stream; it is put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if arch == "gpt2":
            return GPT2LMHeadModel(gpt2_config(shape))
        return LlamaForCausalLM(llama_config(shape))


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(matrices inside the blocks, everything else): what Muon takes and what AdamW takes.

    Embeddings are matrices too, but their rows are looked up one by one, so orthogonalising their update is
    not what one wants (Jordan 2024, Muon).
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        in_block = ".h." in name or ".layers." in name
        (matrices if in_block and parameter.ndim == 2 else others).append(parameter)
    return matrices, others
