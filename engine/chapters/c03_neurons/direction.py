"""What a neuron writes: the tokens that its output direction promotes and suppresses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from engine import ReaderError
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.copies import matrix_lines, watched
from engine.evidence.oracles import mlp
from engine.evidence.oracles.order import at_ranks
from engine.evidence.rounding import same_pass
from engine.figures import bars
from engine.figures.axes import short
from engine.model.capturing import tokens_of
from engine.model.loaded import Loaded
from engine.model.neuron import Neuron
from engine.model.trace import Trace
from engine.ops.attention import extremes, length, through_final_norm
from engine.ops.neurons import selective

SHOWN = 7
"""Tokens promoted, and as many suppressed: a figure that fits on a projector."""


def per_unit(one: Neuron, position: int) -> NDArray[np.float64]:
    """What one unit of activation adds to every logit directly, relative to the vocabulary's mean; vocab.

    The neuron's row of W_down, through the final norm with its gain and with its scale held at `position`, times the
    unembedding.
    """
    stream = one.trace.hidden[-1, position]
    spec = one.loaded.spec
    if spec.norms == "behind":
        raise ReaderError(
            f"{one.loaded.name} normalises what all neurons of a layer write together before it is added to the "
            "residual stream, so there is no write of one neuron to show."
        )
    gain = _weight(one.loaded, "final_norm").numpy()
    held = through_final_norm(one.out, stream, gain, spec.norm_eps, spec.centred)
    logits: NDArray[np.float64] = held @ _weight(one.loaded, "unembedding").numpy().astype(np.float64).T
    result: NDArray[np.float64] = logits - logits.mean()
    return result


def longest(loaded: Loaded, trace: Trace, position: int) -> tuple[int, float]:
    """Of the selective neuron of every layer, the layer of the one that writes most at a token, and how much.

    The length of its write as a part of the length of the stream that leaves its block.
    """
    shares = []
    for layer in range(loaded.spec.n_layer):
        one = Neuron(loaded, trace, layer, selective(trace.mlp_act[layer], position))
        written = abs(float(one.activations[position])) * float(length(one.out))
        shares.append(written / (float(length(trace.hidden[layer + 1, position])) or 1.0))
    found = np.nan_to_num(shares)
    return int(found.argmax()), float(found.max())


def direction(loaded: Loaded, trace: Trace, layer: int, neuron: int, position: int) -> Card:
    """The tokens whose logits one unit of a neuron's activation raises and lowers most, directly."""
    one = Neuron(loaded, trace, layer, neuron)
    effect = per_unit(one, one.position(position))
    promoted, suppressed = extremes(effect, SHOWN)
    ids = [*promoted.tolist(), *suppressed.tolist()[::-1]]
    names = [token.display for token in tokens_of(loaded, ids)]
    shown, active = effect[ids], float(one.activations[position])
    read = trace.ids
    return Card(
        key="direction",
        title=f"One unit of activation of {one.name} raises “{names[0]}” most and lowers “{names[-1]}” most",
        alt=f"Bars of {len(names)} tokens: the largest effect of one unit on a logit is {shown[0]:+.3g}, the smallest "
        f"{shown[-1]:+.3g}.",
        badge=Badge.LIVE,
        figure=bars(
            names, shown, signed=True, value_name="effect of one unit on the logit", label_name="token"
        ),
        table={
            "id": ids,
            "token": names,
            "per unit of activation": shown.tolist(),
            f"at the focus token (activation {active:.4g})": (active * shown).tolist(),
        },
        shown={"id": ids, "per unit": shown, "activation": active},
        oracle=Oracle(
            "PyTorch's own norm on the residual stream of another run with and without this direction, brought back to "
            "one scale, and the difference of the logits; the activation by transformers' own function.",
            lambda: _again(loaded, read, layer, neuron, position, ids, same_pass(shown)),
            {"id": 0.0, "per unit": same_pass(shown), "activation": same_pass(active)},
        ),
        code=watched(loaded, trace.ids, layer, "down_proj").replace(
            "places = {", f"places = {{'final_norm': {loaded.path('final_norm')!r}, ", 1
        )
        + matrix_lines(loaded, "down_proj", "W_down")
        + _lines(loaded, neuron, position, ids),
        note=_note(one, position, active),
    )


def _note(one: Neuron, position: int, active: float) -> str:
    spec = one.loaded.spec
    centred = "mean taken out, " if spec.centred else ""
    flipped = (
        "; it is negative here, so what is raised and what is lowered change places" if active < 0 else ""
    )
    return (
        f"Row {one.index} of W_down (length {float(length(one.out)):.3g}): {centred}divided by the scale that the "
        f"final {spec.norm} measured at {one.quoted(position)}, times the norm's gain, times the unembedding; relative "
        f"to the mean of all {spec.vocab:,} logits. The neuron's activation there is {short(active)}, and the direct "
        f"effect is that many units{flipped}."
    )


def _weight(loaded: Loaded, name: str) -> torch.Tensor:
    weight: Any = loaded.part(name).weight
    tensor: torch.Tensor = weight.detach().float().cpu()
    return tensor


@torch.no_grad()
def _again(
    loaded: Loaded,
    read: Sequence[int],
    layer: int,
    neuron: int,
    position: int,
    given: list[int],
    apart: float,
) -> dict[str, Any]:
    """Logits (less the vocabulary's mean) with one unit more, minus those without, the scale held; and its token ids.

    The `given` ids are kept where no other token's logit changes more by over `apart`.
    """
    table, gain = _weight(loaded, "unembedding"), _weight(loaded, "final_norm").double()
    eps = loaded.spec.norm_eps
    plain = mlp.caught(loaded, read, {"norm": loaded.path("final_norm")})[0]["norm"][position].double().cpu()
    streams = (plain + mlp.weights(loaded, "down_proj", layer)[0][neuron], plain)
    if loaded.spec.centred:
        normed = [F.layer_norm(x, x.shape, gain, None, eps) for x in streams]
        scales = [(x.var(unbiased=False) + eps).sqrt() for x in streams]
    else:
        normed = [F.rms_norm(x, x.shape, gain, eps) for x in streams]
        scales = [(x.square().mean() + eps).sqrt() for x in streams]
    change = normed[0] * scales[0] / scales[1] - normed[1]
    every = (table @ change.float()).double()
    half = len(given) // 2
    ids = [*at_ranks(given[:half], every, apart), *at_ranks(given[: half - 1 : -1], -every, apart)[::-1]]
    active = mlp.mlp_again(loaded, read, layer).activations[position, neuron]
    return {"id": ids, "per unit": (table[ids] - table.mean(0)).double() @ change, "activation": active}


def _lines(loaded: Loaded, neuron: int, position: int, ids: list[int]) -> str:
    centre = "row, stream = row - row.mean(), stream - stream.mean()" if loaded.spec.centred else ""
    return f"""
row = W_down[{neuron}]  # d_model
stream = took["final_norm"][{position}]
{centre}
norm = model.get_submodule(places["final_norm"])
held = row / (stream.square().mean() + {loaded.spec.norm_eps}).sqrt() * norm.weight.detach().float()
effect = model.get_submodule({loaded.path("unembedding")!r}).weight.detach().float() @ held  # vocab
ids = {ids}
result = {{
    "id": ids,
    "per unit": (effect - effect.mean())[ids],
    "activation": took["down_proj"][{position}, {neuron}],
}}
"""
