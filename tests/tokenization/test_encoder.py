"""Text to ids for tokenizers of every kind: what transformers returns, true bytes, one tokenizer for many threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from engine import capture, tokenize
from engine.model.capturing import start_tokens, token, typed, windows
from engine.tokens import chat, encoder, merges, passages
from engine.tokens.pieces import cover, restored
from tests.conftest import PROMPT
from tests.tokenization.made import ADDED, START

TEXTS = (
    PROMPT,
    "a<s>b</s> <unk> <tool_call>x</tool_call> é café cafe\u0301    x  of the sea",
    "naïve 🦉 日本語\n\t\x04\x00 \U00040000",
    " begins with a space",
)
PARTS = ["<s>", "   ", "é", "e\u0301", "<tool_call>", "of the", "🦉", "\x04", *"ab the<>1 \n"]
TYPED = st.lists(st.sampled_from(PARTS), max_size=20).map("".join)


def theirs(loaded, text, special):
    """transformers' own ids, from a tokenizer of its own."""
    own = AutoTokenizer.from_pretrained(loaded.asked)
    return own(text, split_special_tokens=True, add_special_tokens=special)["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(kind, text):
    assert [t.id for t in tokenize(kind, text)] == theirs(kind, text, special=True)
    assert [t.id for t in typed(kind, text)] == theirs(kind, text, special=False)


def test_a_start_token_is_read_first_and_nobody_typed_it(kind):
    first, *others = tokenize(kind, "Once upon<s>")
    assert (first.id, first.piece, first.bytes, first.special) == (
        kind.tokenizer.bos_token_id,
        START,
        b"",
        True,
    )
    assert first.display == START
    assert tuple(others) == typed(kind, "Once upon<s>")
    assert not any(t.special for t in others)
    assert start_tokens(kind) == (first,)


def test_bundled_tokenizers_put_nothing_first(loaded):
    assert start_tokens(loaded) == ()
    assert tokenize(loaded, PROMPT) == typed(loaded, PROMPT)


def test_a_trace_of_ids_knows_the_start_token_too(made):
    tokens = tokenize(made("start"), PROMPT)
    assert capture(made("start"), [t.id for t in tokens]).tokens == tokens


def test_an_empty_text_is_the_start_token(kind):
    assert [t.id for t in tokenize(kind, "")] == [kind.tokenizer.bos_token_id]
    assert typed(kind, "") == ()


@pytest.mark.parametrize("content", ADDED)
def test_an_added_token_is_literal_text(made, content):
    loaded = made("added")
    (found,) = typed(loaded, content)
    assert found.bytes == content.encode("utf-8")
    assert not found.special


def test_an_added_token_comes_back_from_its_id(made):
    tokenizer, text = made("added").tokenizer, "café of the   <tool_call> sea é"
    ids = encoder.encode(tokenizer, text, special=False)
    assert encoder.decode(tokenizer, ids) == text != tokenizer.decode(ids)  # transformers reads é as a byte


def test_the_unknown_token_stands_for_text(made):
    tokenizer = made("sentencepiece").tokenizer
    assert tokenizer.unk_token_id not in encoder.encoder(tokenizer).special


@settings(max_examples=40)
@given(text=TYPED)
@pytest.mark.parametrize("name", ["start", "added", "lacking", "normalizing", "sentencepiece"])
def test_replaying_ends_where_transformers_ends(made, replayers, name, text):
    loaded = made(name)
    ids = encoder.encode(loaded.tokenizer, text, special=False)
    assert replayers(name)(text) == ids
    merger = merges.of_loaded(loaded)
    assert merger is None or merger.encode(text) == ids


@pytest.fixture(scope="module")
def replayers(made):
    from functools import cache

    return cache(lambda name: merges.replayer(made(name).tokenizer))


@settings(max_examples=40)
@given(text=TYPED)
@pytest.mark.parametrize("name", ["start", "added", "lacking", "sentencepiece"])
def test_bytes_are_those_of_the_text_but_for_what_has_no_token(made, name, text):
    facts = encoder.encoder(made(name).tokenizer)
    parts = [t.bytes for t in typed(made(name), text)]
    if facts.leading_space and parts:
        parts[0] = parts[0].removeprefix(b" ")
    raw = text.encode("utf-8")
    assert b"".join(parts) == bytes(byte for byte in raw if byte not in facts.lacking)


def test_pieces_of_a_text_without_added_tokens(made):
    merger = merges.of_loaded(made("added"))
    assert b"".join(merger.split("the é cat <tool_call>")) == b"the  cat "
    assert merges.of_loaded(made("lacking")).left_out("zoë") == "ë".encode()


def test_cover_finds_each_part_and_what_is_lost():
    found = cover(b"abcdef", [b"a", b"", b"de"])
    assert found.ends == (1, 1, 6)
    assert found.lost == (1, 2, 5)
    assert cover(b"abc", [b"ac", b"b"]) is None
    assert restored([b"a", b"de"], [(1, 98), (2, 99), (5, 102)]) == b"abcdef"


def test_every_window_begins_with_the_start_token(made):
    loaded, text = made("start"), passages.passage()
    cuts = windows(loaded, text, 64)
    assert {cut[0] for cut in cuts} == {loaded.tokenizer.bos_token_id}
    assert [id for cut in cuts for id in cut[1:]] == [t.id for t in typed(loaded, text)]
    assert {len(cut) for cut in cuts[:-1]} == {64}


def test_a_bundled_checkpoint_reads_windows_without_one(loaded):
    cuts = windows(loaded, passages.passage(), 64)
    assert [id for cut in cuts for id in cut] == [t.id for t in tokenize(loaded, passages.passage())]


CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}assistant:"


