"""Answers drawn in a batch are those that the app's own generator draws for each prompt alone."""

import pytest

from engine.model.generation import generate
from engine.training.sampling import left_padded, sample_answers
from tests.conftest import loaded_checkpoint

PROMPTS = ("The", "Once upon a time there was a little girl", "It was", "The old man said to the boy that he")


@pytest.fixture(scope="module", params=["pocket-llama", "pocket-gpt2"])
def loaded(request):
    return loaded_checkpoint(request.param)


def test_a_batch_draws_what_each_prompt_alone_draws(loaded):
    prompts = [loaded.tokenizer.encode(text, add_special_tokens=False) for text in PROMPTS]
    assert len({len(prompt) for prompt in prompts}) > 2, "padding of several lengths"
    seeds = [11, 12, 13, 14]
    alone = [
        [step.id for step in generate(loaded, prompt, 20, temperature=0.7, seed=seed)]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    stops = frozenset({alone[0][2], alone[1][6]})  # so rows end at different steps and are dropped on the way
    for answer, drawn in zip(
        sample_answers(loaded.model, prompts, seeds, stops, 20, 0.7), alone, strict=True
    ):
        end = next((i for i, token in enumerate(drawn) if token in stops), None)
        assert answer.ended == (end is not None)
        assert [*answer.ids] == drawn[:end]


def test_an_answer_depends_on_its_seed_and_not_on_its_neighbours(loaded):
    prompt = loaded.tokenizer.encode(PROMPTS[1], add_special_tokens=False)
    other = loaded.tokenizer.encode(PROMPTS[0], add_special_tokens=False)
    alone, again = (
        sample_answers(loaded.model, group, seeds, frozenset(), 8, 1.0)
        for group, seeds in (([prompt], [5]), ([other, prompt, prompt], [4, 5, 6]))
    )
    assert again[1] == alone[0]
    assert again[2] != alone[0]


def test_prompts_end_together():
    ids, mask = left_padded([[7], [8, 9, 10]])
    assert ids.tolist() == [[0, 0, 7], [8, 9, 10]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
