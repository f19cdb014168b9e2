"""What a head would add to logits if it looked at one token alone, by the model's own modules and PyTorch's norms."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from engine.evidence.copies import private_copy
from engine.evidence.oracles.head import head_again
from engine.evidence.passes import logits_of
from engine.model.head import Head

Tensor = torch.Tensor


@torch.no_grad()
def effects_again(one: Head, places: Sequence[int]) -> Tensor:
    """Rows: the tokens at `places`, whose value the head would write; columns: what that adds to their logits.

    Relative to the vocabulary's mean, at the last position: its logits with the write and without it, with the norm's
    scale held at what it is without.
    """
    spec = one.loaded.spec
    writes, stream = _writes(one, head_again(one).value[list(places)]), _last_stream(one)
    gain, table = (
        one.loaded.part(name).get_parameter("weight").detach().cpu().double()
        for name in ("final_norm", "unembedding")
    )
    normed, scales = [], []
    for x in (stream + writes, stream[None]):
        if spec.centred:
            normed.append(F.layer_norm(x, x.shape[-1:], gain, None, spec.norm_eps))
            scales.append((x.var(-1, unbiased=False, keepdim=True) + spec.norm_eps).sqrt())
        else:
            normed.append(F.rms_norm(x, x.shape[-1:], gain, spec.norm_eps))
            scales.append((x.square().mean(-1, keepdim=True) + spec.norm_eps).sqrt())
    moved = normed[0] * scales[0] / scales[1] - normed[1]
    rows = table[[one.trace.ids[i] for i in places]] - table.mean(0)
    return moved @ rows.T


def _writes(one: Head, values: Tensor) -> Tensor:
    """What the output projection's own module makes of values (n, d_head) in the head's place, without its bias."""
    d_head = one.loaded.spec.d_head
    module = one.loaded.part("o_proj", one.layer)
    width = one.loaded.spec.n_head * d_head
    joined = torch.zeros(len(values) + 1, width)
    joined[:-1, one.index * d_head : (one.index + 1) * d_head] = values.float()
    parameter = next(module.parameters())
    half = one.loaded.half if one.loaded.quantized else parameter.dtype
    answered: Tensor = module(joined.to(parameter.device, half)[None])[0].cpu().double()
    return answered[:-1] - answered[-1]


def _last_stream(one: Head) -> Tensor:
    """The residual stream that enters the final norm at the last position of a new run."""
    model, seen = private_copy(one.loaded), dict[str, Tensor]()

    def keep(module: Any, args: tuple[Tensor, ...]) -> None:
        seen["stream"] = args[0][0, -1].detach().cpu().double()

    model.get_submodule(one.loaded.path("final_norm")).register_forward_pre_hook(keep)
    logits_of(model, one.trace.ids)
    stream: Tensor = seen["stream"]
    return stream
