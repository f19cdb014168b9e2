"""The cards of chapter 1 on tokenizers of every kind: true, proved against the reader's text, found by scripts too."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest

from engine import ReaderError, capture
from engine.chapters import c01_tokenization as cards
from engine.chapters import c13_post_training as post_training
from engine.chapters import home as home
from engine.evidence.oracles import tokenizing
from engine.model.capturing import tokenize, typed
from tests.conftest import PROMPT

merging, own, price, roundtrip = (
    import_module(f"engine.chapters.c01_tokenization.{name}")
    for name in ("merging", "own", "price", "roundtrip")
)

TEXTS = (
    PROMPT,
    "a<s>b</s> <tool_call>x</tool_call> é café    x  of the sea",
    "naïve 🦉 日本語 \x04 \U00040000 end",
    "cafe\u0301 of   the",
    " begins with a space",
)


def ran(card):
    names = {}
    exec(card.code, names)
    return names["result"]


def check(card):
    proof = card.prove()
    assert proof.passed, (card.key, proof)
    result = ran(card)
    assert set(result) == set(card.numbers)
    for key, value in card.numbers.items():
        np.testing.assert_allclose(
            np.array(result[key], float), np.array(value, float), rtol=0, atol=card.atol
        )


def text_cards(loaded, text):
    found = [*cards.own(loaded, text), cards.roundtrip(loaded, text), cards.price(loaded, text, "tokens")]
    if loaded.name in cards.sources(loaded):
        piece = cards.pieces(loaded, loaded.name, text)[0]
        found.append(cards.merging(loaded, loaded.name, text, piece, 2))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_every_proof_holds_and_every_script_finds_the_same(kind, text):
    for card in text_cards(kind, text):
        check(card)


@pytest.mark.parametrize("text", TEXTS[:3])
def test_so_they_do_for_the_space_and_on_the_landing_page(kind, text):
    trace = capture(kind, text)
    check(cards.space(kind, text, lambda wanted: capture(kind, wanted)))
    check(home.text(kind, trace, len(trace.tokens)))
    check(home.tokens(kind, trace, len(trace.tokens)))


@pytest.mark.smollm2
@pytest.mark.parametrize("text", TEXTS[1:4])
def test_every_card_holds_on_smollm2(smollm2, text):
    for card in text_cards(smollm2, text):
        check(card)


def test_the_start_token_is_told_and_not_counted(made):
    loaded = made("start")
    for card in text_cards(loaded, PROMPT):
        if card.key not in ("merging", "roundtrip"):
            assert "<s> (id 0)" in card.note, card.key
    assert "not typed and not counted" in cards.roundtrip(loaded, PROMPT).note
    assert cards.own(loaded, PROMPT)[1].shown["tokens"][0] == len(typed(loaded, PROMPT))
    assert cards.roundtrip(loaded, PROMPT).numbers["ids"] == [t.id for t in tokenize(loaded, PROMPT)][1:]
    note = cards.space(loaded, PROMPT, lambda wanted: capture(loaded, wanted)).note
    assert f"{len(tokenize(loaded, PROMPT))} tokens (1 of them not typed)" in note
    assert "puts <s> before it" in home.tokens(loaded, capture(loaded, PROMPT), 9).title


def test_english_costs_once_english_with_a_start_token_too(made):
    card = cards.price(made("start"), "", "times English")
    assert card.shown["times English"][card.table["text"].index("English")].tolist() == [1, 1, 1, 1]


def test_what_is_lost_is_stated_with_its_place(made):
    loaded = made("lacking")
    card = cards.roundtrip(loaded, "zoë")  # ë is C3 AB in UTF-8, at byte 2
    assert card.title.endswith("2 bytes of the text are lost on the way")
    assert "C3 at byte 2, AB at byte 3" in card.note
    assert card.numbers["lossless"] == 0
    assert "(AB, C3)" in cards.merging(loaded, loaded.name, "zoë", b"zo", 0).note


def test_smollm2_loses_a_control_character(smollm2):
    card = cards.roundtrip(smollm2, "a\x04b")
    assert "1 byte of the text is lost" in card.title
    assert "04 at byte 1" in card.note
    assert cards.roundtrip(smollm2, "naïve 🦉 日本語 café").numbers["lossless"] == 1


def test_a_text_without_any_token_is_refused(made, smollm2):
    for make in (cards.roundtrip, cards.own):
        with pytest.raises(ReaderError, match="no token for any character"):
            make(made("lacking"), "日本")
        with pytest.raises(ReaderError, match="no token for any character"):
            make(smollm2, "\x04\x06")
    with pytest.raises(ReaderError, match="Nothing in this text is merged"):
        cards.pieces(made("added"), made("added").name, "é")


def test_normalization_and_a_space_put_first_are_told(made):
    card = cards.roundtrip(made("normalizing"), "cafe\u0301")
    assert "normalizes the text first" in card.title
    assert card.numbers["lossless"] == 0
    card = cards.roundtrip(made("sentencepiece"), PROMPT)
    assert "puts a space in front" in card.note
    assert card.numbers["lossless"] == 1


def changed(tokens):
    """Wrong tokens of the same text: one left out, two exchanged, an id, a byte."""
    first, second, *rest = tokens
    yield (second, *rest)
    yield (second, first, *rest)
    yield (replace(first, id=first.id + 1), second, *rest)
    yield (replace(first, bytes=b"?" + first.bytes), second, *rest)
    yield (first, second, *rest, first)


@pytest.mark.parametrize("text", [PROMPT, "zoë é of   the \x04 sea"])
def test_the_round_trip_is_refuted_where_the_tokens_are_wrong(kind, text, monkeypatch):
    assert cards.roundtrip(kind, text).prove().passed
    for wrong in changed(typed(kind, text)):
        monkeypatch.setattr(roundtrip, "of_text", lambda *_, tokens=wrong: tokens)
        assert not cards.roundtrip(kind, text).prove().passed


def test_the_round_trip_is_refuted_where_a_loss_is_not_stated(made, monkeypatch):
    loaded = made("lacking")
    back = roundtrip.returned(loaded, "zoë", typed(loaded, "zoë"))
    for lost in ((), back.lost[:1], ((2, 0xC4), (3, 0xAB)), ((1, 0xC3), (3, 0xAB))):
        monkeypatch.setattr(roundtrip, "returned", lambda *_, wrong=lost: replace(back, lost=wrong))
        assert not cards.roundtrip(loaded, "zoë").prove().passed


def shortened(real):
    return lambda *asked: real(*asked)[:-1]


def swapped(real):
    def tokens(*asked):
        found = real(*asked)
        return (*found[1::-1], *found[2:])

    return tokens


@pytest.mark.parametrize("damage", [shortened, swapped])
def test_cuts_counts_and_merges_are_refuted_where_the_tokens_are_wrong(kind, damage, monkeypatch):
    monkeypatch.setattr(own, "of_text", damage(own.of_text))
    monkeypatch.setattr(price, "typed", damage(typed))
    monkeypatch.setattr(merging, "library_ids", damage(merging.library_ids))
    cut, counted = cards.own(kind, PROMPT)
    assert not cut.prove().passed
    assert counted.prove().passed == (damage is swapped)  # the count is right when two are exchanged
    assert cards.price(kind, PROMPT, "tokens").prove().passed == (damage is swapped)
    if kind.name in cards.sources(kind):
        piece = cards.pieces(kind, kind.name, PROMPT)[0]
        assert not cards.merging(kind, kind.name, PROMPT, piece, 1).prove().passed


def test_a_wrong_price_is_refuted(made, monkeypatch):
    monkeypatch.setattr(price, "measured", lambda counts, *_: counts + 1)
    for measure in cards.MEASURES:
        assert not cards.price(made("start"), PROMPT, measure).prove().passed


def test_a_tokenizer_that_is_no_byte_pair_encoder_is_proved_by_its_model(made, monkeypatch):
    monkeypatch.setattr(tokenizing.merges, "replayer", lambda tokenizer: None)
    monkeypatch.setattr(tokenizing, "_REPLAYED", {})
    cut = cards.own(made("sentencepiece"), TEXTS[1])[0]
    assert "no byte-pair encoder" in cut.prove().claim
    assert cut.prove().passed


def test_a_text_that_is_rewritten_is_told_not_to_be_drawn(made):
    loaded = made("normalizing")
    card = cards.own(loaded, "cafe\u0301 of the sea")[0]
    assert "rewrites this text before it cuts it" in card.note
    assert card.table["tokenizer"].count(loaded.name) == len(typed(loaded, "cafe\u0301 of the sea"))
    assert "rewrites" not in cards.own(loaded, "cafe of the sea")[0].note


def test_a_request_says_what_its_template_lost(smollm2):
    version = post_training.Version("SmolLM2", smollm2.name, lambda: smollm2)
    card = post_training.template(version, "Who a\x04re you?")
    assert "the bytes 04" in card.note
    assert card.prove().passed
    assert "Left out" not in post_training.template(version, "Who are you?").note
