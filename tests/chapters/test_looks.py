"""Chapter 9: what a head looks for, against sums by hand and transformers' own attention with one part taken out."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine import ReaderError, load
from engine.chapters import c09_heads as cards
from engine.chapters.c09_heads.key_parts import BIASES, EMBEDDING, POSITIONS, key_ledger
from engine.chapters.c09_heads.looks import MOST, ranked
from engine.evidence.oracles.keys import lead
from engine.model.head import Head
from engine.ops import heads as ops
from tests.chapters.test_heads import check
from tests.conftest import BUNDLED, SMOLLM2, loaded_checkpoint, needs_smollm2

SPLIT = (
    "gpt2",
    "llama-gqa",
    "llama-mqa",
    "llama-head-dim",
    "llama-yarn",
    "neox-parallel",
    "phi",
    "stablelm",
    "gpt-neo",
)
"""Learned positions and RoPE, whole, partial and stretched; fused and separate projections; biases; shared keys."""


def book_of(loaded, layer, head, seed=0):
    """The ledger of a head, and its amounts by the names of its parts."""
    book = key_ledger(Head(loaded, cards.repeated(loaded, seed), layer, head))
    return book, dict(zip([part.name for part in book.parts], book.amounts, strict=True))


def lead_by_hand(score, ids):
    """Query by query: the score of the key after the earlier occurrence, minus the mean over all other keys seen."""
    n = (len(ids) - 1) // 2
    found = []
    for query in range(n + 1, 2 * n + 1):
        right = ids.index(ids[query]) + 1
        others = [score(query, key) for key in range(query + 1) if key != right]
        found.append(score(query, right) - sum(others) / len(others))
    return sum(found) / n


def test_the_lead_is_that_of_one_key_over_the_mean_of_the_others():
    scores = torch.zeros(7, 7, dtype=torch.float64)  # three tokens, read twice
    scores[4, 2], scores[5, 3], scores[6, 4] = 9, 9, 9  # the key after the earlier occurrence
    scores[6, 6] = 3  # one of six others
    scores[4, 5:] = 100  # not seen
    expected = (9 + 9 + 9 - 3 / 6) / 3
    assert float(lead(scores)) == pytest.approx(expected)
    factors = ops.lead_of_induction(3)
    assert (factors * scores[4:].numpy()).sum() / 3 == pytest.approx(expected)
    assert factors.sum(1) == pytest.approx(0)


@pytest.mark.parametrize("name", SPLIT)
@pytest.mark.parametrize(("layer", "head"), [(0, 1), (2, 3)])
def test_the_parts_add_up_to_the_lead_of_the_captured_queries_and_keys(tiny_model, name, layer, head):
    loaded = tiny_model(name)
    trace = cards.repeated(loaded, 0)
    q = trace.q[layer, head].astype(np.float64)
    k = trace.k[layer, head * loaded.spec.n_kv_head // loaded.spec.n_head].astype(np.float64)
    expected = lead_by_hand(lambda i, j: q[i] @ k[j] * loaded.spec.score_scale, trace.ids)
    book, _ = book_of(loaded, layer, head)
    assert book.whole == pytest.approx(expected, abs=1e-6)
    assert book.amounts.sum() == pytest.approx(expected, abs=1e-4)
    check(cards.looks(loaded, 0, layer, head), run=False)


def test_the_lead_is_that_of_the_logs_of_the_returned_weights(loaded):
    """A softmax adds the same number to all logs of a row."""
    trace = cards.repeated(loaded, 0)
    with torch.no_grad():
        out = loaded.model(input_ids=torch.tensor([trace.ids]), output_attentions=True)
    for layer, head in cards.strongest_heads(trace, "induction", 2):
        logs = out.attentions[layer][0, head].double().log()
        expected = lead_by_hand(lambda i, j, logs=logs: float(logs[i, j]), trace.ids)
        assert book_of(loaded, layer, head)[0].whole == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("part", ["L1 H0", "L1 H3", "MLP 0", EMBEDDING])
def test_an_amount_is_what_transformers_own_attention_loses_without_that_part_in_the_keys(tiny_model, part):
    """The keys alone are made of a stream that lacks the part, behind a norm that still divides by its old scale."""
    loaded = tiny_model("llama-gqa")
    trace, spec = cards.repeated(loaded, 0), loaded.spec
    model = copy.deepcopy(loaded.model)
    layers = model.model.layers
    stream, d = torch.tensor(trace.hidden[2]), spec.d_head
    scale = (stream.square().mean(-1, keepdim=True) + spec.norm_eps).sqrt()
    if part == EMBEDDING:
        write = model.model.embed_tokens.weight[list(trace.ids)]
    elif part == "MLP 0":
        write = torch.tensor(trace.mlp_out[0])
    else:
        head = int(part[-1])
        output = torch.tensor(trace.attention[1, head] @ trace.v[1, head // 2])
        write = output @ layers[1].self_attn.o_proj.weight[:, head * d : (head + 1) * d].T
    keys = layers[2].self_attn.k_proj
    lacking = (stream - write) / scale * layers[2].input_layernorm.weight

    def leads():
        with torch.no_grad():
            weights = model(torch.tensor([trace.ids]), output_attentions=True).attentions[2][0]
        return [
            lead_by_hand(lambda i, j, own=own: float(own[i, j].double().log()), trace.ids) for own in weights
        ]

    whole = leads()
    keys.register_forward_hook(lambda module, args, output: module.forward(lacking[None]))
    lost = [a - b for a, b in zip(whole, leads(), strict=True)]
    found = [book_of(loaded, 2, head)[1][part] for head in range(spec.n_head)]
    np.testing.assert_allclose(found, lost, atol=2e-4)
    assert max(map(abs, found)) > 5e-3


@pytest.fixture
def planted(tiny_folder, tmp_path):
    """A tiny model with shared keys in which nothing but head 3 of layer 1 writes to the stream."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder("llama-gqa"))
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            layer.mlp.down_proj.weight.zero_()
            d_head, weight = layer.self_attn.head_dim, layer.self_attn.o_proj.weight
            weight[:, : 3 * d_head if number == 1 else None] = 0
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_folder("llama-gqa")).save_pretrained(tmp_path)
    return load(str(tmp_path))


