"""Chapter 11: parameters summed, a logit split, parts taken out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import capture
from engine.chapters import c11_block as cards
from engine.chapters.c11_block.by_hand import apply_by_hand
from engine.chapters.c11_block.ledger import MOST, folded
from engine.model import interventions as iv
from engine.model.ledger import affine, ledger
from engine.model.parts import block_parts, total
from tests.conftest import BUNDLED, PROMPT, SMOLLM2, TINY, loaded_checkpoint, needs_smollm2
from tests.pages.mutations import mutations


@pytest.fixture(params=[*BUNDLED, *TINY])
def subject(request, tiny_model):
    return loaded_checkpoint(request.param) if request.param in BUNDLED else tiny_model(request.param)


def test_all_parts_sum_to_the_models_own_count(subject):
    assert total(subject) == subject.model.num_parameters()


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_quantized_weights_are_counted_as_trained(precision):
    full, packed = loaded_checkpoint("pocket-llama"), loaded_checkpoint("pocket-llama", precision)
    assert total(packed) == full.model.num_parameters()
    assert block_parts(packed, 1) == block_parts(full, 1)


def test_the_ledger_sums_to_the_logit(subject):
    trace = capture(subject, PROMPT)
    for position, token_id in ((len(trace.ids) - 1, int(trace.logits[-1].argmax())), (0, 77), (4, 1000)):
        book = ledger(subject, trace, position, token_id)
        assert abs(book.remainder) < 1e-3 * max(1.0, abs(book.logit))
        assert len(book.amounts) >= 2 * subject.spec.n_layer + 2


def test_ledger_entries_are_what_the_logit_loses_when_a_write_is_removed_from_a_frozen_norm(loaded):
    """By autograd: the derivative of the logit along each write, the norm's statistics held."""
    trace = capture(loaded, PROMPT)
    at, token_id = 6, 321
    book = ledger(loaded, trace, at, token_id)
    x = torch.tensor(trace.hidden[-1, at], dtype=torch.float64)
    norm, row = loaded.part("final_norm"), loaded.part("unembedding").weight[token_id].double()
    spread = x.var(unbiased=False) if loaded.spec.norm == "LayerNorm" else (x**2).mean()
    scale = (spread + loaded.spec.norm_eps).sqrt()

    def logit(stream):
        centred = stream - stream.mean() if loaded.spec.norm == "LayerNorm" else stream
        return ((centred / scale) * norm.weight.double()) @ row

    write = torch.tensor(trace.mlp_out[2, at], dtype=torch.float64)
    expected = float(logit(x) - logit(x - write))
    assert book.amounts[book.names.index("MLP 2")] == pytest.approx(expected, abs=1e-4)


def test_the_affine_map_is_the_models_readout(subject):
    trace = capture(subject, PROMPT)
    direction, constant = affine(subject, trace.hidden[-1, 3], 50)
    assert trace.hidden[-1, 3] @ direction + constant == pytest.approx(float(trace.logits[3, 50]), abs=2e-4)


@pytest.mark.parametrize(
    "items",
    [
        (iv.NoCausalMask(),),
        (iv.ZeroPositions(),),
        (iv.SkipNorm("final"), iv.SkipNorm("mlp", 1)),
        (iv.SkipAttention(0), iv.SkipMlp(1)),
        (iv.AblateHeads(((1, 0), (0, 1))),),
        (iv.DropResidual(1, "attention"),),
    ],
    ids=lambda items: type(items[0]).__name__,
)
@pytest.mark.parametrize("name", [*BUNDLED, "llama-gqa", "qwen3", "neox-parallel"])
def test_cards_of_a_model_taken_apart_prove_themselves(tiny_model, name, items):
    subject = loaded_checkpoint(name) if name in BUNDLED else tiny_model(name)
    intact, changed = capture(subject, PROMPT), capture(subject, PROMPT, items)
    card = cards.apart(subject, intact, changed, "a part", items)
    assert card.prove().passed, card.prove()
    assert list(unnoticed(card)) == []
    untouched = apply_by_hand(subject, ())
    with torch.no_grad():
        plain = untouched(torch.tensor([intact.ids]), use_cache=False).logits[0].numpy()
    assert np.abs(plain - changed.logits).max() > 1e-3, "nothing was taken out"


