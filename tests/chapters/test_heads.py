"""Chapter 9: scores, kinds, ablation, sweep and circuit against torch, transformers and sums on paper."""

import copy
import functools
import importlib

import numpy as np
import pytest
import torch
import transformers

from engine import ReaderError, capture
from engine.chapters import c09_heads as cards
from engine.chapters.c09_heads import repeats
from engine.evidence.card import Badge
from engine.evidence.oracles.silenced import logits_without
from engine.model.head import Head
from engine.model.interventions import AblateHeads
from engine.ops import heads as ops
from tests.conftest import BUNDLED, PROMPT, SMOLLM2, loaded_checkpoint, needs_smollm2

LENGTH = 5
SEQ = 2 * LENGTH + 1


def one_hot_map(offset):
    """Every query gives all its weight to the key `offset` before it (or to key 0 where there is none)."""
    weights = np.zeros((SEQ, SEQ), np.float32)
    for query in range(SEQ):
        weights[query, max(query - offset, 0)] = 1
    return weights


@pytest.mark.parametrize(
    ("offset", "kind"),
    [(1, "previous"), (LENGTH, "duplicate"), (LENGTH - 1, "induction"), (SEQ, "sink")],
)
def test_a_head_that_always_looks_at_one_place_scores_one_there_and_zero_elsewhere(offset, kind):
    found = ops.scores(one_hot_map(offset), LENGTH)
    assert found == {name: float(name == kind) for name in ops.KINDS}


