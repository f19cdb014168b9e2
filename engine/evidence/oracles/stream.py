"""The residual stream once more: what transformers returns of it, what was written into it, and what a logit owes."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import nn

from engine.evidence.copies import private_copy
from engine.evidence.oracles.attentions import streams_and_writes
from engine.evidence.oracles.embedding import position_rows, rows
from engine.evidence.oracles.mlp import caught
from engine.evidence.passes import returned_logits
from engine.model.loaded import Loaded

Tensor = torch.Tensor


@torch.no_grad()
def streams(loaded: Loaded, ids: Sequence[int]) -> list[Tensor]:
    """The stream that enters each block and the one that leaves the last, (seq, d_model) each in float64.

    transformers returns the last one behind the final norm, so a private copy does without that norm.
    """
    model = private_copy(loaded)
    model.set_submodule(loaded.path("final_norm"), nn.Identity())
    batch = torch.tensor([list(ids)], device=model.device)
    out: Any = model(batch, output_hidden_states=True, use_cache=False)
    return [state[0].to("cpu", torch.float64) for state in out.hidden_states]


def attention_writes(loaded: Loaded, ids: Sequence[int]) -> list[Tensor]:
    """What attention adds to the stream in each block, (seq, d_model), from returned weights and cached values."""
    return [write.double() for _, write in streams_and_writes(loaded, ids)]


def mlp_writes(loaded: Loaded, ids: Sequence[int]) -> list[Tensor]:
    """What the MLP adds to the stream in each block, (seq, d_model), as it leaves a private copy's module."""
    return list(_left(loaded, ids, "mlp"))


def shares_of_logit(loaded: Loaded, ids: Sequence[int], position: int, token: int) -> dict[str, Any]:
    """A logit, and what it loses when one part is taken out of the last stream and the final norm's scale is held.

    "amounts": the embedding, a learned position, attention and MLP of each block, and what is left without a stream.
    """
    parts = [rows(loaded, [ids[position]])[0]]
    if loaded.spec.positions == "learned":
        parts.append(position_rows(loaded, position + 1)[-1])
    for both in zip(_left(loaded, ids, "attention"), _left(loaded, ids, "mlp"), strict=True):
        parts += [write[position] for write in both]
    last = streams(loaded, ids)[-1][position]
    readout = _frozen(loaded, last, token)
    whole, nothing = readout(last), readout(torch.zeros_like(last))
    amounts = [float(whole - readout(last - part)) for part in parts]
    return {"amounts": [*amounts, float(nothing)], "logit": returned_logits(loaded, ids)[position, token]}


def _left(loaded: Loaded, ids: Sequence[int], part: Any) -> list[Tensor]:
    """What leaves the writing end of a sublayer in each block, (seq, d_model) in float64."""
    places: dict[Hashable, str] = {
        layer: loaded.path(loaded.adapter.writes(part), layer) for layer in range(loaded.spec.n_layer)
    }
    _, left = caught(loaded, ids, places)
    return [left[layer].to("cpu", torch.float64) for layer in places]


def _frozen(loaded: Loaded, stream: Tensor, token: int) -> Callable[[Tensor], Tensor]:
    """The final norm and the unembedding of one token in float64, with the scale that the norm takes at a stream."""
    norm: Any = loaded.part("final_norm")
    unembedding: Any = loaded.model.get_output_embeddings()
    gain, row = (x.detach().to("cpu", torch.float64) for x in (norm.weight, unembedding.weight[token]))
    shift, bias = (getattr(norm, "bias", None), unembedding.bias)

    def centred(x: Tensor) -> Tensor:
        return x - x.mean() if loaded.spec.centred else x

    scale = (centred(stream).square().mean() + loaded.spec.norm_eps).sqrt()

    def readout(x: Tensor) -> Tensor:
        normed = centred(x) / scale * gain
        if shift is not None:
            normed = normed + shift.detach().to("cpu", torch.float64)
        logit: Tensor = normed @ row
        return logit if bias is None else logit + float(bias[token])

    return readout
