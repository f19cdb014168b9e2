"""Chapter 4: a toy network against torch.nn, the real pass, sparsity counted, and neurons silenced."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from engine import ReaderError, capture
from engine.chapters import c03_neurons as neurons
from engine.chapters import c04_mlp as cards
from engine.chapters.c04_mlp import sparse
from engine.chapters.c04_mlp.kept import Sweep, enough_of
from engine.chapters.c04_mlp.network import BIASES, EDGES, FIRST, SECOND
from engine.evidence.oracle import Oracle
from engine.model.interventions import KeepTopNeurons
from engine.ops import neurons as ops
from tests.chapters.test_neurons import FEW, holds, model
from tests.conftest import BUNDLED, PROMPT, TINY, loaded_checkpoint
from tests.pages.mutations import mutations

ACTIVATIONS = {"ReLU": nn.ReLU, "GELU": nn.GELU, "SiLU": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@pytest.fixture(params=[*BUNDLED, *FEW])
def subject(request, tiny_model):
    return model(request.param, tiny_model)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("edge", ["x2 → h3", "h3 → y1"])
def test_the_toy_network_is_torchs(activation, edge):
    x, weight = (0.7, -1.3), 1.9
    net = nn.Sequential(nn.Linear(2, 3), ACTIVATIONS[activation](), nn.Linear(3, 2)).double()
    with torch.no_grad():
        for place, values, bias in ((0, FIRST, BIASES[0]), (2, SECOND, BIASES[1])):
            net[place].weight.copy_(torch.tensor(values, dtype=torch.float64).T)
            net[place].bias.copy_(torch.tensor(bias, dtype=torch.float64))
        part, i, j = EDGES[edge]
        net[2 * part].weight[j, i] = weight
        expected = net(torch.tensor(x, dtype=torch.float64)).numpy()
    card = cards.toy_network(x, edge, weight, activation)
    values = dict(zip(card.table["quantity"], card.table["value"], strict=True))
    assert [values["y1"], values["y2"]] == pytest.approx(expected.tolist(), abs=1e-12)
    assert values[edge] == weight


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("edge", ["x2 → h3", "h3 → y1"])
def test_torch_proves_the_toy_network_and_no_altered_one(activation, edge):
    card = cards.toy_network((0.7, -1.3), edge, 1.9, activation)
    assert card.prove().passed
    assert [
        what for what, altered in mutations(card.shown, card.oracle) if card.oracle.judge(altered).passed
    ] == []


def test_the_toy_network_refuses_what_it_does_not_have():
    for edge, activation in (("x1 → y1", "ReLU"), ("x1 → h1", "softmax")):
        with pytest.raises(ReaderError):
            cards.toy_network((0, 0), edge, 0.0, activation)


def test_the_marked_edge_and_its_cell_are_the_same_place():
    drawn = cards.toy_network((1, 1), "h2 → y1", -1.5, "ReLU").figure
    assert [a.text for a in drawn.layout.annotations].count("<b>-1.50</b>") == 1
    thick = [s for s in drawn.layout.shapes if s.type == "rect" and s.line.width == 3]
    assert len(thick) == 3  # the input's cell, the weight's, the output's


def test_the_real_pass_proves_itself(subject):
    trace = capture(subject, PROMPT)
    holds(cards.mlp_pass(subject, trace, subject.spec.n_layer - 1, 3))
    wrong = replace(trace, mlp_out=trace.mlp_out * 1.01)
    assert not cards.mlp_pass(subject, wrong, subject.spec.n_layer - 1, 3).prove().passed


@pytest.mark.parametrize("name", [*BUNDLED, *TINY])
def test_the_numbers_of_the_pass_are_those_of_the_models_mlp(tiny_model, name):
    subject = model(name, tiny_model)
    trace = capture(subject, PROMPT)
    card = cards.mlp_pass(subject, trace, 1, 3)
    x = cards.mlp_input(subject, trace, 1)[3]
    with torch.no_grad():
        out = subject.part("mlp", 1)(torch.tensor(x)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(card.shown["out"], out, rtol=0, atol=2e-5)
    trained = sum(p.numel() for p in subject.part("mlp", 1).parameters())
    assert f"{trained:,} trained numbers" in card.title


def test_near_zero_and_carriers_on_paper():
    acts = np.array([[10.0, -5.0, 0.05, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert ops.near_zero(acts, 0.01).tolist() == [0.5, 0, 0]
    assert ops.carriers(acts, 0.9).tolist() == [2, 4, 0]
    assert ops.carriers(acts, 0.5).tolist() == [1, 2, 0]
    assert ops.carriers([np.nan, 1.0]).tolist() == 0


def test_carriers_are_as_few_as_possible(loaded):
    acts = capture(loaded, PROMPT).mlp_act[2, 4].astype(np.float64)
    need = int(ops.carriers(acts, 0.9))
    largest = torch.tensor(np.abs(acts)).sort(descending=True).values
    assert float(largest[:need].sum()) >= 0.9 * float(largest.sum()) > float(largest[: need - 1].sum())


def test_noise_is_what_random_numbers_do():
    x = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs()
    grown = x.sort(descending=True).values.cumsum(0) / x.sum()
    for share in (0.5, 0.9):
        assert sparse.noise(share) == pytest.approx(float((grown < share).double().mean()), abs=1e-3)
        assert sparse.noise_mass(sparse.noise(share)) == pytest.approx(share)
        assert sparse._noise_again([share], True)[0] == pytest.approx(sparse.noise(share), abs=1e-8)
    for part in (1e-4, 0.1, 0.5, 1.0):
        assert sparse._noise_again([part], False)[0] == pytest.approx(sparse.noise_mass(part), abs=1e-8)
    assert float(grown[len(grown) // 10]) == pytest.approx(sparse.noise_mass(0.1), abs=1e-3)


def test_no_altered_line_of_a_hidden_choice_proves_itself(loaded):
    card = cards.sparsity(loaded, capture(loaded, PROMPT), 0.1)
    answer = card.oracle.compute()
    once = Oracle(card.oracle.claim, lambda: answer, card.oracle.tolerance)
    assert [what for what, altered in mutations(card.shown, once) if once.judge(altered).passed] == []


def test_sparsity_cards_prove_themselves(subject):
    trace = capture(subject, PROMPT)
    holds(cards.sparsity(subject, trace, 0.1))
    holds(cards.mass(subject, trace, 1, 3))
    acts = trace.mlp_act.copy()
    acts[:, :, ::2] *= 3
    wrong = replace(trace, mlp_act=acts)
    assert not cards.sparsity(subject, wrong, 0.1).prove().passed
    assert not cards.mass(subject, wrong, 1, 3).prove().passed


@pytest.mark.parametrize("layers", [None, (1,)])
@pytest.mark.parametrize("k", [0, 4])
def test_kept_neurons_prove_themselves(subject, k, layers):
    before, change = capture(subject, PROMPT), KeepTopNeurons(k, layers)
    card = cards.kept(subject, before, capture(subject, PROMPT, (change,)), change, 3)
    holds(card)
    if subject.name in BUNDLED:  # a random model's probabilities are all small, and so are their changes
        assert not cards.kept(subject, before, before, change, 3).prove().passed


def test_a_sweep_ends_with_nothing_lost_and_is_the_kl_of_torch(subject):
    trace = capture(subject, PROMPT)
    found = cards.sweep(subject, trace, None)
    assert found.ks[0] == 1
    assert found.ks[-1] == subject.spec.d_ff
    assert np.abs(found.kl[-1]).max() < 1e-6
    after = capture(subject, PROMPT, (KeepTopNeurons(found.ks[2]),))
    p, q = (torch.tensor(t.logits).double().log_softmax(-1) for t in (trace, after))
    expected = F.kl_div(q, p, log_target=True, reduction="none").sum(-1).numpy()
    np.testing.assert_allclose(found.kl[2], expected, rtol=0, atol=1e-6)
    card = cards.swept(subject, trace, found, 3, 16)
    holds(card)
    assert not cards.swept(subject, trace, replace(found, kl=found.kl + 0.05), 3, 16).prove().passed


def test_enough_neurons_are_those_from_which_on_little_is_lost():
    def needed(*kl):
        return enough_of(Sweep((1, 2, 4, 8), None, np.array(kl)[:, None]))

    assert needed(3.0, 0.05, 0.2, 0.0) == 8
    assert needed(3.0, 2.0, 0.05, 0.0) == 4
    assert needed(0.01, 0.01, 0.01, 0.0) == 1
    assert needed(3.0, np.nan, np.nan, np.nan) == 8


def test_a_sweep_can_be_stopped(loaded):
    def progress(share, what):
        if share > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cards.sweep(loaded, capture(loaded, PROMPT), None, progress)


def test_both_designs_side_by_side_prove_themselves(tiny_model):
    sides = [(model(name, tiny_model), None) for name in BUNDLED]
    sides = [(loaded, capture(loaded, PROMPT)) for loaded, _ in sides]
    distributions, facts = cards.two_mlps(sides, 2)
    holds(distributions)
    holds(facts)
    lowest = distributions.table["lowest"]
    assert -0.1701 < lowest[0] < 0 < -lowest[1]
    assert facts.table["pocket-llama"][1] == "3"


@pytest.mark.parametrize("text", ["", "😀🏳️‍🌈", "x " * 120])
def test_any_prompt_will_do(loaded, text):
    trace = capture(loaded, text)
    last = len(trace.ids) - 1
    cards.mlp_pass(loaded, trace, 0, last)
    cards.sparsity(loaded, trace, 0.001)
    cards.mass(loaded, trace, 5, last)
    cards.swept(loaded, trace, cards.sweep(loaded, trace, (0,)), last, 0)


def test_cards_can_be_drawn_of_a_model_that_overflowed(loaded):
    trace = capture(loaded, PROMPT)
    nan = replace(
        trace,
        **{
            name: np.full_like(getattr(trace, name), np.nan)
            for name in ("mlp_act", "hidden", "mlp_out", "logits")
        },
    )
    change = KeepTopNeurons(4)
    shown = [
        cards.mlp_pass(loaded, nan, 0, 2),
        cards.kept(loaded, nan, nan, change, 2),
        cards.mass(loaded, nan, 0, 2),
        cards.sparsity(loaded, nan, 0.1),
    ]
    assert not any(card.prove().passed for card in shown)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_proofs_hold_where_bitsandbytes_multiplies(precision):
    loaded = loaded_checkpoint("pocket-llama", precision)
    trace, change = capture(loaded, PROMPT), KeepTopNeurons(32)
    shown = [
        cards.mlp_pass(loaded, trace, 1, 3),
        cards.sparsity(loaded, trace, 0.1),
        cards.mass(loaded, trace, 1, 3),
        neurons.over_prompt(loaded, trace, 1, 7),
        cards.kept(loaded, trace, capture(loaded, PROMPT, (change,)), change, 3),
        neurons.contributions(loaded, trace, 1, 7, 3, "gate_proj"),
        neurons.activation(loaded, trace, 1, 7, 3),
        neurons.direction(loaded, trace, 1, 7, 3),
    ]
    assert [card.key for card in shown if not card.prove().passed] == []
