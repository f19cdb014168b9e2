"""Chapter 6: the small engine against torch.autograd, and gradients of the model against other ways to get them."""

import hashlib
import sys

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from engine import ReaderError, tokenize
from engine.chapters import c06_backprop as cards
from engine.checkpoints.prompts import prompts_for
from engine.evidence.oracles.derivatives import trained_copy
from engine.model import gradients as ops
from engine.model.cache import traced
from engine.model.loaded import Loaded, tensors
from engine.ops.autodiff import Tape, backward, residual_neuron
from engine.ops.autodiff import gradients as arrived_at
from tests.conftest import BUNDLED, PROMPT, SMOLLM2, TINY, loaded_checkpoint, needs_smollm2
from tests.pages.mutations import mutations


@pytest.fixture(params=[*BUNDLED, pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, needs_smollm2])])
def opened(request):
    """A checkpoint and the example that the chapter begins with on it."""
    loaded = loaded_checkpoint(request.param)
    return loaded, cards.example(loaded, tokenize(loaded, prompts_for(request.param).default))


@pytest.fixture(params=[*BUNDLED, *TINY])
def subject(request, tiny_model):
    return loaded_checkpoint(request.param) if request.param in BUNDLED else tiny_model(request.param)


def asked(loaded, word=""):
    return cards.example(loaded, tokenize(loaded, PROMPT), word)


def fingerprint(model):
    """A hash of every parameter and buffer."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return hashlib.sha256(b"".join(t.detach().cpu().numpy().tobytes() for _, t in tensors)).hexdigest()


@pytest.mark.parametrize("values", [(0.5, 1.2, 0.3, 0.4), (-1.7, 0.6, -0.2, 2.0), (0.0, 1.0, 2.0, 0.0)])
def test_the_toy_graph_agrees_with_autograd(values):
    tape = residual_neuron(*values)
    x, w, b, t = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values)
    loss = (x + torch.tanh(w * x + b) - t) ** 2
    loss.backward()
    flows = backward(tape, "L")
    reached = arrived_at(tape, flows, "L")
    assert tape["L"] == pytest.approx(float(loss.detach()))
    for name, leaf in zip("xwbt", (x, w, b, t), strict=True):
        assert reached[name] == pytest.approx(float(leaf.grad), abs=1e-12)


def test_a_value_used_twice_by_one_operation_gets_both_gradients():
    tape = Tape()
    tape.leaf("a", 3.0)
    tape.times("b", "a", "a")
    assert arrived_at(tape, backward(tape, "b"), "b")["a"] == 6.0


def test_a_chain_is_walked_only_when_all_users_have_sent():
    tape = Tape()
    tape.leaf("a", 2.0)
    tape.plus("b", "a", "a")
    tape.times("c", "a", "b")
    tape.plus("d", "b", "c")  # d = 2a + 2a²
    assert arrived_at(tape, backward(tape, "d"), "d")["a"] == 2 + 4 * 2.0


@pytest.mark.parametrize("step", range(cards.STEPS + 1))
def test_every_step_of_the_toy_draws_what_is_known_so_far(step):
    card = cards.toy(0.5, 1.2, 0.3, 0.4, step)
    known = np.isfinite(card.table["value"]).sum()
    graded = np.isfinite(card.table["∂L/∂node so far"]).sum()
    assert known == 4 + min(step, 5)
    assert graded == (0 if step < 5 else (1, 3, 5, 6, 8, 9)[step - 5])


def test_the_last_token_is_the_target_unless_another_is_named(loaded):
    ids = [t.id for t in tokenize(loaded, PROMPT)]
    assert asked(loaded) == ops.Example(tuple(ids[:-1]), ids[-1])
    assert asked(loaded, " castle") == ops.Example(tuple(ids), tokenize(loaded, " castle")[0].id)
    one = tokenize(loaded, " king")[:1]
    assert cards.example(loaded, one).target == int(traced(loaded, (one[0].id,)).logits[-1].argmax())


def test_gradients_are_those_of_transformers_own_loss(subject):
    example = asked(subject)
    gradient = ops.gradients(subject, example)
    model, loss = trained_copy(subject, example)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(
            gradient[name], parameter.grad, atol=1e-5 * float(parameter.grad.abs().max()) + 1e-7
        )


def test_the_loss_passes_torchs_own_gradient_check(tiny_model):
    loaded = tiny_model("llama-gqa")
    exact = ops.ExactLoss(loaded, asked(loaded))
    name = next(n for n in exact.at if n.endswith("layers.1.mlp.down_proj.weight"))
    row = exact.at[name][:1, :3].clone().requires_grad_()

    def loss(values):
        matrix = exact.at[name].clone()
        matrix[:1, :3] = values
        return ops.loss_of(exact.module, exact.at | {name: matrix}, exact.example)

    assert gradcheck(loss, (row,))


def test_every_weight_belongs_to_exactly_one_part(subject):
    parts = ops.parts_of(subject)
    names = [name for _, _, own in parts for name in own]
    assert sorted(names) == sorted(name for name, _ in subject.model.named_parameters())


def test_float64_is_float64_throughout(subject):
    """A change of 1e-9 in one weight would drown in float32; in float64 it has the derivative's size."""
    exact = ops.ExactLoss(subject, asked(subject))
    name = next(n for n in exact.at if "0" in n and n.endswith("weight") and exact.at[n].ndim == 2)
    gradient = ops.gradients(subject, exact.example)[name]
    index = tuple(int(i) for i in np.unravel_index(int(gradient.abs().argmax()), gradient.shape))
    slope = exact.slope(exact.unit(name, index), 1e-6)
    assert slope == pytest.approx(float(gradient[index]), rel=1e-3)
    assert exact.derivative(name, index) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "qwen3", "neox-parallel"])
