"""The parts of a loaded model: where they are, what shapes they have, and how many trained numbers."""

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from engine.model.loaded import Loaded

EQUATIONS = {
    "embedding": "x = E[token]",
    "positions": "x ← x + P[position]",
    "attn_norm": "n = norm(x) · g",
    "attention": "a = concat(softmax(q kᵀ / √d_head) v) W_O",
    "unscaled attention": "a = concat(softmax(q kᵀ) v) W_O",
    "mlp_norm": "n = norm(x + a) · g",
    "mlp": "m = act(n W_up) W_down",
    "gated mlp": "m = (act(n W_gate) · (n W_up)) W_down",
    "final_norm": "n = norm(x) · g",
    "unembedding": "logits = n W_Uᵀ",
}


@dataclass(frozen=True)
class Weight:
    """One trained tensor: its name in the checkpoint and its shape as trained (not as a quantizer packs it)."""

    name: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Part:
    """One part of the model. `tied` weights are another part's: they are shown but not counted again."""

    name: str
    title: str
    equation: str
    weights: tuple[Weight, ...]
    tied: bool = False

    @property
    def count(self) -> int:
        return 0 if self.tied else sum(weight.count for weight in self.weights)


def model_parts(loaded: Loaded) -> list[Part]:
    """Everything outside the blocks, in the order in which the prompt meets it."""
    names = ["embedding", "positions"] if loaded.spec.positions == "learned" else ["embedding"]
    parts = [_part(loaded, name) for name in (*names, "final_norm")]
    end = _part(loaded, "unembedding")
    return [*parts, Part(end.name, end.title, end.equation, end.weights, tied=loaded.spec.tied)]


def block_parts(loaded: Loaded, layer: int) -> list[Part]:
    """The parts of one block in their order: norm, attention, norm, MLP where each has a norm before it."""
    return [_part(loaded, name, layer) for name in BLOCK[loaded.spec.norms]]


def total(loaded: Loaded) -> int:
    """All trained numbers, tied ones once."""
    blocks = sum(part.count for layer in range(loaded.spec.n_layer) for part in block_parts(loaded, layer))
    return blocks + sum(part.count for part in model_parts(loaded))


def _part(loaded: Loaded, name: str, layer: int | None = None) -> Part:
    weights = _weights(loaded.part(name, layer), loaded.path(name, layer))
    titles = TITLES | NORM_TITLES[loaded.spec.norms]
    return Part(name, titles[name].format(norm=loaded.spec.norm), _equation(loaded, name), tuple(weights))


def _equation(loaded: Loaded, name: str) -> str:
    spec = loaded.spec
    if name == "mlp" and spec.gated:
        name = "gated mlp"
    if name == "attention" and not spec.scaled:
        name = "unscaled attention"
    if name in NORM_TITLES["behind"] and spec.norms == "behind":
        return f"{(letter := 'a' if name == 'attn_norm' else 'm')} ← norm({letter}) · g"
    return EQUATIONS["attn_norm" if name == "mlp_norm" and spec.parallel else name]


BLOCK = {
    "before": ("attn_norm", "attention", "mlp_norm", "mlp"),
    "behind": ("attention", "attn_norm", "mlp", "mlp_norm"),
    "shared": ("attn_norm", "attention", "mlp"),
}
"""The parts of a block from the bottom to the top, by where its norms stand."""

TITLES = {
    "embedding": "Token embedding",
    "positions": "Position embedding",
    "attention": "Attention",
    "mlp": "MLP",
    "final_norm": "Final {norm}",
    "unembedding": "Unembedding",
}


NORM_TITLES = {
    "before": {"attn_norm": "{norm} before attention", "mlp_norm": "{norm} before the MLP"},
    "behind": {"attn_norm": "{norm} behind attention", "mlp_norm": "{norm} behind the MLP"},
    "shared": {"attn_norm": "{norm} before attention and MLP"},
}


def _weights(module: nn.Module, path: str) -> list[Weight]:
    found = []
    for name, child in module.named_modules():
        for weight, tensor in child.named_parameters(recurse=False):
            full = ".".join(part for part in (path, name, weight) if part)
            found.append(Weight(full, _shape(child, weight, tensor)))
    return found


def _shape(module: Any, name: str, tensor: Any) -> tuple[int, ...]:
    """The trained shape: bitsandbytes stores 4-bit codes in one long column."""
    if name == "weight" and isinstance(module, nn.Linear) and not isinstance(module, Conv1D):
        return (module.out_features, module.in_features)
    return tuple(tensor.shape)
