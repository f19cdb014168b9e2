"""When a neuron is active: over the reader's prompt, and over the sample text."""

import numpy as np

from engine.cards.attention.evidence import gap
from engine.cards.neurons.evidence import hooked, watched
from engine.cards.neurons.neuron import Neuron
from engine.cards.neurons.survey import AFTER, BEFORE, Survey, windows
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.rounding import tolerance
from engine.figures import chips
from engine.figures.axes import short
from engine.figures.neurons import Occurrence, concordance
from engine.model.capturing import tokens_of
from engine.model.loading import Loaded
from engine.model.trace import Trace
from engine.tokens import passages


def over_prompt(loaded: Loaded, trace: Trace, layer: int, neuron: int) -> Card:
    """One neuron's activation at every token of the prompt."""
    one = Neuron(loaded, trace, layer, neuron)
    acts = one.activations
    tokens = [token.display for token in trace.tokens]
    best = int(np.argmax(np.abs(np.nan_to_num(acts))))
    atol = tolerance(loaded, acts)
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
            colors=["mlp" if abs(v) > 0.3 * abs(acts[best]) else "token" for v in acts],
        ),
        table={"position": list(range(len(acts))), "token": tokens, "activation": acts.tolist()},
        prove=lambda: Proof(
            "Every activation, against what enters the down projection of a private copy of the model.",
            gap(acts, hooked(loaded, trace.ids, layer, "down_proj")["down_proj"][:, neuron]),
            atol,
        ),
        code=watched(loaded, trace.ids, layer, "down_proj")
        + f'\nresult = {{"activations": took["down_proj"][:, {neuron}]}}\n',
        numbers={"activations": acts},
        atol=atol,
        note="Coloured: more than 30 % of the strongest one's magnitude.",
    )


def top_tokens(
    loaded: Loaded, trace: Trace, found: Survey, layer: int, neuron: int, lowest: bool = False
) -> Card:
    """The tokens of the sample text at which a neuron is highest (or lowest), each in its context.

    `trace` is the reader's prompt: only the neuron's existence is checked with it.
    """
    one = Neuron(loaded, trace, layer, neuron)
    sign = int(lowest)
    values, places = found.values[sign, layer, neuron], found.places[sign, layer, neuron].tolist()
    rows = [_occurrence(loaded, found, sign, layer, neuron, i) for i in range(len(places))]
    names = [row.tokens[row.at] for row in rows]
    kinds = len({name.strip("·").casefold() for name in names})
    end = "lowest" if lowest else "highest"
    atol = tolerance(loaded, values)
    cuts = windows(loaded, passages.sample())
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
            "context": ["".join(row.tokens) for row in rows],
        },
        prove=lambda: _proof(loaded, found, values, places, layer, neuron, atol),
        code=_code(loaded, cuts, layer, neuron, len(names), lowest),
        numbers={"values": values},
        atol=atol,
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


def _proof(
    loaded: Loaded, found: Survey, values: np.ndarray, places: list[int], layer: int, neuron: int, atol: float
) -> Proof:
    """The first and the last occurrence again, each in its window, by a private copy of the model."""
    cuts, worst = windows(loaded, passages.sample()), 0.0
    size = len(cuts[0])
    for rank in {0, len(places) - 1}:
        window, at = divmod(places[rank], size)
        seen = hooked(loaded, cuts[window], layer, "down_proj")["down_proj"][:, neuron]
        beyond = (seen[1:] - seen[at]).max() if values[0] >= values[-1] else (seen[at] - seen[1:]).max()
        worst = float(np.max([worst, gap(seen[at], values[rank]), beyond if rank == 0 else 0.0]))
    return Proof(
        "The first and the last of these activations, against a private copy of the model with a forward hook; and no "
        "token in the first one's window exceeds it.",
        worst,
        atol,
    )


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