def test_induction_looks_at_the_token_after_the_first_occurrence():
    ids = [99, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
    for query, key in zip(ops.queries(LENGTH), ops.target_keys("induction", LENGTH), strict=True):
        assert ids[key - 1] == ids[query]
        assert key - 1 < query - 1
        assert ids[ops.target_keys("duplicate", LENGTH)[query - LENGTH - 1]] == ids[query]


def test_without_the_sink_the_rest_of_a_row_sums_to_one():
    weights = np.array([[[1, 0, 0], [0.9, 0.1, 0], [0.8, 0.05, 0.15]]], np.float32)
    np.testing.assert_allclose(
        ops.without_sink(weights)[0], [[0, 0, 0], [0, 1, 0], [0, 0.25, 0.75]], atol=1e-6
    )


def test_a_sink_hides_a_previous_token_head():
    weights = 0.9 * one_hot_map(SEQ) + 0.1 * one_hot_map(1)
    assert ops.scores(weights, LENGTH)["sink"] == pytest.approx(0.9)
    assert ops.scores(weights, LENGTH)["previous"] == pytest.approx(0.1)
    assert ops.scores_without_sink(weights, LENGTH)["previous"] == pytest.approx(1.0)
    assert "sink" not in ops.scores_without_sink(weights, LENGTH)


def test_nothing_below_the_threshold_gets_a_name():
    scored = {"previous": np.array([0.6, 0.3, np.nan]), "sink": np.array([0.1, 0.49, np.nan])}
    assert ops.classify(scored, 0.5).tolist() == ["previous", "unclassified", "unclassified"]
    assert ops.classify(scored, 0.4).tolist() == ["previous", "sink", "unclassified"]


def test_uniform_attention_scores_what_the_caption_says():
    weights = np.tril(np.ones((SEQ, SEQ))) / np.arange(1, SEQ + 1)[:, None]
    for value in ops.scores(weights, LENGTH).values():
        assert value == pytest.approx(ops.uniform_score(LENGTH))


def test_entropy_of_a_row_with_zeros():
    np.testing.assert_allclose(ops.row_entropy(np.array([[1, 0], [0.5, 0.5]])), [0, np.log(2)])


def test_the_random_sequence_is_a_start_and_two_equal_halves(loaded):
    ids = repeats.repeated_ids(loaded, 3)
    half = (len(ids) - 1) // 2
    assert ids[1 : half + 1] == ids[half + 1 :]
    assert len(set(ids)) == half + 1
    assert ids[0] == loaded.tokenizer.bos_token_id
    assert not set(ids[1:]) & set(loaded.tokenizer.all_special_ids)
    assert ids == repeats.repeated_ids(loaded, 3) != repeats.repeated_ids(loaded, 4)


def test_the_random_sequence_uses_no_global_seed(loaded):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    repeats.repeated_ids(loaded, 5)
    assert torch.equal(state, torch.get_rng_state())


def all_cards(loaded, prompt=PROMPT, layer=1, head=2):
    trace = capture(loaded, prompt)
    query = len(trace.tokens) - 1
    chosen = ((layer, head), (0, 0))
    sweep = cards.sweep_of(loaded, trace.ids, (query,))
    cards.advance(loaded, trace, sweep, 0.2)
    return [
        cards.wall(loaded, trace, layer, head),
        cards.one_head(loaded, trace, layer, head, query),
        cards.arcs(loaded, trace, layer, head, None, 0.1),
        cards.arcs(loaded, trace, layer, head, query, 0.99),
        cards.pattern(loaded, 7, layer, head),
        cards.second_time(loaded, 7, 0),
        cards.second_time(loaded, 7, 3),
        cards.score_map(loaded, 7, True),
        cards.score_map(loaded, 7, False),
        cards.classes(loaded, 7, True, 0.5),
        cards.classes(loaded, 7, False, 0.3),
        cards.ablation(loaded, trace, chosen, query),
        cards.sweep_map(loaded, sweep, "at the last token"),
        cards.sweep_ranking(loaded, sweep, "at the last token"),
        cards.circuit(loaded, 7, 0),
        cards.circuit(loaded, 7, 2),
        cards.copies(loaded, 7, layer, head),
    ]


def check(card, run=True):
    assert card.badge is Badge.LIVE
    proof = card.prove()
    assert proof.passed, f"{card.key}: {proof}"
    if not run:
        return
    space = {}
    exec(compile(card.code, card.key, "exec"), space)
    assert set(space["result"]) == set(card.numbers)
    for name, value in card.numbers.items():
        other = torch.as_tensor(space["result"][name]).detach().double().cpu().numpy()
        np.testing.assert_allclose(other, np.asarray(value, np.float64), atol=card.atol, err_msg=card.key)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_every_card_proves_itself_and_its_script_agrees(loaded, monkeypatch):
    load = functools.cache(
        transformers.AutoModelForCausalLM.from_pretrained
    )  # sixteen scripts, one checkpoint
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    for card in all_cards(loaded):
        check(card)


@pytest.mark.parametrize("name", ["gpt2", "llama-mqa", "qwen3", "neox-parallel"])
def test_every_card_holds_on_other_architectures(tiny_model, name):
    for card in all_cards(tiny_model(name)):
        check(card, run=False)


@pytest.mark.parametrize("prompt", ["a", "🙂 <img src=x onerror=alert(1)> $x$ **b**"])
def test_short_and_hostile_prompts(prompt):
    for card in all_cards(loaded_checkpoint("pocket-llama"), prompt):
        assert "<img" not in card.figure.to_json()
        assert card.prove().passed, card.key


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_proofs_hold_at_other_precisions(precision):
    for card in all_cards(loaded_checkpoint("pocket-llama", precision)):
        assert card.prove().passed, card.key


def test_scores_match_transformers_own_attentions_one_query_at_a_time(loaded):
    ids = repeats.repeated_ids(loaded, 11)
    half = (len(ids) - 1) // 2
    with torch.no_grad():
        out = loaded.model(input_ids=torch.tensor([list(ids)]), output_attentions=True)
    expected = torch.zeros(loaded.spec.n_layer, loaded.spec.n_head)
    for layer, weights in enumerate(out.attentions):
        for query in range(half + 1, 2 * half + 1):
            key = ids.index(ids[query]) + 1  # after the first occurrence
            expected[layer] += weights[0, :, query, key] / half
    found = cards.found(cards.repeated(loaded, 11), sink=True)["induction"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_ablation_equals_zeroed_rows_on_a_whole_deep_copy(loaded):
    """The proof's private copy shares weights; this one shares nothing."""
    heads = ((0, 3), (2, 1), (2, 7))
    trace = capture(loaded, PROMPT, [AblateHeads(heads)])
    model, d = copy.deepcopy(loaded.model), loaded.spec.d_head
    for layer, head in heads:
        if loaded.spec.model_type == "gpt2":
            model.transformer.h[layer].attn.c_proj.weight.data[head * d : (head + 1) * d] = 0
        else:
            model.model.layers[layer].self_attn.o_proj.weight.data[:, head * d : (head + 1) * d] = 0
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([trace.ids])).logits[0].numpy()
    np.testing.assert_allclose(trace.logits, expected, atol=1e-4)
    np.testing.assert_allclose(logits_without(loaded, trace.ids, heads), expected, atol=1e-4)


def test_the_private_copy_leaves_the_shared_model_alone(loaded):
    before = [parameter.clone() for parameter in loaded.model.parameters()]
    logits_without(loaded, (1, 2, 3), ((0, 0), (1, 1)))
    assert all(torch.equal(old, new) for old, new in zip(before, loaded.model.parameters(), strict=True))


def test_the_private_copy_tells_heads_apart(loaded):
    """The proof of an ablation would fail for another head than the one that was taken out."""
    trace = capture(loaded, PROMPT, [AblateHeads(((0, 0),))])
    same, other = (logits_without(loaded, trace.ids, ((0, head),)) for head in (0, 1))
    assert np.abs(trace.logits - same).max() < 1e-4 < 1e-2 < np.abs(trace.logits - other).max()


def test_a_sweep_can_stop_and_go_on(loaded):
    trace = capture(loaded, "The sweep goes on from where it stopped")
    sweep = cards.sweep_of(loaded, trace.ids, (3,))
    cards.advance(loaded, trace, sweep, 0.0)
    assert len(sweep.kl) == 1
    assert not sweep.done
    assert cards.sweep_of(loaded, trace.ids, (3,)) is sweep
    assert cards.sweep_of(loaded, trace.ids, (4,)) is not sweep
    cards.advance(loaded, trace, sweep, 60.0)
    assert sweep.done
    assert not sweep.todo
    values = [value for _, value in cards.ranked(sweep)]
    assert values == sorted(values, reverse=True)
    assert len(values) == loaded.spec.n_layer * loaded.spec.n_head
    (layer, head), largest = cards.ranked(sweep)[0]
    after = capture(loaded, trace.ids, [AblateHeads(((layer, head),))])
    p, q = (torch.tensor(x.logits[3]).log_softmax(-1) for x in (trace, after))
    assert largest == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-5)


