"""The residual ledger: one logit as a sum over everything that was ever added to the residual stream.

With the final norm's scale held at the value it took, the map from the residual stream to a logit is affine, so the
logit splits exactly over the stream's parts (direct logit attribution; Elhage et al. 2021, "A Mathematical
Framework for Transformer Circuits").
"""

from dataclasses import dataclass

import numpy as np
import torch

from engine.model.loaded import Loaded
from engine.model.trace import Array, Trace


@dataclass(frozen=True)
class Ledger:
    """Parts of one logit, in order: names, kinds ("embedding", "attention", "mlp", "bias") and signed amounts.

    `logit` is what the model returned; `remainder` is logit minus the sum, rounding and nothing else.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    amounts: Array
    logit: float

    @property
    def remainder(self) -> float:
        return self.logit - float(self.amounts.astype(np.float64).sum())


def ledger(loaded: Loaded, trace: Trace, position: int, token_id: int) -> Ledger:
    """Split the logit of `token_id` at `position` over embedding, positions, every attention, every MLP, and biases."""
    direction, constant = affine(loaded, trace.hidden[-1, position], token_id)
    rows = _rows(loaded, trace, position)
    amounts = [float(vector.astype(np.float64) @ direction) for _, _, vector in rows]
    return Ledger(
        (*tuple(name for name, _, _ in rows), "biases of norm and unembedding"),
        (*tuple(kind for _, kind, _ in rows), "bias"),
        np.array([*amounts, constant], dtype=np.float64).astype(np.float32),
        float(trace.logits[position, token_id]),
    )


def _rows(loaded: Loaded, trace: Trace, position: int) -> list[tuple[str, str, Array]]:
    """(name, kind, vector) of everything that was added to the stream at one position; vectors of d_model."""
    start = trace.hidden[0, position]
    if loaded.spec.positions == "learned":
        place = positional_row(loaded, position)
        rows = [("token embedding", "embedding", start - place), ("position embedding", "token", place)]
    else:
        rows = [("token embedding", "embedding", start)]
    for layer in range(loaded.spec.n_layer):
        rows.append((f"attention {layer}", "attention", trace.attn_out[layer, position]))
        rows.append((f"MLP {layer}", "mlp", trace.mlp_out[layer, position]))
    return rows


@torch.no_grad()
def positional_row(loaded: Loaded, position: int) -> Array:
    """The learned position vector, shape d_model."""
    table = loaded.part("positions").weight
    assert isinstance(table, torch.Tensor)
    row: Array = table[position].to("cpu", torch.float32).numpy()
    return row


@torch.no_grad()
def affine(loaded: Loaded, stream: Array, token_id: int) -> tuple[np.ndarray, float]:
    """(direction, constant) with logit = stream · direction + constant, the norm's scale frozen at this stream.

    LayerNorm subtracts the mean and divides by the standard deviation, RMSNorm divides by the root mean square;
    both then multiply by a gain. float64, direction of shape d_model.
    """
    norm, unembedding = loaded.part("final_norm"), loaded.part("unembedding")
    row = _double(unembedding.weight)[token_id]
    gain, x = _double(norm.weight), stream.astype(np.float64)
    weighted = row * gain
    if loaded.spec.centred:
        weighted = (
            weighted - weighted.mean()
        )  # subtracting the mean of x is projecting it out of the direction
        scale = np.sqrt(x.var() + loaded.spec.norm_eps)
    else:
        scale = np.sqrt((x**2).mean() + loaded.spec.norm_eps)
    bias = getattr(norm, "bias", None)
    constant = 0.0 if bias is None else float(row @ _double(bias))
    if getattr(unembedding, "bias", None) is not None:
        constant += float(_double(unembedding.bias)[token_id])
    return weighted / scale, constant


def _double(tensor: object) -> np.ndarray:
    assert isinstance(tensor, torch.Tensor)
    array: np.ndarray = tensor.detach().to("cpu", torch.float64).numpy()
    return array
