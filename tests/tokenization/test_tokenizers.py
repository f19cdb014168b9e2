"""tiktoken's encodings from the bundled files: the published ids, every text whole again, and no network."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import ReaderError
from engine.tokens import encodings

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encodings._encoding.cache_clear()
    encodings.definition.cache_clear()


# From tiktoken's README and tests/test_simple_public.py: "hello world" in r50k_base and cl100k_base.
@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("r50k_base", "hello world", [31373, 995]),
        ("cl100k_base", "hello world", [15339, 1917]),
        ("o200k_base", "hello world", [24912, 2375]),
    ],
)
def test_published_ids(name, text, ids, no_network):
    assert encodings.encode(name, text) == ids


@pytest.mark.parametrize("name", encodings.ENCODINGS)
@given(text=TEXT)
def test_every_text_comes_back_whole(name, text):
    assert b"".join(t.bytes for t in encodings.tokens(name, text)) == text.encode("utf-8")
    assert encodings.encoding(name).decode(encodings.encode(name, text)) == text


@pytest.mark.parametrize("name", encodings.ENCODINGS)
def test_a_typed_special_token_is_ordinary_text(name):
    special = encodings.encoding(name).eot_token
    ids = encodings.encode(name, "a<|endoftext|>b")
    assert special not in ids
    assert len(ids) > 5
    assert encodings.encoding(name).decode(ids) == "a<|endoftext|>b"


@pytest.mark.parametrize("name", encodings.ENCODINGS)
def test_every_single_byte_is_a_token(name):
    ranks = encodings.definition(name)["mergeable_ranks"]
    assert all(bytes([byte]) in ranks for byte in range(256))


@pytest.mark.parametrize(
    ("name", "size"), [("r50k_base", 50257), ("cl100k_base", 100277), ("o200k_base", 200019)]
)
def test_vocabularies_have_their_published_sizes(name, size):
    assert encodings.encoding(name).n_vocab == size


def test_a_changed_rank_file_is_refused(tmp_path, monkeypatch):
    changed = tmp_path / "tokenizers" / "r50k_base.tiktoken"
    changed.parent.mkdir()
    changed.write_bytes(encodings.rank_file("r50k_base").read_bytes() + b"\n")
    monkeypatch.setattr(encodings, "ASSETS", tmp_path)
    with pytest.raises(ReaderError, match="not the one that tiktoken expects"):
        encodings.definition.__wrapped__("r50k_base")


def test_bytes_that_are_no_text_are_shown_as_hexadecimal():
    shown = [token.display for token in encodings.tokens("r50k_base", "🦉")]
    assert "".join(shown).replace("‹", "").replace("›", "").replace(" ", "") == "🦉".encode().hex().upper()
