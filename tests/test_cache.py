"""The trace cache is bounded by bytes."""

import threading

import numpy as np

from engine.model import cache
from engine.model.cache import ByteLRU, traced, traces
from engine.model.interventions import SkipMlp


def block(kilobytes):
    return np.zeros(kilobytes * 1024, dtype=np.uint8)


def test_old_values_leave_when_the_bytes_are_full():
    kept = ByteLRU(limit=10 * 1024)
    for name in "abc":
        kept.get(name, lambda: block(3))
    kept.get("a", lambda: block(3))  # used again, so "b" is now the oldest
    kept.get("d", lambda: block(3))
    assert [name in kept for name in "abcd"] == [True, False, True, True]
    assert kept.nbytes == 9 * 1024


def test_a_value_larger_than_the_cache_is_returned_but_not_kept():
    kept = ByteLRU(limit=1024)
    kept.get("small", lambda: block(1))
    assert kept.get("large", lambda: block(2)).nbytes == 2048
    assert "large" not in kept
    assert "small" in kept


def test_a_value_is_made_once():
    kept, made = ByteLRU(limit=4096), []
    for _ in range(3):
        kept.get("key", lambda: made.append(1) or block(1))
    assert made == [1]


def test_many_threads_keep_the_count_of_bytes_right():
    kept = ByteLRU(limit=64 * 1024)

    def fill(offset):
        for i in range(200):
            kept.get((offset + i) % 97, lambda: block(1))

    threads = [threading.Thread(target=fill, args=(n * 13,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept.nbytes == len(kept) * 1024 <= kept.limit


def test_traces_fill_the_process_cache_and_old_ones_leave(loaded, monkeypatch):
    traces.clear()
    first = traced(loaded, "The first text")
    assert traced(loaded, "The first text") is first
    small = ByteLRU(limit=4 * first.nbytes)
    monkeypatch.setattr(cache, "traces", small)
    for i in range(12):
        traced(loaded, f"Text number {i} of many")
        assert 0 < small.nbytes <= small.limit
    assert traced(loaded, "The first text") is not first


def test_interventions_are_part_of_the_key(loaded):
    plain, changed = traced(loaded, "A text"), traced(loaded, "A text", [SkipMlp(0)])
    assert np.abs(plain.logits - changed.logits).max() > 1e-3
