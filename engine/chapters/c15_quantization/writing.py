"""The same prompt continued at two precisions, token by token, and the step at which the texts part."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.chapters.c15_quantization.pair import COLORS, Pair, code, head
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.comparing import max_difference
from engine.evidence.passes import returned_logits
from engine.evidence.rounding import probability_tolerance
from engine.figures import grouped_bars
from engine.model.cache import ByteLRU
from engine.model.generation import Step, generate
from engine.ops import quantization as ops
from engine.ops.sampling import softmax, top
from engine.tokens.encoder import decode

SHOWN = 6


@dataclass(frozen=True)
class Choices:
    """How to continue: up to `n` tokens; greedily, or drawn at a temperature from a seed."""

    n: int
    temperature: float = 0.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def divisor(self) -> float:
        """What divides the logits before a token is chosen."""
        return self.temperature or 1.0


@dataclass(frozen=True, eq=False)
class Writing:
    """Two continuations. `step` is where they part or, when they do not, where they came closest to it.

    first, second  ids of the tokens written      logits  2, vocab: of both precisions before that step
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    step: int
    logits: NDArray[np.float32]

    @property
    def parted(self) -> int | None:
        return ops.parting(self.first, self.second)

    @property
    def nbytes(self) -> int:
        return self.logits.nbytes + 8 * (len(self.first) + len(self.second))


_kept: ByteLRU[Writing] = ByteLRU(32 * 1024 * 1024)


def written(pair: Pair, choices: Choices) -> Writing | None:
    """What has been written before with the same choices."""
    key = _key(pair, choices)
    return _kept.get(key, _missing) if key in _kept else None


def write(pair: Pair, choices: Choices) -> Iterator[Writing]:
    """Write both texts, a token of each at a time; the last value is whole, and kept.

    Raises ReaderError where the logits are not finite or the prompt is too long.
    """
    sides = (pair.reference, pair.other)
    seed = None if choices.greedy else choices.seed
    streams = [generate(s, pair.ids, choices.n, temperature=choices.divisor, seed=seed) for s in sides]
    texts: tuple[list[int], list[int]] = ([], [])
    nearest: tuple[float, int, NDArray[np.float32]] | None = None
    together = True
    while steps := [next(stream, None) for stream in streams]:
        if all(step is None for step in steps):
            break
        if together and all(steps):
            nearest = _nearer(nearest, len(texts[0]), steps)
        for text, step in zip(texts, steps, strict=True):
            text += [] if step is None else [step.id]
        together = together and texts[0] == texts[1]
        assert nearest is not None
        latest = Writing(tuple(texts[0]), tuple(texts[1]), *nearest[1:])
        yield latest
    _kept.get(_key(pair, choices), lambda: latest)


def _nearer(
    nearest: tuple[float, int, NDArray[np.float32]] | None, place: int, steps: list[Step | None]
) -> tuple[float, int, NDArray[np.float32]]:
    """Keep the logits of the step at which the choice was closest; a step at which the texts part wins."""
    a, b = steps
    assert a is not None
    assert b is not None
    gap = -1.0 if a.id != b.id else _lead(a)
    if nearest is not None and nearest[0] <= gap:
        return nearest
    return gap, place, np.stack([a.logits, b.logits])


def _lead(step: Step) -> float:
    """By how much the most probable token leads the second one."""
    chances = [chance for _, chance in step.alternatives[:2]]
    return chances[0] - chances[1] if len(chances) == 2 else 1.0


def _key(pair: Pair, choices: Choices) -> tuple[object, ...]:
    sides = ((s.name, s.revision, s.precision, s.device) for s in (pair.reference, pair.other))
    return (*sides, pair.ids, choices)


def _missing() -> Writing:
    raise KeyError("asked for a text that is no longer kept")


def segments(pair: Pair, writing: Writing) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """For each precision the prompt, what both wrote alike, and what this one wrote after they parted."""
    prompt = _text(pair, ())
    parted = writing.parted
    shared = _text(pair, writing.first if parted is None else writing.first[:parted])

    def cut(ids: tuple[int, ...]) -> tuple[str, str, str]:
        whole = _text(pair, ids)
        return prompt, shared[len(prompt) :], whole[len(shared) :] if whole.startswith(shared) else whole

    return cut(writing.first), cut(writing.second)


