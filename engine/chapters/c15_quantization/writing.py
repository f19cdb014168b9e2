"""The same prompt continued at two precisions, token by token, and the step at which the texts part."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.chapters.c15_quantization.pair import COLORS, Pair, code, head
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.filtering import chosen, written_again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.passes import reading
from engine.evidence.rounding import chance_tolerance, logit_tolerance, probability_tolerance, rewritten
from engine.figures import grouped_bars
from engine.model.cache import ByteLRU
from engine.model.generation import Step, end_of_text, generate
from engine.model.loaded import Loaded
from engine.ops import quantization as ops
from engine.ops.sampling import Filters, softmax, top
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
        title=_title(pair, writing, choices),
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
        shown={
            "text, reference": writing.first,
            "text, other": writing.second,
            "step": writing.step,
            "candidates": best,
            "reference": p[best],
            "other": q[best],
        },
        oracle=Oracle(
            f"Both texts by {'generate of transformers' if choices.greedy else _DRAWN}, and the step that decides; its "
            f"candidates and their probabilities read again: {_readings(pair)}.",
            partial(_again, pair, (writing.first, writing.second), writing.step, choices, best),
            {
                **dict.fromkeys(("text, reference", "text, other", "step", "candidates"), 0.0),
                "reference": rewritten(pair.reference, chance_tolerance(pair.reference, p[best])),
                "other": rewritten(pair.other, chance_tolerance(pair.other, q[best])),
            },
        ),
        code=code(head(pair), _CODE, **_filled(choices, writing, best)),
        note="Drawn from one seed: both precisions get the same random numbers, token by token."
        if not choices.greedy
        else "Greedy: each precision takes its own most probable token, so every difference is the rounding's.",
    )


def _readings(pair: Pair) -> str:
    """How each side's text is read again, in words."""
    ways = dict.fromkeys(reading(side) for side in pair.sides)
    return "; ".join(f"{way[0].lower()}{way[1:]}" for way in ways)


def _chosen(writing: Writing) -> tuple[int, ...]:
    return (*writing.first[writing.step : writing.step + 1], *writing.second[writing.step : writing.step + 1])


def _title(pair: Pair, writing: Writing, choices: Choices) -> str:
    parted, count = writing.parted, max(len(writing.first), len(writing.second))
    if parted is None:
        same = "The only token is" if count == 1 else f"All {count} tokens are"
        return f"{same} the same; token {writing.step + 1} was the closest call"
    a, b = (
        f"“{pair.named(ids[parted])}”" if parted < len(ids) else "nothing"
        for ids in (writing.first, writing.second)
    )
    said = f"The texts part at written token {parted + 1}: {a} at {pair.names[0]}, {b} at {pair.names[1]}"
    return said + (_lead_of(pair, writing, parted) if choices.greedy else "")


def _lead_of(pair: Pair, writing: Writing, parted: int) -> str:
    """By how much the reference preferred its own token to the one that the other wrote, as the end of a title."""
    if parted >= min(len(writing.first), len(writing.second)):
        return ""
    p = softmax(writing.logits[0])
    mine, theirs = (float(p[ids[parted]]) for ids in (writing.first, writing.second))
    return f"; {pair.names[0]} gave them {mine:.0%} and {theirs:.0%}"


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


_DRAWN = "torch.multinomial, token by token after what stands before"


def _again(
    pair: Pair, given: tuple[tuple[int, ...], ...], decides: int, choices: Choices, best: list[int]
) -> dict[str, Any]:
    rows = [_rows(side, pair.ids, text) for side, text in zip(pair.sides, given, strict=True)]
    texts = [
        _greedy(side, pair.ids, choices.n) if choices.greedy else _drawn(side, pair.ids, text, row, choices)
        for side, text, row in zip(pair.sides, given, rows, strict=True)
    ]
    chances = [(row / choices.divisor).softmax(-1) for row in rows]
    step = _deciding(texts, chances[0], decides, 2 * probability_tolerance(pair.reference))
    p, q = (side[step] for side in chances)
    there = [text[step] for text in texts if step < len(text)]
    allowed = max(chance_tolerance(side, row) for side, row in zip(pair.sides, (p, q), strict=True))
    ids = torch.tensor(_candidates(p, q, there, best, 2 * allowed))
    return {
        "text, reference": texts[0],
        "text, other": texts[1],
        "step": step,
        "candidates": ids,
        "reference": p[ids],
        "other": q[ids],
    }


