"""Sentences that pages compute from the loaded checkpoint, against the checkpoint itself."""

import re

import pytest
import torch
from torch.nn import functional as F
from transformers.convert_slow_tokenizer import bytes_to_unicode

from engine.checkpoints.prompts import prompts_for
from engine.tokens import encodings
from tests.conftest import SMOLLM2, loaded_checkpoint, needs_smollm2
from tests.pages.conftest import BUNDLED, Visit, open_app, visited, watched

published = pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, pytest.mark.timeout(1200), needs_smollm2])
each = pytest.mark.parametrize("checkpoint", [*BUNDLED, published])

TOKENIZATION = "pages/01_Tokenization.py"
NEURONS = "pages/03_Neuron_Activation.py"
SAMPLING = "pages/05_Logits_and_Sampling.py"
FEED_FORWARD = "pages/04_Feed_Forward_Network.py"
EMBEDDINGS = "pages/02_Vector_Embeddings.py"


def said(page, checkpoint):
    """All words of a page, in one line."""
    app = visited(page, checkpoint).app
    words = " ".join(str(part.value) for kind in ("markdown", "caption") for part in app.get(kind))
    words = re.sub(
        r'\[([^\]]*)\]\(#term-[^ ]* "[^"]*"\)', r"\1", words
    )  # a marked term is one word of its sentence
    return " ".join(words.replace("\\", "").split())


@each
def test_which_single_bytes_are_tokens(checkpoint):
    text, vocabulary = said(TOKENIZATION, checkpoint), loaded_checkpoint(checkpoint).tokenizer.get_vocab()
    missing = {byte for byte, char in bytes_to_unicode().items() if char not in vocabulary}
    needed = missing - {0xC0, 0xC1, *range(0xF5, 0x100)}  # bytes that UTF-8 never uses
    assert ("All 256 single bytes are tokens" in text) == (not missing)
    assert (f"lacks {len(needed)} of the single bytes" in text) == bool(needed)


@each
def test_the_size_of_the_vocabulary_is_that_of_the_tokenizer(checkpoint):
    size = len(loaded_checkpoint(checkpoint).tokenizer.get_vocab())
    assert f"{checkpoint} has {size:,} tokens" in said(TOKENIZATION, checkpoint)


def test_an_indented_word_takes_more_tokens_in_the_oldest_encoding():
    counts = [len(encodings.encoding(name).encode("    return")) for name in ("r50k_base", "o200k_base")]
    assert f"is {counts[0]} tokens for r50k and {counts[1]} for o200k" in said(TOKENIZATION, BUNDLED[0])
    assert counts[0] > counts[1]


@each
def test_whether_the_embedding_serves_as_the_unembedding_too(checkpoint):
    model, text = loaded_checkpoint(checkpoint).model, said(EMBEDDINGS, checkpoint)
    first, last = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert ("At the end the same matrix serves once more" in text) == (first.data_ptr() == last.data_ptr())
    assert f"a row for each of {first.shape[0]:,} ids and {first.shape[1]} columns" in text


@each
def test_whether_positions_have_rows(checkpoint):
    text, names = said(EMBEDDINGS, checkpoint), dict(loaded_checkpoint(checkpoint).model.named_parameters())
    table = [weight for name, weight in names.items() if "wpe" in name]
    assert (f"{checkpoint} has no position vectors" in text) == (not table)
    assert [f"a second table of {weight.shape[0]:,} rows" in text for weight in table] == [True] * len(table)


@each
def test_what_a_neuron_reads_and_how_it_bends_it(checkpoint):
    text, config = said(NEURONS, checkpoint), loaded_checkpoint(checkpoint).model.config
    gated = hasattr(config, "hidden_act")
    assert f"all {config.num_hidden_layers} **blocks**" in text
    assert f"an MLP of {config.intermediate_size if gated else 4 * config.n_embd:,} neurons" in text
    assert ("makes two sums from the same input" in text) == gated
    lowest = float(F.silu(torch.linspace(-6, 0, 1201)).min())
    assert (f"the curve goes down to −{-lowest:.2f}." in text) == gated
    assert ("would collapse into one" in text) != gated


@each
def test_the_layer_that_is_offered_is_the_last_one(checkpoint):
    last = loaded_checkpoint(checkpoint).model.config.num_hidden_layers - 1
    assert f"No block comes after layer {last}," in said(NEURONS, checkpoint)


@each
def test_what_an_mlp_makes_of_one_token(checkpoint):
    text, config = said(FEED_FORWARD, checkpoint), loaded_checkpoint(checkpoint).model.config
    gated = hasattr(config, "hidden_act")
    width = config.intermediate_size if gated else 4 * config.n_embd
    assert f"All {width:,} neurons are computed" in text
    assert (f"Two matrices make **gate** and **up** of it, {width:,} numbers each" in text) == gated
    assert (f"W_up makes {width:,} sums of it" in text) != gated
    assert ("its columns of W_gate and W_up are a pattern" in text) == gated
    assert ("its column of W_up is a pattern" in text) != gated


def test_how_far_gelu_goes_below_zero():
    assert "GELU, which never goes below −0.17" in said(FEED_FORWARD, BUNDLED[0])
    lowest = float(F.gelu(torch.linspace(-6, 0, 100_001), approximate="tanh").min())
    assert -0.1705 < lowest < -0.1695


@each
def test_how_many_logits_there_are_and_what_they_are_made_of(checkpoint):
    model, text = loaded_checkpoint(checkpoint).model, said(SAMPLING, checkpoint)
    rows, columns = model.get_output_embeddings().weight.shape
    assert f"The model gives {rows:,} **logits**" in text
    assert f"one vector of {columns:,} numbers" in text
    tied = model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert ("the unembedding is the embedding matrix once more" in text) == tied
    assert f"the last of the {model.config.num_hidden_layers} blocks" in text


@each
def test_a_token_after_which_more_is_open_is_offered_where_the_model_is_nearly_certain(checkpoint):
    loaded, text = loaded_checkpoint(checkpoint), said(SAMPLING, checkpoint)
    ids = torch.tensor([loaded.tokenizer(prompts_for(checkpoint).default)["input_ids"]])
    with torch.no_grad():
        entropies = torch.special.entr(loaded.model(ids).logits[0].double().softmax(-1)).sum(-1)
    assert ("the model is nearly certain" in text) == (float(entropies[-1]) < 1)
    if entropies[-1] < 1:
        assert f"distribution is {float(entropies[-1]):.2f} nats" in text
        assert f": {float(entropies.max()):.2f} nats." in text


@each
def test_the_senses_of_a_word_stand_apart_and_more_so_without_the_mean_vector(checkpoint):
    plain, centred = visited(EMBEDDINGS, checkpoint).cards["drift"]
    gaps = [card.shown["the same sense"][-1] - card.shown["the other sense"][-1] for card in (plain, centred)]
    assert gaps[1] > 1.3 * gaps[0] > 0.1
    assert abs(centred.shown["different tokens"][-1]) < 0.1 < plain.shown["different tokens"][-1]


def test_one_token_drawn_often_is_a_choice_beside_the_texts():
    visit, app = Visit(), open_app(checkpoint="pocket-llama").switch_page(SAMPLING).run()
    with watched(visit):
        app.segmented_control(key="5-texts-shown").set_value("one token, drawn often").run()
    [card] = visit.cards["texts"]
    assert card.key == "draws"
    assert sum(card.shown["observed"]) == 500
    assert card.prove().passed
