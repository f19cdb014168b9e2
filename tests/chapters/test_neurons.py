"""Chapter 3: activations against torch, one neuron from its input to its effect against transformers' own modules."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers.activations import ACT2FN

from engine import ReaderError, capture
from engine.chapters import c03_neurons as cards
from engine.chapters.c03_neurons.direction import per_unit
from engine.chapters.c03_neurons.survey import AFTER, BEFORE, COUNT
from engine.chapters.shared import changed as changes
from engine.evidence.passes import logits_of
from engine.figures.axes import short
from engine.figures.neurons import Occurrence, concordance
from engine.model.interventions import ClampNeuron, KeepTopNeurons
from engine.model.neuron import Neuron, mlp_input
from engine.ops import neurons as ops
from engine.tokens import passages
from tests.conftest import BUNDLED, PROMPT, TINY, loaded_checkpoint
from tests.pages.mutations import mutations

FEW = ("gpt2-relu-wide", "llama-mqa", "neox-parallel")
Z = np.linspace(-30, 30, 601)


def model(name, tiny_model):
    return loaded_checkpoint(name) if name in BUNDLED else tiny_model(name)


@pytest.fixture(params=[*BUNDLED, *FEW])
def subject(request, tiny_model):
    return model(request.param, tiny_model)


def executed(card):
    names = {}
    exec(compile(card.code, card.key, "exec"), names)
    return names["result"]


def holds(card):
    """The card's proof passes and its script leaves its numbers."""
    assert card.prove().passed, card.prove()
    result = executed(card)
    assert set(result) == set(card.numbers)
    for key, value in card.numbers.items():
        np.testing.assert_allclose(np.asarray(result[key], float), value, rtol=0, atol=card.atol, err_msg=key)


ORACLES = {
    "ReLU": F.relu,
    "GELU": F.gelu,
    "SiLU": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "tanh-GELU": lambda z: F.gelu(z, approximate="tanh"),
}


@pytest.mark.parametrize("name", ops.FUNCTIONS)
def test_activations_are_torchs(name):
    theirs = ORACLES[name](torch.tensor(Z)).numpy()
    np.testing.assert_allclose(ops.FUNCTIONS[name](Z), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ops.NAMES)
def test_config_names_stand_for_the_functions_of_transformers(name):
    theirs = ACT2FN[name](torch.tensor(Z)).numpy()
    np.testing.assert_allclose(ops.FUNCTIONS[ops.NAMES[name]](Z), theirs, rtol=0, atol=1e-7)


def test_the_two_forms_of_gelu_differ():
    assert np.abs(ops.gelu(Z) - ops.gelu_tanh(Z)).max() > 1e-4


def test_the_toy_neuron_on_paper():
    card = cards.toy_neuron((1.0, 0.5), (1.5, -1.0), 0.25, "sigmoid")
    values = dict(zip(card.table["quantity"], card.table["value"], strict=True))
    assert values["z"] == pytest.approx(1.25)
    assert values["sigmoid(z)"] == pytest.approx(float(torch.sigmoid(torch.tensor(1.25))))
    with pytest.raises(ReaderError):
        cards.toy_neuron((1, 1), (1, 1), 0, "<script>")


@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_torch_proves_the_toy_neuron_and_no_altered_one(name):
    for card in (
        cards.toy_neuron((1.0, 0.5), (1.5, -1.0), 0.25, name),
        cards.toy_neuron((-3.0, 2.0), (3.0, -2.5), -1.0, name),
    ):
        assert card.prove().passed
        assert [
            what for what, altered in mutations(card.shown, card.oracle) if card.oracle.judge(altered).passed
        ] == []


def test_largest_parts_and_their_rest_on_paper():
    order, rest = ops.largest([0.5, -3.0, 1.0, 2.0], 2)
    assert order.tolist() == [1, 3]
    assert rest == pytest.approx(1.5)


def test_a_neuron_that_is_always_on_or_grows_along_the_text_is_not_selective():
    acts = np.array([[9.0, 0.0, 1.0, 3.0], [9.1, 0.2, 1.0, 4.0], [9.5, -3.0, 1.0, 6.0]])
    assert ops.strongest(acts[2]) == 0
    assert ops.selective(acts, 2) == 1
    assert ops.selective(acts[:1], 0) == 0  # no other token
    assert ops.selective(acts[:, [0, 2, 3]], 2) == 0  # none is near zero at half of the others