def test_a_context_too_short_for_a_repeat_is_refused(loaded):
    from dataclasses import replace

    short = replace(loaded, spec=replace(loaded.spec, context=5))
    with pytest.raises(ReaderError):
        repeats.repeated_ids(short, 0)


# What the prose says, on the checkpoints that the book comes with.


@pytest.fixture(params=[*BUNDLED, pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, needs_smollm2])])
def opened(request):
    return loaded_checkpoint(request.param)


def test_previous_token_heads_break_induction_and_as_many_others_do_not(opened):
    shown = cards.circuit(opened, 0, 3).shown
    as_it_is, without, others = (
        np.mean(shown[name])
        for name in ("as it is", "without the previous-token heads", "without as many others")
    )
    assert without < 0.7 * as_it_is
    assert others > 0.85 * as_it_is


def test_only_heads_below_the_strongest_induction_head_are_taken_out(opened):
    shown = cards.circuit(opened, 0, 3).shown
    assert max(shown["taken out"][::2]) < shown["followed"][0]
    found = cards.found(cards.repeated(opened, 0), sink=True)["previous"]
    below = np.sort(found[: shown["followed"][0]], axis=None)[::-1]
    taken = [found[pair] for pair in zip(shown["taken out"][::2], shown["taken out"][1::2], strict=True)]
    assert taken == below[:3].tolist()


def test_a_control_never_takes_out_what_it_is_a_control_for(opened):
    shown = cards.circuit(opened, 1, 3).shown
    spared = {*zip(shown["taken out"][::2], shown["taken out"][1::2], strict=True)}
    spared |= {*zip(shown["followed"][::2], shown["followed"][1::2], strict=True)}
    assert len(shown["drawn"]) == 8
    for drawn in shown["drawn"]:
        pairs = {*zip(drawn[::2], drawn[1::2], strict=True)}
        assert len(pairs) == 3
        assert not pairs & spared


def test_the_second_reading_is_cheap_and_dear_again_without_induction_heads(opened):
    shown = cards.second_time(opened, 0, 3).shown
    first, second, after = shown["means"]
    assert second < 0.5 * first
    others = np.median(shown["means, others removed"])
    assert after - second > 4 * (others - second)
    assert f"{others:.2f} (median; " in cards.second_time(opened, 0, 3).title


