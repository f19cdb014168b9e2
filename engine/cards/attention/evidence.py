"""What the figures of this chapter are compared with, and how exactly they have to agree."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional as F

from engine.cards.attention.head import Head


def gap(ours: ArrayLike, theirs: ArrayLike) -> float:
    """max |Δ|; NaN when either side holds a NaN."""
    return float(np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max(initial=0))


@torch.no_grad()
def returned_weights(head: Head) -> NDArray[np.float32]:
    """This head's softmax weights (query, key) as a new run of the model returns them to any caller."""
    ids = torch.tensor([head.trace.ids], device=head.loaded.model.device)
    returned = head.loaded.model(input_ids=ids, output_attentions=True, use_cache=False).attentions
    weights: NDArray[np.float32] = returned[head.layer][0, head.index].to("cpu", torch.float32).numpy()
    return weights


def pytorch_weights(head: Head, *, causal: bool = True, scaled: bool = True) -> NDArray[np.float32]:
    """Softmax weights (query, key) from PyTorch's own attention: over the unit vectors it returns its weights."""
    return _pytorch_attention(head, torch.eye(head.seq), causal, scaled)


def pytorch_output(head: Head) -> NDArray[np.float32]:
    """The head's output (query, d_head) from PyTorch's own attention of the captured q, k and v."""
    return _pytorch_attention(head, torch.tensor(head.v), True, True)


def _pytorch_attention(head: Head, values: torch.Tensor, causal: bool, scaled: bool) -> NDArray[np.float32]:
    q, k = torch.tensor(head.q), torch.tensor(head.k)
    factor = 1 / math.sqrt(q.shape[-1]) if scaled else 1.0
    attended: NDArray[np.float32] = F.scaled_dot_product_attention(
        q[None], k[None], values[None], is_causal=causal, scale=factor
    )[0].numpy()
    return attended
