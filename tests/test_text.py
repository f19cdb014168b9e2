"""Text from readers and tokenizers reaches each sink as literal characters."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import ReaderError, capture, tokenize
from engine.tokens.text import PROMPT_CHARACTERS, clean_prompt, display, display_bytes, label, markdown
from tests.conftest import BUNDLED, loaded_checkpoint

ANY_TEXT = st.text(st.characters(), max_size=200)  # lone surrogates included


@given(ANY_TEXT)
def test_a_clean_prompt_is_valid_unicode_and_otherwise_unchanged(text):
    cleaned = clean_prompt(text)
    cleaned.encode("utf-8")
    if not re.search("[\ud800-\udfff]", text):
        assert cleaned == text


def test_a_lone_surrogate_becomes_the_replacement_character():
    assert clean_prompt("a\ud800b") == "a\ufffdb"


def test_too_long_a_prompt_is_refused_with_its_length():
    with pytest.raises(ReaderError, match="100,000"):
        clean_prompt("x" * 100_000)
    assert clean_prompt("x" * PROMPT_CHARACTERS)


@given(ANY_TEXT)
def test_markdown_leaves_no_active_character_unescaped(text):
    escaped = markdown(text)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>$:#|~]", escaped)


def test_markdown_keeps_the_characters_themselves():
    assert re.sub(r"\\(.)", r"\1", markdown("a*b_[c](d) $e$ <f>")) == "a*b_[c](d) $e$ <f>"


@given(ANY_TEXT)
def test_a_plotly_label_holds_no_tag_and_no_tex(text):
    escaped = label(text)
    assert not set("<>$") & set(escaped)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=50))
def test_display_has_no_control_format_or_bidirectional_character(text):
    shown = display(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]", shown)


def test_whitespace_is_visible():
    assert display(" a\n\t") == "␣a⏎⇥"


def test_a_space_and_a_middle_dot_are_two_signs_and_the_sign_for_a_space_is_a_third():
    assert [display(text) for text in (" ", "·", "␣")] == ["␣", "·", "‹U+2423›"]
    assert display(" · a·b") == "␣·␣a·b"
    assert display("\u00a0") == "‹U+00A0›", (
        "a space that does not break, by its number: its sign would look like ␣"
    )


def test_no_two_characters_are_shown_alike():
    shown = [display(chr(code)) for code in range(sys.maxunicode + 1)]
    assert len(set(shown)) == len(shown)


def test_no_character_is_shown_as_blank():
    assert all(display(chr(code)).strip() for code in range(sys.maxunicode + 1))


def test_incomplete_utf8_is_shown_as_bytes():
    assert display_bytes("é".encode()) == "é"
    assert display_bytes("é".encode()[:1]) == "‹C3›"


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60), st.sampled_from(BUNDLED))
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(text, name):
    tokens = tokenize(loaded_checkpoint(name), text)
    assert b"".join(token.bytes for token in tokens) == text.encode("utf-8")


def test_text_that_looks_like_a_special_token_is_ordinary_text(loaded):
    tokens = tokenize(loaded, "<|endoftext|>")
    assert len(tokens) > 1
    assert loaded.tokenizer.eos_token_id not in [token.id for token in tokens]


def test_an_empty_prompt_is_the_beginning_of_text(loaded):
    assert [t.id for t in capture(loaded, "").tokens] == [loaded.tokenizer.bos_token_id]


def test_a_prompt_longer_than_the_context_is_refused(loaded):
    with pytest.raises(ReaderError, match=f"{loaded.spec.context:,}"):
        capture(loaded, [5] * (loaded.spec.context + 1))
