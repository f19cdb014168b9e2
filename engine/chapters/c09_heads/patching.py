"""One text's residual stream patched into another's, place by place: where an answer is decided.

Activation patching as in Meng, Bau, Andonian and Belinkov 2022, “Locating and Editing Factual Associations in GPT”
(https://arxiv.org/abs/2202.05262), with a second text in place of noise; the share restored is the normalised logit
difference of Zhang and Nanda 2023, “Towards Best Practices of Activation Patching in Language Models: Metrics and
Methods” (https://arxiv.org/abs/2309.16042).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from engine import Loaded, ReaderError
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.copies import private_copy
from engine.evidence.oracles.patching import patched_again
from engine.evidence.rounding import WIDEST, logit_tolerance
from engine.evidence.script import preamble
from engine.figures import heatmap
from engine.model.cache import traced
from engine.model.capturing import token, tokenize, tokens_of
from engine.model.repeated import half_length, repeated_ids
from engine.model.trace import Trace
from engine.ops.heads import Floats
from engine.tokens.text import quoted, shorten

NAMES = (
    "When Mary and John went to the store, John gave a drink to",
    "When Mary and John went to the store, Mary gave a drink to",
)
"""After the example of Wang et al. 2022 (https://arxiv.org/abs/2211.00593), and the other name in the last place."""

LENGTH = 12
"""Random tokens of the first reading: few, so that every column of the figure can be read."""

LONGEST = 48
"""Tokens of a text at most: each layer runs as many texts at once as tokens may differ."""

APART = 0.5
"""Logits by which the two differences must lie apart, so that a share of the way between them means something."""

LEAST = 0.1
"""A patch that restores a smaller share restores next to nothing."""


@dataclass(frozen=True)
class Pair:
    """Two texts of one length as token ids; the stream of the `first` is patched into runs of the `second`."""

    first: tuple[int, ...]
    second: tuple[int, ...]

    @property
    def begin(self) -> int:
        """The first position at which they differ; no token before it can tell them apart."""
        return next(i for i, (a, b) in enumerate(zip(self.first, self.second, strict=True)) if a != b)


@dataclass(frozen=True, eq=False)
class Patched:
    """What the patches did.

    layers       rows: the blocks that the patched stream enters
    differences  the logit of the first text's answer minus that of the second's, after the first and the second text
    patched      the same after the second text with one vector of the first: (row, seq)
    """

    pair: Pair
    answers: tuple[int, int]
    layers: tuple[int, ...]
    differences: tuple[float, float]
    patched: Floats

    @property
    def nbytes(self) -> int:
        return 1000 + self.patched.nbytes + 16 * len(self.pair.first)

    @property
    def effects(self) -> Floats:
        """The share of the way from the second text's difference to the first's: (row, seq)."""
        first, second = self.differences
        return (self.patched - second) / (first - second)


def typed_pair(loaded: Loaded, first: str, second: str) -> Pair:
    """Two texts as a reader typed them. Raises ReaderError where they cannot be compared token by token."""
    ids = [tuple(one.id for one in tokenize(loaded, text)) for text in (first, second)]
    if ids[0] == ids[1]:
        raise ReaderError("Both texts are the same tokens; exchange a word in one of them.")
    if len(ids[0]) != len(ids[1]):
        raise ReaderError(
            f"The first text has {len(ids[0])} tokens and the second {len(ids[1])}; a patch needs as many in both."
        )
    if len(ids[0]) > LONGEST:
        raise ReaderError(f"These texts have {len(ids[0])} tokens, and at most {LONGEST} are patched here.")
    return Pair(*ids)


def random_pair(loaded: Loaded, seed: int) -> Pair:
    """Random tokens that begin a second time, and the same with the earlier occurrence of the last token exchanged.

    The last token is the first, counted from the middle, after which the model says what came after it the first time.
    Raises ReaderError where it does so after none.
    """
    length = min(LENGTH, half_length(loaded) - 1)
    start, *half = repeated_ids(loaded, seed)[: length + 2]
    other = half.pop()
    for last in sorted(range(length - 1), key=lambda i: abs(i - length // 2)):
        first = [start, *half, *half[: last + 1]]
        second = [*first[: last + 1], other, *first[last + 2 :]]
        pair = Pair(tuple(first), tuple(second))
        said, instead = _answers(loaded, pair)
        if said == half[last + 1] != instead:
            return pair
    raise ReaderError(
        f"{loaded.name} does not read these random tokens on when they begin again; try another seed, or another pair."
    )


def tells_names(loaded: Loaded) -> bool:
    """Whether the model ends the text about the store with the name that is missing, in both versions."""
    try:
        pair = typed_pair(loaded, *NAMES)
    except ReaderError:
        return False
    swapped = pair.second[pair.begin], pair.first[pair.begin]
    return _answers(loaded, pair) == swapped


def _answers(loaded: Loaded, pair: Pair) -> tuple[int, int]:
    """The likeliest next token after each of the two."""
    one, other = (int(traced(loaded, ids).logits[-1].argmax()) for ids in (pair.first, pair.second))
    return one, other


def steps(loaded: Loaded, every: int) -> tuple[int, ...]:
    """Each `every`-th block from the first on, and the last one."""
    count = loaded.spec.n_layer
    return tuple(sorted({*range(0, count, every), count - 1}))


def patch(
    loaded: Loaded, pair: Pair, layers: Sequence[int], told: Callable[[float, str], None] = lambda *_: None
) -> Patched:
    """Every patch of every token, layer by layer, all of a layer in one pass; `told` hears how far it is.

    Raises ReaderError where both texts get the same answer, or nearly.
    """
    whole, broken = traced(loaded, pair.first), traced(loaded, pair.second)
    answers = _answers(loaded, pair)
    if answers[0] == answers[1]:
        said = quoted(token(loaded, answers[0]).display)
        raise ReaderError(f"Both texts get the same answer, {said}, so there is nothing to bring back.")
    first, second = (_difference(trace.logits[-1], answers) for trace in (whole, broken))
    if not first - second > APART:
        raise ReaderError(
            "The two texts' answers are so near to each other that no patch can tell them apart."
        )
    rows = []
    for done, layer in enumerate(layers):
        told(done / len(layers), f"Patching layer {layer}")
        rows.append(_patched_layer(loaded, pair, whole, layer, answers, second))
    return Patched(pair, answers, tuple(layers), (first, second), np.stack(rows))


def _difference(logits: Any, answers: tuple[int, int]) -> float:
    return float(logits[answers[0]]) - float(logits[answers[1]])


@torch.no_grad()
def _patched_layer(
    loaded: Loaded, pair: Pair, whole: Trace, layer: int, answers: tuple[int, int], unpatched: float
) -> Floats:
    """The difference after a patch of each token, seq. Before the texts differ, a patch replaces a vector by itself."""
    places = range(pair.begin, len(pair.first))
    model = private_copy(loaded)
    clean = torch.tensor(whole.hidden[layer])

    def replace(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stream = (args[0] if args else kwargs["hidden_states"]).clone()  # a text for each place, seq, d_model
        for row, place in enumerate(places):
            stream[row, place] = clean[place].to(stream)
        return ((stream, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": stream})

    model.get_submodule(loaded.path("block", layer)).register_forward_pre_hook(replace, with_kwargs=True)
    batch = torch.tensor([list(pair.second)] * len(places), device=model.device)
    logits = model(input_ids=batch, use_cache=False, logits_to_keep=1).logits[:, -1].double().cpu()
    result: Floats = np.full(len(pair.first), unpatched, np.float64)
    result[pair.begin :] = (logits[:, answers[0]] - logits[:, answers[1]]).numpy()
    return result


def patching(loaded: Loaded, found: Patched) -> Card:
    """The effect of each patch by layer and token, with the two answers and what restores the first."""
    pair, effects = found.pair, found.effects
    first, second = found.differences
    answers = [quoted(shorten(token(loaded, id).display)) for id in found.answers]
    off = 2 * logit_tolerance(loaded)
    share = min(WIDEST, 4 * logit_tolerance(loaded) / (first - second))
    return Card(
        key="patching",
        title=_title(loaded, found),
        alt="Heat map of layers by tokens: the share of the first text's answer that comes back when this one vector "
        "of the first text's residual stream is patched into the second text's run.",
        badge=Badge.LIVE,
        figure=heatmap(
            effects,
            [str(layer) for layer in found.layers],
            _columns(loaded, pair),
            kind="diverging",
            limit=max(1.0, float(np.abs(np.nan_to_num(effects)).max())),
            row_name="layer",
            column_name="token",
            value_name="share restored",
        ),
        table={
            "layer": np.repeat(found.layers, len(pair.first)).tolist(),
            "position": np.tile(np.arange(len(pair.first)), len(found.layers)).tolist(),
            "token": _columns(loaded, pair) * len(found.layers),
            "share restored": effects.ravel().tolist(),
        },
        shown={"effects": effects, "answers": found.answers, "differences": found.differences},
        oracle=Oracle(
            "Each vector by itself: one pass for each layer and token, with a torch hook that puts the hidden state "
            "transformers returns for the first text in its place; answers and differences from the model's returned "
            "logits. Where both texts have the same hidden state, the effect has to be 0.",
            lambda: patched_again(loaded, pair.first, pair.second, found.layers, found.answers),
            {"effects": share, "answers": 0.0, "differences": off},
        ),
        code=preamble(loaded, pair.second) + _code(loaded, found),
        note=f"The first text ends in favour of {answers[0]}: its logit lies {first:.2f} above that of {answers[1]}. "
        f"After the second text it lies {-second:.2f} below. 0 is the second text's difference, 1 the first's. The "
        "residual stream is patched where it enters a layer; layer 0 reads the embeddings."
        + (f" Patched layers: {', '.join(map(str, found.layers))}." if _gaps(found) else ""),
    )


def _columns(loaded: Loaded, pair: Pair) -> list[str]:
    """The tokens, and both of them where the texts differ."""
    return [
        f"{i} {a.display}" if a.id == b.id else f"{i} {b.display}→{a.display}"
        for i, (a, b) in enumerate(
            zip(tokens_of(loaded, pair.first), tokens_of(loaded, pair.second), strict=True)
        )
    ]


def _title(loaded: Loaded, found: Patched) -> str:
    """Which token's patch restores most, in runs of layers."""
    effects = np.nan_to_num(found.effects, nan=-np.inf)
    best = [int(row.argmax()) if row.max() >= LEAST else None for row in effects]
    runs = [
        (place, [layer for layer, _ in run])
        for place, run in groupby(zip(found.layers, best, strict=True), key=lambda pair: pair[1])
    ]
    names, last = tokens_of(loaded, found.pair.first), len(found.pair.first) - 1
    some = "patched " if _gaps(found) else ""  # the layers between them are not known

    def said(place: int | None, layers: list[int]) -> str:
        where = f"layer {layers[0]}" if len(layers) == 1 else f"{some}layers {layers[0]} to {layers[-1]}"
        if place is None:
            return f"no token in {where}"
        which = "the last token" if place == last else f"token {place}"
        return f"{which}, {quoted(shorten(names[place].display))}, in {where}"

    shown = [said(*run) for run in runs]
    listed = "; ".join(shown if len(shown) <= 4 else [*shown[:2], "…", shown[-1]])
    answer = quoted(shorten(token(loaded, found.answers[0]).display))
    return f"The patch that brings {answer} back most is that of {listed}"


def _gaps(found: Patched) -> bool:
    return len(found.layers) < found.layers[-1] - found.layers[0] + 1


def _code(loaded: Loaded, found: Patched) -> str:
    return _CODE.format(
        first=list(found.pair.first),
        layers=list(found.layers),
        path=loaded.path("block", "{layer}"),
    )


_CODE = """\
clean, layers = torch.tensor([{first}]), {layers}


def last_logits(tokens, layer=None, place=None, vector=None):
    def replace(module, args, kwargs):
        stream = (args[0] if args else kwargs["hidden_states"]).clone()  # batch, seq, d_model
        stream[0, place] = vector
        return ((stream, *args[1:]), kwargs) if args else (args, kwargs | {{"hidden_states": stream}})

    hooks = []
    if layer is not None:
        block = model.get_submodule(f"{path}")
        hooks = [block.register_forward_pre_hook(replace, with_kwargs=True)]
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits[0, -1].double()
    for hook in hooks:
        hook.remove()
    return logits


with torch.no_grad():
    streams = model(clean, output_hidden_states=True).hidden_states
one, other = last_logits(clean), last_logits(ids)
yes, no = int(one.argmax()), int(other.argmax())
top, bottom = (float(logits[yes] - logits[no]) for logits in (one, other))
begin = int((clean != ids)[0].nonzero()[0])  # up to here a patch changes nothing
effects = torch.zeros(len(layers), ids.shape[1], dtype=torch.float64)
for row, layer in enumerate(layers):
    for place in range(begin, ids.shape[1]):
        logits = last_logits(ids, layer, place, streams[layer][0, place])
        effects[row, place] = (float(logits[yes] - logits[no]) - bottom) / (top - bottom)
result = {{"effects": effects, "answers": [yes, no], "differences": [top, bottom]}}
"""
