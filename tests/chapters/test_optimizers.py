"""Chapter 7: steps against the papers' formulas, schedules against arithmetic, trainings on private copies."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import ReaderError, tokenize
from engine.chapters import c07_optimizers as cards
from engine.chapters.c07_optimizers.best import TRIED
from engine.checkpoints.prompts import prompts_for
from engine.evidence.card import Oracle
from engine.model import one_text as ops
from engine.ops.optimizers import (
    CALLS,
    MAKERS,
    SCHEDULES,
    SURFACES,
    VECTOR,
    ByHand,
    descend,
    matrix_problem,
    orthogonalized,
    rates_of,
    turned,
)
from tests.chapters.test_backprop import fingerprint
from tests.conftest import BUNDLED, PROMPT, SMOLLM2, loaded_checkpoint, needs_smollm2
from tests.pages.mutations import mutations


def quiet(share, text):
    """No progress wanted."""


def ids_of(loaded):
    return tuple(token.id for token in tokenize(loaded, PROMPT))[:8]


def reproduced(card):
    """Whether the card's script leaves the card's numbers."""
    names = {}
    exec(card.code, names)
    return set(names["result"]) == set(card.numbers) and all(
        np.allclose(names["result"][key], card.numbers[key], rtol=0, atol=card.atol) for key in card.numbers
    )


@pytest.mark.parametrize("name", MAKERS)
def test_the_formula_written_out_walks_with_torch_optim(name):
    start, loss = matrix_problem(6, 30.0, 3)
    start = start + 0.3
    path = descend(loss, start.numpy(), name, 0.02, 12)
    rule, weights = ByHand(name, 0.02), start.clone()
    for step in range(1, 13):
        leaf = weights.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
        weights = rule.step([weights], [gradient])[0]
        tolerance = 0.02 if name == "Muon" else 1e-9  # torch's Muon rounds to bfloat16
        assert np.abs(path.points[step] - weights.numpy()).max() < tolerance
    assert np.abs(path.points[-1] - start.numpy()).max() > 0.02


def test_sgd_and_adam_take_the_steps_that_arithmetic_gives():
    def parabola(z):
        return z[0] ** 2

    sgd = descend(parabola, [3.0], "SGD", 0.1, 2)
    assert sgd.points[:, 0] == pytest.approx([3.0, 2.4, 1.92])
    momentum = descend(parabola, [3.0], "Momentum", 0.1, 2)
    assert momentum.points[:, 0] == pytest.approx([3.0, 2.4, 2.4 - 0.1 * (0.9 * 6 + 4.8)])
    adam = descend(parabola, [3.0], "Adam", 0.1, 1)
    assert adam.points[1, 0] == pytest.approx(2.9)  # the first step of Adam is as long as the rate
    adamw = descend(parabola, [3.0], "AdamW", 0.1, 1)
    assert adamw.points[1, 0] == pytest.approx(3.0 * (1 - 0.1 * 0.1) - 0.1)


def test_divergence_begins_at_two_over_the_curvature():
    def steep(z):
        return 25 * z[0] ** 2 / 2

    assert descend(steep, [1.0], "SGD", 0.079, 400).diverged is None
    assert descend(steep, [1.0], "SGD", 0.081, 4000).diverged is not None
    assert "diverges" in cards.curvature(0.081).title
    assert "converges" in cards.curvature(0.079).title


def test_schedules_are_what_their_names_say():
    steps, rate = 10, 0.4
    assert rates_of("constant", rate, steps) == pytest.approx([rate] * steps)
    assert rates_of("linear to zero", rate, steps) == pytest.approx([rate * (1 - i / 10) for i in range(10)])
    cosine = [rate * (1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)]
    assert rates_of("cosine", rate, steps) == pytest.approx(cosine)
    assert rates_of("halved four times", rate, steps) == pytest.approx(
        [rate / 2 ** (i // 2) for i in range(10)]
    )
    warm = rates_of("warm-up, then cosine", rate, steps)
    assert warm[0] == pytest.approx(0.1 * rate)
    assert warm.argmax() == 2
    assert warm.max() == pytest.approx(rate)


@pytest.mark.parametrize("name", SURFACES)
def test_the_lowest_point_is_where_gradients_vanish(name):
    surface = SURFACES[name]
    if surface.lowest is None:
        return
    z = torch.tensor(surface.lowest, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(surface.function(z), z)
    assert float(gradient.abs().max()) == 0
    assert float(surface.function(z.detach())) == 0


def test_muons_update_has_nearly_equal_singular_values():
    matrix = torch.randn(20, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(orthogonalized(matrix))
    assert values.min() > 0.3
    assert values.max() < 1.3
    assert torch.linalg.svdvals(matrix)[-1] / torch.linalg.svdvals(matrix)[0] < 0.35


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SURFACES)
def test_every_surface_is_drawn_with_every_optimizer(name, schedule):
    first, second = cards.surface(name, SURFACES[name].start, VECTOR, 0.02, 20, schedule)
    assert set(first.table["optimizer"]) == set(VECTOR)
    assert len(second.figure.data) == len(VECTOR)


def test_a_path_that_diverges_is_called_so():
    first, second = cards.surface("ravine", (-3.0, 1.0), ("SGD", "Adam"), 0.5, 60, "constant")
    assert "SGD diverged" in first.title
    assert any("SGD (diverges)" in trace.name for trace in second.figure.data)
    (alone, _) = cards.surface("ravine", (-3.0, 1.0), ("SGD",), 1.0, 60, "constant")
    assert alone.title == "Every path diverges"
    with pytest.raises(ReaderError):
        cards.surface("ravine", (0.0, 0.0), (), 0.1, 10, "constant")


@pytest.mark.parametrize(
    ("condition", "factor", "seed"), [(1.0, 0.25, 0), (100.0, 1.0, 1), (10000.0, 4.0, 2)]
)
def test_the_formulas_prove_the_walks_of_muon_and_no_altered_ones(condition, factor, seed):
    for card in cards.matrix(condition, factor, 40, seed):
        answers = card.oracle.compute()
        oracle = replace(card.oracle, compute=lambda answers=answers: answers)
        assert oracle.judge(card.shown).passed, card.key
        assert [what for what, altered in mutations(card.shown, oracle) if oracle.judge(altered).passed] == []


def test_muon_needs_a_matrix():
    with pytest.raises(ValueError, match="2D"):
        descend(lambda z: (z**2).sum(), [1.0, 2.0], "Muon", 0.1, 1)
    assert "Muon" not in VECTOR


@pytest.mark.parametrize("name", MAKERS)
def test_the_line_of_the_script_is_the_optimizer_used(name):
    params = [torch.zeros(2, 2, requires_grad=True)]
    from_script = eval(CALLS[name].format(params="params", rate=0.01), {"torch": torch, "params": params})
    assert type(from_script) is type(MAKERS[name](params, 0.01))
    assert from_script.defaults == MAKERS[name](params, 0.01).defaults


def test_the_matrix_problem_has_the_condition_that_was_asked_for():
    start, loss = matrix_problem(5, 100.0, 0)
    hessian = torch.autograd.functional.hessian(lambda row: loss(torch.cat([row[None], start[1:]])), start[0])
    values = torch.linalg.eigvalsh(hessian)
    assert float(values[-1] / values[0]) == pytest.approx(100.0)


def test_gradients_in_the_plane_are_slopes_of_the_loss(loaded):
    plane = ops.Plane(loaded, ids_of(loaded), 1)
    z = torch.tensor([0.4, -0.3], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(plane.loss(z), z)
    step = 0.01
    ends = plane.losses(np.array([[0.4 + step, -0.3], [0.4 - step, -0.3]]))
    assert float(slope[0]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=0.02, abs=0.01)


def test_only_the_last_block_moves_and_by_its_own_length(loaded):
    plane = ops.Plane(loaded, ids_of(loaded), 0)
    moved = plane.moved(torch.tensor([1.0, 0.0]))
    assert set(moved) == {n for n in plane.at if f".{loaded.spec.n_layer - 1}." in n}
    for name, tensor in moved.items():
        assert float((tensor - plane.at[name]).norm()) == pytest.approx(
            float(plane.at[name].norm()), rel=1e-4
        )


def test_a_survey_proves_itself_and_its_script_agrees(loaded):
    before = fingerprint(loaded.model)
    ids, start = ids_of(loaded), (0.5, -0.4)
    found = cards.survey(loaded, ids, 0, start, 1.0, 2, quiet, side=3)
    card = cards.plane(loaded, ids, 0, start, found, ["SGD", "Adam"])
    assert card.prove().passed
    assert reproduced(card)
    assert fingerprint(loaded.model) == before
    assert all(path.losses[-1] < path.losses[0] for path in found.paths.values())


@pytest.mark.exhaustive
@pytest.mark.slow
def test_trainings_prove_themselves_and_their_scripts_agree(loaded):
    before = fingerprint(loaded.model)
    ids = ids_of(loaded)
    runs = cards.trained(loaded, ids, list(cards.RATES), 1.0, 2, quiet)
    assert all(run.losses[-1] < run.losses[0] for run in runs)
    shown = [
        cards.curves(loaded, ids, runs),
        cards.changed(loaded, ids, runs[-1]),
        cards.writing(loaded, ids, runs),
    ]
    for card in shown:
        assert card.prove().passed
        assert reproduced(card)
    assert fingerprint(loaded.model) == before
    assert not any(p.requires_grad for p in loaded.model.parameters())


ALL_WITH_SMOLLM2 = [
    *BUNDLED,
    pytest.param(
        SMOLLM2, marks=[pytest.mark.smollm2, pytest.mark.exhaustive, pytest.mark.timeout(900), needs_smollm2]
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_WITH_SMOLLM2)
def test_a_training_with_adam_is_not_proved_to_be_one_with_adamw(name):
    loaded = loaded_checkpoint(name)
    ids = [token.id for token in tokenize(loaded, prompts_for(name).default)]
    runs = cards.trained(loaded, ids, ["Adam", "AdamW"], 1.0, 5, quiet)
    swapped = [replace(run, optimizer=other.optimizer) for run, other in zip(runs, runs[::-1], strict=True)]
    assert cards.curves(loaded, ids, runs).prove().passed
    assert cards.changed(loaded, ids, runs[0]).prove().passed
    for one in swapped:
        assert not cards.curves(loaded, ids, [one]).prove().passed
        assert not cards.changed(loaded, ids, one).prove().passed


@pytest.mark.slow
@pytest.mark.parametrize(
    "factor",
    [pytest.param(0.1, marks=pytest.mark.exhaustive), pytest.param(10.0, marks=pytest.mark.exhaustive), 30.0],
)
def test_trainings_at_far_rates_are_proved_too(loaded, factor):
    ids = [token.id for token in tokenize(loaded, PROMPT)]
    runs = cards.trained(loaded, ids, list(cards.RATES), factor, 5, quiet)
    assert cards.curves(loaded, ids, runs).prove().passed


def test_a_training_that_explodes_is_shown_as_such(loaded):
    ids = ids_of(loaded)
    runs = cards.trained(loaded, ids, ["SGD"], 1e30, 3, quiet)
    assert np.isnan(runs[0].losses[-1])
    assert "diverged" in cards.curves(loaded, ids, runs).title
    assert "SGD (diverges)" in cards.writing(loaded, ids, runs).table["model"]


@pytest.mark.parametrize("name", ["gpt2", "llama-mqa", "qwen3", "neox-parallel"])
def test_other_architectures_learn_too(tiny_model, name):
    loaded = tiny_model(name)
    ids = ids_of(loaded)
    assert cards.cuts(loaded, ids, 0).prove().passed
    runs = cards.trained(loaded, ids, ["Adam", "Muon"], 3.0, 3, quiet)
    assert all(run.losses[-1] < run.losses[0] for run in runs)


def test_muon_gets_the_blocks_matrices_only(loaded):
    matrices, rest = ops.split_for_muon(loaded.model)
    inside = {
        id(p) for block in range(loaded.spec.n_layer) for p in loaded.block(block).parameters() if p.ndim == 2
    }
    assert {id(p) for p in matrices} == inside
    assert len(matrices) + len(rest) == len(list(loaded.model.parameters()))


def test_one_token_is_no_text_to_learn(loaded):
    with pytest.raises(ReaderError, match="two tokens"):
        cards.cuts(loaded, (5,), 0)


def altered_and_still_proved(card):
    answers = card.oracle.compute()
    fixed = Oracle(card.oracle.claim, lambda: answers, card.oracle.tolerance)
    assert fixed.judge(card.shown).passed, card.key
    return [what for what, shown in mutations(card.shown, fixed) if fixed.judge(shown).passed]


@pytest.mark.parametrize("rate", [0.02, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SURFACES)
def test_paths_on_a_surface_are_proved_and_altered_ones_are_not(name, schedule, rate):
    """At the rate of 1 some of them diverge."""
    for card in cards.surface(name, SURFACES[name].start, VECTOR, rate, 40, schedule):
        assert altered_and_still_proved(card) == []


@pytest.mark.parametrize("rate", [0.005, 0.04, 0.06, 0.1])
def test_curvature_and_schedules_are_proved_and_altered_ones_are_not(rate):
    for card in (cards.curvature(rate), *cards.noisy(min(rate, 0.075), 2.0, 60, 1)):
        assert altered_and_still_proved(card) == []


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_a_survey_with_altered_numbers_is_not_proved(loaded, factor):
    found = cards.survey(loaded, ids_of(loaded), 0, (0.6, -0.5), factor, 3, quiet, side=3)
    card = cards.plane(loaded, ids_of(loaded), 0, (0.6, -0.5), found, list(found.paths))
    assert altered_and_still_proved(card) == []


@pytest.mark.parametrize(
    ("rate", "fate"), [(0.06, "converges"), (0.08, "swings for ever"), (0.1, "diverges")]
)
def test_the_limit_itself_is_neither_convergence_nor_divergence(rate, fate):
    card = cards.curvature(rate)
    assert card.title.endswith(fate)
    across = card.shown["across, curvature 25"]
    assert np.sign(across[-1] - across[0]).round(9) == {"converges": -1, "diverges": 1}.get(fate, 0)


@pytest.mark.parametrize("rate", [0.03, 0.06, 0.075])
@pytest.mark.parametrize("steps", [60, 150, 300])
def test_without_noise_a_falling_rate_only_slows_the_descent(rate, steps):
    title = cards.noisy(rate, 0.0, steps, 0)[1].title
    assert f"After {steps} steps without noise “constant”" in title
    assert "nan" not in title


@pytest.mark.parametrize("seed", range(3))
def test_with_noise_a_falling_rate_ends_lower(seed):
    card = cards.noisy(0.06, 2.0, 150, seed)[1]
    ends = {name: values[-1] for name, values in card.shown.items()}
    assert min(ends, key=ends.get) != "constant"
    assert f"“{min(ends, key=ends.get)}” is lowest" in card.title
    assert f"“constant” is at {ends['constant']:.3g}" in card.title


def test_where_one_end_of_a_line_is_lower_and_the_others_higher_the_title_says_both():
    loaded = loaded_checkpoint("pocket-gpt2")
    card = cards.cuts(loaded, [token.id for token in tokenize(loaded, "   ")], 0)
    ends = np.concatenate([card.shown[name][[0, -1]] - card.shown[name][3] for name in card.shown])
    assert ends.min() < 0 < ends.max()
    assert card.title.endswith(f"between {-ends.min():.2f} nats lower and {ends.max():.2f} nats higher")


@pytest.mark.parametrize("name", VECTOR)
def test_no_optimizer_leaves_the_ridge_of_the_saddle(name):
    path = descend(SURFACES["saddle"].function, (-2.5, 0.0), name, 0.03, 60)
    assert (path.points[:, 1] == 0).all()
    assert abs(path.points[-1, 0]) < 2.5


@pytest.mark.parametrize("start", [(-3.5, 1.0), (0.02, -0.5), (3.0, 1e-3)])
def test_adams_first_step_is_as_long_as_the_rate_in_every_coordinate(start):
    path = descend(SURFACES["ravine"].function, start, "Adam", 0.03, 1)
    assert abs(path.points[1] - path.points[0]) == pytest.approx([0.03, 0.03], rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("condition", [1.0, 10.0, 100.0, 1000.0, 10000.0])
def test_muon_moves_the_weakest_direction_much_further_but_not_as_far_as_the_strongest(condition, seed):
    shown = cards.matrix(condition, 1.0, 10, seed)[0].shown
    assert 5 * shown["SGD: share"][-1] < shown["Muon: share"][-1] < 0.9


@pytest.mark.parametrize(
    "name",
    [
        *BUNDLED,
        pytest.param(
            SMOLLM2,
            marks=[pytest.mark.smollm2, pytest.mark.exhaustive, pytest.mark.timeout(900), needs_smollm2],
        ),
    ],
)
def test_twenty_steps_are_enough_to_know_the_first_prompt_by_heart(name):
    loaded = loaded_checkpoint(name)
    ids = [token.id for token in tokenize(loaded, prompts_for(name).default)]
    runs = cards.trained(loaded, ids, ["Adam"], 1.0, 20, quiet)
    assert cards.writing(loaded, ids, runs).table["tokens of your text"][-1] == len(ids) - 3
    assert runs[0].losses[-1] < 0.2 < runs[0].losses[0]
    assert "with Adam" in cards.curves(loaded, ids, runs).title


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("name", SURFACES)
def test_no_other_rate_that_was_tried_leads_lower(name, schedule):
    ground, (card, _) = SURFACES[name], cards.surface(name, SURFACES[name].start, VECTOR, None, 40, schedule)
    for optimizer, rate in zip(VECTOR, card.shown["rates"], strict=True):
        ends = [
            descend(ground.function, ground.start, optimizer, tried, 40, schedule).losses[-1]
            for tried in TRIED
        ]
        own = descend(ground.function, ground.start, optimizer, rate, 40, schedule).losses[-1]
        assert own <= np.nanmin(ends) + 2e-6 * abs(np.nanmin(ends))
    assert len(set(card.shown["rates"])) > 1, "one rate is the best for all"


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SURFACES)
def test_best_rates_are_proved_and_altered_ones_are_not(name, schedule):
    for card in cards.surface(name, SURFACES[name].start, VECTOR, None, 60, schedule):
        assert altered_and_still_proved(card) == []
    assert (
        "each at its best rate"
        in cards.surface(name, SURFACES[name].start, VECTOR, None, 60, schedule)[0].title
    )


def test_with_momentum_steps_in_one_direction_add_up_to_ten_times_the_rate():
    path = descend(lambda z: z.sum(), [0.0], "Momentum", 0.01, 200)
    assert float(path.points[-2, 0] - path.points[-1, 0]) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(("beta", "rate"), [(0.0, 0.08), (0.6, 0.08), (0.45, 0.11), (0.9, 0.05), (0.95, 0.2)])
def test_momentum_is_proved_and_altered_numbers_are_not(beta, rate):
    for card in cards.momentum(beta, rate):
        assert altered_and_still_proved(card) == []


def test_what_a_step_multiplies_by_in_the_long_run_is_what_the_walk_does():
    """From the 300th step to the 400th; without momentum, and on both sides of the critical β of (1 − √(η c))²."""
    for beta, rate in ((0.0, 0.05), (0.2, 0.05), (0.6, 0.08), (0.9, 0.05)):
        walk = descend(
            lambda z: (z[0] ** 2 + 25 * z[1] ** 2) / 2, [1.0, 1.0], "Momentum", rate, 400, momentum=beta
        )
        far = np.abs(walk.points).max(axis=1)
        a_step = (far[380:].max() / far[280:300].max()) ** 0.01
        assert cards.momentum(beta, rate)[0].shown["factors"][0] == pytest.approx(a_step, rel=0.01)
        assert a_step >= beta**0.5 * 0.99


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.6, 0.9])
def test_the_steep_direction_bears_a_rate_of_up_to_two_and_two_betas_over_its_curvature(beta):
    def steep(z):
        return 25 * z[0] ** 2 / 2

    limit = 2 * (1 + beta) / 25
    assert descend(steep, [1.0], "Momentum", limit * 1.02, 4000, momentum=beta).diverged is not None
    assert descend(steep, [1.0], "Momentum", limit * 0.98, 4000, momentum=beta).losses[-1] < 1e-6


def test_the_best_pair_has_momentum_and_a_rate_that_alone_would_diverge():
    beta, rate = (1 - 1 / 5) ** 2, 0.1  # only the names of the cells are read from the title
    title = cards.momentum(beta, rate)[1].title
    lost = cards.momentum(0.6, 0.08)[1].shown["lost"]
    at = np.unravel_index(lost.argmax(), lost.shape)
    assert f"β {cards.BETAS[at[0]]:.2f} at rate {cards.MOMENTUM_RATES[at[1]]:.2f}" in title
    assert cards.BETAS[at[0]] > 0
    assert lost[0, at[1]] == 0, "it converges there without momentum"
    assert cards.curvature(cards.MOMENTUM_RATES[at[1]]).title.endswith("diverges")


@pytest.mark.parametrize("degrees", [0, 20, 45])
def test_a_turned_ravine_is_proved_and_altered_numbers_are_not(degrees):
    for card in cards.turned(degrees, ("SGD", "RMSProp", "Adam"), 20):
        assert altered_and_still_proved(card) == []


@pytest.mark.parametrize("steps", [10, 20, 40, 60])
def test_turning_costs_rmsprop_most_adam_less_and_the_others_nothing(steps):
    card = cards.turned(45, cards.TURNABLE, steps)[1]
    cost = {name: values[-1] - values[0] for name, values in card.shown.items()}
    assert cost["RMSProp"] > 3
    assert cost["RMSProp"] - 1 > cost["Adam"]
    assert [name for name, value in cost.items() if abs(value) < 1e-6] == ["SGD", "Momentum", "Nesterov"]
    assert card.title.startswith("Turned by 45°, RMSProp ends at")
    assert card.title.endswith("while SGD, Momentum and Nesterov end as low as before")


def test_at_45_degrees_rmsprop_divides_both_coordinates_by_similar_numbers():
    for degrees, least, most in ((45, 1, 2), (0, 3, 100)):
        ravine = turned(SURFACES["ravine"], degrees)
        path = descend(ravine.function, ravine.start, "RMSProp", 0.03, 20)
        places = torch.tensor(path.points, requires_grad=True)
        (slopes,) = torch.autograd.grad(ravine.function(places).sum(), places)
        divisors = (
            (0.99 ** torch.arange(20, -1, -1.0, dtype=torch.float64)[:, None] * slopes**2).sum(0).sqrt()
        )
        assert least <= float(divisors.max() / divisors.min()) < most


def test_turning_a_surface_moves_no_height():
    points = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name, surface in SURFACES.items():
        c, s = math.cos(0.5), math.sin(0.5)
        moved = torch.stack([c * points[:, 0] - s * points[:, 1], s * points[:, 0] + c * points[:, 1]], -1)
        found = turned(surface, math.degrees(0.5)).function(moved)
        torch.testing.assert_close(found, surface.function(points), msg=name)


@pytest.mark.parametrize("steps", [10, 60])
def test_what_is_below_the_floor_is_not_called_as_low_as_before(steps):
    title = cards.turned(5, ("RMSProp",), steps)[1].title
    assert "as low as before" not in title