def _text(pair: Pair, ids: tuple[int, ...]) -> str:
    return decode(pair.reference.tokenizer, [*pair.ids, *ids])


def text(pair: Pair, writing: Writing, choices: Choices) -> Card:
    """The decisive step: what both precisions held of its candidates."""
    p, q = (softmax(row / choices.divisor) for row in writing.logits)
    best = sorted({int(i) for i in (*top(p, SHOWN), *top(q, SHOWN), *_chosen(writing))}, key=lambda i: -p[i])
    names, tokens = pair.names, [pair.named(i) for i in best]
    return Card(
        key="text",
        title=_title(pair, writing),
        alt=f"Bars: the candidates for written token {writing.step + 1} and their probability at {names[0]} and "
        f"{names[1]}. The full texts stand above.",
        badge=Badge.LIVE,
        figure=grouped_bars(
            tokens,
            {names[0]: p[best], names[1]: q[best]},
            colors=dict(zip(names, COLORS, strict=True)),
            probability=True,
            value_name=f"probability of written token {writing.step + 1}",
            label_name="candidate",
        ),
        table=_table(pair, writing),
        prove=lambda: _prove(pair, writing, choices, best, (p[best], q[best])),
        code=code(head(pair), _CODE, **_filled(choices, writing)),
        numbers={"reference": list(writing.first), "other": list(writing.second)},
        atol=0,
        note="Drawn from one seed: both precisions get the same random numbers, token by token."
        if not choices.greedy
        else "Greedy: each precision takes its own most probable token, so every difference is the rounding's.",
    )


def _chosen(writing: Writing) -> tuple[int, ...]:
    return (*writing.first[writing.step : writing.step + 1], *writing.second[writing.step : writing.step + 1])


def _title(pair: Pair, writing: Writing) -> str:
    parted, count = writing.parted, max(len(writing.first), len(writing.second))
    if parted is None:
        return f"All {count} tokens are the same; token {writing.step + 1} was the closest call"
    a, b = (
        f"“{pair.named(ids[parted])}”" if parted < len(ids) else "nothing"
        for ids in (writing.first, writing.second)
    )
    return f"The texts part at written token {parted + 1}: {a} at {pair.names[0]}, {b} at {pair.names[1]}"


def _table(pair: Pair, writing: Writing) -> dict[str, list[object]]:
    count = max(len(writing.first), len(writing.second))

    def column(ids: tuple[int, ...]) -> list[object]:
        return [*(pair.named(i) for i in ids), *[""] * (count - len(ids))]

    first, second = column(writing.first), column(writing.second)
    same: list[object] = [a == b for a, b in zip(first, second, strict=True)]
    return {
        "written token": list(range(1, count + 1)),
        pair.names[0]: first,
        pair.names[1]: second,
        "same": same,
    }


def _prove(
    pair: Pair, writing: Writing, choices: Choices, best: list[int], shown: tuple[np.ndarray, np.ndarray]
) -> Proof:
    ids = (*pair.ids, *writing.first[: writing.step])
    sides = (pair.reference, pair.other)
    again = [softmax(returned_logits(side, ids)[-1] / choices.divisor)[best] for side in sides]
    return Proof(
        "Both probabilities, written with a KV cache, against one pass of transformers over the whole text without.",
        max_difference(again, shown),
        max(probability_tolerance(side) for side in sides),
    )


def _filled(choices: Choices, writing: Writing) -> dict[str, object]:
    how = (
        "do_sample=False" if choices.greedy else f"do_sample=True, top_k=0, temperature={choices.temperature}"
    )
    return {"seed": choices.seed, "how": how, "n": max(len(writing.first), len(writing.second))}


_CODE = """
    def write(model):
        torch.manual_seed({seed})
        given = ids.to(model.device)
        with torch.no_grad():
            written = model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens={n}, {how}, pad_token_id=0
            )
        return written[0, ids.shape[1] :].tolist()


    result = {{"reference": write(reference), "other": write(other)}}
    for which, written in result.items():
        print(which, repr(tokenizer.decode(written)))
"""
