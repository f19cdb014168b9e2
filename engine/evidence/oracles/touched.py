"""What a forward pass reads of a model's weights, watched operation by operation beneath transformers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Touched(TorchDispatchMode):
    """Notes the storage of every tensor that an operation is given, those aside that a look-up takes rows from."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.embedding.default:
            given = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, torch.Tensor)]
            self.storages |= {t.untyped_storage().data_ptr() for t in given}
        return func(*args, **(kwargs or {}))


def held(model: Any) -> dict[int, int]:
    """Storage -> bytes of a model's parameters and of what bitsandbytes keeps beside them."""
    kept = list(model.parameters())
    for module in model.modules():
        weight = getattr(module, "weight", None)
        state = getattr(weight, "quant_state", None)
        places = (
            (state, ("absmax", "code", "offset")),
            (getattr(state, "state2", None), ("absmax", "code")),
            (getattr(module, "state", None), ("CB", "SCB")),
            (weight, ("CB", "SCB")),
        )
        kept += [getattr(place, name, None) for place, names in places for name in names]
    tensors = [t for t in kept if isinstance(t, torch.Tensor) and t.numel()]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


@torch.no_grad()
def weights_read(model: Any, ids: Sequence[int]) -> int:
    """Bytes of the weights that the operations of one pass over `ids` are given, each storage once."""
    with Touched() as seen:
        model(torch.tensor([list(ids)], device=model.device), use_cache=False)
    return sum(size for storage, size in held(model).items() if storage in seen.storages)