def test_where_only_one_head_writes_only_it_and_the_embedding_have_amounts(planted):
    book, amounts = book_of(planted, 2, 1)
    nonzero = {name for name, amount in amounts.items() if abs(amount) > 1e-12}
    assert nonzero == {EMBEDDING, "L1 H3"}
    assert amounts[EMBEDDING] + amounts["L1 H3"] == pytest.approx(book.whole, abs=1e-5)


def test_the_first_layer_reads_the_embedding_and_no_head():
    assert list(book_of(loaded_checkpoint("pocket-llama"), 0, 2)[1]) == [EMBEDDING, BIASES]
    assert list(book_of(loaded_checkpoint("pocket-gpt2"), 0, 2)[1]) == [EMBEDDING, POSITIONS, BIASES]
    assert (
        "no previous-token head is below it" in cards.looks(loaded_checkpoint("pocket-gpt2"), 0, 0, 2).title
    )


@pytest.mark.parametrize(("name", "sentence"), [("qwen3", "a second norm"), ("olmo2", "no part of one head")])
def test_what_does_not_split_is_refused_in_a_sentence(tiny_model, name, sentence):
    with pytest.raises(ReaderError, match=sentence):
        cards.looks(tiny_model(name), 0, 1, 1)


def test_the_bars_are_the_largest_parts_and_all_others_together():
    amounts = np.array([0.5, -7.0, *[0.1] * 10, 3.0])
    order, drawn = ranked(amounts)
    assert order[:3] == [1, 12, 0]
    assert len(order) == MOST == len(drawn) - 1
    assert drawn[-1] == pytest.approx(0.3)
    assert sum(drawn) == pytest.approx(amounts.sum())
    assert ranked(np.array([1.0, -2.0])) == ([1, 0], [-2.0, 1.0])


def test_the_script_leaves_the_numbers(loaded):
    check(cards.looks(loaded, 3, 3, 1))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "nf4", "int8"])
def test_the_card_proves_itself_at_other_precisions(precision):
    loaded = loaded_checkpoint("pocket-llama", precision)
    check(cards.looks(loaded, 0, *cards.strongest(loaded, 0, "induction")[0]))


# What the prose says, on the checkpoints that the book comes with.


@pytest.fixture(params=[*BUNDLED, pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, needs_smollm2])])
def opened(request):
    return loaded_checkpoint(request.param)


def test_some_induction_heads_look_for_what_a_previous_token_head_wrote(opened):
    trace = cards.repeated(opened, 0)
    found = []
    for layer, head in cards.strongest_heads(trace, "induction", 5):
        card = cards.looks(opened, 0, layer, head)
        assert card.shown["whole"] > 5
        first = card.shown["order"][0]
        assert (
            f"{card.table['part'][first]}, a previous-token head" in card.title
            or card.shown["previous"][first] < 0.5
        )
        found.append(card.shown["previous"][first] >= 0.5)
    assert sum(found) >= 3


def test_previous_token_heads_are_marked(opened):
    head, _ = cards.strongest(opened, 0, "induction")
    card = cards.looks(opened, 0, *head)
    labels = card.figure.layout.yaxis.ticktext
    for label, place in zip(labels, card.shown["order"], strict=False):
        assert ("(prev.)" in label) == (card.shown["previous"][place] >= 0.5)
    assert any("(prev.)" in label for label in labels)
