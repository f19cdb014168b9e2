"""What the same sentence costs in other languages, and what code, digits and emoji cost."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from engine.cards.tokenization.common import (
    ENCODE,
    PLAIN,
    mismatch,
    start_note,
    tiktoken_lines,
    tokenizer_lines,
)
from engine.cards.tokenization.own import again
from engine.evidence.card import Badge, Card, Proof
from engine.figures.heat import heatmap
from engine.model.capturing import typed
from engine.model.loading import Loaded
from engine.tokens import encodings, passages
from engine.tokens.text import clean_prompt

Measure = Literal["tokens", "tokens per character", "times English"]
MEASURES: tuple[Measure, ...] = ("tokens", "tokens per character", "times English")
YOURS = "your text"


def price(loaded: Loaded, yours: str, measure: Measure) -> Card:
    """Tokens of every sentence for four tokenizers; `yours` is a text of the reader's own, or empty."""
    samples = _samples(yours)
    names = [loaded.name, *encodings.ENCODINGS]
    ids = {name: {which: _ids(loaded, name, text) for which, text in samples.items()} for name in names}
    counts = np.array([[len(ids[name][which]) for name in names] for which in samples], float)
    shown = measured(
        counts, [len(text) for text in samples.values()], list(samples).index("English"), measure
    )
    hard, newest = _hardest(shown, list(samples))

    def prove() -> Proof:
        replayed, how = again(loaded)
        found = {name: {which: replayed[name](text) for which, text in samples.items()} for name in names}
        apart = sum(mismatch(found[name][which], ids[name][which]) for name in names for which in samples)
        sizes = np.array([[len(found[name][which]) for name in names] for which in samples], float)
        return Proof(
            f"{how} for each sentence and tokenizer: ids that differ, and the table counted again from them.",
            apart + float(np.abs(_measured_again(sizes, samples, measure) - shown).max()),
            1e-9,
        )

    return Card(
        key="price",
        title=f"For {loaded.name} the dearest of them is {hard}; for o200k_base it is {newest}",
        alt=f"A table of {measure} with a row for each text and a column for each of {', '.join(names)}.",
        badge=Badge.LIVE,
        figure=heatmap(
            shown,
            list(samples),
            [PLAIN.get(name, name) for name in names],
            concept="token",
            value_name=measure,
            column_name="tokenizer",
            print_values=".0f" if measure == "tokens" else ".2f",
            height=168 + 27 * len(samples),
        ),
        table={
            "text": list(samples),
            "characters": [len(text) for text in samples.values()],
            "bytes": [len(text.encode("utf-8")) for text in samples.values()],
            **{name: counts[:, i].astype(int).tolist() for i, name in enumerate(names)},
        },
        prove=prove,
        code=_code(loaded, samples, measure),
        numbers={"shown": shown.tolist()},
        atol=1e-9,
        note=f"The languages all say: “{samples['English']}” The sentences are in the table's order in the code."
        + start_note(loaded),
    )


def measured(counts: np.ndarray, characters: list[int], english: int, measure: Measure) -> np.ndarray:
    """Token counts (text, tokenizer) as they are, per character, or relative to the English row."""
    if measure == "tokens per character":
        return counts / np.array(characters, float)[:, None]
    return counts / counts[english] if measure == "times English" else counts


def _measured_again(counts: np.ndarray, samples: Mapping[str, str], measure: Measure) -> np.ndarray:
    """What the table should hold, one number at a time."""
    texts = list(samples)
    english = texts.index("English")
    unit = {
        "tokens": lambda row, column: 1.0,
        "tokens per character": lambda row, column: float(len(samples[texts[row]])),
        "times English": lambda row, column: float(counts[english, column]),
    }[measure]
    return np.array(
        [[counts[r, c] / unit(r, c) for c in range(counts.shape[1])] for r in range(counts.shape[0])]
    )


def _samples(yours: str) -> Mapping[str, str]:
    own = clean_prompt(yours)
    return {sentence.name: sentence.text for sentence in passages.sentences()} | ({YOURS: own} if own else {})


def _ids(loaded: Loaded, name: str, text: str) -> list[int]:
    if name == loaded.name:
        return [token.id for token in typed(loaded, text)]
    return encodings.encode(name, text)


def _hardest(shown: np.ndarray, names: list[str]) -> tuple[str, str]:
    """The rows with the largest value for the checkpoint's own tokenizer and for o200k_base."""
    return names[int(shown[:, 0].argmax())], names[int(shown[:, -1].argmax())]


def _code(loaded: Loaded, samples: Mapping[str, str], measure: Measure) -> str:
    parts = [f"texts = {dict(samples)!a}\n", tokenizer_lines(loaded)]
    parts.append(f"columns = [[len({ENCODE.format(text='t')}) for t in texts.values()]]\n\n")
    for name in encodings.ENCODINGS:
        parts.append(tiktoken_lines(name))
        parts.append("columns.append([len(encoding.encode_ordinary(t)) for t in texts.values()])\n\n")
    parts.append("import torch\n\ncounts = torch.tensor(columns, dtype=torch.float64).T\n")
    if measure == "tokens per character":
        parts.append("counts = counts / torch.tensor([[len(t)] for t in texts.values()])\n")
    if measure == "times English":
        parts.append('counts = counts / counts[list(texts).index("English")]\n')
    return "".join([*parts, 'result = {"shown": counts.tolist()}\n'])
