"""Chapter 5: softmax, filters, draws, lens and surprisal against torch, transformers and sums on paper."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine import ReaderError, capture
from engine.chapters import c05_sampling as cards
from engine.chapters.c05_sampling import lens
from engine.chapters.c05_sampling.texts import repeated
from engine.checkpoints.prompts import prompts_for
from engine.evidence.oracle import Oracle
from engine.evidence.oracles import filtering
from engine.evidence.oracles.order import at_ranks
from engine.figures import sampling as figures
from engine.ops import sampling as ops
from engine.ops.sampling import Filters
from tests.conftest import PROMPT, loaded_checkpoint
from tests.pages.mutations import mutations

ALL = Filters(1.2, 0.8, 40, 0.9, 0.03)
IDS = (3, 17, 17, 200)


def random_logits(seed=0, size=300):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy() * 3


@pytest.fixture
def trace(loaded):
    return capture(loaded, PROMPT)


# --- operations -----------------------------------------------------------------------------------------------


def test_softmax_on_paper():
    assert ops.softmax([0.0, math.log(2), math.log(5)]) == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert ops.softmax([1000.0, 1000.0]) == pytest.approx([0.5, 0.5])


def test_softmax_of_what_is_ruled_out_is_0_and_a_row_with_nan_is_nan():
    rows = np.array([[0.0, -math.inf, 0.0], [0.0, math.nan, 1.0]])
    np.testing.assert_array_equal(ops.softmax(rows), [[0.5, 0, 0.5], [math.nan] * 3])


def test_kl_is_torchs_and_not_symmetric():
    p, q = random_logits(size=(5, 40)), random_logits(1, (5, 40))
    expected = F.kl_div(*(torch.tensor(x).log_softmax(-1) for x in (q, p)), log_target=True, reduction="none")
    np.testing.assert_allclose(ops.kl_divergence(p, q), expected.sum(-1), atol=1e-12)
    assert np.abs(ops.kl_divergence(p, q) - ops.kl_divergence(q, p)).min() > 1e-3
    assert (ops.kl_divergence(p, p + 3.0) < 1e-9).all()  # a constant added to all logits changes nothing


def test_kl_on_paper():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])
    with np.errstate(divide="ignore"):
        assert ops.kl_divergence(np.log(p), np.log(q)) == pytest.approx(0.5 * math.log(2))
        assert ops.kl_divergence(np.log(q), np.log(p)) == math.inf


def test_kl_of_broken_logits_is_nan_at_that_position_only():
    p = random_logits(size=(3, 8))
    q = p.copy()
    q[1, 4] = np.nan
    assert np.isnan(ops.kl_divergence(p, q)).tolist() == [False, True, False]


def test_entropy_of_a_fair_coin_is_ln_2_and_of_a_certainty_0():
    assert ops.entropy(np.array([0.5, 0.5, 0.0])) == pytest.approx(math.log(2))
    assert ops.entropy(np.array([1.0, 0.0])) == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("chosen", "theirs"),
    [
        (Filters(repetition_penalty=1.5), RepetitionPenaltyLogitsProcessor(1.5)),
        (Filters(temperature=0.3), TemperatureLogitsWarper(0.3)),
        (Filters(top_k=7), TopKLogitsWarper(7)),
        (Filters(top_k=10_000), TopKLogitsWarper(10_000)),
        (Filters(top_p=0.6), TopPLogitsWarper(0.6)),
        (Filters(top_p=0.0), TopPLogitsWarper(0.0)),
        (Filters(min_p=0.1), MinPLogitsWarper(0.1)),
        (Filters(min_p=1.0), MinPLogitsWarper(1.0)),
    ],
)
def test_each_filter_equals_transformers(chosen, theirs, seed):
    logits = random_logits(seed)
    expected = theirs(torch.tensor([IDS]), torch.tensor(logits)[None])[0].numpy()
    np.testing.assert_allclose(ops.filtered(logits, IDS, chosen), expected, rtol=1e-12)


def test_filters_run_in_the_order_in_which_generate_builds_them(loaded):
    options = loaded.model.generation_config.__class__(
        do_sample=True, min_p=0.03, top_p=0.9, top_k=40, temperature=0.8, repetition_penalty=1.2
    )
    theirs = loaded.model._get_logits_processor(options, input_ids_seq_length=4)
    logits = random_logits(4, loaded.spec.vocab)
    expected = theirs(torch.tensor([IDS]), torch.tensor(logits)[None])[0].numpy()
    np.testing.assert_allclose(ops.filtered(logits, IDS, ALL), expected, rtol=1e-12)
    swapped = TemperatureLogitsWarper(0.8)(None, TopPLogitsWarper(0.9)(None, torch.tensor(logits)[None]))
    assert not np.array_equal(np.isinf(expected), np.isinf(swapped[0].numpy()))  # the order matters here


def test_ties_with_the_kth_stay():
    assert np.isfinite(ops.keep_top_k(np.array([2.0, 1.0, 1.0, 0.0]), 2)).tolist() == [
        True,
        True,
        True,
        False,
    ]


def test_top_p_keeps_the_token_that_crosses_the_line():
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    assert np.isfinite(ops.keep_top_p(logits, 0.6)).tolist() == [True, True, False, False]


def test_the_penalty_lowers_logits_of_both_signs_and_once_for_a_token_seen_twice():
    assert ops.penalize(np.array([2.0, -2.0, 1.0]), [0, 0, 1], 2.0).tolist() == [1.0, -4.0, 1.0]


def test_default_filters_change_nothing():
    logits = random_logits()
    done = ops.stages(logits, IDS, Filters())
    assert not any(stage.active for stage in done[1:])
    assert np.array_equal(done[-1].logits, logits)


@pytest.mark.parametrize(
    "bad", [{"temperature": 0}, {"temperature": math.inf}, {"top_k": -1}, {"top_p": 1.1}, {"min_p": math.nan}]
)
def test_settings_out_of_range_are_one_sentence(bad):
    with pytest.raises(ReaderError):
        Filters(**bad)


def test_logits_that_are_not_numbers_are_refused():
    with pytest.raises(ReaderError, match="not finite"):
        ops.filtered([0.0, math.nan], [0], Filters())


def test_inverse_cdf_on_paper():
    p = np.array([0.25, 0.0, 0.5, 0.25, 0.0])
    assert ops.inverse_cdf(p, np.array([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.999999])).tolist() == [
        0,
        0,
        2,
        2,
        3,
        3,
    ]


def test_surprisal_equals_cross_entropy():
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = [1, 4, 0, 29, 3]
    expected = F.cross_entropy(logits, torch.tensor(ids), reduction="none")
    np.testing.assert_allclose(ops.surprisal(logits.numpy(), ids), expected.numpy(), rtol=1e-12)


# --- cards ----------------------------------------------------------------------------------------------------


def run(code):
    scope = {}
    exec(code, scope)
    return scope["result"]


def check(card):
    """The proof holds, and the script gives the numbers."""
    proof = card.prove()
    assert proof.passed, proof
    result = run(card.code)
    assert set(result) == set(card.numbers)
    for name, shown in card.numbers.items():
        given = result[name]
        values = [float(v) for v in given] if isinstance(given, list) else torch.as_tensor(given).tolist()
        np.testing.assert_allclose(values, shown, rtol=0, atol=card.atol, err_msg=f"{card.key} {name}")


def last(trace):
    return len(trace.tokens) - 1


def make_logits(loaded, trace):
    return cards.logits(loaded, trace, last(trace), " castle")


def make_softmax(loaded, trace):
    return cards.probabilities(loaded, trace, last(trace), 12, 7.5)


def make_filters(loaded, trace):
    return cards.filters(loaded, trace, 5, ALL)


def make_draws(loaded, trace):
    return cards.draws(loaded, trace, last(trace), ALL, 3)


def make_texts(loaded, trace):
    return cards.texts(loaded, (cards.Request(trace.ids, 6), cards.Request(trace.ids, 6, 3, ALL)))


def make_tree(loaded, trace):
    return cards.tree(loaded, cards.Request(trace.ids, 4, 1, ALL))


def make_turned_tree(loaded, trace):
    request = cards.Request(trace.ids, 4)
    rest, kept = cards.turn(loaded, request, 1, 2)
    return cards.tree(loaded, request, rest, kept)


def make_beams(loaded, trace):
    return cards.beams(loaded, trace.ids, 5, 4)


def make_lens(loaded, trace):
    return cards.layers(loaded, trace, last(trace))


def make_folded_lens(loaded, trace):
    return cards.layers(loaded, trace, last(trace), folded=True)


def make_favourites(loaded, trace):
    return cards.favourites(loaded, trace, 4)


def make_surprisal(loaded, trace):
    return cards.prompt(loaded, trace, "bits")


MAKERS = [
    make_logits, make_softmax, make_filters, make_draws, make_texts, make_tree, make_turned_tree, make_beams, make_lens,
    make_folded_lens, make_favourites, make_surprisal,
]  # fmt: skip


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.removeprefix("make_"))
def test_proof_and_script(loaded, trace, make):
    check(make(loaded, trace))


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.removeprefix("make_"))
def test_proofs_hold_on_other_architectures(tiny_model, make):
    for name in ("neox-parallel", "qwen3", "gpt2-relu-wide"):
        loaded = tiny_model(name)
        proof = make(loaded, capture(loaded, PROMPT)).prove()
        assert proof.passed, (name, proof)


def test_a_look_up_finds_the_rank(loaded, trace):
    id = loaded.tokenizer(" castle")["input_ids"][0]
    row = trace.logits[-1]
    rank = 1 + int((row > row[id]).sum())
    assert f"is number {rank:,}" in make_logits(loaded, trace).title


def test_a_constant_added_to_every_logit_changes_no_probability(loaded, trace):
    shifted, plain = (cards.probabilities(loaded, trace, 3, 9, shift) for shift in (11.0, 0.0))
    np.testing.assert_allclose(shifted.shown["probability"], plain.shown["probability"], rtol=1e-9)
    assert shifted.table["logit"] != plain.table["logit"]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_the_columns_of_softmax_are_its_steps(loaded, trace, temperature):
    card = cards.probabilities(loaded, trace, 3, 9, temperature=temperature)
    z = torch.tensor(trace.logits[3], dtype=torch.float64)
    order = z.sort(descending=True).indices[:9]
    power = (z / temperature).exp()
    np.testing.assert_allclose(card.shown["power"][:-1], power[order], rtol=1e-9)
    assert sum(card.shown["power"]) == pytest.approx(float(power.sum()))
    np.testing.assert_allclose(card.shown["probability"][:-1], power[order] / power.sum(), rtol=1e-9)
    drawn = [bar.x for bar in card.figure.data]
    np.testing.assert_allclose(drawn[0][:-1], card.shown["logit"])
    np.testing.assert_allclose(drawn[1], card.shown["power"])
    np.testing.assert_allclose(drawn[2], card.shown["probability"])
    assert untold(card) == []


def test_the_penalty_knows_only_the_tokens_up_to_the_position(loaded, trace):
    card = cards.filters(loaded, trace, 0, Filters(repetition_penalty=2.0))
    p = torch.tensor(trace.logits[0], dtype=torch.float64)
    p[trace.ids[0]] = p[trace.ids[0]] * 2 if p[trace.ids[0]] < 0 else p[trace.ids[0]] / 2
    expected = -(p.softmax(-1) * p.log_softmax(-1)).sum()
    assert card.numbers["entropy"] == pytest.approx(expected.item())


def test_entropies_are_torchs(trace):
    p = torch.tensor(trace.logits, dtype=torch.float64).softmax(-1)
    np.testing.assert_allclose(cards.entropies(trace), torch.special.entr(p).sum(-1), atol=1e-9)
    broken = trace.logits.copy()
    broken[2, 0] = np.nan
    assert cards.entropies(replace(trace, logits=broken))[2] == 0


def test_each_bar_of_the_flow_has_length_one(loaded, trace):
    figure = make_filters(loaded, trace).figure
    assert np.sum([bar.x for bar in figure.data], axis=0) == pytest.approx(1.0)


def test_masses_removed_multiply_to_what_is_left(loaded, trace):
    card = cards.filters(loaded, trace, 5, Filters(top_k=40, top_p=0.8, min_p=0.05))
    left = math.prod(1 - removed for removed in card.table["mass removed"])
    p = torch.tensor(trace.logits[5], dtype=torch.float64).softmax(-1)
    kept = p.sort(descending=True).values[: card.table["tokens left"][-1]].sum()
    assert left == pytest.approx(kept.item())


def test_draws_repeat_with_their_seed_and_follow_the_theory(loaded, trace):
    first, again, other = (cards.draws(loaded, trace, 2, Filters(), seed, 5000) for seed in (1, 1, 2))
    assert first.table["observed"] == again.table["observed"] != other.table["observed"]
    assert sum(first.table["observed"]) == 5000
    assert sum(first.table["expected"]) == pytest.approx(5000)
    assert max(abs(z) for z in first.table["z"]) < 5


def test_one_token_left_means_it_is_always_drawn(loaded, trace):
    card = cards.draws(loaded, trace, 2, Filters(top_k=1), 0)
    assert card.table["observed"] == [500]
    assert "1 of 1" in card.title


def test_one_beam_is_greedy_and_more_find_a_text_that_is_no_less_likely_than_theirs(loaded, trace):
    greedy = cards.written(loaded, cards.Request(trace.ids, 6))
    assert list(cards.search(loaded, trace.ids, 6, 1).ids) == [choice.id for choice in greedy]
    ids = torch.tensor([trace.ids])
    theirs = loaded.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, num_beams=6, length_penalty=0.0,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert list(cards.search(loaded, trace.ids, 6, 6).ids) == theirs[0, len(trace.ids) :].tolist()


def test_a_greedy_text_does_not_pass_for_that_of_beams():
    loaded = loaded_checkpoint("pocket-llama")
    ids = capture(loaded, prompts_for("pocket-llama").default).ids
    greedy, best = cards.search(loaded, ids, 5, 1), cards.search(loaded, ids, 5, 8)
    assert sum(best.logs) > sum(greedy.logs) + 1
    card = cards.beams(loaded, ids, 5, 8, (greedy, best))
    assert card.prove().passed
    assert f"{math.exp(sum(best.logs) - sum(greedy.logs)):.3g} times as likely" in card.title
    assert untold(card) == []
    assert not cards.beams(loaded, ids, 5, 8, (greedy, greedy)).prove().passed
    assert not cards.beams(loaded, ids, 5, 8, (best, best)).prove().passed


def test_how_much_of_a_texts_end_has_stood_before():
    assert repeated([1, 2, 3], [9, 1, 2, 3]) == 3
    assert repeated([1, 2], [3, 4]) == 0
    assert repeated([7], [7, 7, 7]) == 3  # it may overlap itself
    assert repeated([5, 1, 2], [1, 2]) == 2  # no more than is new
    assert repeated([], [4, 5, 6, 4, 5, 6]) == 3


def test_a_greedy_text_that_repeats_is_said_to():
    loaded = loaded_checkpoint("pocket-gpt2")
    ids = capture(loaded, prompts_for("pocket-gpt2").default).ids
    card = cards.texts(loaded, (cards.Request(ids, 20), cards.Request(ids, 20, 0)))
    greedy, drawn = card.shown["repeated"]
    assert greedy > 4 > drawn
    assert f"The last {greedy} tokens of “greedy” have stood before" in card.note
    assert "seed" not in card.note


def test_a_turn_takes_the_road_it_is_told(loaded, trace):
    request = cards.Request(trace.ids, 4)
    base = cards.written(loaded, request)
    rest, kept = cards.turn(loaded, request, 1, 2)
    assert [c.id for c in kept] == [base[0].id, base[1].alternatives[2][0]]
    assert rest.ids == (*trace.ids, *(c.id for c in kept))
    assert cards.tree(loaded, request, rest, kept).numbers["text"][:2] == [c.id for c in kept]


@pytest.mark.parametrize(("step", "road"), [(9, 0), (-1, 0), (0, 99)])
def test_a_turn_that_is_not_there_is_one_sentence(loaded, trace, step, road):
    with pytest.raises(ReaderError):
        cards.turn(loaded, cards.Request(trace.ids, 3), step, road)


def test_a_text_is_remembered_and_a_stopped_one_keeps_its_beginning(loaded, trace, monkeypatch):
    request = cards.Request(trace.ids, 5, 99)
    running = cards.write(loaded, request)
    begun = [next(running), next(running)]
    running.close()
    assert [c.id for c in cards.so_far(loaded, request)] == [c.id for c in begun]
    assert not cards.complete(loaded, request)
    whole = cards.written(loaded, request)
    assert cards.complete(loaded, request)
    monkeypatch.setattr("engine.model.writing.generate", None)  # would fail if it were called
    assert cards.written(loaded, request) == whole
    assert cards.written(loaded, cards.Request(trace.ids, 3, 99)) == whole[:3]


def test_a_tree_of_what_is_written_already_writes_nothing_more(loaded, trace, monkeypatch):
    request = cards.Request(trace.ids, 5)
    begun = cards.written(loaded, request)[:2]
    monkeypatch.setattr("engine.model.writing.generate", None)
    card = cards.tree(loaded, cards.Request(trace.ids, 9, 123), known=begun)
    assert card.numbers["text"] == [choice.id for choice in begun]


def test_the_lens_on_the_last_layer_gives_the_logits(loaded, trace):
    np.testing.assert_allclose(lens.read_off(loaded, trace.hidden[-1]), trace.logits, atol=1e-4)


def test_a_folded_lens_keeps_the_ends_and_every_change_up_to_a_number():
    assert lens.fold(np.array([5, 5, 7, 7, 7, 9, 9])) == [0, 2, 5, 6]
    assert lens.fold(np.array([5, 5, 5])) == [0, 2]
    assert lens.fold(np.arange(31)) == [0, *range(22, 31)]
    assert lens.fold(np.array([3])) == [0]


def test_no_altered_folded_lens_proves_itself(loaded, trace):
    card = make_folded_lens(loaded, trace)
    assert len(card.shown["id"]) < loaded.spec.n_layer + 1
    assert untold(card) == []


def untold(card):
    """Alterations of a card that its proof does not tell from the truth."""
    answer = card.oracle.compute()
    once = Oracle(card.oracle.claim, lambda: answer, card.oracle.tolerance)
    return [what for what, altered in mutations(card.shown, once) if once.judge(altered).passed]


def test_the_lens_equals_transformers_hidden_states(loaded, trace):
    with torch.no_grad():
        states = loaded.model(torch.tensor([trace.ids]), output_hidden_states=True).hidden_states
        expected = loaded.part("unembedding")(loaded.part("final_norm")(states[2][0]))
    np.testing.assert_allclose(lens.read_off(loaded, trace.hidden[2]), expected.numpy(), atol=1e-4)


def test_surprisal_mean_is_transformers_loss(loaded, trace):
    ids = torch.tensor([trace.ids])
    with torch.no_grad():
        loss = loaded.model(ids, labels=ids).loss.item()
    card = make_surprisal(loaded, trace)
    assert card.shown["mean"] == pytest.approx(loss / math.log(2), abs=1e-4)
    assert np.mean(card.table["surprisal (bits)"]) == pytest.approx(loss / math.log(2), abs=1e-4)


def test_one_token_has_no_surprisal_but_everything_else(loaded):
    trace = capture(loaded, "The")
    assert len(trace.tokens) == 1
    with pytest.raises(ReaderError, match="two tokens"):
        cards.prompt(loaded, trace)
    for make in (make_logits, make_softmax, make_draws, make_lens):
        assert make(loaded, trace).prove().passed


def test_hostile_text_is_escaped_in_every_figure():
    bad = "<img src=x onerror=alert(1)>$x$"
    made = [
        figures.ranks([1, 2], [3.0, 1.0], {1: bad, 2: bad}, (2, bad)),
        figures.counts([bad], [3.0], [1.0], [2.0]),
        figures.softmax_columns([bad, bad], [1.0], [2.7, 1.0], [0.73, 0.27], 1.0),
        figures.texts([(bad, [(bad, 0.5)])]),
        figures.lens([[0.5, math.nan]], [[bad, bad]], [bad], [bad, bad]),
        figures.surprisals([bad, bad], [1.0], unit="nats", mean=1.0, uniform=2.0),
        figures.flow([("row", [(bad, 0.9)], 0.05, 0.05)]),
    ]
    for figure in made:
        text = figure.to_json().replace("\\u003c", "<")
        assert "<img" not in text
        assert "$x$" not in text


# --- oracles --------------------------------------------------------------------------------------------------


def test_ids_at_their_ranks_are_kept_only_where_their_values_are_nearly_those():
    values = torch.tensor([5.0, 1.0, 4.9999, 3.0])
    assert at_ranks([2, 0], values, 1e-3).tolist() == [2, 0]  # rounding may decide
    assert at_ranks([2, 0], values, 1e-6).tolist() == [0, 2]
    assert at_ranks([0, 3], values, 1e-3).tolist() == [0, 2]
    assert at_ranks([0, 0], values, 1e-3).tolist() == [0, 2]
    assert at_ranks([1], values, 1e-3, [3]).tolist() == [1]
    assert at_ranks([3], values, 1e-3, [3]).tolist() == [1]


@pytest.mark.parametrize("seed", [None, 4])
def test_a_token_that_was_not_drawn_is_not_taken_for_the_one_that_was(seed):
    rows = torch.stack([torch.tensor(random_logits(i)) for i in range(6)])
    filters = Filters() if seed is None else ALL
    own = filtering.chosen(rows, IDS, [0] * 6, filters, seed, 0.0)[:1]
    for i in range(1, 6):  # each is drawn after those before it
        own.append(filtering.chosen(rows, IDS, [*own, *[0] * (6 - i)], filters, seed, 0.0)[i])
    assert filtering.chosen(rows, IDS, own, filters, seed, 1e-4) == own
    wrong = [own[0], (own[1] + 1) % 300, *own[2:]]
    assert filtering.chosen(rows, IDS, wrong, filters, seed, 1e-4)[1] == own[1]


def test_proofs_fail_for_logits_of_another_place(loaded, trace):
    wrong = replace(trace, logits=np.roll(trace.logits, 1, axis=0))
    for make in (make_logits, make_softmax, make_filters, make_draws, make_surprisal):
        assert not make(loaded, wrong).prove().passed


def test_proofs_of_the_lens_fail_for_another_stream(loaded, trace):
    wrong = replace(trace, hidden=trace.hidden[::-1].copy())
    for make in (make_lens, make_favourites):
        assert not make(loaded, wrong).prove().passed
