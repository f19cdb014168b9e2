"""Changes to a forward pass, as values: pass them to `capture` and the shared model itself stays as it is."""

from dataclasses import dataclass
from typing import Literal

import torch

from engine import ReaderError
from engine.model.adapters import Spec

Sublayer = Literal["attention", "mlp"]


@dataclass(frozen=True)
class AblateHeads:
    """Set the outputs of the given (layer, head) pairs to zero before the output projection."""

    heads: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ZeroPositions:
    """Take the positions away: learned position vectors become zero; RoPE rotates by nothing."""


@dataclass(frozen=True)
class ShufflePositions:
    """Give every token the position of another one, by a permutation drawn from `seed`."""

    seed: int = 0

    def order(self, seq: int) -> torch.Tensor:
        """The permutation of positions, shape seq."""
        return torch.randperm(seq, generator=torch.Generator().manual_seed(self.seed))


@dataclass(frozen=True)
class SkipNorm:
    """Let the residual stream pass a normalisation unchanged: before attention, before the MLP, or the last."""

    which: Literal["attention", "mlp", "final"]
    layer: int | None = None


@dataclass(frozen=True)
class SkipAttention:
    """An attention sublayer adds nothing to the residual stream."""

    layer: int


@dataclass(frozen=True)
class SkipMlp:
    """An MLP adds nothing to the residual stream."""

    layer: int


@dataclass(frozen=True)
class DropResidual:
    """Cut the path around a sublayer: its output replaces the residual stream instead of being added to it.

    A parallel block has one path around both sublayers; it is named "attention" here.
    """

    layer: int
    around: Sublayer


@dataclass(frozen=True)
class NoCausalMask:
    """Let every token attend to later ones too."""


@dataclass(frozen=True)
class ClampNeuron:
    """Hold one MLP activation (after the non-linearity, times `up` in a gated MLP) at a value, at every position."""

    layer: int
    neuron: int
    value: float


@dataclass(frozen=True)
class KeepTopNeurons:
    """Keep only the k largest activations by magnitude at each position, in the given layers (None: in all)."""

    k: int
    layers: tuple[int, ...] | None = None


Intervention = (
    AblateHeads
    | ZeroPositions
    | ShufflePositions
    | SkipNorm
    | SkipAttention
    | SkipMlp
    | DropResidual
    | NoCausalMask
    | ClampNeuron
    | KeepTopNeurons
)


def check(interventions: tuple[Intervention, ...], spec: Spec) -> None:
    """Raise ReaderError for an intervention on a layer, head, neuron or path that the model does not have."""
    for item in interventions:
        layer: int | None = getattr(item, "layer", None)
        layers = [] if layer is None else [layer]
        if isinstance(item, AblateHeads):
            layers = [at for at, _ in item.heads]
            _inside("head", [head for _, head in item.heads], spec.n_head)
        if isinstance(item, KeepTopNeurons):
            layers = list(item.layers or ())
            if item.k < 0:
                raise ReaderError("The number of neurons to keep cannot be negative.")
        if isinstance(item, ClampNeuron):
            _inside("neuron", [item.neuron], spec.d_ff)
        if isinstance(item, SkipNorm) and (item.which == "final") != (item.layer is None):
            raise ReaderError("The final norm has no layer; the norms before attention and MLP need one.")
        if isinstance(item, SkipNorm) and item.which == "mlp" and spec.norms == "shared":
            raise ReaderError("One norm stands before both sublayers of this block; name “attention”.")
        if isinstance(item, NoCausalMask) and spec.own_mask:
            raise ReaderError(
                "Every attention layer of this architecture has its causal mask built in, so it cannot be left out."
            )
        if isinstance(item, DropResidual) and spec.parallel and item.around == "mlp":
            raise ReaderError(
                "A parallel block has one residual path around both sublayers; name “attention”."
            )
        _inside("layer", layers, spec.n_layer)


def _inside(name: str, numbers: list[int], count: int) -> None:
    for number in numbers:
        if not 0 <= number < count:
            raise ReaderError(f"This model has no {name} {number}; its last one is {count - 1}.")
