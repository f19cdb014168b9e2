"""A prompt of the longest kind costs what its length costs: figures are cut, and say so; merging is n log n."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.chapters import c01_tokenization as cards
from engine.chapters.c01_tokenization.merging import LONGEST, beginning
from engine.figures.tokenization import MOST, Part, Strip, strips
from engine.ops import bpe
from tests.conftest import loaded_checkpoint

TEXTS = {
    "Chinese": "".join(chr(0x4E00 + i * 7 % 20000) for i in range(2000)),
    "beyond U+FFFF": "".join(chr(0x20000 + i * 7 % 40000) for i in range(2000)),
    "emoji": "\U0001f600" * 2000,
    "letters": "".join(chr(97 + i * i % 26) for i in range(2000)),
}


def drawn(figure):
    return sum(len(trace.x) for trace in figure.data)


@pytest.mark.parametrize("name", TEXTS)
def test_a_long_text_without_a_space_is_drawn_in_part_and_soon(name):
    loaded, text = loaded_checkpoint("pocket-gpt2"), TEXTS[name]
    cards.own(loaded, "warm"), cards.roundtrip(loaded, "warm"), cards.chips("warm")
    begun = time.process_time()
    made = [cards.chips(text), *cards.own(loaded, text), cards.roundtrip(loaded, text)]
    for source in cards.sources(loaded):
        piece = cards.pieces(loaded, source, text)[0]
        made.append(cards.merging(loaded, source, text, piece, cards.steps(loaded, source, piece)))
    assert time.process_time() - begun < 3  # was 5 to 15; now a few tenths
    assert all(drawn(card.figure) < 40_000 for card in made)
    assert f"its first {len(beginning(piece))} are merged here" in made[-1].note
    assert f"the first {len(beginning(piece))} of {len(piece):,}" in made[-1].figure.layout.xaxis.title.text


@pytest.mark.parametrize("source", ["pocket-gpt2", "r50k_base"])
@pytest.mark.parametrize("name", ["Chinese", "letters"])
def test_what_is_merged_of_a_long_piece_is_proved(source, name):
    loaded, text = loaded_checkpoint("pocket-gpt2"), TEXTS[name]
    piece = cards.pieces(loaded, source, text)[0]
    card = cards.merging(loaded, source, text, piece, 5)
    proof = card.prove()
    assert proof.passed, proof


@pytest.mark.parametrize(
    ("piece", "kept"),
    [
        (b"a" * LONGEST, LONGEST),
        (b"a" * (LONGEST + 1), LONGEST),
        ("é".encode() * 400, LONGEST),
        (b"a" + "é".encode() * 400, LONGEST - 1),
        (b"ab" + "\U0001f600".encode() * 400, LONGEST - 2),
        (b"\x80" * 999, LONGEST),
    ],
)
def test_a_piece_is_cut_between_characters(piece, kept):
    assert len(beginning(piece)) == kept


def test_a_line_that_is_too_long_ends_where_the_axis_says():
    halves = Strip("halves", (Part("a", 200), Part("b", 200), Part("c", 200)))
    figure = strips([[halves, Strip("bytes", tuple(Part("x", 1) for _ in range(600)))]])
    assert figure.layout.xaxis.range == (0, MOST)
    assert figure.layout.xaxis.title.text.endswith("the first 240 of 600")
    assert max(x for trace in figure.data for x in trace.x if x is not None) == MOST


@given(st.lists(st.sampled_from("abc"), max_size=14), st.randoms(use_true_random=False))
def test_the_heap_merges_what_merging_one_kind_after_the_other_does(parts, random):
    known = {}

    def rank(left, right):
        kinds = (None, None, random.randrange(6))
        return known.setdefault((left, right), random.choice(kinds)) if len(left + right) < 7 else None

    left = tuple(parts)
    while (best := bpe.lowest(left, rank)) is not None:
        left = bpe.join(left, best[1], best[2])
    assert bpe.merged(parts, rank) == left
