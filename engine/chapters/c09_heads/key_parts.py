"""A head's score of one key against others, as a sum over everything that wrote the keys' residual stream.

With the scale of the norm before attention held at the values it took, a key is an affine function of its stream: norm,
projection and RoPE. A score with a given query is then a sum over all that was added to the stream before (composition
of heads through their keys: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine import Loaded, ReaderError
from engine.chapters.c09_heads.naming import name
from engine.model import hooks
from engine.model.head import Head
from engine.model.matrices import matrix
from engine.model.trace import Trace
from engine.ops.heads import Floats, lead_of_induction, queries

EMBEDDING, POSITIONS, BIASES = "token embedding", "position embedding", "biases"


@dataclass(frozen=True)
class Part:
    """One writer of the residual stream, its kind, and its layer and head if it is a head."""

    name: str
    kind: str
    head: tuple[int, int] | None = None


@dataclass(frozen=True)
class KeyLedger:
    """The parts in the order in which they wrote, the amount of each, and what the head's own q and k give."""

    parts: tuple[Part, ...]
    amounts: Floats
    whole: float

    @property
    def remainder(self) -> float:
        """What the parts leave of the whole: rounding."""
        return self.whole - float(self.amounts.sum())


def key_ledger(one: Head) -> KeyLedger:
    """The mean lead of the induction key over a query's other keys on tokens read twice, split over its writers.

    Raises ReaderError where keys are no affine function of the stream, or heads have no writes of their own.
    """
    refuse(one)
    length = (one.seq - 1) // 2
    asked = lead_of_induction(length).T @ one.q[queries(length)].astype(np.float64) * one.scale / length
    weight, bias = one.projection("key")
    before = _before_rotation(one, asked)
    normed = before @ weight.T.astype(np.float64)  # seq, d_model
    parts = _written(one, _through_norm(one, normed))
    shift = one.loaded.part("attn_norm", one.layer)
    parts[Part(BIASES, "residual")] += float((before @ bias).sum() + (normed @ _bias(shift)).sum())
    whole = float((asked * one.k).sum())
    return KeyLedger(tuple(parts), np.array(list(parts.values()), np.float64), whole)


def refuse(one: Head) -> None:
    """Raises ReaderError for an architecture whose scores do not split so."""
    if one.loaded.spec.norms == "behind":
        raise ReaderError(
            f"{one.loaded.name} normalises what all heads of a layer write together before it is added to the "
            "residual stream, so a score has no part of one head."
        )
    if one.has_qk_norm:
        raise ReaderError(
            f"In {one.loaded.name} a second norm, after the projection, sets the size of each key; the split shown "
            "here holds the scale of one norm only."
        )


def _written(one: Head, direction: Floats) -> dict[Part, float]:
    """Each part's product with the direction (seq, d_model), the output projections' biases as the last part."""
    parts = _embedded(one.loaded, one.trace, direction)
    biases = 0.0
    for layer in range(one.layer):
        weight, bias = matrix(one.loaded.part("o_proj", layer), one.loaded.half)
        amounts = _by_head(one, layer, direction @ weight.T.astype(np.float64))
        for head, amount in enumerate(amounts.tolist()):
            parts[Part(name(layer, head), "attention", (layer, head))] = amount
        parts[Part(f"MLP {layer}", "mlp")] = float((direction * one.trace.mlp_out[layer]).sum())
        biases += float((direction @ bias).sum())
    return parts | {Part(BIASES, "residual"): biases}


def _embedded(loaded: Loaded, trace: Trace, direction: Floats) -> dict[Part, float]:
    start = trace.hidden[0].astype(np.float64)
    if loaded.spec.positions != "learned":
        return {Part(EMBEDDING, "embedding"): float((direction * start).sum())}
    table = loaded.part("positions").get_parameter("weight").detach()
    places = table[: len(start)].to("cpu", torch.float64).numpy()
    return {
        Part(EMBEDDING, "embedding"): float((direction * (start - places)).sum()),
        Part(POSITIONS, "token"): float((direction * places).sum()),
    }


def _by_head(one: Head, layer: int, direction: Floats) -> NDArray[np.float64]:
    """The amount of each head of a layer, from the direction before the output projection (seq, head·d_head)."""
    spec = one.loaded.spec
    values = np.repeat(one.trace.v[layer], spec.n_head // spec.n_kv_head, axis=0)
    outputs = one.trace.attention[layer] @ values  # head, seq, d_head
    amounts: NDArray[np.float64] = np.einsum(
        "hsd,shd->h", outputs, direction.reshape(one.seq, spec.n_head, spec.d_head)
    )
    return amounts


def _before_rotation(one: Head, asked: Floats) -> Floats:
    """The direction (seq, d_head) that gives with keys before RoPE what `asked` gives with them after it."""
    if not one.rotary:
        return asked
    model = one.loaded.model
    rotary = copy.deepcopy(one.loaded.part("rotary"))  # some keep what they were last asked
    places = torch.arange(one.seq, device=model.device)[None]
    cos, sin = rotary(torch.zeros(1, one.seq, 1, device=model.device), places)
    given = torch.tensor(asked, device=model.device)[None, None]
    _, back = hooks.rotate(one.loaded.part("attention", one.layer), given, given, cos, -sin)
    turned: Floats = back[0, 0].double().cpu().numpy()
    return turned


def _through_norm(one: Head, normed: Floats) -> Floats:
    """The direction (seq, d_model) in the stream that a direction behind the norm comes from, its scale held."""
    spec, stream = one.loaded.spec, one.trace.hidden[one.layer].astype(np.float64)
    if spec.centred:
        stream = stream - stream.mean(-1, keepdims=True)
    scale = np.sqrt((stream**2).mean(-1, keepdims=True) + spec.norm_eps)
    gain = one.loaded.part("attn_norm", one.layer).get_parameter("weight").detach()
    direction: Floats = normed * gain.to("cpu", torch.float64).numpy() / scale
    return direction - direction.mean(-1, keepdims=True) if spec.centred else direction


def _bias(norm: torch.nn.Module) -> NDArray[np.float64]:
    bias = getattr(norm, "bias", None)
    if bias is None:
        return np.zeros(norm.get_parameter("weight").shape[0])
    found: NDArray[np.float64] = bias.detach().to("cpu", torch.float64).numpy()
    return found
