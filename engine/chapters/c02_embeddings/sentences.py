"""One word in sentences that use it in two senses: how alike its vectors are after every block.

Compared with different tokens of the same sentences, because vectors of one layer may all point alike
(Ethayarajh 2019, arXiv:1909.00512); and once more without the mean vector, which is what they have in common.
"""

import re
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn import functional as F

from engine import ReaderError
from engine.chapters.c02_embeddings.matrix import quoted, signed
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.ends import streams
from engine.evidence.rounding import same_pass
from engine.evidence.script import script
from engine.figures import lines
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops.embeddings import Float, unit
from engine.tokens.text import clean_prompt, plural, shorten

SAME, OTHER, DIFFERENT = "the same sense", "the other sense", "different tokens"
COLORS = {SAME: "residual", OTHER: "mlp", DIFFERENT: "token"}

MOST = 4
"""Sentences of a sense that are read at most."""

FIRST = 1
"""Tokens at the start of a sentence that do not count in the mean vector of a layer."""

Place = tuple[int, int]
"""A sentence, and a position in it."""


def find(trace: Trace, word: str) -> int:
    """Position of the token that ends the last occurrence of a whole word. Raises ReaderError if there is none."""
    wanted = clean_prompt(word, 60).strip().encode("utf-8")
    if not wanted:
        raise ReaderError("Please give a word that is in all sentences.")
    starts = np.cumsum([0, *(len(token.bytes) for token in trace.tokens)])
    text = b"".join(token.bytes for token in trace.tokens)
    found = list(re.finditer(rb"(?<!\w)" + re.escape(wanted) + rb"(?!\w)", text))
    if not found:
        shown = shorten(word.strip(), 30)
        raise ReaderError(
            f"“{shown}” is not in every sentence (of this one the first {len(trace.tokens)} tokens are read)."
        )
    return int(np.searchsorted(starts, found[-1].end(), side="left")) - 1


def senses(loaded: Loaded, one: Sequence[Trace], other: Sequence[Trace], word: str) -> list[Card]:
    """The vectors as they are, and without the mean vector where the sentences have enough tokens for one."""
    counted = {id for trace in (*one, *other) for id in trace.ids[FIRST:]}
    kinds = (False, True) if len(counted) > 1 else (False,)
    return [drift(loaded, one, other, word, centred) for centred in kinds]


def drift(
    loaded: Loaded, one: Sequence[Trace], other: Sequence[Trace], word: str, centred: bool = False
) -> Card:
    """Mean cosines between the vectors of a word, within two groups of sentences and between them, after every block.

    `centred`: the mean vector of each layer is subtracted first, over all tokens but the `FIRST` of each sentence.
    Raises ReaderError where a sentence does not have the word, or where there is none of a group.
    """
    if not one or not other:
        raise ReaderError("Please write at least one sentence for each sense.")
    traces = [*one, *other]
    places = [find(trace, word) for trace in traces]
    within, across = _pairs(places, len(one))
    streams = [trace.hidden.astype(np.float64) for trace in traces]  # sentence: layer+1, seq, d_model
    mean = (
        np.concatenate([stream[:, FIRST:] for stream in streams], 1).mean(1, keepdims=True)
        if centred
        else 0.0
    )
    units = [unit(stream - mean) for stream in streams]
    found = {SAME: _mean(units, within), OTHER: _mean(units, across), DIFFERENT: _different(traces, units)}
    shown = {name: values for name, values in found.items() if values is not None}
    depths = np.arange(len(shown[OTHER]))
    read = [trace.ids for trace in traces]
    return Card(
        key="centred" if centred else "drift",
        title=_title(
            word.strip(),
            {name: (float(v[0]), float(v[-1])) for name, v in shown.items()},
            depths[-1],
            centred,
        ),
        alt="Lines over the blocks passed: the mean cosine between the word’s vectors in sentences of "
        + ", ".join(shown)
        + (", without the mean vector of each layer." if centred else "."),
        badge=Badge.LIVE,
        figure=lines(depths, shown, colors=COLORS, x_name="blocks passed", y_name="cosine, mean", zero=True),
        table={"blocks passed": depths.tolist(), **{name: values.tolist() for name, values in shown.items()}},
        shown=shown,
        oracle=Oracle(
            "torch’s cosine_similarity of the hidden states that transformers returns, for every pair of the word’s "
            "vectors and of different tokens"
            + (", torch’s mean of the layer subtracted" if centred else "")
            + "; after the last block, which it returns only normalized, of what the final norm reads in a private "
            "copy. (The same model twice: this finds a wrong vector or cosine, not a wrong model.)",
            lambda: _again(loaded, read, places, len(one), centred),
            same_pass(),
        ),
        code=_code(loaded, read, places, len(one), list(shown), centred),
        note=_note(traces, places, len(within), len(across), centred),
    )


def _pairs(places: Sequence[int], count: int) -> tuple[list[tuple[Place, Place]], list[tuple[Place, Place]]]:
    """Pairs of the word's places within the first `count` sentences and within the rest, and from one to the other."""
    spots = list(enumerate(places))
    within = [*combinations(spots[:count], 2), *combinations(spots[count:], 2)]
    return within, list(product(spots[:count], spots[count:]))