def test_the_four_scores_of_a_head_share_one_unit(opened):
    found = cards.found(cards.repeated(opened, 0), sink=True)
    assert sum(found.values()).max() < 1 + 1e-5


def test_the_strongest_head_of_a_kind_is_warned_of_where_it_is_weak(opened):
    for kind in ops.KINDS:
        head, score = cards.strongest(opened, 0, kind)
        card = cards.pattern(opened, 0, *head, kind)
        assert score == pytest.approx(
            float(cards.found(cards.repeated(opened, 0), True)[kind].max()), abs=1e-6
        )
        assert ("No head here gives half" in card.title) == (score < 0.5)
        assert "No head here" not in cards.pattern(opened, 0, *head).title


def test_a_sweep_under_way_says_so_far_and_a_finished_one_does_not(loaded):
    trace = capture(loaded, "So far so good")
    sweep = cards.sweep_of(loaded, trace.ids, (len(trace.ids) - 1,))
    cards.advance(loaded, trace, sweep, 0)
    assert "1 of" in cards.sweep_map(loaded, sweep, "here").title
    assert "so far" in cards.sweep_map(loaded, sweep, "here").title
    while not sweep.done:
        cards.advance(loaded, trace, sweep, 5)
    assert "so far" not in cards.sweep_map(loaded, sweep, "here").title


def test_the_title_of_the_arcs_says_how_many_are_drawn(loaded):
    trace = capture(loaded, "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 2)
    card = cards.arcs(loaded, trace, 0, 0, None, 0.01)
    assert card.shown["count"] > 80
    assert "of which the 80 largest are drawn" in card.title


def test_the_head_that_copies_most_raises_most_tokens_own_logits_and_a_previous_token_head_does_not(opened):
    (layer, head), count = cards.best_copier(opened, 0)
    card = cards.copies(opened, 0, layer, head)
    effects = card.shown["effects"]
    first = (effects.argmax(1) == np.arange(len(effects))).sum()
    assert count == first
    assert f"For {first} of {len(effects)} tokens" in card.title
    assert count > 0.75 * len(effects)
    previous, _ = cards.strongest(opened, 0, "previous")
    other = cards.copies(opened, 0, *previous).shown["effects"]
    assert (other.argmax(1) == np.arange(len(other))).sum() < 0.1 * len(other)


def test_an_effect_is_what_a_head_that_looks_at_one_token_alone_adds_to_the_logits(loaded):
    """By hand: the difference that a write makes to the last logits, through the model's own norm, made small."""
    trace, small = cards.repeated(loaded, 0), 1e-3
    effects = cards.direct_effects(loaded, trace, 4, 2)
    weight, _ = Head(loaded, trace, 4, 2).output_matrix()
    norm, table = loaded.part("final_norm"), loaded.part("unembedding").weight.detach().double()
    stream = torch.tensor(trace.hidden[-1, -1], dtype=torch.float64)
    place = 5
    write = torch.tensor(trace.v[4, Head(loaded, trace, 4, 2).kv, place] @ weight, dtype=torch.float64)
    own = copy.deepcopy(norm).double()
    with torch.no_grad():
        moved = table @ (own(stream + small * write) - own(stream)) / small
    ids = [trace.ids[i] for i in range(1, len(effects) + 1)]
    measured = (moved[ids] - moved.mean()).numpy()
    # unlike a held scale, the norm's own takes back what points along the stream: the same for a whole row but for
    # the logits it scales
    logits = (table @ (own(stream))).double()
    along = float((stream - (stream.mean() if loaded.spec.centred else 0)) @ write)
    size = float((stream - (stream.mean() if loaded.spec.centred else 0)).square().sum())
    bias = getattr(own, "bias", None)
    plain = logits - (table @ bias if bias is not None else 0)
    taken = (plain[ids] - plain.mean()).detach().numpy() * along / size
    np.testing.assert_allclose(effects[place - 1], measured + taken, atol=2e-3)


# Patching one text into another.

patching_module = importlib.import_module("engine.chapters.c09_heads.patching")


def patched(loaded, pair):
    return cards.patch(loaded, pair, cards.steps(loaded, 1))


@pytest.mark.slow
def test_a_map_of_patches_proves_itself_and_its_script_agrees(loaded):
    check(cards.patching(loaded, patched(loaded, cards.random_pair(loaded, 0))))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "nf4", "int8"])
