"""The cards of chapter 1: true numbers, proofs that hold, and scripts that find the same."""

import numpy as np
import pytest
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import ReaderError, capture
from engine.chapters import c01_tokenization as cards
from engine.chapters.c01_tokenization import learning
from engine.chapters.c01_tokenization.learning import learned
from engine.chapters.c01_tokenization.own import laid, segmented, wrapped
from engine.chapters.c01_tokenization.price import NO_LANGUAGES
from engine.chapters.c01_tokenization.space import BARE, SPACED, starts_with_space, tail
from engine.evidence.comparing import mismatches
from engine.evidence.oracle import Oracle
from engine.tokens import encodings, passages
from tests.conftest import BUNDLED, PROMPT, loaded_checkpoint
from tests.pages.mutations import mutations

ODD = "a<|endoftext|>  b\t\n<b>$x$</b> 🦉é\u202e\x00 日本"
ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


def spaced(loaded, text):
    return cards.space(loaded, text, lambda wanted: capture(loaded, wanted))


def all_cards(loaded, text):
    piece = cards.pieces(loaded, loaded.name, text)[0]
    first = cards.pieces(loaded, "r50k_base", text)[0]
    return [
        cards.chips(text),
        *cards.own(loaded, text),
        cards.merging(loaded, loaded.name, text, piece, 1),
        cards.merging(loaded, "r50k_base", text, first, 99),
        cards.roundtrip(loaded, text),
        spaced(loaded, text),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("text", [PROMPT, ODD])
def test_every_proof_holds_and_every_script_finds_the_same(loaded, text):
    check(all_cards(loaded, text))


@pytest.mark.parametrize("measure", cards.MEASURES)
def test_so_they_do_for_prices(measure):
    check([cards.price(loaded_checkpoint(BUNDLED[0]), ODD, measure)])


def check(shown):
    for card in shown:
        proof = card.prove()
        assert proof.passed, (card.key, proof)
        names = {}
        exec(card.code, names)
        assert set(names["result"]) == set(card.numbers)
        for key, value in card.numbers.items():
            found = np.array(names["result"][key], float)
            np.testing.assert_allclose(
                found, np.array(value, float), rtol=0, atol=card.atol, err_msg=card.key
            )


@settings(max_examples=25)
@given(text=ANY)
def test_any_text_makes_cards(text):
    loaded = loaded_checkpoint("pocket-gpt2")
    assert cards.chips(text).numbers["ids"] == encodings.encode("o200k_base", text)
    assert cards.roundtrip(loaded, text).numbers["lossless"] == 1
    assert len(cards.own(loaded, text)) == 2
    piece = cards.pieces(loaded, loaded.name, text)[0]
    assert cards.merging(loaded, loaded.name, text, piece, 3).prove().passed


def test_an_empty_text_is_refused_in_a_sentence(loaded):
    for make in (
        cards.chips,
        lambda text: cards.own(loaded, text),
        lambda text: cards.roundtrip(loaded, text),
    ):
        with pytest.raises(ReaderError, match="empty"):
            make("")


def test_a_piece_that_is_gone_is_refused(loaded):
    with pytest.raises(ReaderError, match="piece"):
        cards.merging(loaded, loaded.name, "Once", b" upon", 0)
    with pytest.raises(ReaderError, match="cannot be replayed"):
        cards.merging(loaded, "someone-else", "Once", b"Once", 0)


def test_merging_stops_at_the_ends(loaded):
    last = cards.steps(loaded, loaded.name, b" little")
    assert last > 0
    assert "before the first" in cards.merging(loaded, loaded.name, PROMPT, b" little", -5).title
    assert f"Merge {last} of {last}" in cards.merging(loaded, loaded.name, PROMPT, b" little", 99).title


def test_chips_of_a_known_text():
    card = cards.chips("hello world")
    assert card.shown == {"ids": [24912, 2375], "lengths": [5, 6], "bytes": [*b"hello world"]}
    assert card.table["bytes"] == ["68 65 6C 6C 6F", "20 77 6F 72 6C 64"]
    assert card.table["token"] == ["hello", "␣world"]


def test_own_counts_are_the_library_counts(loaded):
    text = passages.sentences()[6].text  # Hindi
    table = cards.own(loaded, text)[1].table
    counts = dict(zip(table["tokenizer"], table["tokens"], strict=True))
    assert counts[loaded.name] == len(loaded.tokenizer(text)["input_ids"])
    assert counts["o200k_base"] < counts["cl100k_base"] < counts["r50k_base"]


def test_lines_break_only_where_all_tokenizers_cut(loaded):
    text = PROMPT * 3
    cuts = {name: laid(loaded, name, text, tokens) for name, tokens in segmented(loaded, text).items()}
    lines = wrapped(cuts, line=20, lines=99)
    for line in lines:
        assert len({strip.width for strip in line}) == 1
    assert sum(line[0].width for line in lines) == len((PROMPT * 3).encode())


def test_the_price_of_english_is_one():
    loaded = loaded_checkpoint(BUNDLED[0])
    card = cards.price(loaded, "", "times English")
    row = card.table["text"].index("English")
    assert card.shown["times English"][row].tolist() == [1, 1, 1, 1]
    per_character = cards.price(loaded, "abc", "tokens per character").shown["tokens per character"]
    german = card.table["text"].index("German")
    text = passages.sentences()[german].text
    assert per_character[german, 3] == len(encodings.encode("o200k_base", text)) / len(text)


@pytest.mark.parametrize("measure", cards.MEASURES)
def test_the_most_expensive_language_is_named_and_nothing_that_says_something_else(measure):
    loaded = loaded_checkpoint(BUNDLED[0])
    card = cards.price(loaded, "🦉" * 300, measure)
    texts = {one.name: one.text for one in passages.sentences()}
    languages = [name for name in texts if name not in NO_LANGUAGES]
    assert len(languages) == 9
    counts = {name: len(encodings.encode("o200k_base", texts[name])) for name in languages}
    cost = {
        "tokens": counts,
        "tokens per character": {name: count / len(texts[name]) for name, count in counts.items()},
        "times English": {name: count / counts["English"] for name, count in counts.items()},
    }[measure]
    most = max(cost.values())
    named = " and ".join(name for name in languages if cost[name] == most)
    assert f"for o200k_base: {named}, " in card.title
    assert f"{most:.0f} tokens" in card.title or f"{most:.2f} {measure}" in card.title
    assert ("Emoji" in card.table["text"]) == (measure != "times English")


def test_the_models_that_use_an_encoding_are_those_that_tiktoken_names():
    names = {
        model: tiktoken.encoding_name_for_model(model) for model in ("davinci", "gpt-3.5", "gpt-4", "gpt-4o")
    }
    assert list(names.values()) == ["r50k_base", "cl100k_base", "cl100k_base", "o200k_base"]


def test_a_space_at_the_end_is_what_the_model_reads(loaded):
    card = spaced(loaded, PROMPT)
    ids = loaded.tokenizer(PROMPT + " ", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = loaded.model(ids).logits[0, -1].double().softmax(-1)[card.table["id"]]
    np.testing.assert_allclose(card.numbers[SPACED], expected, atol=1e-5)
    assert not np.allclose(card.numbers[SPACED], card.numbers[BARE], atol=0.01)


def test_training_on_paper():
    found = learned("aaabdaaabac", 3)  # pairs that overlap are counted as often as they stand
    assert found.merges == (((b"a", b"a"), 4), ((b"aa", b"a"), 2), ((b"aaa", b"b"), 2))
    assert found.pieces == ((b"aaab", b"d", b"aaab", b"a", b"c"),)
    assert learned("abcd", 5).merges == ()  # nothing stands twice
    assert learned("ab ab", 9).merges == (((b"a", b"b"), 2),)  # " a" is another piece's, and stands once


@pytest.mark.parametrize("text", ["she sells sea shells, she sells shells", ODD, "🦉🦉🦉 🦉🦉"])
@pytest.mark.parametrize("done", [0, 3, 60])
def test_no_altered_training_proves_itself(text, done):
    for card in cards.training(text, done):
        answer = card.oracle.compute()
        once = Oracle(card.oracle.claim, lambda answer=answer: answer, card.oracle.tolerance)
        assert once.judge(card.shown).passed
        assert [what for what, shown in mutations(card.shown, once) if once.judge(shown).passed] == []


def test_training_on_another_pair_does_not_prove_itself(monkeypatch):
    plain = learning._counted
    monkeypatch.setattr(learning, "_counted", lambda pieces: (*plain(pieces)[3:], *plain(pieces)[:3]))
    learning.learned.cache_clear()
    pairs, text = cards.training("she sells sea shells, she sells shells", 2)
    learning.learned.cache_clear()
    assert not pairs.prove().passed
    assert not text.prove().passed


def test_a_text_of_one_byte_has_nothing_to_learn():
    with pytest.raises(ReaderError, match="no two bytes"):
        cards.training("a", 1)


def test_a_space_typed_by_the_reader_changes_nothing(loaded):
    assert spaced(loaded, PROMPT + "  ").numbers == spaced(loaded, PROMPT).numbers


def test_which_tokens_begin_with_a_space(loaded):
    marks = starts_with_space(loaded, loaded.spec.vocab)
    for id in (*range(0, loaded.spec.vocab, 97), loaded.tokenizer(" the")["input_ids"][0]):
        assert marks[id] == loaded.tokenizer.decode([id]).startswith(" ")


def test_a_long_text_keeps_its_end(loaded):
    kept = tail(loaded, "word " * 400 + "end", 120)
    assert kept.endswith("end")
    assert 60 < len(loaded.tokenizer(kept)["input_ids"]) <= 120
    assert len(spaced(loaded, "🦉" * 500).table["id"]) > 0


def test_mismatches_count_places_and_lengths():
    assert mismatches([1, 2, 3], [1, 5, 3]) == 1
    assert mismatches([1, 2, 3], [1, 2]) == 1
    assert mismatches([], []) == 0


def test_a_special_token_typed_by_a_reader_is_text(loaded):
    card = cards.own(loaded, "<|endoftext|>")[0]
    assert loaded.tokenizer.eos_token_id not in card.numbers[f"{loaded.name} ids"]
