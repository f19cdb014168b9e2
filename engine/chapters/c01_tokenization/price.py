"""What the same sentence costs in other languages, and what code, digits and emoji cost."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from engine.chapters.c01_tokenization.scripts import ENCODE, tiktoken_lines, tokenizer_lines
from engine.chapters.c01_tokenization.texts import PLAIN, start_note
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.tokenizing import how, reader
from engine.evidence.rounding import EXACT
from engine.figures.heat import heatmap
from engine.figures.theme import NEUTRAL
from engine.model.capturing import typed
from engine.model.loaded import Loaded
from engine.tokens import encodings, passages
from engine.tokens.text import clean_prompt

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Measure = Literal["tokens", "tokens per character", "times English"]
MEASURES: tuple[Measure, ...] = ("tokens", "tokens per character", "times English")
YOURS = "your text"
NO_LANGUAGES = ("Python", "Digits", "Emoji")
"""Samples that say something else than the sentence of the nine languages."""

_WIDER = (0x7F, 0x7FF, 0xFFFF)
"""The last code points that UTF-8 writes in one, in two and in three bytes."""


def price(loaded: Loaded, yours: str, measure: Measure) -> Card:
    """Tokens of every sentence for four tokenizers; `yours` is a text of the reader's own, or empty.

    Relative to English only the languages are shown: nothing else says what the English sentence says.
    """
    samples = _samples(yours, measure)
    names = [loaded.name, *encodings.ENCODINGS]
    counts = np.array([[_count(loaded, name, text) for name in names] for text in samples.values()], float)
    characters = [len(text) for text in samples.values()]
    sizes = [len(text.encode("utf-8")) for text in samples.values()]
    shown = measured(counts, characters, list(samples).index("English"), measure)
    languages = [which for which in samples if which not in (*NO_LANGUAGES, YOURS)]
    own, newest = (_dearest(shown[: len(languages), column], languages, measure) for column in (0, -1))

    return Card(
        key="price",
        title=f"Most expensive of {len(languages)} languages for {loaded.name}: {own}; for o200k_base: {newest}",
        alt=f"A table of {measure} with a row for each text and a column for each of {', '.join(names)}.",
        badge=Badge.LIVE,
        figure=_figure(shown, list(samples), names, measure, len(languages)),
        table={
            "text": list(samples),
            "characters": characters,
            "bytes": sizes,
            **{name: counts[:, i].astype(int).tolist() for i, name in enumerate(names)},
        },
        shown={"characters": characters, "bytes": sizes, "tokens": counts, measure: shown},
        oracle=Oracle(
            f"{how(loaded)} for each sentence and tokenizer, and the table counted again from that, one number at a "
            "time.",
            lambda: _again(loaded, yours, measure),
            EXACT,
        ),
        code=_code(loaded, samples, measure),
        atol=EXACT,
        note=f"The languages all say: “{samples['English']}” The sentences are in the table's order in the code."
        + (" What says something else is left out here." if measure == "times English" else "")
        + start_note(loaded),
    )


def _figure(
    shown: np.ndarray, rows: Sequence[str], tokenizers: Sequence[str], measure: Measure, languages: int
) -> "Figure":
    """The table as a heat map, with a line between the languages and the other texts."""
    drawn = heatmap(
        shown,
        rows,
        [PLAIN.get(name, name) for name in tokenizers],
        concept="token",
        value_name=measure,
        column_name="tokenizer",
        print_values=".0f" if measure == "tokens" else ".2f",
        height=168 + 27 * len(rows),
    )
    if languages < len(rows):
        drawn.add_hline(y=languages - 0.5, line={"color": NEUTRAL, "width": 2.5})
    return drawn


def measured(counts: np.ndarray, characters: list[int], english: int, measure: Measure) -> np.ndarray:
    """Token counts (text, tokenizer) as they are, per character, or relative to the English row."""
    if measure == "tokens per character":
        counts = counts / np.array(characters, float)[:, None]
    return counts / counts[english] if measure == "times English" else counts


def _again(loaded: Loaded, yours: str, measure: Measure) -> dict[str, ArrayLike]:
    """The table one number at a time: tokens from replayed merges, sizes from the code points."""
    samples = _samples(yours, measure)
    readers = [reader(loaded, name) for name in (loaded.name, *encodings.ENCODINGS)]
    counts = {which: [len(read(text)) for read in readers] for which, text in samples.items()}
    points = {which: np.frombuffer(text.encode("utf-32-le"), np.uint32) for which, text in samples.items()}
    units: Callable[[str], Sequence[int]] = {
        "tokens": lambda which: [1] * len(readers),
        "tokens per character": lambda which: [points[which].size] * len(readers),
        "times English": lambda which: counts["English"],
    }[measure]
    return {
        "characters": [found.size for found in points.values()],
        "bytes": [
            found.size + sum(int((found > last).sum()) for last in _WIDER) for found in points.values()
        ],
        "tokens": list(counts.values()),
        measure: [
            [n / unit for n, unit in zip(row, units(which), strict=True)] for which, row in counts.items()
        ],
    }


def _samples(yours: str, measure: Measure) -> Mapping[str, str]:
    own = {} if not (text := clean_prompt(yours)) or measure == "times English" else {YOURS: text}
    left_out = NO_LANGUAGES if measure == "times English" else ()
    return {s.name: s.text for s in passages.sentences() if s.name not in left_out} | own


def _count(loaded: Loaded, name: str, text: str) -> int:
    return len(typed(loaded, text) if name == loaded.name else encodings.encode(name, text))


def _dearest(values: np.ndarray, languages: Sequence[str], measure: Measure) -> str:
    """The languages with the largest value, and the value."""
    most = float(values.max())
    names = [name for name, value in zip(languages, values, strict=True) if value == most]
    number = f"{most:,.0f}" if measure == "tokens" else f"{most:.2f}"
    return f"{' and '.join(names)}, {number} {measure}"


def _code(loaded: Loaded, samples: Mapping[str, str], measure: Measure) -> str:
    parts = [f"texts = {dict(samples)!a}\n", tokenizer_lines(loaded)]
    parts.append(f"columns = [[len({ENCODE.format(text='t')}) for t in texts.values()]]\n\n")
    for name in encodings.ENCODINGS:
        parts.append(tiktoken_lines(name))
        parts.append("columns.append([len(encoding.encode_ordinary(t)) for t in texts.values()])\n\n")
    parts.append("import torch\n\ncounts = torch.tensor(columns, dtype=torch.float64).T\n")
    parts.append('result = {"characters": [len(t) for t in texts.values()]}\n')
    parts.append('result["bytes"] = [len(t.encode()) for t in texts.values()]\n')
    parts.append('result["tokens"] = counts.tolist()\n')
    if measure == "tokens per character":
        parts.append("counts = counts / torch.tensor([[len(t)] for t in texts.values()])\n")
    if measure == "times English":
        parts.append('counts = counts / counts[list(texts).index("English")]\n')
    return "".join([*parts, f"result[{measure!r}] = counts.tolist()\n"])
