"""Cross-entropy of counting alone, against counts on paper and dictionaries of pairs."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from engine.training.held_out import HeldOut
from engine.training.references import bigram, count, references, unigram

VOCAB = 4
TEXT = np.array([0, 1, 0, 1, 0, 2], dtype=np.uint16)


def test_unigram_on_paper():
    # 0 three times, 1 twice, 2 once, 3 never, and one more of each: 4, 3, 2, 1 of 10
    counts = count({"a": TEXT}, {"a": 1.0}, VOCAB)
    assert unigram(counts, np.array([0, 1, 2, 3])).tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_bigram_on_paper():
    counts = count({"a": TEXT}, {"a": 1.0}, VOCAB)
    # After 0: 1 twice and 2 once, two kinds: (2 + 2·0.3)/5 and (1 + 2·0.2)/5, and an unseen 3: 2·0.1/5
    assert bigram(counts, np.array([0, 0, 0]), np.array([1, 2, 3])).tolist() == pytest.approx(
        [0.52, 0.28, 0.04]
    )
    # 3 was never seen, 2 only at the end: what is left is the frequency
    assert bigram(counts, np.array([3, 2]), np.array([0, 0])).tolist() == pytest.approx([0.4, 0.4])


def test_probabilities_after_each_token_sum_to_one():
    rng = np.random.default_rng(0)
    streams = {"a": rng.integers(0, 9, 500).astype(np.uint16), "b": rng.integers(3, 12, 80).astype(np.uint16)}
    counts = count(streams, {"a": 0.3, "b": 0.7}, 12)
    before, after = (grid.ravel() for grid in np.meshgrid(np.arange(12), np.arange(12), indexing="ij"))
    assert bigram(counts, before, after).reshape(12, 12).sum(1) == pytest.approx(1)
    assert unigram(counts, np.arange(12)).sum() == pytest.approx(1)


def test_bigram_agrees_with_dictionaries():
    stream = np.random.default_rng(1).integers(0, 7, 300)
    pairs: dict[int, Counter] = defaultdict(Counter)
    for a, b in zip(stream[:-1].tolist(), stream[1:].tolist(), strict=True):
        pairs[a][b] += 1
    single = Counter(stream.tolist())
    counts = count({"x": stream.astype(np.uint16)}, {"x": 1.0}, 8)
    for a in range(8):
        for b in range(8):
            p = (single[b] + 1) / (300 + 8)
            seen, kinds = sum(pairs[a].values()), len(pairs[a])
            expected = (pairs[a][b] + kinds * p) / (seen + kinds) if kinds else p
            assert bigram(counts, np.array([a]), np.array([b]))[0] == pytest.approx(expected)


def test_a_source_counts_by_its_share_not_by_its_length():
    streams = {"long": np.zeros(900, np.uint16), "short": np.ones(100, np.uint16)}
    counts = count(streams, {"long": 0.5, "short": 0.5}, 2)
    assert counts.single.tolist() == pytest.approx([500, 500])


def test_rows_are_nats_of_every_predicted_token_and_bits_of_every_character():
    held_out = HeldOut((torch.tensor([0, 1, 3]), torch.tensor([2, 0])), characters=6)
    rows = {row["name"]: row for row in references({"a": TEXT}, {"a": 1.0}, held_out, VOCAB)}
    # predicted: 1 after 0, 3 after 1 (unseen after 1, which has one kind and two pairs), 0 after 2
    single = -math.log(0.3) - math.log(0.1) - math.log(0.4)
    pair = -math.log(0.52) - math.log(1 * 0.1 / 3) - math.log(0.4)
    assert rows["uniform"]["loss"] == pytest.approx(math.log(4))
    assert rows["unigram"]["loss"] == pytest.approx(single / 3)
    assert rows["bigram"]["loss"] == pytest.approx(pair / 3)
    assert rows["bigram"]["bits_per_character"] == pytest.approx(pair / 6 / math.log(2))


def test_a_vocabulary_too_large_to_number_its_pairs_is_refused():
    with pytest.raises(ValueError, match="32 bits"):
        count({"a": TEXT}, {"a": 1.0}, 1 << 17)
