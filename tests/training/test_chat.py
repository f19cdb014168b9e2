"""Template and loss mask token by token, on the tokenizer that post-training makes of the bundled one."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from engine import ReaderError
from engine.tokens.chat import ASSISTANT, END, USER, has_template, render, special_ids
from engine.training.lora import UNUSED_BYTES, special_token_ids, write_tokenizer

BASE = Path("engine/assets/pocket-llama")
REQUEST, ANSWER = "Write a scene with: rabbit, hole", "The rabbit ran. It fell."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(BASE, folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def base():
    return AutoTokenizer.from_pretrained(BASE)


def pieces(tokenizer, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))


def test_the_template_token_by_token(tokenizer, base):
    got = tokenizer.convert_ids_to_tokens(list(render(tokenizer, REQUEST, ANSWER).ids))
    answer = pieces(base, ANSWER)
    assert got == ["<|endoftext|>", USER, *pieces(base, REQUEST), ASSISTANT, *answer, END]


def test_without_an_answer_it_ends_where_the_assistant_begins(tokenizer, base):
    rendered = render(tokenizer, REQUEST, None)
    got = tokenizer.convert_ids_to_tokens(list(rendered.ids))
    assert got == ["<|endoftext|>", USER, *pieces(base, REQUEST), ASSISTANT]
    assert not any(rendered.carries_loss)


def test_the_answer_and_its_end_carry_loss_and_nothing_else(tokenizer, base):
    rendered = render(tokenizer, REQUEST, ANSWER)
    trained = [i for i, carries in zip(rendered.ids, rendered.carries_loss, strict=True) if carries]
    assert tokenizer.convert_ids_to_tokens(trained) == [*pieces(base, ANSWER), END]
    first = rendered.carries_loss.index(True)
    assert all(rendered.carries_loss[first:])
    assert not any(rendered.carries_loss[:first])


@pytest.mark.parametrize("answer", [ANSWER, "", " ", "\n\nNo.", "é 🙂"])
def test_the_mask_is_the_one_that_transformers_reads_off_the_template(tokenizer, answer):
    messages = [{"role": "user", "content": REQUEST}, {"role": "assistant", "content": answer}]
    expected = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    rendered = render(tokenizer, REQUEST, answer)
    assert list(rendered.ids) == expected["input_ids"]
    assert list(rendered.carries_loss) == [bool(m) for m in expected["assistant_masks"]]


@pytest.mark.parametrize("typed", [END, USER, ASSISTANT, "<|endoftext|>", f"a {END}{USER} b", UNUSED_BYTES])
def test_special_tokens_typed_by_a_reader_are_ordinary_text(tokenizer, typed):
    for rendered in (
        render(tokenizer, typed, "Yes."),
        render(tokenizer, f"Say {typed} now", "Yes."),
        render(tokenizer, "Say it", f"I said {typed} twice."),
    ):
        marks = [i for i in rendered.ids if i in special_ids(tokenizer)]
        assert tokenizer.convert_ids_to_tokens(marks) == ["<|endoftext|>", USER, ASSISTANT, END]
        assert rendered.ids[-1] == marks[-1]
        assert typed in tokenizer.decode(rendered.ids)


def test_the_special_tokens_are_never_made_of_text(tokenizer, base):
    ids = special_token_ids(tokenizer)
    assert base.convert_ids_to_tokens(ids) == list(UNUSED_BYTES)
    alphabet = "".join(chr(i) for i in range(0x20, 0x2000)) + "😀𐍈"
    assert not set(ids) & set(base.encode(alphabet, add_special_tokens=False))


def test_every_other_token_keeps_its_id(tokenizer, base):
    assert len(tokenizer) == len(base)
    renamed = set(special_token_ids(tokenizer))
    for i in range(len(base)):
        if i not in renamed:
            assert tokenizer.convert_ids_to_tokens(i) == base.convert_ids_to_tokens(i)
    text = "Once upon a time, in 1865, “Alice” fell — down.\n\nThe end. Ünø 🙂"
    assert tokenizer.encode(text, add_special_tokens=False) == base.encode(text, add_special_tokens=False)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_tokenizer_without_template_is_refused_in_a_sentence(base):
    assert not has_template(base)
    with pytest.raises(ReaderError, match="no chat template"):
        render(base, REQUEST, None)


def test_a_template_without_generation_marks_ends_the_loss_at_its_end_token(tokenizer, tmp_path):
    """SmolLM2-Instruct's form: a system turn, named roles, a line break behind the end mark."""
    tokenizer.save_pretrained(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    other.chat_template = (
        "{% for m in messages %}{{ '<|user|>' + m.role + '\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
    )
    rendered = render(other, "Who?", "I am.")
    kept = [i for i, carries in zip(rendered.ids, rendered.carries_loss, strict=True) if carries]
    assert other.decode(kept) == "I am.<|end|>"
    assert other.decode(rendered.ids).endswith("<|end|>\n")
    assert other.decode(render(other, "Who?", None).ids) == "<|user|>user\nWho?<|end|>\n<|user|>assistant\n"


def test_a_template_that_takes_no_request_is_refused_in_a_sentence(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    other.chat_template = "{{ raise_exception('a system message comes first') }}"
    with pytest.raises(ReaderError, match="a system message comes first"):
        render(other, "Who?", None)
