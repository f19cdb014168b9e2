"""One attention head once more: hidden states and attention from transformers, the rest from weights with torch."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from engine.model import hooks
from engine.model.head import PARTS, Head, Part

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class HeadAgain:
    """A head's arrays in float64.

    read      what all projections read, (seq, d_model)
    before    query, key and value (seq, d_head) as they leave projection and q/k-norm, before RoPE
    query, key, value   (seq, d_head) as the dot product uses them
    returned  query, key: the softmax weights that transformers returns
    scale     what q·k is multiplied by
    """

    read: Tensor
    before: dict[Part, Tensor]
    query: Tensor
    key: Tensor
    value: Tensor
    returned: Tensor
    scale: float

    @property
    def dots(self) -> Tensor:
        """q·k of every query and key, neither scaled nor masked; (query, key)."""
        return self.query @ self.key.T

    @property
    def scores(self) -> Tensor:
        """Scaled scores before the mask, (query, key)."""
        return self.dots * self.scale

    def weights(self, *, causal: bool = True, scaled: bool = True) -> Tensor:
        """Softmax weights (query, key) by PyTorch's own attention, which over the unit vectors returns its weights."""
        return self._attended(torch.eye(len(self.query), dtype=torch.float64), causal, scaled)

    @property
    def output(self) -> Tensor:
        """The head's output (query, d_head) by PyTorch's own attention."""
        return self._attended(self.value, True, True)

    def _attended(self, values: Tensor, causal: bool, scaled: bool) -> Tensor:
        scale = self.scale if scaled else 1.0
        q, k, v = (x[None] for x in (self.query, self.key, values))
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)[0]


@torch.no_grad()
def head_again(one: Head) -> HeadAgain:
    """All of a head from the ids: the stream that transformers returns, then norm, x·W + b, q/k-norm and RoPE."""
    model = one.loaded.model
    ids = torch.tensor([one.trace.ids], device=model.device)
    out = model(ids, output_hidden_states=True, output_attentions=True, use_cache=False)
    streams = np.stack([states[0].float().cpu().numpy() for states in out.hidden_states])
    witness = Head(one.loaded, replace(one.trace, hidden=streams), one.layer, one.index)
    x = torch.tensor(witness.normed(), dtype=torch.float64)
    before: dict[Part, Tensor] = {}
    for part in PARTS:
        weight, bias = (torch.tensor(array, dtype=torch.float64) for array in witness.projection(part))
        before[part] = torch.tensor(witness.finish((x @ weight + bias).numpy(), part), dtype=torch.float64)
    q, k = _turned(one, before["query"], before["key"]) if one.rotary else (before["query"], before["key"])
    returned = out.attentions[one.layer][0, one.index].double().cpu()
    return HeadAgain(x, before, q, k, before["value"], returned, one.scale)


def _turned(one: Head, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """RoPE by the model's own rotary module and function."""
    device = one.loaded.model.device
    places = torch.arange(one.seq, device=device)[None]
    cos, sin = one.loaded.part("rotary")(torch.zeros(1, one.seq, 1, device=device), places)
    first, second = (x.float().to(device)[None, None] for x in (q, k))
    turned = hooks.rotate(one.loaded.part("attention", one.layer), first, second, cos, sin)
    new_q, new_k = (x[0, 0].double().cpu() for x in turned)
    return new_q, new_k
