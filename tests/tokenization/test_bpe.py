"""Merges replayed in Python end exactly where tiktoken's and transformers' encoders end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ops import bpe
from engine.tokens import encodings, merges, passages
from tests.conftest import BUNDLED, loaded_checkpoint

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text("ab AB'\n\t 19", max_size=40)


def theirs(loaded, text):
    return loaded.tokenizer(text, split_special_tokens=True)["input_ids"]


def test_by_hand():
    ranks = {(b"l", b"o"): 0, (b"lo", b"w"): 1, (b"e", b"r"): 2}  # the example of Sennrich et al., figure 1
    steps = bpe.replay(b"lower", bpe.by_merges(ranks))
    assert [step.rank for step in steps] == [0, 1, 2]
    assert [step.parts for step in steps] == [
        (b"lo", b"w", b"e", b"r"),
        (b"low", b"e", b"r"),
        (b"low", b"er"),
    ]


def test_rank_decides_and_not_the_place():
    ranks = {b"ab": 5, b"bc": 3}
    assert bpe.tokens(b"abc", bpe.by_vocabulary(ranks)) == (b"a", b"bc")


def test_overlapping_pairs_join_from_the_left():
    assert bpe.join([b"a", b"a", b"a", b"a", b"a"], b"a", b"a") == (b"aa", b"aa", b"a")


def test_nothing_to_merge():
    assert bpe.replay(b"", bpe.by_vocabulary({})) == []
    assert bpe.tokens(b"xy", bpe.by_vocabulary({})) == (b"x", b"y")


@pytest.mark.parametrize("name", encodings.ENCODINGS)
@settings(max_examples=60)
@given(text=TEXT)
def test_replaying_ends_where_tiktoken_ends(name, text):
    assert merges.of_encoding(name).encode(text) == encodings.encode(name, text)


@pytest.mark.parametrize("name", BUNDLED)
@settings(max_examples=60)
@given(text=TEXT)
def test_replaying_ends_where_transformers_ends(name, text):
    loaded = loaded_checkpoint(name)
    assert merges.of_loaded(loaded).encode(text) == theirs(loaded, text)


def test_whole_tales_and_every_script(loaded):
    for text in [
        passages.passage(),
        passages.sample(),
        *(sentence.text for sentence in passages.sentences()),
    ]:
        assert merges.of_loaded(loaded).encode(text) == theirs(loaded, text)
        for name in encodings.ENCODINGS:
            assert merges.of_encoding(name).encode(text) == encodings.encode(name, text)


def test_the_pieces_are_the_text(loaded):
    text = "  Once\n\n upon 12345 naïve 🦉"
    assert b"".join(merges.of_loaded(loaded).split(text)) == text.encode()
    assert b"".join(merges.of_encoding("o200k_base").split(text)) == text.encode()


def test_bundled_tokenizers_have_a_token_for_every_byte(loaded):
    assert all(bytes([byte]) in merges.of_loaded(loaded).ids for byte in range(256))


class _NotByteLevel:
    name = "sentencepiece"

    class tokenizer:
        backend_tokenizer = None


def test_a_tokenizer_without_byte_merges_is_not_guessed():
    assert merges.of_loaded(_NotByteLevel()) is None
