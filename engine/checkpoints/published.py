"""Sizes of well-known models, from the configuration files and papers their makers published.

Nothing is loaded: parameters and bytes are computed from these dimensions with the same formulas that
the bundled checkpoints are checked against, where the true tensors can be counted.
"""

from dataclasses import dataclass
from typing import Literal

_HERD = (
    "The Llama 3 Herd of Models, arXiv:2407.21783, table 3; vocabulary: meta-llama/Llama-3.1-8B config.json"
)


@dataclass(frozen=True)
class Published:
    """One model's published dimensions; `source` says where they were published."""

    name: str
    source: str
    family: Literal["gpt2", "llama", "qwen2"]
    n_layer: int
    n_head: int
    n_kv_head: int
    d_model: int
    d_ff: int
    vocab: int
    tied: bool
    context: int

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_head

    @property
    def parameters(self) -> int:
        """All trained numbers, tied embeddings counted once."""
        return parameters(self)


MODELS = (
    Published(
        "GPT-2", "huggingface.co/openai-community/gpt2, config.json", "gpt2",
        12, 12, 12, 768, 3072, 50257, True, 1024,
    ),
    Published(
        "SmolLM2-135M", "huggingface.co/HuggingFaceTB/SmolLM2-135M, config.json", "llama",
        30, 9, 3, 576, 1536, 49152, True, 8192,
    ),
    Published(
        "Qwen2.5-0.5B", "huggingface.co/Qwen/Qwen2.5-0.5B, config.json", "qwen2",
        24, 14, 2, 896, 4864, 151936, True, 32768,
    ),
    Published("Llama-3.1-8B", _HERD, "llama", 32, 32, 8, 4096, 14336, 128256, False, 131072),
    Published("Llama-3.1-70B", _HERD, "llama", 80, 64, 8, 8192, 28672, 128256, False, 131072),
    Published("Llama-3.1-405B", _HERD, "llama", 126, 128, 8, 16384, 53248, 128256, False, 131072),
)  # fmt: skip


def sources() -> str:
    """Where all the sizes were published, in one line; models of one source together."""
    named: dict[str, list[str]] = {}
    for model in MODELS:
        named.setdefault(model.source, []).append(model.name)
    return "; ".join(f"{', '.join(names)}: {source}" for source, names in named.items())


def parameters(model: Published) -> int:
    """Trained numbers of a model: embeddings + layers · (attention + MLP + norms) + final norm.

    Biases: GPT-2 has them everywhere, Qwen2 on q, k and v, Llama nowhere.
    """
    return sum(parts(model).values())


def parts(model: Published) -> dict[str, int]:
    """Trained numbers by kind: embedding, positions, attention, mlp, norms, unembedding (0 when tied)."""
    d, kv, plain = model.d_model, model.n_kv_head * model.d_head, model.family == "gpt2"
    biases = {"gpt2": d + 2 * kv + d, "qwen2": d + 2 * kv, "llama": 0}[model.family]
    attention = 2 * d * d + 2 * d * kv + biases
    mlp = 2 * d * model.d_ff + model.d_ff + d if plain else 3 * d * model.d_ff
    norm = 2 * d if plain else d  # LayerNorm has a bias, RMSNorm has none
    return {
        "embedding": model.vocab * d,
        "positions": model.context * d if plain else 0,
        "attention": model.n_layer * attention,
        "mlp": model.n_layer * mlp,
        "norms": (2 * model.n_layer + 1) * norm,
        "unembedding": 0 if model.tied else model.vocab * d,
    }


def cache_bytes(n_layer: int, n_kv_head: int, d_head: int, tokens: int, bytes_per_number: float) -> float:
    """Bytes of a KV cache: 2 (a key and a value) · layers · kv_heads · d_head · tokens · bytes per number."""
    return 2 * n_layer * n_kv_head * d_head * tokens * bytes_per_number
