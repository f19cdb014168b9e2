"""MLPs once more: what enters and leaves their projections, caught by torch's hooks on a private copy of the model."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from engine.evidence.copies import private_copy
from engine.evidence.passes import logits_of
from engine.model.loaded import Loaded

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class MlpAgain:
    """One MLP in a new run, float64.

    read         what its projections read, (seq, d_model)
    sums         what leaves each projection, (seq, d_ff); "gate_proj" comes before "up_proj" where there is one
    activations  these sums bent by transformers' own function, times up in a gated MLP, (seq, d_ff)
    """

    read: Tensor
    sums: dict[str, Tensor]
    activations: Tensor


def mlp_again(loaded: Loaded, ids: Sequence[int], layer: int) -> MlpAgain:
    """The MLP of one block."""
    return mlps_again(loaded, ids, [layer])[0]


@torch.no_grad()
def mlps_again(loaded: Loaded, ids: Sequence[int], layers: Sequence[int]) -> list[MlpAgain]:
    """The MLPs of some blocks, in one run. What is bent is bent in the type in which the model bends it."""
    names = ("gate_proj", "up_proj") if loaded.spec.gated else ("up_proj",)
    places: dict[Hashable, str] = {
        (name, layer): loaded.path(name, layer) for name in names for layer in layers
    }
    entered, left = caught(loaded, ids, places)
    found = []
    for layer in layers:
        sums = {name: left[name, layer] for name in names}
        bent = bend(loaded, sums[names[0]])
        acts = bent * sums["up_proj"] if loaded.spec.gated else bent
        found.append(
            MlpAgain(_wide(entered[names[0], layer]), {n: _wide(s) for n, s in sums.items()}, _wide(acts))
        )
    return found


def caught(
    loaded: Loaded, ids: Sequence[int], places: Mapping[Hashable, str]
) -> tuple[dict[Hashable, Tensor], dict[Hashable, Tensor]]:
    """What enters and what leaves some modules in a run of a private copy, (seq, width), as the model has it."""
    model = private_copy(loaded)
    entered, left = dict[Hashable, Tensor](), dict[Hashable, Tensor]()

    def watch(name: Hashable) -> Callable[..., None]:
        def hook(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            entered[name], left[name] = args[0][0].detach().clone(), output[0].detach().clone()

        return hook

    for name, place in places.items():
        model.get_submodule(place).register_forward_hook(watch(name))
    logits_of(model, ids)
    return entered, left


def bend(loaded: Loaded, sums: Tensor) -> Tensor:
    """The model's non-linearity by the function that transformers has for its name; same shape and type."""
    bent: Tensor = ACT2FN[loaded.spec.activation](sums)
    return bent


@torch.no_grad()
def weights(loaded: Loaded, name: str, layer: int) -> tuple[Tensor, Tensor]:
    """(W, b) of a projection x·W + b in float64: (inputs, outputs) and outputs, straight from the stored tensors.

    A quantized layer stores codes: its rows are what it answers to the unit vectors.
    """
    module: Any = loaded.part(name, layer)
    stored = module.weight
    bias = module.bias
    if stored.is_floating_point():
        matrix = stored if isinstance(module, Conv1D) else stored.T
        added = bias if bias is not None else torch.zeros(matrix.shape[1])
        return _wide(matrix), _wide(added)
    units = torch.eye(module.in_features, dtype=loaded.half, device=stored.device)
    added = _wide(bias) if bias is not None else torch.zeros(module.out_features, dtype=torch.float64)
    return _wide(module(units)) - added, added


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)
