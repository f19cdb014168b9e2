"""Generation against transformers' own `generate`, and against its own uncached path."""

import pytest
import torch

from engine import ReaderError, tokenize
from engine.model.generation import end_of_text, generate
from engine.model.interventions import AblateHeads, SkipMlp
from engine.ops.sampling import Filters
from tests.conftest import PROMPT

FILTERS = {"temperature": 0.8, "top_k": 60, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.3}


def prompt(loaded):
    return [token.id for token in tokenize(loaded, PROMPT)]


def theirs(loaded, ids, n, **options):
    batch = torch.tensor([ids])
    options |= {"max_new_tokens": n, "attention_mask": torch.ones_like(batch)}
    return loaded.model.generate(batch, **options)[0, len(ids) :].tolist()


def ours(*args, **options):
    return [step.id for step in generate(*args, **options)]


def test_greedy_equals_transformers(loaded):
    ids = prompt(loaded)
    assert ours(loaded, ids, 16) == theirs(loaded, ids, 16, do_sample=False)


@pytest.mark.parametrize("name", ["llama-mqa", "qwen2", "qwen3", "neox-parallel", "gpt2-relu-wide"])
def test_greedy_equals_transformers_on_every_type(tiny_model, name):
    loaded = tiny_model(name)
    ids = prompt(loaded)
    assert ours(loaded, ids, 12) == theirs(loaded, ids, 12, do_sample=False)


@pytest.mark.parametrize("seed", [0, 7])
def test_seeded_draws_equal_transformers_after_manual_seed(loaded, seed):
    ids = prompt(loaded)
    ours_first = ours(loaded, ids, 16, seed=seed, **FILTERS)
    torch.manual_seed(seed)
    assert ours_first == theirs(loaded, ids, 16, do_sample=True, **FILTERS)


def test_a_seed_leaves_the_global_generator_alone(loaded):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ours(loaded, prompt(loaded), 2, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_logits_equal_a_pass_without_cache(loaded):
    ids = prompt(loaded)
    steps = list(generate(loaded, ids, 6))
    with torch.no_grad():
        full = loaded.model(torch.tensor([ids + [s.id for s in steps]])).logits[0]
    for i, step in enumerate(steps):
        row = full[len(ids) - 1 + i]
        torch.testing.assert_close(torch.tensor(step.logits), row, atol=1e-4, rtol=0)
        assert step.probability == pytest.approx(row.softmax(-1)[step.id].item(), abs=1e-5)
        assert [i for i, _ in step.alternatives] == row.topk(8).indices.tolist()


def test_interventions_change_every_step_and_the_hooks_are_clean_between(loaded):
    ids = prompt(loaded)
    without = SkipMlp(0)
    running = generate(loaded, ids, 4, interventions=[without])
    first = next(running)
    assert ours(loaded, ids, 4) == theirs(loaded, ids, 4, do_sample=False)  # while `running` is half done
    text = [first.id, *(step.id for step in running)]
    handle = loaded.part("mlp", 0).register_forward_hook(
        lambda module, args, output: torch.zeros_like(output)
    )
    try:
        assert text == theirs(loaded, ids, 4, do_sample=False)
    finally:
        handle.remove()


def test_stops_after_end_of_text_and_yields_it(loaded, monkeypatch):
    ids = prompt(loaded)
    third = ours(loaded, ids, 3)[2]
    monkeypatch.setattr("engine.model.generation.end_of_text", lambda loaded: frozenset([third]))
    steps = list(generate(loaded, ids, 10))
    assert [step.end for step in steps][-1]
    assert steps[-1].id == third
    assert len(steps) <= 3


def test_end_of_text_is_the_checkpoints_own(loaded):
    assert end_of_text(loaded) == {loaded.model.generation_config.eos_token_id}


def test_stops_where_the_context_is_full(tiny_model):
    loaded = tiny_model("gpt2")
    ids = list(range(1, loaded.spec.context))  # one short of the context
    assert len(ours(loaded, ids, 10)) == 2  # one more fits, and what follows it can still be read off


def test_one_token_with_a_top_k_of_one_is_greedy(loaded):
    ids = prompt(loaded)[:1]
    assert ours(loaded, ids, 5, seed=3, top_k=1) == ours(loaded, ids, 5)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": 0.0, "seed": 1},
        {"temperature": float("nan"), "seed": 1},
        {"top_p": 1.5, "seed": 1},
        {"repetition_penalty": -1.0},
        {"interventions": [AblateHeads(((99, 0),))]},
    ],
)
def test_refuses_at_the_call(loaded, bad):
    with pytest.raises(ReaderError):
        generate(loaded, prompt(loaded), 3, **bad)


@pytest.mark.parametrize("ids", [[], list(range(600))])
def test_refuses_a_prompt_that_cannot_run(loaded, ids):
    with pytest.raises(ReaderError):
        generate(loaded, ids, 3)


def test_logits_that_are_not_numbers_are_one_sentence(loaded, monkeypatch):
    monkeypatch.setattr(
        "engine.model.generation._next_logits", lambda *args: torch.full((9,), torch.nan).numpy()
    )
    with pytest.raises(ReaderError, match="not finite"):
        list(generate(loaded, [1], 3))
    assert Filters() == Filters(1.0, 1.0, None, None, None)