def test_slopes_that_share_their_passes_are_those_that_weights_moved_one_direction_at_a_time_give(
    tiny_model, name
):
    """qwen3's attention has norms of its own, which are no linear layers: it is moved alone."""
    loaded = tiny_model(name)
    exact, generator = ops.ExactLoss(loaded, asked(loaded)), torch.Generator().manual_seed(1)
    parts = [(layer, own) for part, layer, own in ops.parts_of(loaded) if part in ("attention", "mlp")]
    directions = [
        {one: 0.1 * torch.randn(exact.at[one].shape, generator=generator) for one in own} for _, own in parts
    ]
    together = exact.slopes(directions, 1e-4, [loaded.path("block", layer) for layer, _ in parts])
    alone = [exact.slope(direction, 1e-4) for direction in directions]
    assert together == pytest.approx(alone, rel=1e-6, abs=1e-8)
    assert len({round(slope, 6) for slope in alone}) == len(alone)


def test_a_curve_of_losses_is_the_weight_moved_literally(subject):
    exact = ops.ExactLoss(subject, asked(subject))
    name, module = next(
        (f"{n}.weight", m) for n, m in subject.model.named_modules() if m is subject.part("o_proj", 1)
    )
    offsets = [-0.5, 0.0, 0.7]
    literal = [exact.moved(exact.unit(name, (5, 9)), amount) for amount in offsets]
    assert module.weight.shape[0] > 5
    assert exact.curve(name, (5, 9), offsets) == pytest.approx(literal, abs=1e-11)
    assert len(set(literal)) == 3


def test_one_step_is_that_of_torch_optim(loaded):
    example = asked(loaded)
    module = ops.skeleton(loaded)
    ours = ops.descended(module, ops.gradients(loaded, example), 0.01)
    model, loss = trained_copy(loaded, example)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    for name, parameter in model.named_parameters():
        assert torch.allclose(ours[name], parameter, atol=1e-6)
        assert not torch.equal(ours[name], loaded.model.get_parameter(name))


def test_a_small_step_lowers_the_loss_by_about_the_squared_length(loaded):
    example = asked(loaded, " castle")
    gradient = ops.gradients(loaded, example)
    squared = sum(float(g.double().square().sum()) for g in gradient.values())
    exact = ops.ExactLoss(loaded, example)
    rate = 1e-3 / squared
    assert exact.moved(gradient, 0) - exact.moved(gradient, -rate) == pytest.approx(1e-3, rel=0.02)


def test_the_first_step_helps_its_target_by_about_what_the_slope_says_and_moves_every_control(opened):
    loaded, example = opened
    rate, fall = cards.small_rate(loaded, example)
    card = cards.step(loaded, example, rate)
    before, after = (-np.log(card.shown[name][0]) for name in ("before", "after"))
    assert before - after == pytest.approx(fall, rel=0.25)
    assert card.title.startswith("The step helps")
    assert (card.shown["kl of the controls"] > 1e-6).all()


