"""Chapter 10: rotation against transformers and complex numbers, shifts against whole passes, θ against the formula."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import ReaderError, capture, tokenize
from engine.chapters import c10_rope as cards
from engine.chapters.c10_rope.rotation import before, rotation, with_theta
from engine.checkpoints.prompts import prompts_for
from engine.evidence.oracles.rope import RopeAgain, counted_turns
from engine.model.cache import traced
from engine.model.head import Head
from tests.conftest import PROMPT, SMOLLM2, TINY, loaded_checkpoint, needs_smollm2
from tests.pages.mutations import mutations

ROTARY = [
    "pocket-llama",
    "llama-gqa",
    "llama-dynamic",
    "llama-llama3",
    "llama-yarn",
    "qwen3",
    "neox-parallel",
    "stablelm",
    "phi",
    "olmo2",
]
"""One of each kind: grouped and multi-head attention, scaled frequencies, q/k-norm, partial rotary."""
LEARNED = ["pocket-gpt2", *(name for name in TINY if name.startswith(("gpt2", "gpt-neo")))]
SCALED = {"llama-linear", "llama-dynamic", "llama-llama3", "llama-yarn"}


def subject(name, tiny_model):
    return loaded_checkpoint(name) if name.startswith("pocket") else tiny_model(name)


@pytest.fixture(params=ROTARY)
def rotary(request, tiny_model):
    loaded = subject(request.param, tiny_model)
    return loaded, capture(loaded, PROMPT)


@pytest.fixture(params=LEARNED)
def learned(request, tiny_model):
    loaded = subject(request.param, tiny_model)
    return loaded, capture(loaded, PROMPT)


def drawn(loaded, trace):
    """A card of every kind, with a choice that is not the default where there is one."""
    context, last = loaded.spec.context, len(trace.tokens) - 1
    pairs = cards.rotation(loaded).pairs
    return [
        cards.pair(loaded, trace, 1, 1, 5, "query", pairs - 1, 5),
        cards.pair(loaded, trace, 1, 1, 5, "key", 0, context - 1),
        cards.ladder(loaded),
        cards.ladder(loaded, "cosines"),
        cards.turned(loaded, trace, 1, 1, last, "query"),
        cards.turned(loaded, trace, 0, 0, 0, "key"),
        cards.rotated(loaded, trace, 1, 1, 6, 30),
        cards.distance(loaded, trace, 1, 1, 6, 2, 0),
        cards.distance(loaded, trace, 1, 1, 2, 6, pairs - 1),
        cards.looking_back(loaded, trace, last, last - 1, None, cards.NEAR),
        cards.by_pair(loaded, trace, 1, 1, last, last - 1, 1),
        cards.by_pair(loaded, trace, 0, 0, 2, 6, 30),
        cards.theta_ladder(loaded, 5e5),
        cards.theta_decay(loaded, trace, 1, 1, 6, 5e5, 4),
    ]


def test_a_quarter_turn_on_paper():
    """(1, 0) by 90° is (0, 1); (3, 4) by 180° is (-3, -4); both doubled; the fifth number belongs to no pair."""
    vector = [1.0, 3.0, 0.0, 4.0, 7.0]
    turner = RopeAgain(torch.tensor([math.pi / 2, math.pi]), 2.0)
    turned = turner.turned(torch.tensor(vector), [1])[0]
    assert torch.view_as_real(turned).flatten().numpy() == pytest.approx([0, 2, -6, -8], abs=1e-6)


def test_a_score_by_distance_on_paper():
    """Equal unit vectors in one pair: cos(distance·frequency); three tokens of a sixth of a turn are opposite."""
    turner, vector = RopeAgain(torch.tensor([math.pi / 3]), 1.0), torch.tensor([1.0, 0.0, 2.0])
    parts, rest = turner.by_distance(vector, vector, [0, 3])
    assert parts[:, 0].numpy() == pytest.approx([1, -1])
    assert rest == 4


def test_the_sign_of_the_distance_is_the_querys_position_minus_the_keys():
    """A query a quarter turn ahead of its key meets it after three more quarters, not after one."""
    turner = RopeAgain(torch.tensor([math.pi / 2]), 1.0)
    parts, _ = turner.by_distance(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), [1, 3])
    assert parts[:, 0].numpy() == pytest.approx([-1, 1])


def test_turns_are_counted_past_the_first(tiny_model):
    """Of pair 0, which turns by one radian for each token."""
    assert float(counted_turns(tiny_model("llama-gqa"), 96)[0]) == pytest.approx(96 / (2 * math.pi))


def test_turns_are_counted_across_the_blocks_that_are_followed_at_once(monkeypatch):
    loaded = loaded_checkpoint("pocket-llama")
    whole = counted_turns(loaded, 300)
    monkeypatch.setattr("engine.evidence.oracles.rope.BLOCK", 7)
    assert counted_turns(loaded, 300).numpy() == pytest.approx(whole.numpy(), abs=1e-6)


def test_every_card_proves_itself(rotary):
    for card in drawn(*rotary):
        proof = card.prove()
        assert proof.passed, (card.key, proof)


def test_the_rotation_is_the_one_of_the_models_pass(rotary):
    """Captured q before RoPE, turned at the prompt's positions, is captured q after RoPE: scaled variants included."""
    loaded, trace = rotary
    one = Head(loaded, trace, 2, 1)
    q, k = before(one)
    turned = rotation(loaded).turn(q, k, range(one.seq))
    assert turned[0] == pytest.approx(one.q, abs=1e-5)
    assert turned[1] == pytest.approx(one.k, abs=1e-5)
    assert np.abs(turned[0] - q).max() > 1e-2  # and something turned


