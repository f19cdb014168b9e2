"""When a neuron is active: over the reader's prompt, and over the sample text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.chapters.c03_neurons.survey import AFTER, BEFORE, Survey, windows
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.copies import private_copy, watched
from engine.evidence.oracles import mlp
from engine.evidence.oracles.order import at_ranks
from engine.evidence.passes import logits_of
from engine.evidence.rounding import same_pass
from engine.figures import chips
from engine.figures.axes import short
from engine.figures.neurons import Occurrence, concordance
from engine.model.capturing import tokens_of
from engine.model.loaded import Loaded
from engine.model.neuron import Neuron, activation_name
from engine.model.trace import Trace
from engine.ops import neurons as ops
from engine.tokens import passages
from engine.tokens.text import SPACE

HALF = 2.0**-10
"""Two roundings to float16, in which a survey keeps the values around an occurrence."""


def over_prompt(loaded: Loaded, trace: Trace, layer: int, neuron: int) -> Card:
    """One neuron's activation at every token of the prompt."""
    one = Neuron(loaded, trace, layer, neuron)
    acts, ids = one.activations.copy(), trace.ids
    tokens = [token.display for token in trace.tokens]
    signed = loaded.spec.gated or activation_name(loaded) == "tanh"
    strength = np.abs(acts) if signed else acts  # below zero, a neuron of another kind is off
    best = int(np.argmax(np.nan_to_num(strength)))
    return Card(
        key="over-prompt",
        title=f"In your prompt, {one.name} is strongest at {one.quoted(best)} (position {best}): "
        f"{short(float(acts[best]))}",
        alt="The prompt's tokens in reading order with the neuron's activation under each.",
        badge=Badge.LIVE,
        figure=chips(
            tokens,
            [short(float(v)) for v in acts],
            details=[
                f"{i} {text}: {float(v):.6g}" for i, (text, v) in enumerate(zip(tokens, acts, strict=True))
            ],
            colors=["mlp" if v > 0.3 * strength[best] else "token" for v in strength],
            columns=6 if len(acts) <= 48 else 10,
        ),
        table={"position": list(range(len(acts))), "token": tokens, "activation": acts.tolist()},
        shown={"activations": acts},
        oracle=Oracle(
            "What leaves the neuron's own projections in a private copy of the model, bent by transformers' own "
            "activation function.",
            lambda: {"activations": mlp.mlp_again(loaded, ids, layer).activations[:, neuron]},
            same_pass(acts),
        ),
        code=watched(loaded, ids, layer, "down_proj")
        + f'\nresult = {{"activations": took["down_proj"][:, {neuron}]}}\n',
        note="Coloured: more than 30 % of the strongest one"
        + (
            "’s magnitude." if loaded.spec.gated else ". Below zero a neuron of this model is as good as off."
        ),
    )


def top_tokens(
    loaded: Loaded, trace: Trace, found: Survey, layer: int, neuron: int, lowest: bool = False
) -> Card:
    """The tokens of the sample text at which a neuron is highest (or lowest), each in its context.

    `trace` is the reader's prompt: only the neuron's existence is checked with it.
    """
    one = Neuron(loaded, trace, layer, neuron)
    sign = int(lowest)
    values, places = found.values[sign, layer, neuron].copy(), found.places[sign, layer, neuron].tolist()
    rows = [_occurrence(loaded, found, sign, layer, neuron, i) for i in range(len(places))]
    names = [row.tokens[row.at] for row in rows]
    kinds = len({(name.strip(SPACE) or name).casefold() for name in names})
    end = "lowest" if lowest else "highest"
    cuts = windows(loaded, passages.sample())
    around = _known(found.around[sign, layer, neuron], places, cuts)
    return Card(
        key="top-tokens",
        title=f"Over the sample text, {one.name} is {end} at “{names[0]}” ({short(float(values[0]))}): "
        f"{kinds} different {'token' if kinds == 1 else 'tokens'} among its first {len(names)}",
        alt=f"{len(names)} lines of the sample text with the tokens marked at which the neuron is {end}.",
        badge=Badge.LIVE,
        figure=concordance(rows),
        table={
            "rank": list(range(1, len(rows) + 1)),
            "activation": values.tolist(),
            "token": names,
            "position in the text": places,
            "position in its window": [place % len(cuts[0]) for place in places],
            "context": ["".join(row.tokens) for row in rows],
        },
        shown={"activation": values, "position in the text": np.array(places), "around": around},
        oracle=Oracle(
            "The sample text read again by a private copy of the model: what leaves the neuron's own projections, bent "
            "by transformers' own activation function and sorted by torch.",
            lambda: _read_again(loaded, layer, neuron, places, -1 if lowest else 1, same_pass(values)),
            {
                "activation": same_pass(values),
                "position in the text": 0.0,
                "around": max(same_pass(around), HALF * float(np.abs(around).max(initial=0))),
            },
        ),
        code=_code(loaded, cuts, layer, neuron, len(names), lowest),
        numbers={"values": values},
        atol=same_pass(values),
        note=f"{found.counted:,} tokens of a tale written for this book, read in windows of {len(cuts[0])}; the first "
        "token of each window is left out. Tint: the same neuron's activation at the tokens around"
        f"{', negative ones in blue' if (np.nan_to_num(found.around[sign, layer, neuron]) < -0.2).any() else ''}.",
    )


