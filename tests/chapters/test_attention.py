"""Chapter 8: one head's arithmetic against PyTorch, transformers, and sums on paper."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from engine import ReaderError, capture, tokenize
from engine.chapters import c08_attention as cards
from engine.chapters.c08_attention.outputs import direct
from engine.checkpoints.prompts import prompts_for
from engine.evidence.comparing import max_difference
from engine.model.cache import traced
from engine.model.head import PARTS, Head
from engine.model.interventions import AblateHeads
from engine.ops import attention as ops
from engine.ops.sampling import softmax
from tests.conftest import BUNDLED, PROMPT, SMOLLM2, loaded_checkpoint, needs_smollm2

TYPES = (
    "gpt2",
    "llama-gqa",
    "llama-head-dim",
    "llama-yarn",
    "qwen2",
    "qwen3",
    "neox-parallel",
    "neox-sequential",
    "mistral",
    "stablelm",
    "phi",
    "gpt-neo",
)
LAYER, HEAD, QUERY = 2, 3, 6


def every_card(loaded, trace, layer=LAYER, head=HEAD, query=QUERY):
    """All cards of the chapter, with all of their switches."""
    place = (loaded, trace, layer, head, query)
    yield from (cards.projection(*place, part, 5) for part in PARTS)
    yield from (cards.vectors(*place, rotated) for rotated in (True, False))
    yield from (cards.product(*place, key) for key in (0, query, len(trace.tokens) - 1))
    yield from (cards.row(*place, causal, scaled) for causal in (True, False) for scaled in (True, False))
    yield from (cards.head_map(*place, stage) for stage in cards.STAGES)
    yield from (card(*place) for card in (cards.values, cards.output_projection, cards.promoted))
    yield from (cards.walk(*place, step) for step in (4, 7))


@pytest.fixture(params=TYPES)
def tiny(request, tiny_model):
    """A tiny random model of each architecture, and its trace."""
    loaded = tiny_model(request.param)
    return loaded, traced(loaded, PROMPT)


# The operations.


def test_a_softmax_on_paper():
    weights = softmax(ops.mask([0.0, np.log(3.0), 7.0], [False, False, True]))
    np.testing.assert_allclose(weights, [0.25, 0.75, 0.0])


def test_scores_and_mask_and_softmax_and_values_are_pytorch_attention():
    q, k, v = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    expected = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    weights = softmax(ops.mask(ops.scores(q, k), ops.future(7)))
    ours = [ops.contributions(weights[i], v).sum(axis=0) for i in range(7)]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_products_add_up_to_the_dot_product():
    np.testing.assert_array_equal(ops.products([1, 2, 3], [4, -5, 6]), [4, -10, 18])


def test_neighbouring_query_heads_share_a_kv_head():
    assert [ops.kv_head(head, 6, 2) for head in range(6)] == [0, 0, 0, 1, 1, 1]
    assert [ops.kv_head(head, 3, 3) for head in range(3)] == [0, 1, 2]
    assert [ops.kv_head(head, 4, 1) for head in range(4)] == [0, 0, 0, 0]


def test_shares_on_paper():
    """(3, 0) and (1, 2) add up to (4, 2): 12/20 and 8/20. A part that points away has a negative share."""
    np.testing.assert_allclose(ops.shares([[3, 0], [1, 2]]), [0.6, 0.4])
    np.testing.assert_allclose(ops.shares([[3, 0], [-1, 0]]), [1.5, -0.5])
    assert np.isnan(ops.shares([[1, 0], [-1, 0]])).all()


@pytest.mark.parametrize("centred", [True, False])
def test_writes_through_the_final_norm_add_up_to_what_the_norm_returns(centred):
    """The norm of a sum is the sum of its parts at the scale of the whole: that is what “scale held” means."""
    parts = torch.randn(3, 8, generator=torch.Generator().manual_seed(1)) + 1
    gain, whole = torch.linspace(0.5, 2, 8), parts.sum(0)
    expected = F.layer_norm(whole, (8,), gain, None, 1e-5) if centred else F.rms_norm(whole, (8,), gain, 1e-5)
    ours = sum(ops.through_final_norm(part, whole, gain, 1e-5, centred) for part in parts)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_extremes_are_largest_first_and_smallest_first_and_never_overlap():
    high, low = ops.extremes([3.0, -1.0, 9.0, 0.0], 10)
    assert (high.tolist(), low.tolist()) == ([2, 0], [1, 3])


# A head of a real forward pass.


@pytest.mark.parametrize("part", PARTS)
def test_the_projection_is_the_rows_of_the_module_that_belong_to_the_head(tiny, part):
    """Against the projection module itself, on an input of our own."""
    loaded, trace = tiny
    one, d_head = Head(loaded, trace, LAYER, HEAD), loaded.spec.d_head
    x = torch.randn(5, loaded.spec.d_model, generator=torch.Generator().manual_seed(0))
    weight, bias = one.projection(part)
    if loaded.adapter.qkv == "separate":
        own = HEAD if part == "query" else HEAD // (loaded.spec.n_head // loaded.spec.n_kv_head)
        expected = loaded.part(f"{part[0]}_proj", LAYER)(x).view(5, -1, d_head)[:, own]
    elif loaded.adapter.qkv == "split":
        expected = loaded.part("qkv", LAYER)(x).chunk(3, -1)[PARTS.index(part)].view(5, -1, d_head)[:, HEAD]
    else:
        expected = loaded.part("qkv", LAYER)(x).view(5, -1, 3, d_head)[:, HEAD, PARTS.index(part)]
    np.testing.assert_allclose(x.numpy() @ weight + bias, expected, atol=1e-5)


def test_heads_add_up_to_what_the_attention_sublayer_writes(tiny):
    loaded, trace = tiny
    heads = [Head(loaded, trace, LAYER, head) for head in range(loaded.spec.n_head)]
    total = sum(head.write(QUERY) for head in heads) + heads[0].output_matrix()[1]
    np.testing.assert_allclose(total, trace.attn_out[LAYER, QUERY], atol=1e-5)


def test_a_write_is_what_is_lost_when_the_head_is_ablated(tiny):
    loaded, trace = tiny
    without = capture(loaded, PROMPT, [AblateHeads(((LAYER, HEAD),))])
    lost = trace.attn_out[LAYER, QUERY] - without.attn_out[LAYER, QUERY]
    np.testing.assert_allclose(Head(loaded, trace, LAYER, HEAD).write(QUERY), lost, atol=1e-5)


def test_no_write_of_one_head_is_shown_where_a_norm_stands_between_all_of_them_and_the_stream(tiny_model):
    loaded = tiny_model("olmo2")
    place = (loaded, capture(loaded, PROMPT), LAYER, HEAD, QUERY)
    for card in (cards.output_projection, cards.promoted, cards.walk):
        with pytest.raises(ReaderError, match=r"^“?[^\n]+ no write of one head to show\.$"):
            card(*place)
    proofs = [cards.projection(*place, part, 5).prove() for part in PARTS]
    assert all(
        proof.passed for proof in [*proofs, cards.vectors(*place).prove(), cards.values(*place).prove()]
    )


def test_every_card_of_every_architecture_proves_itself(tiny):
    proofs = [(card.key, card.prove()) for card in every_card(*tiny)]
    assert [(key, proof) for key, proof in proofs if not proof.passed] == []


def test_proofs_are_tight_on_the_bundled_checkpoints(loaded):
    """Far below the tolerance that is printed, so that a proof would notice a small mistake."""
    trace = traced(loaded, PROMPT)
    assert max(card.prove().max_abs_diff for card in every_card(loaded, trace)) < 5e-5


@pytest.mark.parametrize(("name", "precision"), [("pocket-gpt2", "int8"), ("pocket-llama", "nf4")])
def test_every_card_proves_itself_at_lower_precision(name, precision):
    low = loaded_checkpoint(name, precision)
    trace = traced(low, PROMPT)
    proofs = [(card.key, card.prove()) for card in every_card(low, trace)]
    assert [(key, proof) for key, proof in proofs if not proof.passed] == []


def test_a_proof_fails_for_a_wrong_trace(loaded):
    """Queries in the wrong order: every card that shows a score or a query says so."""
    trace = traced(loaded, PROMPT)
    wrong = dataclasses.replace(
        trace, q=trace.q[:, ::-1], q_pre=None if trace.q_pre is None else trace.q_pre[:, ::-1]
    )
    for card in (cards.projection, cards.vectors, cards.row, cards.head_map):
        shown = card(loaded, wrong, LAYER, HEAD, QUERY, *(["scores"] if card is cards.head_map else []))
        assert not shown.prove().passed, shown.key
    assert not cards.product(loaded, wrong, LAYER, HEAD, QUERY, 2).prove().passed


def test_a_proof_fails_for_wrong_values(loaded):
    trace = traced(loaded, PROMPT)
    wrong = dataclasses.replace(trace, v=trace.v[:, :, ::-1])
    for card in (cards.output_projection, cards.walk):
        assert not card(loaded, wrong, LAYER, HEAD, QUERY).prove().passed, card


def test_direct_effects_and_the_rest_add_up_to_the_logits(loaded):
    """What a head adds directly is what the logits lose, at a held scale, when its write leaves the last stream."""
    trace = traced(loaded, PROMPT)
    one = Head(loaded, trace, loaded.spec.n_layer - 1, HEAD)
    norm, unembedding = loaded.part("final_norm"), loaded.part("unembedding")
    whole = torch.tensor(trace.hidden[-1, QUERY])
    rest = whole - torch.tensor(one.write(QUERY)).float()
    spread = (
        (lambda x: x.std(unbiased=False))
        if loaded.spec.norm == "LayerNorm"
        else (lambda x: x.square().mean().sqrt())
    )
    bias = getattr(norm, "bias", None)
    bias = torch.zeros_like(whole) if bias is None else bias
    with torch.no_grad():
        held = (norm(rest) - bias) * (spread(rest) / spread(whole)) + bias
        lost = (unembedding(norm(whole)) - unembedding(held)).numpy()
    np.testing.assert_allclose(direct(one, QUERY).logits, lost - lost.mean(), atol=1e-3)


def test_the_mask_switch_gives_later_keys_weight_and_the_scale_switch_sharpens(loaded):
    trace = traced(loaded, PROMPT)
    place = (loaded, trace, LAYER, HEAD, QUERY)
    masked, seen, sharp = (cards.row(*place, c, s).numbers["weights"] for c, s in ((1, 1), (0, 1), (1, 0)))
    assert masked[QUERY + 1 :].sum() == 0
    assert seen[QUERY + 1 :].sum() > 0
    assert sharp.max() > masked.max()


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "neox-parallel"])
def test_scripts_of_other_layouts_leave_the_numbers(name, tiny_model):
    """The generic page test runs the scripts on the bundled checkpoints, which have the other two layouts."""
    loaded = tiny_model(name)
    trace = traced(loaded, PROMPT)
    place = (loaded, trace, LAYER, HEAD, QUERY)
    for card in (cards.projection(*place, "key"), cards.promoted(*place), cards.walk(*place)):
        names = {}
        exec(card.code, names)
        assert names["result"].keys() == card.numbers.keys()
        for key, value in card.numbers.items():
            assert max_difference(np.asarray(names["result"][key]), value) <= card.atol, (card.key, key)


# Edges.


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize(
    "text", ["a", "👩‍🚀 $x$ <b> **", "The cat " * 64], ids=["one token", "emoji", "128 tokens"]
)
def test_odd_prompts_draw_every_card(name, text):
    loaded = loaded_checkpoint(name)
    trace = traced(loaded, [t.id for t in capture(loaded, text).tokens[:128]])
    shown = list(every_card(loaded, trace, query=len(trace.tokens) - 1))
    shown += [card(loaded, trace, LAYER, HEAD, 0) for card in (cards.row, cards.values, cards.walk)]
    assert all(card.figure is not None for card in shown)


def test_numbers_that_are_not_finite_draw_every_card_and_prove_nothing(loaded):
    trace = traced(loaded, PROMPT)
    broken = {
        name: np.full_like(getattr(trace, name), np.nan) for name in ("q", "k", "v", "attention", "hidden")
    }
    shown = list(every_card(loaded, dataclasses.replace(trace, **broken)))
    assert not any(card.prove().passed for card in shown if card.key not in ("vectors", "projection"))


@pytest.mark.parametrize(
    ("layer", "head", "query"), [(99, 0, 0), (0, 99, 0), (0, 0, 99), (-1, 0, 0), (0, 0, -1)]
)
def test_what_is_not_there_is_refused_in_a_sentence(loaded, layer, head, query):
    trace = traced(loaded, PROMPT)
    for card in (cards.projection, cards.vectors, cards.row, cards.values, cards.promoted, cards.walk):
        with pytest.raises(ReaderError, match="its last one is"):
            card(loaded, trace, layer, head, query)


def test_tokens_reach_the_figure_escaped(loaded):
    trace = traced(loaded, "<b>x</b> <i>")
    for card in every_card(loaded, trace, query=2):
        assert "<b>x" not in card.figure.to_json().replace("\\u003c", "<")
        assert "<i>" not in card.figure.to_json().replace("\\u003c", "<")


# Where the point of a beat is easiest to see.


@pytest.fixture(params=[*BUNDLED, pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, needs_smollm2])])
def opened(request):
    """A checkpoint and the pass over the prompt that the chapter begins with on it."""
    loaded = loaded_checkpoint(request.param)
    return loaded, traced(loaded, [t.id for t in tokenize(loaded, prompts_for(request.param).default)])


def heads_of(loaded):
    return list(np.ndindex(loaded.spec.n_layer, loaded.spec.n_head))


def test_the_head_offered_for_the_map_looks_back_by_one(opened):
    loaded, trace = opened
    with torch.no_grad():
        returned = loaded.model(input_ids=torch.tensor([trace.ids]), output_attentions=True).attentions
    seq = len(trace.ids)
    mean = torch.stack(
        [torch.stack([layer[0, :, i, i - 1] for i in range(2, seq)]).mean(0) for layer in returned]
    )
    found = cards.previous_token(trace)
    place = found.picks["layer"], found.picks["head"]
    assert float(mean[place]) == pytest.approx(float(mean.max()), abs=1e-5)
    assert float(mean.max()) > 0.6, "no head of this checkpoint looks back by one on its prompt"
    assert f"{float(mean.max()):.0%}" in found.reason
    assert cards.previous_token(traced(loaded, trace.ids[:2])) is None


def test_the_head_offered_for_the_values_parts_weight_from_share(opened):
    loaded, trace = opened
    query = len(trace.ids) - 1
    found = cards.unlike(loaded, trace, query)
    gaps = {}
    for layer, head in heads_of(loaded):
        shown = cards.values(loaded, trace, layer, head, query).shown
        if np.abs(shown["shares"]).max() < 2:
            gaps[layer, head] = (shown["weights"] - shown["shares"]).max()
    assert gaps[found.picks["layer"], found.picks["head"]] == pytest.approx(max(gaps.values()), abs=1e-9)
    assert max(gaps.values()) > 0.15


def test_the_head_offered_for_the_output_loses_the_layer_most(opened):
    loaded, trace = opened
    query = len(trace.ids) - 1
    found = cards.loudest(loaded, trace, 1, query)
    lost = []
    for head in range(loaded.spec.n_head):
        without = traced(loaded, trace.ids, (AblateHeads(((1, head),)),)).attn_out[1, query]
        lost.append(float(np.linalg.norm(trace.attn_out[1, query] - without)))
    assert found.picks == {"layer": 1, "head": int(np.argmax(lost))}
    assert f"{max(lost):.3g}" in found.reason


def test_the_head_offered_for_the_vote_raises_the_models_own_favourite_most(loaded):
    trace = traced(loaded, [t.id for t in tokenize(loaded, prompts_for(loaded.name).default)])
    query = len(trace.ids) - 1
    favourite = int(trace.logits[query].argmax())
    votes = {
        place: direct(Head(loaded, trace, *place), query).logits[favourite] for place in heads_of(loaded)
    }
    found = cards.voter(loaded, trace, query)
    assert votes[found.picks["layer"], found.picks["head"]] == pytest.approx(max(votes.values()), abs=1e-6)
    assert f"{max(votes.values()):+.2f}" in found.reason


def test_the_key_that_the_product_begins_with_has_the_largest_weight(opened):
    loaded, trace = opened
    query = len(trace.ids) // 2
    for layer, head in heads_of(loaded)[:6]:
        key = int(trace.attention[layer, head, query].argmax())
        assert (
            cards.product(loaded, trace, layer, head, query).title
            == cards.product(loaded, trace, layer, head, query, key).title
        )


def test_a_word_that_comes_twice_has_the_same_value_in_the_first_layer_with_rope_only(opened):
    loaded, _ = opened
    ids = [t.id for t in tokenize(loaded, "the king saw the king")]
    trace = traced(loaded, ids)
    first, second = (i for i, id in enumerate(ids) if id == ids[-1])
    apart = np.abs(trace.v[:, :, first] - trace.v[:, :, second]).max((-2, -1))
    assert (apart[0] < 1e-5) == (loaded.spec.positions == "rotary")
    assert apart[-1] > 0.05


def test_only_a_checkpoint_that_adds_a_bias_is_said_to(loaded):
    _, bias = Head(loaded, traced(loaded, PROMPT), 0, 0).projection("query")
    assert cards.has_bias(loaded) == bool(bias.any())


def test_a_share_can_exceed_the_whole():
    """As the note below the values says."""
    assert ops.shares([[3.0, 0.0], [-1.0, 0.0]]).tolist() == [1.5, -0.5]