def _rows(loaded: Loaded, prompt: Sequence[int], text: Sequence[int]) -> torch.Tensor:
    """Logits before every token of a text and behind its last one, where there is room; (step, vocab)."""
    behind = [*text, 0][: loaded.spec.context - len(prompt) + 1]
    return written_again(loaded, prompt, behind)


@torch.no_grad()
def _greedy(loaded: Loaded, prompt: Sequence[int], n: int) -> list[int]:
    batch = torch.tensor([list(prompt)], device=loaded.model.device)
    written = loaded.model.generate(
        batch,
        attention_mask=torch.ones_like(batch),
        max_new_tokens=min(n, loaded.spec.context - len(prompt) + 1),
        do_sample=False,
        repetition_penalty=1.0,
        pad_token_id=0,
    )
    text: list[int] = written[0, len(prompt) :].tolist()
    return text


def _drawn(
    loaded: Loaded, prompt: Sequence[int], text: Sequence[int], rows: torch.Tensor, choices: Choices
) -> list[int]:
    """The tokens that are drawn; a text that ends too early is a token longer here."""
    room = min(choices.n, loaded.spec.context - len(prompt) + 1)
    ends = end_of_text(loaded)
    asked = list(text) if text and text[-1] in ends else [*text, -1][:room]
    filters = Filters(temperature=choices.temperature)
    found = chosen(rows, prompt, asked, filters, choices.seed, logit_tolerance(loaded))
    stop = next((i + 1 for i, id in enumerate(found) if id in ends), len(found))
    return found[:stop]


def _deciding(texts: list[list[int]], p: torch.Tensor, given: int, allowed: float) -> int:
    """Where two texts part; else where the first choice led least, or where it did by as little."""
    first, second = texts
    if first != second:
        differ = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        return next(differ, min(len(first), len(second)))
    best = p[: len(first)].topk(2).values
    return int(at_ranks([given], best[:, 1] - best[:, 0], allowed)[0])


def _candidates(
    p: torch.Tensor, q: torch.Tensor, there: list[int], given: list[int], allowed: float
) -> list[int]:
    """What was written, and the likeliest of both; `given` ones where they are as likely."""
    kept = set(there)
    for row in (p, q):
        preferred = row.clone()
        preferred[given] += allowed
        kept |= set(preferred.topk(SHOWN).indices.tolist())
    own = sorted(kept, key=lambda i: -float(p[i]))
    if kept != set(given):
        return own
    among = torch.full_like(p, -1.0)
    among[own] = p[own]
    return [int(i) for i in at_ranks(given, among, allowed)]


def _filled(choices: Choices, writing: Writing, best: list[int]) -> dict[str, object]:
    how = (
        "do_sample=False" if choices.greedy else f"do_sample=True, top_k=0, temperature={choices.temperature}"
    )
    return {
        "seed": choices.seed,
        "how": how,
        "n": max(len(writing.first), len(writing.second)),
        "step": writing.step,
        "divisor": choices.divisor,
        "best": best,
    }


_CODE = """
    def write(model):
        torch.manual_seed({seed})
        given = ids.to(model.device)
        with torch.no_grad():
            written = model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens={n}, {how}, pad_token_id=0
            )
        return written[0, ids.shape[1] :].tolist()


    def chances(model, text):
        # probabilities before token {step} of a text
        given = torch.tensor([ids[0].tolist() + text[:{step}]], device=model.device)
        with torch.no_grad():
            return (model(given, use_cache=False).logits[0, -1].float().cpu() / {divisor}).softmax(-1)


    texts, best = [write(reference), write(other)], {best}
    p, q = chances(reference, texts[0]), chances(other, texts[1])
    result = {{"text, reference": texts[0], "text, other": texts[1], "step": {step}, "candidates": best,
              "reference": p[best], "other": q[best]}}
    for written in texts:
        print(repr(tokenizer.decode(written)))
"""