def test_a_map_of_patches_proves_itself_at_other_precisions(precision):
    loaded = loaded_checkpoint("pocket-llama", precision)
    check(cards.patching(loaded, patched(loaded, cards.random_pair(loaded, 0))), run=False)


@pytest.mark.parametrize("name", ["gpt2", "llama-mqa", "qwen3", "neox-parallel"])
def test_a_map_of_patches_holds_on_other_architectures(tiny_model, name, monkeypatch):
    monkeypatch.setattr(patching_module, "APART", 0.0)
    loaded = tiny_model(name)
    first = cards.repeated_ids(loaded, 7)[:8]
    said = int(capture(loaded, first).logits[-1].argmax())
    seconds = [(*first[:4], other, *first[5:7], other + 1) for other in range(3, 40)]
    pair = cards.Pair(first, next(ids for ids in seconds if capture(loaded, ids).logits[-1].argmax() != said))
    check(cards.patching(loaded, patched(loaded, pair)), run=False)


def test_patching_the_only_token_that_differs_at_the_first_layer_is_the_first_text(loaded):
    """And a patch of what both texts share is none: those columns are exactly 0."""
    pair = cards.random_pair(loaded, 0)
    effects = patched(loaded, pair).effects
    assert sum(a != b for a, b in zip(pair.first, pair.second, strict=True)) == 1
    assert effects[0, pair.begin] == pytest.approx(1, abs=1e-4)
    assert effects[0, pair.begin + 1 :] == pytest.approx(0, abs=1e-4)
    assert not effects[:, : pair.begin].any()


def test_an_exchanged_random_token_moves_to_the_next_one_and_then_to_the_last(opened):
    pair = cards.random_pair(opened, 0)
    found = cards.patch(opened, pair, cards.steps(opened, -(-opened.spec.n_layer // 10)))
    best = found.effects.argmax(1).tolist()
    assert best == sorted(best)
    assert [*dict.fromkeys(best)] == [pair.begin, pair.begin + 1, len(pair.first) - 1]
    title = cards.patching(opened, found).title
    assert f"token {pair.begin}, " in title
    assert f"token {pair.begin + 1}, " in title
    assert "; the last token, " in title


def test_a_random_pair_is_read_on_and_differs_where_the_last_token_stood_before(opened):
    pair = cards.random_pair(opened, 1)
    answer = int(capture(opened, pair.first).logits[-1].argmax())
    assert pair.first[pair.begin] == pair.first[-1] != pair.second[pair.begin]
    assert answer == pair.first[pair.begin + 1]
    assert int(capture(opened, pair.second).logits[-1].argmax()) != answer


def test_the_names_are_offered_first_only_where_the_model_tells_them_apart(opened):
    ends = [int(capture(opened, text).logits[-1].argmax()) for text in cards.NAMES]
    expected = [opened.tokenizer.encode(name, add_special_tokens=False)[0] for name in (" Mary", " John")]
    assert cards.tells_names(opened) == (ends == expected)


def test_a_map_with_gaps_calls_its_layers_patched(loaded):
    found = cards.patch(loaded, cards.random_pair(loaded, 0), (0, 1, 5))
    card = cards.patching(loaded, found)
    assert "patched layers 0 to 1" in card.title
    assert "Patched layers: 0, 1, 5." in card.note
    assert "patched layers" not in cards.patching(loaded, patched(loaded, found.pair)).title


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (("One day", "One day"), "the same tokens"),
        (("One day", "One day there was a"), "has 2 tokens and the second 5"),
        (("a " * 59 + "a", "a " * 59 + "b"), "at most 48"),
    ],
)
def test_two_texts_that_cannot_be_compared_are_refused_in_a_sentence(texts, sentence):
    with pytest.raises(ReaderError, match=sentence):
        cards.typed_pair(loaded_checkpoint("pocket-llama"), *texts)


def test_two_texts_with_one_answer_are_refused_in_a_sentence():
    loaded = loaded_checkpoint("pocket-gpt2")
    pair = cards.typed_pair(loaded, *cards.NAMES)
    assert len({int(capture(loaded, ids).logits[-1].argmax()) for ids in (pair.first, pair.second)}) == 1
    with pytest.raises(ReaderError, match="same answer"):
        patched(loaded, pair)