def test_scores_do_not_change_when_both_move(rotary):
    loaded, trace = rotary
    card = cards.rotated(loaded, trace, 1, 1, 8, 40)
    home, moved = (np.asarray(card.numbers[key]) for key in ("as_it_is", "moved"))
    assert home == pytest.approx(Head(loaded, trace, 1, 1).scores[8, :9], abs=1e-4)
    assert moved == pytest.approx(home, abs=1e-4)


def test_scores_do_change_when_the_query_moves_alone(rotary):
    """Else the test above would pass for a rotation that does nothing."""
    loaded, trace = rotary
    own, (q, k) = rotation(loaded), before(Head(loaded, trace, 1, 1))
    apart = own.row(q[:9], k[:9], [*range(8), 48])
    assert np.abs(apart - own.row(q[:9], k[:9], range(9))).max() > 1e-2


def test_learned_positions_change_the_scores_as_transformers_does(learned):
    loaded, trace = learned
    card = cards.learned(loaded, trace, 1, 8, 40)
    home, moved = (np.asarray(card.numbers[key]) for key in ("as_it_is", "moved"))
    assert home == pytest.approx(Head(loaded, trace, 0, 1).scores[8, :9], abs=1e-4)
    assert np.abs(moved - home).max() > 1e-3
    assert card.prove().passed
    ids, places = torch.tensor([trace.ids[:9]]), torch.arange(9)[None] + 40
    with torch.no_grad():
        out = loaded.model(ids, position_ids=places, output_attentions=True)
    assert torch.tensor(moved).softmax(0).numpy() == pytest.approx(
        out.attentions[0][0, 1, 8].numpy(), abs=1e-5
    )


def test_a_shift_proof_fails_for_other_scores(learned):
    loaded, trace = learned
    wrong = cards.learned(loaded, trace, 1, 8, 0)
    right = cards.learned(loaded, trace, 1, 8, 40)
    assert right.oracle.judge(right.shown).passed
    assert not right.oracle.judge({**right.shown, "moved": wrong.shown["moved"]}).passed


def test_no_altered_card_proves_itself(rotary):
    survived = [(card.key, what) for card in drawn(*rotary) for what in unnoticed(card)]
    assert survived == []


def test_no_altered_card_of_learned_positions_proves_itself(learned):
    loaded, trace = learned
    assert list(unnoticed(cards.learned(loaded, trace, 1, 8, 40))) == []


def unnoticed(card):
    """What was done to a card and left its proof standing."""
    answers = card.oracle.compute()
    oracle = replace(card.oracle, compute=lambda: answers)
    for what, altered in mutations(card.shown, oracle):
        if oracle.judge(altered).passed:
            yield what


