"""A word that a reader types is looked up as that word, and the page says which token it became."""

import pytest
from streamlit.testing.v1 import AppTest

from engine import ReaderError, capture, tokenize
from engine.chapters import c05_sampling as sampling
from engine.chapters import c06_backprop as backprop
from engine.chapters import c14_context as context
from engine.model import kv_cache
from engine.model.capturing import typed
from engine.model.words import word
from pages._shared import bar as strip
from tests.conftest import PROMPT, SMOLLM2, loaded_checkpoint, needs_smollm2


def single(loaded, text):
    """transformers' ids of a text without special tokens."""
    return loaded.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_word_is_tried_with_a_space_first(loaded):
    found = word(loaded, "little")
    assert [found.token.id] == single(loaded, " little")
    assert (found.spaced, found.count) == (True, 1)
    shown = f"the token “␣little” (id {found.token.id:,})"
    assert found.sentence == f"“little” is looked up with a space before it, as {shown}."


def test_a_start_token_is_never_looked_up(kind):
    for text in ("little", " little", "castle", ",", "<s>"):
        found = word(kind, text)
        assert not found.token.special
        assert found.token.bytes.strip() in text.encode()


def test_a_word_of_one_token_only_without_a_space_is_taken_so(loaded):
    pieces = loaded.tokenizer.convert_ids_to_tokens(range(300, loaded.spec.vocab))
    letters = (piece for piece in pieces if piece.isalpha() and piece.isascii())
    text = next(p for p in letters if len(single(loaded, p)) == 1 < len(single(loaded, f" {p}")))
    found = word(loaded, text)
    assert [found.token.id] == single(loaded, text)
    assert (found.spaced, found.count) == (False, 1)
    assert "space" not in found.sentence


def test_of_a_longer_word_the_beginning_is_taken_and_told(loaded):
    found = word(loaded, "castlexylophone")
    ids = single(loaded, " castlexylophone")
    assert (found.token.id, found.count, found.spaced) == (ids[0], len(ids), True)
    assert f"is {len(ids)} tokens here; only the first is looked up" in found.sentence


def test_a_space_of_the_readers_own_and_punctuation_stay_as_they_are(loaded):
    assert [word(loaded, " little").token.id] == single(loaded, " little")
    assert [word(loaded, ",").token.id] == single(loaded, ",")
    assert word(loaded, " ").token.bytes == b" "


def test_a_tokenizer_that_puts_the_space_itself_is_given_none(made):
    loaded = made("sentencepiece")
    found = word(loaded, "the")
    assert found.token.id == single(loaded, "the")[0]
    assert word(loaded, " the").token == found.token
    assert not found.token.bytes.startswith(b"  ")


def test_nothing_to_look_up_is_refused_in_a_sentence(made):
    with pytest.raises(ReaderError, match="no word"):
        word(made("start"), "")
    with pytest.raises(ReaderError, match="no token for “日”"):
        word(made("lacking"), "日")


def test_digits_that_stand_alone_are_found_on_smollm2(smollm2):
    assert word(smollm2, "7").token.bytes == b"7"
    assert word(smollm2, "42").token.bytes == b"4"
    assert word(smollm2, "castle").token.bytes == b" castle"


def test_the_logit_that_is_shown_is_the_words(kind):
    trace = capture(kind, PROMPT)
    card = sampling.logits(kind, trace, len(trace.tokens) - 1, "the")
    asked = word(kind, "the")
    rank = 1 + int((trace.logits[-1] > trace.logits[-1][asked.token.id]).sum())
    assert f"“{asked.token.display}” is number {rank:,}" in card.title
    assert card.note == asked.sentence


def test_the_loss_that_is_shown_is_the_words(kind):
    tokens = tokenize(kind, PROMPT)
    asked = backprop.example(kind, tokens, "the")
    assert asked.target == word(kind, "the").token.id
    assert asked.ids == tuple(token.id for token in tokens)


def test_the_end_of_a_text_is_read_after_the_start_token(made):
    loaded = made("start")
    tokens, target = typed(loaded, PROMPT), word(loaded, "the").token
    card = context.forgotten(loaded, tokens, target)
    last = [loaded.tokenizer.bos_token_id, *(t.id for t in tokens[-4:])]
    expected = kv_cache.remembered(loaded, last, target.id, [len(last)])[0]
    assert card.numbers["probability"][0] == pytest.approx(expected, abs=1e-6)
    assert "<s> is read first" in card.note
    assert card.prove().passed
    names = {}
    exec(card.code, names)
    assert names["result"]["probability"] == pytest.approx(list(card.numbers["probability"]), abs=card.atol)


def test_a_text_longer_than_the_context_keeps_the_start_token(made):
    loaded = made("start")
    card = context.forgotten(loaded, typed(loaded, PROMPT * 30), word(loaded, "the").token)
    assert card.table["tokens read"][-1] == loaded.spec.context - 1


def test_the_strip_says_which_token_was_not_typed(made):
    loaded = made("start")
    tokens = tokenize(loaded, "a cat")
    labels = strip._labels(tokens)
    assert "not typed" in labels[0]
    assert not any("not typed" in each for each in labels[1:])
    assert len(set(labels)) == len(tokens)
    assert "which the tokenizer puts there" in strip._summary(loaded, "a cat", tokens, len(tokens))
    assert "puts there" not in strip._summary(loaded, "a cat", tokens[1:], len(tokens) - 1)
    assert "no token stands for this text" in strip._summary(loaded, "", tokens[:1], 1)


@needs_smollm2
def test_the_strip_says_how_many_bytes_are_left_out():
    loaded = loaded_checkpoint(SMOLLM2)
    tokens = tokenize(loaded, "a\x04b \x06")
    assert "2 bytes have no token in this tokenizer and are left out" in strip._summary(
        loaded, "a\x04b \x06", tokens, len(tokens)
    )
    assert "left out" not in strip._summary(loaded, "a b", tokens, len(tokens))


def _page():
    import streamlit as st

    from pages._shared import state, words
    from pages._shared.view import View

    state.begin("5")
    words.field(View("5", "beat", st.container(), st.container()), "word", "A word")


def test_the_token_taken_stands_below_the_field():
    page = AppTest.from_function(_page, default_timeout=60).run()
    assert not page.caption
    page.text_input[0].set_value("li_tt$le").run()
    assert not page.exception
    assert len(page.caption) == 1
    assert r"li\_tt\$le" in page.caption[0].value