def test_the_layer_whose_neuron_writes_most_is_found(loaded):
    trace = capture(loaded, PROMPT)
    shares = []
    for layer in range(loaded.spec.n_layer):
        acts = torch.tensor(trace.mlp_act[layer])
        index = ops.selective(trace.mlp_act[layer], 5)
        module = loaded.part("down_proj", layer)
        row = module.weight[index] if hasattr(module, "nf") else module.weight[:, index]
        stream = torch.tensor(trace.hidden[layer + 1, 5])
        shares.append(float((acts[5, index] * row).norm() / stream.norm()))
    layer, share = cards.longest(loaded, trace, 5)
    assert layer == int(np.argmax(shares))
    assert share == pytest.approx(max(shares), rel=1e-4)


def test_a_plain_neuron_is_strongest_where_it_is_highest():
    loaded = loaded_checkpoint("pocket-gpt2")
    trace = capture(loaded, PROMPT)
    highest = trace.mlp_act[2].max(axis=0)
    index = int(np.argmax(np.where(highest > 0, -trace.mlp_act[2].min(axis=0) / highest, 0)))
    assert -trace.mlp_act[2, :, index].min() > highest[index] > 0  # largest in magnitude below zero
    at = int(trace.mlp_act[2, :, index].argmax())
    assert f"(position {at})" in cards.over_prompt(loaded, trace, 2, index).title


def test_the_parts_of_a_sum_that_the_title_names_add_up(subject):
    trace = capture(subject, PROMPT)
    for projection in Neuron(subject, trace, 1, 3).projections:
        card = cards.contributions(subject, trace, 1, 3, 2, projection)
        bars = np.array(card.shown["bars"])
        rest, largest = bars[9], bars[:9].sum()
        assert (
            f"largest to {short(largest)}, the other {subject.spec.d_model - 9} to {short(rest)}"
            in card.title
        )
        assert card.shown["sum"] == pytest.approx(bars.sum(), abs=1e-5)
        assert ("the bias is" in card.title) == (subject.part(projection, 1).bias is not None)


@pytest.mark.parametrize("name", [*BUNDLED, *TINY])
def test_the_mlp_input_is_what_enters_the_models_own_projection(tiny_model, name):
    loaded = model(name, tiny_model)
    trace, seen = capture(loaded, PROMPT), {}
    private = changes.private_copy(loaded)
    for layer in range(loaded.spec.n_layer):
        place = f"{loaded.adapter.parts['blocks']}.{layer}.{loaded.adapter.layer['up_proj']}"
        private.get_submodule(place).register_forward_hook(
            lambda module, args, out, layer=layer: seen.__setitem__(
                layer, (args[0][0].numpy(), out[0].numpy())
            )
        )
    logits_of(private, trace.ids)
    for layer, (entered, left) in seen.items():
        np.testing.assert_allclose(mlp_input(loaded, trace, layer), entered, rtol=0, atol=2e-5)
        np.testing.assert_allclose(
            Neuron(loaded, trace, layer, 5).sums("up_proj"), left[:, 5], rtol=0, atol=2e-5
        )


def test_the_cards_of_a_neuron_prove_themselves(subject):
    trace = capture(subject, PROMPT)
    layer, at, index = subject.spec.n_layer - 1, 4, 7
    for projection in Neuron(subject, trace, layer, index).projections:
        holds(cards.contributions(subject, trace, layer, index, at, projection))
    holds(cards.activation(subject, trace, layer, index, at))
    holds(cards.over_prompt(subject, trace, layer, index))
    holds(cards.direction(subject, trace, layer, index, at))


def test_the_bars_of_the_sum_add_up_to_it(subject):
    trace = capture(subject, PROMPT)
    card = cards.contributions(subject, trace, 1, 3, 2)
    *bars, total = card.table["product"]
    assert sum(bars) == pytest.approx(total, abs=1e-6)
    one = Neuron(subject, trace, 1, 3)
    x, module = torch.tensor(one.entering[2]), subject.part("up_proj", 1)
    assert total == pytest.approx(float(module(x[None])[0, 3]), abs=1e-5)


def test_proofs_fail_for_a_trace_that_was_changed(loaded):
    trace = capture(loaded, PROMPT)
    wrong = replace(trace, attn_out=trace.attn_out * 0.5, mlp_act=trace.mlp_act + 0.01)
    assert not cards.contributions(loaded, wrong, 1, 3, 2).prove().passed
    assert not cards.activation(loaded, wrong, 1, 3, 2).prove().passed
    assert not cards.over_prompt(loaded, wrong, 1, 3).prove().passed


def test_activations_are_the_ones_that_entered_the_down_projection(loaded):
    trace = capture(loaded, PROMPT)
    one = Neuron(loaded, trace, 2, 11)
    z = torch.tensor(one.sums(one.projections[0]))
    bent = ACT2FN[loaded.spec.activation](z).numpy()
    if loaded.spec.gated:
        bent = bent * one.sums("up_proj")
    np.testing.assert_allclose(bent, one.activations, rtol=0, atol=1e-5)