def _mean(units: Sequence[Float], pairs: Sequence[tuple[Place, Place]]) -> Float | None:
    """Mean cosine (layer+1) of pairs of places; None where there is no pair."""
    if not pairs:
        return None
    each = [(units[a][:, i] * units[b][:, j]).sum(-1) for (a, i), (b, j) in pairs]
    result: Float = np.mean(each, axis=0)
    return result


def _different(traces: Sequence[Trace], units: Sequence[Float]) -> Float | None:
    """Mean cosine (layer+1) of all pairs of different tokens, within the sentences and between them."""
    ids = np.concatenate([trace.ids for trace in traces])
    unlike = ids[:, None] != ids
    if not unlike.any():
        return None
    layers = np.concatenate(units, axis=1)  # layer+1, seq, d_model
    return np.array([(rows @ rows.T)[unlike].mean() for rows in layers])


def _title(word: str, ends: dict[str, tuple[float, float]], blocks: int, centred: bool) -> str:
    said = f"in {OTHER} {signed(ends[OTHER][1])}"
    if SAME in ends:
        said = f"in {SAME} {signed(ends[SAME][1])}, {said}"
    if DIFFERENT in ends:
        said += f"; {DIFFERENT} {signed(ends[DIFFERENT][1])}"
    if centred:
        return f"{quoted(word)} without the mean vector, after {blocks} blocks: {said}"
    return f"{quoted(word)} at the entrance: cosine {signed(ends[OTHER][0])}; after {blocks} blocks {said}"


def _note(traces: Sequence[Trace], places: Sequence[int], within: int, across: int, centred: bool) -> str:
    if centred:
        counted = sum(len(trace.ids[FIRST:]) for trace in traces)
        return (
            f"The mean is of the vectors of {plural(counted, 'token')}: all of these sentences but the first of each, "
            "whose vector can be so long that it would outweigh the others."
        )
    tokens = [trace.tokens[place] for trace, place in zip(traces, places, strict=True)]
    kinds = list(dict.fromkeys(token.display for token in tokens))
    what = (
        f"always the token {quoted(kinds[0])}"
        if len(kinds) == 1
        else f"these tokens: {', '.join(map(quoted, kinds))}"
    )
    at = ", ".join(map(str, places))
    return (
        f"Means over {within} pairs of sentences of one sense and {across} of two. What is compared is {what}, at "
        f"positions {at} of the sentences."
    )


def _again(
    loaded: Loaded, read: Sequence[Sequence[int]], places: Sequence[int], count: int, centred: bool
) -> dict[str, ArrayLike]:
    states = [streams(loaded, ids) for ids in read]
    if centred:
        later = torch.cat([state[:, list(range(FIRST, state.shape[1]))] for state in states], dim=1)
        states = [state - later.sum(1, keepdim=True) / later.shape[1] for state in states]
    spots = [state[:, place] for state, place in zip(states, places, strict=True)]
    alike: dict[str, list[torch.Tensor]] = {SAME: [], OTHER: []}
    for a in range(len(spots)):
        for b in range(a + 1, len(spots)):
            kind = SAME if (a < count) == (b < count) else OTHER
            alike[kind].append(F.cosine_similarity(spots[a], spots[b], dim=-1))
    found: dict[str, ArrayLike] = {
        name: torch.stack(all).mean(0).numpy() for name, all in alike.items() if all
    }
    ids, layers = torch.tensor([id for one in read for id in one]), torch.cat(states, 1)
    unlike = ids[:, None] != ids
    if unlike.any():
        found[DIFFERENT] = [
            float(F.cosine_similarity(rows[:, None], rows[None], dim=-1)[unlike].mean()) for rows in layers
        ]
    return found


def _code(
    loaded: Loaded,
    read: Sequence[Sequence[int]],
    places: Sequence[int],
    count: int,
    wanted: Sequence[str],
    centred: bool,
) -> str:
    blocks = loaded.path("blocks")
    mean = f"torch.cat([s[:, {FIRST}:] for s in vectors], 1).mean(1, keepdim=True)" if centred else "0.0"
    return script(
        loaded,
        read[0],
        f"""
        sentences, places = {[list(ids) for ids in read]}, {list(places)}
        streams = []
        model.{blocks}[0].register_forward_pre_hook(lambda m, args, kwargs: streams.append(
            args[0] if args else kwargs["hidden_states"]), with_kwargs=True)
        for block in model.{blocks}:
            block.register_forward_hook(lambda m, args, out: streams.append(out[0] if isinstance(out, tuple) else out))
        vectors = []
        for sentence in sentences:
            streams.clear()
            with torch.no_grad():
                model(torch.tensor([sentence]))
            vectors.append(torch.stack([s[0].double() for s in streams]))
        mean = {mean}
        units = [torch.nn.functional.normalize(s - mean, dim=-1) for s in vectors]
        word = torch.stack([unit[:, place] for unit, place in zip(units, places)], 1)  # layer+1, sentence, d_model
        cosines = word @ word.mT
        sense = torch.arange(len(sentences)) < {count}
        same = (sense[:, None] == sense).triu(1)
        other = (sense[:, None] != sense).triu(1)
        every = torch.cat(units, 1)
        tokens = torch.tensor(sum(sentences, []))
        unlike = tokens[:, None] != tokens
        found = {{{SAME!r}: cosines[:, same].mean(-1), {OTHER!r}: cosines[:, other].mean(-1),
                 {DIFFERENT!r}: (every @ every.mT)[:, unlike].mean(-1)}}
        result = {{name: found[name] for name in {list(wanted)}}}
        """,
    )
