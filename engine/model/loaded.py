"""A loaded checkpoint, as every other part of the engine sees it."""

import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from engine.model.adapters import Adapter, Spec
from engine.model.precisions import precision


@dataclass(frozen=True, eq=False)
class Loaded:
    """One checkpoint at one precision. Shared between readers: nothing may change `model`.

    name      what people call it: a listed name, a Hub id, or the last part of a path
    asked     the name it was asked for by, a whole path for one
    revision  which files they are: a commit of the Hub, "bundled", or the path of local ones
    source    what a *Code* script gives to from_pretrained; a path below the home folder begins with "~"
    half      the 16-bit type of everything that bitsandbytes does not quantize
    base      for a merged LoRA adapter, the source of the weights that it is merged into
    origin    one sentence where the weights are not those that were published; else empty
    """

    name: str
    revision: str
    precision: str
    device: str
    model: Any
    tokenizer: Any
    adapter: Adapter
    spec: Spec
    source: str
    half: torch.dtype
    base: str = ""
    asked: str = ""
    origin: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def part(self, name: str, layer: int | None = None) -> nn.Module:
        """A module by its adapter name: `part("final_norm")`, `part("mlp", 3)`. KeyError for an unknown name."""
        return self.adapter.module(self.model, name, layer)

    def path(self, name: str, layer: int | str | None = None) -> str:
        """Where a part is in the module tree, as `model.get_submodule` takes it; see `Adapter.path`."""
        return self.adapter.path(name, layer)

    def block(self, layer: int) -> nn.Module:
        """Transformer block number `layer`, 0 being the first."""
        return self.part("block", layer)

    @property
    def quantized(self) -> bool:
        """Whether bitsandbytes executes the linear layers inside the blocks."""
        return precision(self.precision).quantized

    @property
    def dtype(self) -> torch.dtype:
        """The type of every weight that is not quantized, and of the activations."""
        return float_dtype(self.precision, self.half)

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory: real storages of parameters, buffers and quantization state, each once."""
        return weight_bytes(self.model)


def float_dtype(name: str, half: torch.dtype) -> torch.dtype:
    """The type of the floats of a precision; `half` is the checkpoint's own 16-bit type."""
    named = precision(name).dtype
    found: torch.dtype = getattr(torch, named) if named else half
    return found


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all distinct storages behind a model's parameters, buffers and bitsandbytes states."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(model) if t.numel()
    }
    return sum(storages.values())


def tensors(model: nn.Module) -> list[torch.Tensor]:
    """Everything a model keeps in memory: parameters, buffers, and what bitsandbytes holds beside them."""
    held: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        held += _quantization_state(module, getattr(module, "weight", None))
    return held


def _quantization_state(module: nn.Module, weight: Any) -> list[torch.Tensor]:
    """Scales and code books that bitsandbytes keeps beside a quantized weight."""
    state = getattr(weight, "quant_state", None)
    found = [getattr(state, name, None) for name in ("absmax", "code", "offset")]
    nested = getattr(state, "state2", None)
    found += [getattr(nested, name, None) for name in ("absmax", "code")]
    int8 = getattr(module, "state", None)
    found += [getattr(int8, "CB", None), getattr(int8, "SCB", None)]
    found += [getattr(weight, "CB", None), getattr(weight, "SCB", None)]
    return [t for t in found if isinstance(t, torch.Tensor)]