def _occurrence(loaded: Loaded, found: Survey, sign: int, layer: int, neuron: int, i: int) -> Occurrence:
    at = int(found.places[sign, layer, neuron, i])
    around = found.around[sign, layer, neuron, i].astype(np.float64)
    around[BEFORE] = found.values[sign, layer, neuron, i]
    kept = [j for j in range(BEFORE + AFTER + 1) if 0 <= at - BEFORE + j < len(found.ids)]
    ids = [found.ids[at - BEFORE + j] for j in kept]
    tokens = [token.display for token in tokens_of(loaded, ids)]
    return Occurrence(tokens, around[kept].tolist(), kept.index(BEFORE))


def _known(around: NDArray[np.float16], places: list[int], cuts: Sequence[Sequence[int]]) -> ops.Floats:
    """The values around all occurrences one after the other, without those of other windows."""
    inside = [[at is not None for at in _context(place, cuts)] for place in places]
    values: ops.Floats = around.astype(np.float64)[np.array(inside)]
    return values


def _context(place: int, cuts: Sequence[Sequence[int]]) -> list[int | None]:
    """Where the tokens around one stand in its window; None where they would be in another window."""
    window, at = divmod(place, len(cuts[0]))
    near = range(at - BEFORE, at + AFTER + 1)
    return [i if 0 <= i < len(cuts[window]) else None for i in near]


@torch.no_grad()
def _read_again(
    loaded: Loaded, layer: int, neuron: int, given: list[int], sign: int, apart: float
) -> dict[str, Any]:
    """The `given` occurrences are kept where no other is stronger by more than `apart`."""
    cuts = windows(loaded, passages.sample())
    model, sums = private_copy(loaded), dict[str, list[torch.Tensor]]()
    for name in ("gate_proj", "up_proj") if loaded.spec.gated else ("up_proj",):
        own = sums.setdefault(name, [])
        model.get_submodule(loaded.path(name, layer)).register_forward_hook(
            lambda module, args, output, own=own: own.append(output[0, :, neuron].clone())
        )
    for cut in cuts:
        logits_of(model, cut)
    first, *rest = (torch.cat(parts) for parts in sums.values())
    acts = mlp.bend(loaded, first)
    acts = (acts * rest[0] if rest else acts).double().cpu()
    counted = acts.clone()
    counted[torch.tensor([0, *np.cumsum([len(cut) for cut in cuts])[:-1]])] = -sign * torch.inf
    places = at_ranks(given, sign * counted, apart)
    size = len(cuts[0])
    near = [
        acts[place - place % size + i]
        for place in places.tolist()
        for i in _context(place, cuts)
        if i is not None
    ]
    return {"activation": acts[places], "position in the text": places, "around": near}


def _code(
    loaded: Loaded, cuts: tuple[tuple[int, ...], ...], layer: int, neuron: int, count: int, lowest: bool
) -> str:
    sign = -1 if lowest else 1
    return (
        watched(loaded, cuts[0], layer, "down_proj")
        + "\nwindows = [\n"
        + "".join(f"    {list(window)},\n" for window in cuts)
        + f"""]
values = []
for window in windows:
    with torch.no_grad():
        model(torch.tensor([window]), use_cache=False)
    values.append(took["down_proj"][1:, {neuron}])  # the first token of a window is left out
values = torch.cat(values)
result = {{"values": {sign} * ({sign} * values).topk({count}).values}}
"""
    )
