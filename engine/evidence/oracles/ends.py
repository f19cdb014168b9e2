"""Both ends of the model once more: what transformers returns of the stream, and the logits that its end makes."""

from collections.abc import Hashable, Sequence

import torch
from torch.nn import functional as F

from engine.evidence.oracles.mlp import caught
from engine.model.loaded import Loaded

Tensor = torch.Tensor


def last_logits(loaded: Loaded, ids: Sequence[int]) -> Tensor:
    """Logits (vocab) after the last token, float32: the normalized stream that transformers returns, times the rows."""
    return logits_after(loaded, ids, -1)


@torch.no_grad()
def logits_after(loaded: Loaded, ids: Sequence[int], position: int) -> Tensor:
    """The same after the token at a position."""
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    end = (
        loaded.model(batch, output_hidden_states=True, use_cache=False).hidden_states[-1][0, position].float()
    )
    head = loaded.model.get_output_embeddings()
    parts = torch.cat([F.linear(end, rows.float()) for rows in head.weight.split(4096)])
    bias = getattr(head, "bias", None)
    return (parts if bias is None else parts + bias.float()).cpu()


@torch.no_grad()
def last_probabilities(loaded: Loaded, ids: Sequence[int]) -> Tensor:
    """Probabilities (vocab) after the last token, float64: torch's softmax of the logits that transformers returns."""
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    p: Tensor = loaded.model(batch, use_cache=False).logits[0, -1].float().double().softmax(-1).cpu()
    return p


@torch.no_grad()
def streams(loaded: Loaded, ids: Sequence[int]) -> Tensor:
    """The residual stream (layer+1, seq, d_model), float64, before block 0 and after every block.

    All but the last are returned by transformers; that one it returns only normalized, so torch's own hook on a private
    copy catches what the final norm reads.
    """
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    returned = loaded.model(batch, output_hidden_states=True, use_cache=False).hidden_states[:-1]
    end, _ = caught(loaded, ids, {"end": loaded.path("final_norm")})
    return torch.stack([states[0].to("cpu", torch.float64) for states in returned] + [_wide(end["end"])])


def writes(loaded: Loaded, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What attention and MLP add in every block, (layer, seq, d_model) each, by torch's hooks on a private copy."""
    layers, adapter = range(loaded.spec.n_layer), loaded.adapter
    attention, mlp = adapter.writes("attention"), adapter.writes("mlp")
    places: dict[Hashable, str] = {
        (part, layer): loaded.path(part, layer) for part in (attention, mlp) for layer in layers
    }
    _, left = caught(loaded, ids, places)
    added = [torch.stack([_wide(left[part, layer]) for layer in layers]) for part in (attention, mlp)]
    return added[0], added[1]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", torch.float64)