def test_a_step_that_makes_the_target_less_likely_is_said_to_hurt():
    title = sys.modules[cards.step.__module__]._title
    assert title("“x”", 0.5, 0.4, 0.1).startswith("The step hurts: “x” goes from 50.0% to 40.0%;")
    assert title("“x”", 2e-6, 3e-6, 0.1).startswith("The step helps: “x” goes from 0.0002% to 0.0003%;")


def test_the_weight_that_the_chapter_begins_with_has_the_largest_derivative(opened):
    loaded, example = opened
    matrix = next(iter(cards.matrices(loaded)))
    row, column = cards.steepest(loaded, example, 1, matrix)
    model, loss = trained_copy(loaded, example)
    loss.backward()
    name = next(n for n, p in loaded.model.named_parameters() if p is loaded.part(matrix, 1).weight)
    gradient = model.get_parameter(name).grad.abs()
    assert float(gradient[row, column]) == pytest.approx(float(gradient.max()), rel=1e-4)


def test_the_central_difference_is_best_between_a_large_step_and_a_tiny_one(opened):
    loaded, example = opened
    matrix = next(iter(cards.matrices(loaded)))
    index = cards.steepest(loaded, example, 0, matrix)

    def off(step):
        shown = cards.weight(loaded, example, 0, matrix, index, step, 100.0).shown
        return abs(shown["chord"] - shown["slope"])

    assert min(off(1.0), off(1e-12)) > 100 * off(1e-4)


def test_the_straight_line_leaves_the_curve(opened):
    loaded, example = opened
    matrix = next(iter(cards.matrices(loaded)))
    shown = cards.weight(
        loaded, example, 0, matrix, cards.steepest(loaded, example, 0, matrix), 1e-4, 100.0
    ).shown
    places, losses = shown["weight"], shown["losses"]
    middle = len(places) // 2
    straight = losses[middle] + shown["slope"] * (places - places[middle])
    assert abs(straight - losses).max() > 0.1 * np.ptp(straight)


def test_what_the_gradient_predicts_is_not_what_taking_a_token_out_does(opened):
    """The prose says that the two can differ much, and the figure with which the chapter begins shows it."""
    card = cards.blame(*opened)
    assert abs(card.shown["predicted"] - card.shown["measured"]).max() > 1
    assert "measured" in card.title


def test_a_target_that_is_expected_has_the_shortest_gradients(opened):
    loaded, example = opened
    logits = traced(loaded, example.ids).logits[-1]
    best, others = int(logits.argmax()), np.argsort(-logits)[[100, 1000, 5000]].tolist()
    lengths = [
        cards.norms(loaded, ops.Example(example.ids, target)).shown["whole"] for target in (best, *others)
    ]
    assert lengths[0] < min(lengths[1:])


def test_the_outer_products_of_all_tokens_are_the_gradient_that_autograd_finds(subject):
    outer_module = sys.modules[cards.outer.__module__]
    example = asked(subject)
    inputs, incoming = outer_module.sides(subject, example, 1)
    model, loss = trained_copy(subject, example)
    loss.backward()
    gradient = model.get_submodule(subject.path("o_proj", 1)).weight.grad
    whole = inputs.T @ incoming
    gradient = (gradient if subject.adapter.transposed else gradient.T).numpy()
    np.testing.assert_allclose(whole, gradient, atol=1e-4 * np.abs(gradient).max())
    assert outer_module.shares(inputs, incoming, whole).sum() == pytest.approx(1)


def test_in_the_last_block_one_product_is_the_whole_gradient_and_in_the_first_it_is_not(opened):
    loaded, example = opened
    assert cards.outer(loaded, example, loaded.spec.n_layer - 1).shown["share"] == pytest.approx(1, abs=1e-6)
    first = [cards.outer(loaded, example, 0, i).shown["share"] for i in range(len(example.ids))]
    assert sum(first) == pytest.approx(1, abs=1e-6)
    assert max(map(abs, first)) < 0.95


