"""The tokenizer that a run can train for itself."""

from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from engine.training.tokenizer import save_tokenizer, train_tokenizer

TOKENIZER = train_tokenizer(["the fox met the hen, and the hen met the fox " * 9], 300)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_every_text_survives_the_round_trip(text):
    if "<|endoftext|>" not in text:
        assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_end_of_text_is_token_0_and_all_bytes_are_pieces():
    assert TOKENIZER.token_to_id("<|endoftext|>") == 0
    assert 257 < TOKENIZER.get_vocab_size() <= 300


def test_a_frequent_word_is_one_piece():
    assert len(TOKENIZER.encode(" hen").ids) == 1


def test_transformers_reads_the_folder(tmp_path):
    save_tokenizer(TOKENIZER, tmp_path, context=32)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert read("the hen").input_ids == TOKENIZER.encode("the hen").ids
    assert read.eos_token_id == 0
    assert read.model_max_length == 32
