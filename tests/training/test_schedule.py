"""The learning rate against arithmetic on paper."""

import pytest

from engine.training.schedule import decay_progress, is_snapshot_step, learning_rate


def test_warmup_is_linear_and_reaches_the_peak_on_its_last_update():
    rates = [learning_rate(step, peak=1.0, warmup=4) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_without_a_decay_the_rate_stays_for_ever():
    assert learning_rate(10**7, peak=2e-3, warmup=60) == 2e-3


def test_decay_is_linear_from_the_peak_to_zero():
    rates = [learning_rate(step, 1.0, 2, decay_start=10, decay_steps=4) for step in range(9, 16)]
    assert rates == [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_a_decay_ordered_during_warmup_scales_the_warmup():
    # update 1: half of the peak by warm-up, three quarters of it by decay
    assert learning_rate(1, 1.0, warmup=4, decay_start=0, decay_steps=4) == pytest.approx(0.5 * 0.75)


def test_decay_progress_stops_at_one():
    assert [decay_progress(step, 10, 4) for step in (9, 10, 12, 14, 99)] == [0, 0, 0.5, 1, 1]


def test_snapshot_steps_are_powers_of_two_and_halfway_between():
    kept = [step for step in range(70) if is_snapshot_step(step)]
    assert kept == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]


def test_every_adds_its_multiples():
    assert [step for step in range(17, 48) if is_snapshot_step(step, every=20)] == [20, 24, 32, 40]


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="counted from 0"):
        is_snapshot_step(-1)