def every_card(loaded):
    example = asked(loaded, " castle")
    return [
        cards.loss(loaded, example),
        cards.norms(loaded, example, "per weight"),
        cards.weight(loaded, example, 1, "down_proj", (2, 3), 1e-4, 10.0),
        cards.outer(loaded, example, 1),
        cards.outer(loaded, example, 0, 2),
        cards.blame(loaded, example, "as in the prompt"),
        cards.step(loaded, example, 0.03),
    ]


@pytest.mark.slow
def test_all_cards_prove_themselves_and_leave_the_shared_weights_alone(subject):
    before = fingerprint(subject.model)
    flags = [p.requires_grad for p in subject.model.parameters()]
    assert [card.key for card in every_card(subject) if not card.prove().passed] == []
    assert fingerprint(subject.model) == before
    assert [p.requires_grad for p in subject.model.parameters()] == flags
    assert all(p.grad is None for p in subject.model.parameters())


def test_a_step_that_breaks_the_model_is_shown_as_broken(loaded):
    card = cards.step(loaded, asked(loaded), float("inf"))
    assert "no finite number" in card.title
    assert card.prove().passed


def test_gradients_of_rounded_weights_are_refused():
    with pytest.raises(ReaderError, match="fp32"):
        ops.skeleton(loaded_checkpoint("pocket-llama", "bf16"))


def test_a_weight_outside_its_matrix_is_refused(loaded):
    with pytest.raises(ReaderError, match="rows"):
        cards.weight(loaded, asked(loaded), 0, "o_proj", (9999, 0), 1e-4, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["a", "🙂", "word " * 200])
def test_any_prompt_works(loaded, text):
    tokens = tokenize(loaded, text)[:128]
    example = cards.example(loaded, tokens[:1] if text == "a" else tokens)
    assert np.isfinite(cards.norms(loaded, example).numbers["whole"])
    assert cards.blame(loaded, example).prove().passed


@pytest.mark.parametrize("values", [(0.5, 1.2, 0.3, 0.4), (-1.7, 0.6, -0.2, 2.0)])
@pytest.mark.parametrize("step", range(cards.STEPS + 1))
def test_autograd_proves_every_step_of_the_toy_and_no_altered_one(values, step):
    card = cards.toy(*values, step)
    assert card.prove().passed
    assert [
        what for what, shown in mutations(card.shown, card.oracle) if card.oracle.judge(shown).passed
    ] == []


def test_a_card_keeps_neither_gradients_nor_weights(loaded):
    """A proof lives as long as its reader's session."""
    seen = {id(tensor) for tensor in tensors(loaded.model)}
    for card in every_card(loaded):
        held = [x for x in reachable(card) if isinstance(x, torch.Tensor) and id(x) not in seen]
        arrays = [x for x in reachable(card) if isinstance(x, np.ndarray)]
        assert sum(x.nbytes for x in [*held, *arrays]) < 100_000, card.key


def reachable(card):
    """What a card's values and closures hold, without the loaded model."""
    found, todo, seen = [], [card.shown, card.numbers, card.oracle.compute], set()
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, (str, int, float, type(None), Loaded)):
            continue
        seen.add(id(one))
        found.append(one)
        if isinstance(one, dict):
            todo += one.values()
        elif isinstance(one, (list, tuple)):
            todo += one
        elif callable(one) and getattr(one, "__closure__", None):
            todo += [cell.cell_contents for cell in one.__closure__]
        elif hasattr(one, "__dict__") and not isinstance(one, type):
            todo += vars(one).values()
    return found


@pytest.mark.parametrize(
    "name",
    [*BUNDLED, pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, pytest.mark.timeout(900), needs_smollm2])],
)
@pytest.mark.parametrize("prompt", [None, "Hi\n\n", "   ", "# *a* [b](c)"])
def test_targets_that_are_offered_are_the_most_probable_that_can_be_typed(name, prompt):
    loaded = loaded_checkpoint(name)
    tokens = tokenize(loaded, prompts_for(name).default if prompt is None else prompt)
    order = np.argsort(-traced(loaded, tuple(t.id for t in tokens)).logits[-1], kind="stable").tolist()
    offered = [cards.example(loaded, tokens, word).target for word in cards.favourites(loaded, tokens)]
    places = [order.index(target) for target in offered]
    assert places == sorted(places)
    assert 0 < len(places) <= 5
    assert places[-1] < 20
    if prompt is None:
        assert places[0] == 0