@pytest.mark.parametrize("items", [(), (iv.NoCausalMask(),), (iv.SkipMlp(0), iv.SkipMlp(1))])
@pytest.mark.parametrize("name", ["pocket-gpt2", "qwen3"])
def test_both_texts_prove_themselves_and_no_altered_ones(tiny_model, name, items):
    subject = loaded_checkpoint(name) if name in BUNDLED else tiny_model(name)
    card = cards.told(subject, capture(subject, PROMPT), "a part", items, 6)
    assert card.prove().passed, card.prove()
    assert list(unnoticed(card)) == []


def test_a_text_that_stops_too_soon_does_not_prove_itself(loaded):
    trace = capture(loaded, PROMPT)
    short = cards.told(loaded, trace, "a part", (), 4)
    long = cards.told(loaded, trace, "a part", (), 6)
    assert not long.oracle.judge(short.shown).passed


def test_a_ledger_and_lengths_prove_themselves_and_no_altered_ones(subject):
    trace = capture(subject, PROMPT)
    for position in (0, len(trace.ids) - 1):
        for card in (
            cards.residual_ledger(subject, trace, position, 77),
            cards.stream_norms(subject, trace, position),
        ):
            assert card.prove().passed, (card.key, card.prove())
            assert list(unnoticed(card)) == []


def unnoticed(card):
    """What was done to a card and left its proof standing."""
    answers = card.oracle.compute()
    oracle = replace(card.oracle, compute=lambda: answers)
    for what, altered in mutations(card.shown, oracle):
        if oracle.judge(altered).passed:
            yield what


on_three = pytest.mark.parametrize(
    "name", [*BUNDLED, pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, needs_smollm2])]
)


def test_small_neighbours_of_a_ledger_share_a_bar_and_no_part_is_lost():
    groups = folded(np.array([5.0, 0.1, -0.2, 4.0, 0.3, -3.0, 0.0, 0.0]), most=3)
    assert groups == [[0], [1, 2], [3], [4], [5], [6, 7]]


@on_three
def test_a_ledger_draws_no_more_than_a_screen_holds_and_its_bars_sum_to_the_logit(name):
    subject = loaded_checkpoint(name)
    card = cards.residual_ledger(subject, capture(subject, PROMPT), 5, 77)
    assert len(card.shown["drawn"]) <= 2 * MOST + 1
    assert np.sum(card.shown["drawn"]) == pytest.approx(card.shown["logit"], abs=1e-3)
    assert len(card.table["part"]) == len(card.shown["amounts"]) + 1
    whole = cards.residual_ledger(subject, capture(subject, PROMPT), 5, 77, whole=True)
    assert len(whole.shown["drawn"]) == len(whole.shown["amounts"])


@on_three
def test_the_words_about_norms_are_those_of_the_checkpoint(name):
    subject = loaded_checkpoint(name)
    said, norm = cards.about_norms(subject), subject.part("final_norm")
    assert ("adds a learned bias" in said) == (getattr(norm, "bias", None) is not None)
    x = torch.randn(subject.spec.d_model, generator=torch.Generator().manual_seed(0)) + 3
    with torch.no_grad():
        shifted = (norm(x + 1) - norm(x)).abs().max()
    assert ("subtracts the mean" in said) == bool(shifted < 1e-4)


@on_three
def test_the_length_that_a_title_names_as_the_longest_is(name):
    subject = loaded_checkpoint(name)
    trace = capture(subject, PROMPT)
    for position in (0, len(trace.ids) - 1):
        card = cards.stream_norms(subject, trace, position)
        assert f"{np.max(card.shown['residual stream']):.3g}" in card.title


@on_three
def test_designs_are_compared_with_one_that_is_unlike(name):
    subject = loaded_checkpoint(name)
    assert loaded_checkpoint(cards.unlike(subject)).spec.model_type != subject.spec.model_type


def test_equations_have_the_mask_and_the_bias_of_a_norm():
    titles = {name: [_title(name, part) for part in ("attention", "attn_norm")] for name in BUNDLED}
    assert "softmax(q·k / √d_head + mask)" in titles["pocket-gpt2"][0]
    assert "· g + b;" in titles["pocket-gpt2"][1]
    assert "· g;" in titles["pocket-llama"][1]


def _title(name, part):
    return cards.diagram(loaded_checkpoint(name), 2, part).title


def test_a_diagram_of_every_part_is_proved_by_a_model_built_from_the_config(subject):
    for name in ("attention", "mlp", "attn_norm", "final_norm", "unembedding"):
        card = cards.diagram(subject, 1, name)
        assert card.prove().passed, (name, card.prove())
        assert list(unnoticed(card)) == []
