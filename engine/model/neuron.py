"""One neuron of one MLP in one forward pass: what all cards of chapter 3 start from."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from transformers.activations import ACT2FN

from engine import ReaderError
from engine.model.loaded import Loaded
from engine.model.matrices import apply, matrix
from engine.model.trace import Array, Trace
from engine.ops import neurons as ops


def checked_layer(loaded: Loaded, layer: int) -> int:
    """`layer` if the model has it; else ReaderError."""
    if not 0 <= layer < loaded.spec.n_layer:
        raise ReaderError(f"This model has no layer {layer}; its last one is {loaded.spec.n_layer - 1}.")
    return layer


def mlp_input(loaded: Loaded, trace: Trace, layer: int) -> Array:
    """What the MLP reads, (seq, d_model): the residual stream, behind the model's own norm if one stands there.

    In a sequential block the MLP reads the stream after attention has written; in a parallel one, the block's input.
    """
    stream = trace.hidden[checked_layer(loaded, layer)]
    if not loaded.spec.parallel:
        stream = stream + trace.attn_out[layer]
    return stream if loaded.spec.norms == "behind" else apply(loaded.part("mlp_norm", layer), stream)


def activation_name(loaded: Loaded) -> str:
    """The non-linearity's name for a reader."""
    return ops.NAMES.get(loaded.spec.activation, loaded.spec.activation)


def act(loaded: Loaded, z: Any) -> ops.Floats:
    """The model's non-linearity in float64: by its formula, or by transformers' function where none is here."""
    name = activation_name(loaded)
    return ops.FUNCTIONS[name](z) if name in ops.FUNCTIONS else theirs(loaded, z)


def theirs(loaded: Loaded, z: Any) -> ops.Floats:
    """The same by the function that transformers' models use."""
    import torch

    values: ops.Floats = ACT2FN[loaded.spec.activation](torch.tensor(np.asarray(z, np.float64))).numpy()
    return values


@dataclass(frozen=True, eq=False)
class Neuron:
    """Neuron `index` of the MLP of block `layer`. Raises ReaderError for one that the model does not have."""

    loaded: Loaded
    trace: Trace
    layer: int
    index: int

    def __post_init__(self) -> None:
        checked_layer(self.loaded, self.layer)
        if not 0 <= self.index < self.loaded.spec.d_ff:
            raise ReaderError(
                f"This model has no neuron {self.index}; its last one is {self.loaded.spec.d_ff - 1}."
            )

    @property
    def name(self) -> str:
        return f"layer {self.layer}, neuron {self.index}"

    @property
    def projections(self) -> tuple[str, ...]:
        """The matrices that have a column for this neuron: `up_proj`, and in a gated MLP `gate_proj` before it."""
        return ("gate_proj", "up_proj") if self.loaded.spec.gated else ("up_proj",)

    @property
    def activations(self) -> Array:
        """What the neuron passes on at every token, seq: act(z), or act(gate) · up. As the model computed it."""
        return self.trace.mlp_act[self.layer, :, self.index]

    @cached_property
    def entering(self) -> Array:
        """What the neuron reads, (seq, d_model)."""
        return mlp_input(self.loaded, self.trace, self.layer)

    def weights(self, projection: str) -> tuple[Array, float]:
        """The neuron's column of a projection, d_model, and its bias (0 where the layer has none)."""
        weight, bias = matrix(self.loaded.part(projection, self.layer), self.loaded.half)
        return weight[:, self.index], float(bias[self.index])

    def sums(self, projection: str) -> ops.Floats:
        """Weights × input + bias at every token, seq."""
        weight, bias = self.weights(projection)
        return ops.weighted_sum(self.entering, weight, bias)

    @cached_property
    def out(self) -> Array:
        """The direction in which the neuron writes to the residual stream: its row of W_down, d_model."""
        weight, _ = matrix(self.loaded.part("down_proj", self.layer), self.loaded.half)
        result: Array = weight[self.index]
        return result

    def position(self, at: int) -> int:
        """`at` if the prompt has that many tokens; else ReaderError."""
        if not 0 <= at < len(self.trace.tokens):
            raise ReaderError(f"The prompt has no token {at}; its last one is {len(self.trace.tokens) - 1}.")
        return at

    def quoted(self, at: int) -> str:
        """A token of the prompt in quotation marks, for titles."""
        return f"“{self.trace.tokens[at].display}”"