def test_the_default_ladder_is_the_papers_formula():
    loaded = loaded_checkpoint("pocket-llama")
    d = loaded.spec.d_head
    theta = loaded.model.config.rope_parameters["rope_theta"]
    expected = [2 * math.pi * theta ** (2 * i / d) for i in range(d // 2)]
    assert cards.ladder(loaded).table["tokens to a full turn"] == pytest.approx(expected, rel=1e-5)


def test_another_theta_is_the_papers_formula_and_leaves_the_checkpoint_alone():
    loaded = loaded_checkpoint("pocket-llama")
    own = rotation(loaded).inv_freq
    d = loaded.spec.d_head
    expected = [5e5 ** (-2 * i / d) for i in range(d // 2)]
    assert with_theta(loaded, 5e5).inv_freq == pytest.approx(expected, rel=1e-5)
    assert (rotation(loaded).inv_freq == own).all()
    assert loaded.model.config.rope_parameters["rope_theta"] == 10000


@pytest.mark.parametrize("name", sorted(SCALED))
def test_scaled_variants_are_not_the_plain_formula(name, tiny_model):
    """Each rule changes some frequency within the context or the length of all pairs; dynamic only beyond it."""
    loaded = tiny_model(name)
    own, config = rotation(loaded), loaded.model.config
    plain = [config.rope_parameters["rope_theta"] ** (-i / own.pairs) for i in range(own.pairs)]
    assert own.kind == name.removeprefix("llama-")
    assert (own.inv_freq == pytest.approx(plain, rel=1e-5)) is (name == "llama-dynamic")
    assert (own.factor != 1) is (name == "llama-yarn")


def test_looking_beyond_the_context_leaves_a_dynamic_checkpoint_alone(tiny_model):
    loaded = tiny_model("llama-dynamic")
    trace, kept = capture(loaded, PROMPT), loaded.part("rotary").inv_freq.clone()
    cards.theta_decay(loaded, trace, 0, 0, 5, 1e6, 8)
    assert torch.equal(loaded.part("rotary").inv_freq, kept)


def test_partial_rotary_leaves_the_rest_of_the_head_alone(tiny_model):
    loaded = tiny_model("neox-parallel")
    trace = capture(loaded, PROMPT)
    own, one = rotation(loaded), Head(loaded, trace, 1, 1)
    assert 2 * own.pairs < loaded.spec.d_head
    assert (one.q[:, 2 * own.pairs :] == before(one)[0][:, 2 * own.pairs :]).all()
    assert "not rotated" in cards.turned(loaded, trace, 1, 1, 5, "query").note


def test_a_prompt_of_one_token(rotary):
    loaded, _ = rotary
    trace = capture(loaded, [5])
    assert cards.rotated(loaded, trace, 0, 0, 0, 3).prove().passed
    assert cards.turned(loaded, trace, 0, 0, 0, "query").prove().passed
    assert cards.distance(loaded, trace, 0, 0, 0, 0, 0).prove().passed


def test_a_prompt_that_fills_the_context(tiny_model):
    for name in ("llama-gqa", "gpt2"):
        loaded = tiny_model(name)
        trace = capture(loaded, list(range(1, loaded.spec.context + 1)))
        last = loaded.spec.context - 1
        assert cards.room(loaded, last) == 0
        card = (
            cards.rotated(loaded, trace, 0, 0, last, 0)
            if name.startswith("llama")
            else cards.learned(loaded, trace, 0, last, 0)
        )
        assert card.prove().passed
        with pytest.raises(ReaderError, match="room for 0 more"):
            cards.rotated(loaded, trace, 0, 0, last, 1)


def test_what_is_not_there_is_refused_in_a_sentence():
    loaded = loaded_checkpoint("pocket-llama")
    trace = capture(loaded, PROMPT)
    for draw in (
        lambda: cards.pair(loaded, trace, 0, 0, 0, "value", 0, 0),
        lambda: cards.pair(loaded, trace, 0, 0, 0, "query", 16, 0),
        lambda: cards.pair(loaded, trace, 0, 0, 0, "query", 0, loaded.spec.context),
        lambda: cards.learned(loaded, trace, 0, 0, 0),
        lambda: cards.ladder(loaded_checkpoint("pocket-gpt2")),
    ):
        with pytest.raises(ReaderError):
            draw()


# What the prose says, on the checkpoints with RoPE that the book comes with.


@pytest.fixture(params=["pocket-llama", pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, needs_smollm2])])
def opened(request):
    loaded = loaded_checkpoint(request.param)
    return loaded, traced(loaded, [t.id for t in tokenize(loaded, prompts_for(request.param).default)])


def test_the_head_that_looks_back_by_one_scores_highest_at_distance_one(opened):
    """Not only for the query and the key that are shown: for nearly all of the prompt, in either order."""
    loaded, trace = opened
    last = len(trace.ids) - 1
    layer, head, weight = cards.previous_head(trace)
    card = cards.looking_back(loaded, trace, last, last - 1, None, cards.NEAR)
    assert "is largest at distance 1," in card.title
    assert f"layer {layer}, head {head}" in card.note.lower()
    assert f"{weight:.0%}" in card.note
    assert weight == pytest.approx(
        max(
            float(np.mean([trace.attention[place][i, i - 1] for i in range(2, last + 1)]))
            for place in np.ndindex(*trace.attention.shape[:2])
        ),
        abs=1e-6,
    )
    best = [
        int(cards.distance(loaded, trace, layer, head, q, k, None, cards.NEAR).shown["score"].argmax())
        for q in range(last + 1)
        for k in range(last + 1)
    ]
    assert np.mean(np.array(best) == 1) > 0.8


def test_the_pair_of_the_distance_is_the_one_that_changes_most(opened):
    loaded, trace = opened
    shown = cards.distance(loaded, trace, 1, 1, 5, 4, None, cards.NEAR).shown["pair"]
    every = [
        np.ptp(cards.distance(loaded, trace, 1, 1, 5, 4, pair, cards.NEAR).shown["pair"])
        for pair in range(cards.rotation(loaded).pairs)
    ]
    assert np.ptp(shown) == pytest.approx(max(every))


def test_where_the_score_is_largest_at_distance_zero_the_title_says_it_once(opened):
    loaded, trace = opened
    cards_of = [
        cards.distance(loaded, trace, layer, head, 5, 5, None, cards.NEAR)
        for layer in range(3)
        for head in range(loaded.spec.n_head)
    ]
    for card in cards_of:
        assert ("at distance 0 it is" in card.title) == (card.shown["score"].argmax() != 0)
    assert {card.shown["score"].argmax() == 0 for card in cards_of} == {True, False}


def test_the_first_pairs_go_round_within_a_few_tokens_and_the_last_hardly_move(opened):
    loaded, _ = opened
    turns = np.array(cards.rotation(loaded).inv_freq) / (2 * math.pi)
    assert turns[0] * 7 > 1
    assert turns[-1] * 20 < 0.05
    assert (np.diff(turns) < 0).all()


def test_the_note_on_row_zero_is_there_where_the_first_step_is_the_largest_by_far():
    loaded = loaded_checkpoint("pocket-gpt2")
    trace = traced(loaded, [t.id for t in tokenize(loaded, prompts_for("pocket-gpt2").default)])
    told = []
    for head in range(loaded.spec.n_head):
        card = cards.learned(loaded, trace, head, len(trace.ids) - 1, 100)
        steps = np.abs(np.diff(card.shown["lines"], axis=1)).max(0)
        told.append("away from row 0" in card.note)
        assert told[-1] == (steps[0] >= 2 * steps[1:].max())
    assert set(told) == {True, False} or all(told)


def test_a_scaled_theta_slows_the_slowest_pair_as_much_as_halved_positions_and_the_fastest_not_at_all():
    from engine.chapters.c10_rope.beyond import scaled_theta

    loaded = loaded_checkpoint("pocket-llama")
    own = rotation(loaded).inv_freq
    slowed = with_theta(loaded, scaled_theta(loaded)).inv_freq
    assert slowed[-1] == pytest.approx(own[-1] / 2, rel=1e-5)
    assert slowed[0] == own[0]


@pytest.mark.slow
def test_beyond_its_context_a_model_reads_worse_and_slower_rotations_help():
    from engine.tokens.passages import sample

    card = cards.beyond(loaded_checkpoint("pocket-llama"), sample())
    own, slowed = np.array(card.shown["as trained"]), np.array(card.shown["θ scaled"])
    assert own[8:].mean() > own[:8].mean() + 0.5
    assert slowed[8:].mean() < slowed[:8].mean() + 0.1
    np.testing.assert_allclose(own[:8], card.shown["each half by itself"][:8], atol=1e-4)
    assert card.prove().passed


def test_a_checkpoint_that_cannot_be_read_beyond_its_context_is_refused():
    loaded = loaded_checkpoint("pocket-gpt2")
    assert not cards.readable(loaded)
    with pytest.raises(ReaderError, match="cannot be read beyond"):
        cards.beyond(loaded, "a text")
    with pytest.raises(ReaderError, match="shorter than"):
        cards.beyond(loaded_checkpoint("pocket-llama"), "a text")


def test_the_parts_of_the_pairs_make_up_the_score_and_none_exceeds_its_most(opened):
    loaded, trace = opened
    layer, head, _ = cards.previous_head(trace)
    last = len(trace.ids) - 1
    whole = cards.distance(loaded, trace, layer, head, last, last - 1, None, cards.NEAR).shown["score"]
    for away in (0, 1, 7, 32):
        shown = cards.by_pair(loaded, trace, layer, head, last, last - 1, away).shown
        assert shown["given"].sum() == pytest.approx(whole[away], abs=1e-3)
        assert shown["score"] == pytest.approx(whole[away], abs=1e-3)
        assert (np.abs(shown["given"]) <= shown["most"] * (1 + 1e-6)).all()