def test_a_plain_mlp_has_no_gate_and_unknown_neurons_are_refused():
    loaded = loaded_checkpoint("pocket-gpt2")
    trace = capture(loaded, PROMPT)
    for layer, neuron, at, projection in (
        (0, 0, 0, "gate_proj"),
        (0, 1280, 0, "up_proj"),
        (6, 0, 0, "up_proj"),
        (0, 0, 99, "up_proj"),
    ):
        with pytest.raises(ReaderError):
            cards.contributions(loaded, trace, layer, neuron, at, projection)


def test_the_direction_is_the_derivative_of_the_logits_with_the_norms_scale_held(subject):
    trace = capture(subject, PROMPT)
    one, at = Neuron(subject, trace, subject.spec.n_layer - 1, 3), 5
    norm, unembedding = subject.part("final_norm"), subject.part("unembedding")
    stream = torch.tensor(trace.hidden[-1, at], dtype=torch.float64)
    spread = stream.var(unbiased=False) if subject.spec.norm == "LayerNorm" else stream.square().mean()
    scale = (spread + subject.spec.norm_eps).sqrt()

    row = torch.tensor(one.out, dtype=torch.float64)

    def logits(active):
        x = stream + active * row
        x = x - x.mean() if subject.spec.norm == "LayerNorm" else x
        return unembedding.weight.double() @ (x / scale * norm.weight.double())

    slope = torch.func.jacfwd(logits)(torch.tensor(0.0, dtype=torch.float64))
    np.testing.assert_allclose(per_unit(one, at), (slope - slope.mean()).detach().numpy(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [*BUNDLED, *TINY])
def test_a_clamped_neuron_is_its_row_of_the_down_projection_more_or_less(tiny_model, name):
    loaded = model(name, tiny_model)
    change = ClampNeuron(1, 9, -2.5)
    plain, after = capture(loaded, PROMPT), capture(loaded, PROMPT, (change,))
    row = Neuron(loaded, plain, 1, 9).out
    more = (-2.5 - plain.mlp_act[1, :, 9])[:, None] * row
    if loaded.spec.norms != "behind":  # OLMo 2 normalises the sum, so no row is added as it is
        np.testing.assert_allclose(after.mlp_out[1] - plain.mlp_out[1], more, rtol=0, atol=2e-5)
    np.testing.assert_allclose(
        logits_of(changes.by_hand(loaded, change, after.mlp_act), plain.ids), after.logits, rtol=0, atol=1e-4
    )
    assert np.abs(plain.logits - after.logits).max() > 1e-5


def test_the_clamp_card_proves_itself_and_a_wrong_one_does_not(subject):
    trace, change = capture(subject, PROMPT), ClampNeuron(1, 9, 40.0)
    after = capture(subject, PROMPT, (change,))
    holds(cards.clamped(subject, trace, after, change, 3))
    other = capture(subject, PROMPT, (ClampNeuron(1, 9, -40.0),))
    assert not cards.clamped(subject, trace, other, change, 3).prove().passed


@pytest.mark.parametrize("k", [0, 1, 20, 10_000])
def test_keeping_neurons_by_hand_is_what_the_intervention_does(subject, k):
    change = KeepTopNeurons(k, None)
    after = capture(subject, PROMPT, (change,))
    model = changes.by_hand(subject, change, after.mlp_act)
    np.testing.assert_allclose(logits_of(model, after.ids), after.logits, rtol=0, atol=1e-4)
    assert changes.wrongly_kept(model) < 1e-4


def test_a_wrong_choice_of_neurons_does_not_prove_itself(subject):
    change = KeepTopNeurons(20, None)
    after = capture(subject, PROMPT, (change,))

    def judged(layer, position, put, take):
        acts = after.mlp_act.copy()
        row = acts[layer, position]
        kept, left = np.flatnonzero(row), np.flatnonzero(row == 0)
        row[left[:put]] = 1.0
        row[kept[np.argsort(-np.abs(row[kept]))[:take]]] = 0.0
        model = changes.by_hand(subject, change, acts)
        logits_of(model, after.ids)
        return changes.wrongly_kept(model)

    assert judged(0, 3, 0, 0) < 1e-4
    assert judged(0, 3, 0, 1) == np.inf  # one too few
    assert judged(0, 3, 1, 0) == np.inf  # one too many
    assert 1e-3 < judged(0, 3, 1, 1) < np.inf  # another one than the strongest


def test_of_two_neurons_that_are_equally_strong_either_may_be_kept():
    strength = torch.tensor([[[3.0, 2.0, 2.0, 1.0]]])
    for kept in ([1, 1, 0, 0], [1, 0, 1, 0]):
        assert changes._wrong(strength, torch.tensor([kept]) == 1, 2) == 0
    assert changes._wrong(strength, torch.tensor([[1, 0, 0, 1]]) == 1, 2) == 1
    assert changes._wrong(strength, torch.tensor([[1, 1, 1, 0]]) == 1, 2) == np.inf


TEXT = "The old king had three sons, and the youngest of them had a boat. " * 9


@pytest.mark.parametrize("name", ["pocket-llama", "gpt2"])
def test_the_survey_finds_the_extremes_that_sorting_everything_finds(tiny_model, name):
    loaded = model(name, tiny_model)
    found = cards.survey(loaded, text=TEXT)
    size = min(128, loaded.spec.context)
    cuts = [found.ids[i : i + size] for i in range(0, len(found.ids), size)]
    acts = np.concatenate([capture(loaded, cut).mlp_act for cut in cuts], axis=1)  # layer, seq, d_ff
    allowed = [i for i in range(len(found.ids)) if i % size]
    assert found.counted == len(allowed)
    for sign, order in ((0, -1), (1, 1)):
        for layer, neuron in ((0, 3), (1, 50)):
            column = acts[layer, allowed, neuron]
            expected = np.sort(order * column)[:COUNT] * order
            np.testing.assert_allclose(found.values[sign, layer, neuron], expected, rtol=0, atol=1e-5)
            for rank, at in enumerate(found.places[sign, layer, neuron]):
                assert acts[layer, at, neuron] == pytest.approx(
                    found.values[sign, layer, neuron, rank], abs=1e-5
                )
                context = found.around[sign, layer, neuron, rank]
                for offset in range(-BEFORE, AFTER + 1):
                    inside = 0 <= at % size + offset < len(cuts[at // size])
                    value = acts[layer, at + offset, neuron] if inside else np.nan
                    np.testing.assert_allclose(context[BEFORE + offset], value, rtol=2e-3, atol=2e-3)


def test_a_survey_reports_its_progress_and_can_be_stopped(loaded):
    shares = []

    def progress(share, what):
        shares.append(share)
        if len(shares) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cards.survey(loaded, progress)
    assert shares[0] == 0 < shares[1] < 1


@pytest.mark.parametrize("lowest", [False, True])
def test_top_tokens_over_the_sample_text_prove_themselves(loaded, lowest, monkeypatch):
    monkeypatch.setattr(passages, "sample", lambda: TEXT)
    trace, found = capture(loaded, PROMPT), cards.survey(loaded)
    card = cards.top_tokens(loaded, trace, found, 2, 60, lowest)
    holds(card)
    for place, token in zip(card.table["position in the text"], card.table["token"], strict=True):
        assert loaded.tokenizer.decode([found.ids[place]]).strip() == token.strip("␣")
    wrong = replace(found, values=found.values * 1.05)
    assert not cards.top_tokens(loaded, trace, wrong, 2, 60, lowest).prove().passed


def test_a_concordance_aligns_the_tokens_and_escapes_them():
    rows = [Occurrence(["a", "<b>", "c"], [0.1, 5.0, np.nan], 1), Occurrence(["x" * 40], [-2.0], 0)]
    drawn = concordance(rows)
    words = next(trace for trace in drawn.data if trace.mode == "text")
    assert "<b>&lt;b&gt;</b>" in words.text
    begins = [
        x - width / 2 for x, text, width in zip(words.x, words.text, (3.6, 1.6, 1.6, 12.6), strict=False)
    ]
    assert begins[0] == pytest.approx(0)


@pytest.mark.parametrize("text", ["", "a", "😀🏳️‍🌈", "x " * 120])
def test_any_prompt_will_do(loaded, text):
    trace = capture(loaded, text)
    index, last = ops.selective(trace.mlp_act[0], 0), len(trace.ids) - 1
    cards.contributions(loaded, trace, 0, index, last)
    cards.activation(loaded, trace, 0, index, 0)
    cards.over_prompt(loaded, trace, 0, index)
    cards.direction(loaded, trace, 0, index, last)


def test_cards_can_be_drawn_of_a_model_that_overflowed(loaded):
    trace = capture(loaded, PROMPT)
    nan = replace(
        trace, mlp_act=np.full_like(trace.mlp_act, np.nan), hidden=np.full_like(trace.hidden, np.nan),
        logits=np.full_like(trace.logits, np.nan),
    )  # fmt: skip
    index = ops.selective(nan.mlp_act[0], 2)
    shown = [
        cards.contributions(loaded, nan, 0, index, 2),
        cards.activation(loaded, nan, 0, index, 2),
        cards.over_prompt(loaded, nan, 0, index),
        cards.direction(loaded, nan, 0, index, 2),
        cards.clamped(loaded, nan, nan, ClampNeuron(0, index, 0.0), 2),
    ]
    assert not any(card.prove().passed for card in shown)
