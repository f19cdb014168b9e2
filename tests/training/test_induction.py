"""Scores on attention patterns whose answer is known, and on a model's own loss."""

import pytest
import torch

from engine.training.architectures import Shape, build
from engine.training.induction import (
    eager_copy,
    induction_score,
    measure_induction,
    previous_token_score,
    repeated_random_tokens,
)

LENGTH = 10
SEQ = 1 + 2 * LENGTH


def pattern(offset: int) -> torch.Tensor:
    """Attention of one head (1, query, key) that looks ``offset`` back, at the first token where there is none."""
    attention = torch.zeros(1, SEQ, SEQ)
    for query in range(SEQ):
        attention[0, query, query - offset if query >= offset else 0] = 1
    return attention


def test_sequence_is_a_start_and_twice_the_same_distinct_tokens():
    ids = repeated_random_tokens(vocab=50, length=LENGTH, count=3, seed=0)
    assert ids.shape == (3, SEQ)
    assert (ids[:, 0] == 0).all()
    assert (ids[:, 1 : LENGTH + 1] == ids[:, LENGTH + 1 :]).all()
    assert all(len(set(row[1 : LENGTH + 1].tolist()) - {0}) == LENGTH for row in ids)


def test_the_tokens_depend_on_the_seed():
    one, other = (repeated_random_tokens(50, LENGTH, 1, seed) for seed in (0, 1))
    assert (one != other).any()


def test_bos_is_left_out_wherever_it_stands_in_the_vocabulary():
    ids = repeated_random_tokens(vocab=11, length=10, count=1, seed=0, bos=4)
    assert sorted(ids[0, 1:11].tolist()) == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]


def test_more_distinct_tokens_than_there_are_is_refused():
    with pytest.raises(ValueError, match="cannot be drawn"):
        repeated_random_tokens(vocab=10, length=10, count=1, seed=0)


def test_a_perfect_induction_head_scores_one_and_its_neighbours_nothing():
    # position i repeats i - LENGTH; what came after stands at i - LENGTH + 1
    assert induction_score(pattern(LENGTH - 1), LENGTH).item() == 1
    assert induction_score(pattern(LENGTH), LENGTH).item() == 0
    assert induction_score(pattern(LENGTH - 2), LENGTH).item() == 0


def test_a_perfect_previous_token_head_scores_one():
    assert previous_token_score(pattern(1)).item() == 1
    assert previous_token_score(pattern(2)).item() == pytest.approx(
        1 / (SEQ - 1)
    )  # only position 1 looks at 0


def test_uniform_causal_attention_scores_the_mean_of_its_weights():
    attention = torch.ones(1, SEQ, SEQ).tril()
    attention /= attention.sum(-1, keepdim=True)
    second_half = range(LENGTH + 1, SEQ)
    assert induction_score(attention, LENGTH).item() == pytest.approx(
        sum(1 / (query + 1) for query in second_half) / len(second_half)
    )


def test_scores_keep_layer_and_head():
    attention = torch.stack(
        [torch.cat([pattern(1), pattern(LENGTH - 1)]), torch.cat([pattern(2), pattern(3)])]
    )
    assert induction_score(attention, LENGTH).tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_measured_losses_are_those_of_transformers(arch):
    shape = Shape(vocab=64, layers=2, d_model=64, heads=2, kv_heads=1, d_ff=64, context=32)
    model = build(arch, shape, seed=0)
    report = measure_induction(eager_copy(model), length=LENGTH, count=2, seed=3)
    ids = repeated_random_tokens(64, LENGTH, 2, seed=3)
    first = ids[:, : LENGTH + 1]
    assert report.first_half_loss == pytest.approx(model(input_ids=first, labels=first).loss.item(), abs=1e-5)
    labels = ids.clone()
    labels[:, : LENGTH + 2] = -100  # the second half's first token cannot be foreseen
    assert report.second_half_loss == pytest.approx(model(input_ids=ids, labels=labels).loss.item(), abs=1e-5)
    assert report.induction.shape == report.previous_token.shape == (2, 2)


def test_a_copy_that_returns_attention_leaves_the_model_as_it_was():
    shape = Shape(vocab=64, layers=1, d_model=64, heads=2, kv_heads=1, d_ff=64, context=32)
    model = build("llama", shape, seed=0)
    copy = eager_copy(model)
    ids = repeated_random_tokens(64, LENGTH, 1, seed=0)
    torch.testing.assert_close(copy(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    assert model.config._attn_implementation == "sdpa", "training goes on at its own speed"
    with torch.no_grad():
        next(copy.parameters()).zero_()
    assert next(model.parameters()).abs().sum() > 0