def settings_of(tokenizer):
    backend = tokenizer.backend_tokenizer
    return backend.to_str(), backend.encode_special_tokens, backend.truncation, backend.padding


def test_many_threads_share_one_tokenizer(made, tmp_path):
    loaded = made("added")
    loaded.tokenizer.chat_template = CHAT
    before = settings_of(loaded.tokenizer)

    def job(i):
        text = f"{TEXTS[i % len(TEXTS)]} {i % 7}"
        ids = [t.id for t in tokenize(loaded, text)]
        if i % 3 == 0:
            return ids
        if i % 3 == 1:
            return chat.render(loaded.tokenizer, text, "I <s> am." if i % 2 else None).ids
        return encoder.decode(loaded.tokenizer, ids), [token(loaded, id) for id in ids]

    jobs = list(range(600))
    serial = [job(i) for i in jobs]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(job, jobs)) == serial
    assert settings_of(loaded.tokenizer) == before


def test_truncation_and_padding_of_a_file_do_not_cut_texts(made, tmp_path):
    source = made("start")
    tokenizer = AutoTokenizer.from_pretrained(source.asked)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=9, pad_id=1, pad_token="</s>")
    ids = encoder.encode(tokenizer, PROMPT, special=True)
    assert ids == [t.id for t in tokenize(source, PROMPT)]
    encoder.prepare(tokenizer)
    assert settings_of(tokenizer)[1:] == (False, None, None)


def test_smollm2_lacks_21_bytes_and_drops_them(smollm2):
    facts = encoder.encoder(smollm2.tokenizer)
    vocab = smollm2.tokenizer.get_vocab()
    alphabet = {char: byte for char, byte in merges.bpe.byte_of_char().items() if char not in vocab}
    assert len(facts.lacking) == 21
    assert sorted(alphabet.values()) == list(facts.lacking)
    assert facts.start == ()
    assert b"".join(t.bytes for t in typed(smollm2, "a\x04b")) == b"ab"
    merger = merges.of_loaded(smollm2)
    for text in (*TEXTS, *(sentence.text for sentence in passages.sentences()), "a\x04b 1234 \U00081234"):
        assert merger.encode(text) == [t.id for t in typed(smollm2, text)]
