"""The prompts that are offered: well-formed, and on the bundled checkpoints they show what they are there for."""

import pytest

from engine import capture
from engine.checkpoints.catalogue import CATALOGUE
from engine.checkpoints.prompts import is_offered, prompts_for
from engine.tokens.text import clean_prompt
from tests.conftest import BUNDLED, loaded_checkpoint

NAMES = (*CATALOGUE, "/models/mine", "owner/name", "roneneldan/TinyStories-33M", "")


@pytest.mark.parametrize("name", NAMES)
def test_the_default_is_one_of_the_examples_and_no_two_are_alike(name):
    prompts = prompts_for(name)
    texts, labels = ([getattr(one, part) for one in prompts.examples] for part in ("text", "label"))
    assert prompts.example(prompts.default) is not None
    assert len(set(texts)) == len(set(labels)) == len(texts) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_is_offered_as_it_would_be_read_back_from_an_address(name):
    for example in prompts_for(name).examples:
        assert is_offered(clean_prompt(example.text))


def test_a_text_of_the_readers_own_is_not_offered():
    assert not is_offered("The capital of France is ")


def test_a_folder_is_judged_by_its_own_name_and_not_by_those_above_it():
    assert prompts_for("/home/chat/mine") == prompts_for("/models/mine")


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize(
    ("label", "token"),
    [
        ("A name nobody has heard", "ubb"),
        ("A sentence said twice", " wood"),
        ("Friends from a book", " Woodman"),
        ("A set phrase", " world"),
    ],
)
def test_a_bundled_checkpoint_continues_its_examples_as_they_promise(name, label, token):
    loaded = loaded_checkpoint(name)
    text = next(one.text for one in prompts_for(name).examples if one.label == label)
    assert loaded.tokenizer.decode([int(capture(loaded, text).logits[-1].argmax())]) == token
