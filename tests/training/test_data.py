"""Windows, and the induction mix does what it says."""

import lzma

import numpy as np
import pytest

from engine.training.data import (
    Repeats,
    apply_repeats,
    batch_at,
    blend,
    read_books,
    tiled,
    token_stream,
    with_recurring_stretch,
)
from engine.training.plan import Plan
from engine.training.tokenizer import train_tokenizer

SEQ = 512


def distinct(seq: int = SEQ) -> np.ndarray:
    """A window in which no token occurs twice, so every repetition was put there."""
    return np.arange(1000, 1000 + seq, dtype=np.int64)


@pytest.mark.parametrize("seed", range(20))
def test_recurring_stretch_copies_one_earlier_stretch_of_24_to_200_tokens(seed):
    window = distinct()
    out = with_recurring_stretch(window, 24, 200, np.random.default_rng(seed))
    changed = np.flatnonzero(out != window)
    assert 24 <= len(changed) <= 200
    assert changed[-1] - changed[0] + 1 == len(changed), "one stretch"
    source = out[changed] - 1000
    assert (np.diff(source) == 1).all(), "copied in order"
    assert source[-1] < changed[0], "from an earlier place that does not overlap"


def test_recurring_stretch_leaves_its_input_alone():
    window = distinct()
    with_recurring_stretch(window, 24, 200, np.random.default_rng(0))
    assert (window == distinct()).all()


@pytest.mark.parametrize("seed", range(20))
def test_tiled_window_has_a_period_of_16_to_128_and_one_stretch_of_the_text(seed):
    out = tiled(distinct(), 16, 128, np.random.default_rng(seed))
    period = len(set(out.tolist()))
    assert 16 <= period <= 128
    assert len(out) == SEQ
    assert (out[period:] == out[:-period]).all()
    assert (np.diff(out[:period]) == 1).all()


def test_shares_of_windows_are_those_of_the_mix():
    windows = np.tile(distinct(), (4000, 1))
    out = apply_repeats(windows, Repeats(), np.random.default_rng(7))
    kinds = [len(set(row.tolist())) for row in out]
    tile = np.mean([kind <= 128 for kind in kinds])
    recur = np.mean([128 < kind < SEQ for kind in kinds])
    # 4000 draws: four standard deviations are 0.025 and 0.023
    assert tile == pytest.approx(0.20, abs=0.025)
    assert recur == pytest.approx(0.15, abs=0.023)


def test_random_segments_come_from_the_whole_vocabulary_and_only_where_asked_for():
    windows = np.tile(distinct(), (4000, 1))
    asked = Repeats(recur_share=0.1, tile_share=0.0, random_share=0.3)
    out = apply_repeats(windows, asked, np.random.default_rng(7), vocab=900)
    strange = out[(out < 1000).all(axis=1)]  # the windows hold nothing under 1000
    assert len(strange) / len(out) == pytest.approx(0.3, abs=0.03)
    assert (strange.min(), strange.max()) == (0, 899)
    for row in strange[:20]:
        assert any((row[period:] == row[:-period]).all() for period in range(16, 129))
    assert ((out < 1000).any(axis=1) == (out < 1000).all(axis=1)).all()


def test_windows_without_random_segments_do_not_depend_on_the_vocabulary():
    windows = np.tile(distinct(), (64, 1))
    small, large = (apply_repeats(windows, Repeats(), np.random.default_rng(7), vocab) for vocab in (10, 900))
    assert (small == large).all()


@pytest.mark.parametrize("share", ["recur_share", "tile_share", "random_share"])
def test_shares_over_one_are_refused(share):
    with pytest.raises(ValueError, match="shares"):
        Repeats(**{"recur_share": 0.4, "tile_share": 0.4, "random_share": 0.2, share: 0.7})
    with pytest.raises(ValueError, match="shares"):
        Plan(**{share: -0.1})


STREAMS = {"a": np.arange(0, 1000, dtype=np.uint16), "b": np.arange(2000, 3000, dtype=np.uint16)}


def test_a_batch_depends_on_seed_and_step_alone():
    one = batch_at(5, STREAMS, {"a": 0.5, "b": 0.5}, 8, 32, seed=1)
    batch_at(6, STREAMS, {"a": 0.5, "b": 0.5}, 8, 32, seed=1)
    assert (batch_at(5, STREAMS, {"a": 0.5, "b": 0.5}, 8, 32, seed=1) == one).all()
    assert (batch_at(6, STREAMS, {"a": 0.5, "b": 0.5}, 8, 32, seed=1) != one).any()
    assert (batch_at(5, STREAMS, {"a": 0.5, "b": 0.5}, 8, 32, seed=2) != one).any()


def test_windows_are_contiguous_and_one_longer_than_the_sequence():
    batch = batch_at(0, STREAMS, {"a": 0.5, "b": 0.5}, 8, 32, seed=1)
    assert batch.shape == (8, 33)
    assert (np.diff(batch, axis=1) == 1).all()


def test_sources_are_drawn_by_their_shares():
    batch = batch_at(0, STREAMS, {"a": 3, "b": 1}, 4000, 2, seed=0)
    assert (batch[:, 0] < 1000).mean() == pytest.approx(0.75, abs=0.03)


def test_switching_the_mix_on_leaves_the_other_windows_as_they_were():
    plain = batch_at(3, STREAMS, {"a": 1}, 64, 256, seed=0)
    mixed = batch_at(3, STREAMS, {"a": 1}, 64, 256, seed=0, repeats=Repeats())
    untouched = (plain == mixed).all(axis=1).mean()
    assert 0.4 < untouched < 0.9


def test_the_repeats_are_drawn_anew_at_every_step():
    # every window is a run of consecutive numbers; where that breaks off tells which rows were changed, and where
    breaks = [
        np.diff(batch_at(step, STREAMS, {"a": 1}, 16, 256, seed=0, repeats=Repeats()), axis=1) != 1
        for step in (3, 4)
    ]
    assert (breaks[0] != breaks[1]).any()


def test_a_stream_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="too few"):
        batch_at(0, {"a": np.arange(10, dtype=np.uint16)}, {"a": 1}, 1, 32, seed=0)


def test_blend_goes_from_one_mix_to_the_other():
    halfway = blend({"a": 0.2, "b": 0.8}, {"a": 1.0}, 0.5)
    assert halfway == pytest.approx({"a": 0.6, "b": 0.4})


def test_stream_holds_every_book_after_an_end_of_text_token(tmp_path):
    books = ["The cat sat.\n\nAgain.", "A dog \N{GRINNING FACE} barked."]
    (tmp_path / "tales.txt.xz").write_bytes(lzma.compress("\0".join(books).encode()))
    tokenizer = train_tokenizer(books, 300)
    stream = token_stream(tmp_path, "tales", tokenizer, tmp_path / "cache")
    starts = np.flatnonzero(stream == 0)
    assert len(starts) == 2
    assert starts[0] == 0
    assert tokenizer.decode(stream[1 : starts[1]].tolist()) == books[0]
    assert tokenizer.decode(stream[starts[1] + 1 :].tolist()) == books[1]


def test_stream_is_tokenized_anew_when_the_text_changes(tmp_path):
    tokenizer = train_tokenizer(["abc"], 260)
    (tmp_path / "t.txt").write_text("abc", encoding="utf-8")
    first = token_stream(tmp_path, "t", tokenizer, tmp_path)
    (tmp_path / "t.txt").write_text("abc abc", encoding="utf-8")
    assert len(token_stream(tmp_path, "t", tokenizer, tmp_path)) > len(first)


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tales\.txt"):
        read_books(tmp_path / "tales.txt")
