"""DPO's arithmetic against the paper's formula on paper numbers, torch's own log-softmax, and finite differences."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from engine.ops.preference import dpo, sequence_log_probability
from engine.training.dpo import dpo_loss

# chosen gained 1 nat, rejected lost 1: with beta 0.5 the margin is 1, σ(1) = 0.7310585786300049
PAPER = (-9.0, -13.0, -10.0, -12.0, 0.5)


def test_the_loss_on_paper_numbers():
    result = dpo(*PAPER)
    assert (result.chosen_reward, result.rejected_reward, result.margin) == (0.5, -0.5, 1.0)
    assert result.loss == pytest.approx(-math.log(0.7310585786300049), rel=1e-12)
    assert result.push == pytest.approx(0.5 * (1 - 0.7310585786300049), rel=1e-12)


def test_a_policy_that_is_the_reference_has_loss_ln_2():
    result = dpo(-10, -12, -10, -12, 0.1)
    assert result.margin == 0
    assert result.loss == pytest.approx(math.log(2))
    assert result.push == pytest.approx(0.05)


def test_push_is_the_slope_of_the_loss():
    step = 1e-5
    up, down = (dpo(PAPER[0] + d, *PAPER[1:]).loss for d in (step, -step))
    assert dpo(*PAPER).push == pytest.approx(-(up - down) / (2 * step), rel=1e-6)
    up, down = (dpo(PAPER[0], PAPER[1] + d, *PAPER[2:]).loss for d in (step, -step))
    assert dpo(*PAPER).push == pytest.approx((up - down) / (2 * step), rel=1e-6)


@pytest.mark.parametrize(("margin", "loss", "push"), [(2000.0, 0.0, 0.0), (-2000.0, 2000.0, 1.0)])
def test_extreme_margins_neither_overflow_nor_vanish(margin, loss, push):
    result = dpo(margin, 0, 0, 0, 1.0)
    assert (result.loss, result.push) == pytest.approx((loss, push))


def test_a_sequence_counts_the_tokens_that_carry_loss_each_from_the_logits_before_it():
    logits = torch.randn(6, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids, carries = [3, 1, 4, 1, 5, 9], [False, False, True, True, False, True]
    log_p = F.log_softmax(logits, dim=-1)
    expected = float(log_p[1, 4] + log_p[2, 1] + log_p[4, 9])
    assert sequence_log_probability(logits.numpy(), ids, carries) == pytest.approx(expected, rel=1e-12)


def test_the_first_token_is_predicted_by_nothing():
    assert sequence_log_probability(np.zeros((1, 4)), [2], [True]) == 0


def test_the_trainers_loss_is_the_mean_over_pairs_of_the_formula():
    policy = torch.tensor([[-9.0, -20.0], [-13.0, -18.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[-10.0, -19.0], [-12.0, -21.0]], dtype=torch.float64)
    loss, margins = dpo_loss(policy, reference, 0.5)
    pairs = [dpo(-9, -13, -10, -12, 0.5), dpo(-20, -18, -19, -21, 0.5)]
    assert loss.item() == pytest.approx((pairs[0].loss + pairs[1].loss) / 2, rel=1e-12)
    assert margins.tolist() == pytest.approx([pair.margin for pair in pairs])
    loss.backward()
    assert policy.grad[0].tolist() == pytest.approx([-pair.push / 2 for pair in pairs])
    assert policy.grad[1].tolist() == pytest.approx([pair.push / 2 for pair in pairs])
