"""Chapter 14: the cache against one pass, bytes against buffers, eviction against masks."""

import numpy as np
import pytest
import torch

from engine import capture, tokenize
from engine.chapters import c14_context as cards
from engine.model import kv_cache
from tests.conftest import PROMPT, TINY, loaded_checkpoint

SMALL = ("gpt2", "llama-gqa", "llama-mqa", "llama-yarn", "qwen2", "qwen3", "neox-parallel")


@pytest.mark.parametrize("name", SMALL)
def test_token_by_token_through_the_cache_gives_the_logits_of_one_pass(tiny_model, name):
    assert name in TINY
    loaded = tiny_model(name)
    trace = capture(loaded, PROMPT)
    np.testing.assert_allclose(kv_cache.decoded_logits(loaded, trace.ids), trace.logits, rtol=0, atol=1e-4)


def test_bytes_are_two_vectors_per_layer_head_and_token(loaded):
    spec = loaded.spec
    cache = kv_cache.prefill(loaded, list(range(10)))
    assert kv_cache.nbytes(cache) == 2 * spec.n_layer * spec.n_kv_head * spec.d_head * 10 * 4


def test_half_precision_halves_the_cache():
    half = kv_cache.nbytes(kv_cache.prefill(loaded_checkpoint("pocket-llama", "fp16"), [1, 2, 3]))
    full = kv_cache.nbytes(kv_cache.prefill(loaded_checkpoint("pocket-llama"), [1, 2, 3]))
    assert full == 2 * half


def test_kept_keys_on_paper():
    kept = kv_cache.kept_keys(seq=5, window=2, first=1)
    assert kept.astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 1, 1, 0],
        [1, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("name", SMALL)
def test_masking_keys_equals_dropping_them_from_the_cache(tiny_model, name):
    loaded, ids = tiny_model(name), list(range(5, 29))
    masked = kv_cache.masked_logits(loaded, ids, kv_cache.kept_keys(len(ids), 6, 2))
    np.testing.assert_allclose(kv_cache.evicting_logits(loaded, ids, 6, 2), masked, rtol=0, atol=1e-4)
    assert np.abs(masked - capture(loaded, ids).logits).max() > 1e-3


def test_a_window_reads_only_the_end_of_the_text(loaded):
    ids = [token.id for token in tokenize(loaded, PROMPT)]
    found = kv_cache.remembered(loaded, ids, target=7, windows=[3, len(ids)])
    for window, probability in zip([3, len(ids)], found, strict=True):
        expected = torch.tensor(capture(loaded, ids[-window:]).logits[-1]).softmax(-1)[7]
        assert probability == pytest.approx(float(expected), abs=1e-6)


def test_latency_measures_every_context_it_was_asked_for(loaded):
    shares = []
    measured = kv_cache.latencies(loaded, [1, 2, 3], [4, 9], lambda share, what: shares.append(share))
    assert [m.context for m in measured] == [4, 9]
    assert shares == [0.0, 0.5]
    assert all(
        len(m.cached.milliseconds) == 5 and m.cached.low <= m.cached.median <= m.cached.high for m in measured
    )


def test_the_measured_card_proves_itself_too(loaded):
    measured = kv_cache.latencies(loaded, [1, 2, 3], [4, 9], lambda share, what: None)
    card = cards.work_per_step(loaded, measured, 512)
    assert card.prove().passed
    names = {}
    exec(card.code, names)
    np.testing.assert_allclose(names["result"]["stepwise"], card.numbers["stepwise"], rtol=0, atol=card.atol)


def test_a_one_token_prompt_has_a_card(loaded):
    assert cards.same_answers(loaded, capture(loaded, "")).title
    assert cards.held_bytes(loaded, capture(loaded, "")).prove().passed
