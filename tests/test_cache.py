"""The trace cache is bounded by bytes."""

import threading

import numpy as np

from engine.model.cache import ByteLRU, traced, traces
from engine.model.interventions import SkipMlp


def block(kilobytes):
    return np.zeros(kilobytes * 1024, dtype=np.uint8)


def test_old_values_leave_when_the_bytes_are_full():
    cache = ByteLRU(limit=10 * 1024)
    for name in "abc":
        cache.get(name, lambda: block(3))
    cache.get("a", lambda: block(3))  # used again, so "b" is now the oldest
    cache.get("d", lambda: block(3))
    assert [name in cache for name in "abcd"] == [True, False, True, True]
    assert cache.nbytes == 9 * 1024


def test_a_value_larger_than_the_cache_is_returned_but_not_kept():
    cache = ByteLRU(limit=1024)
    cache.get("small", lambda: block(1))
    assert cache.get("large", lambda: block(2)).nbytes == 2048
    assert "large" not in cache
    assert "small" in cache


def test_a_value_is_made_once():
    cache, made = ByteLRU(limit=4096), []
    for _ in range(3):
        cache.get("key", lambda: made.append(1) or block(1))
    assert made == [1]


def test_many_threads_keep_the_count_of_bytes_right():
    cache = ByteLRU(limit=64 * 1024)

    def fill(offset):
        for i in range(200):
            cache.get((offset + i) % 97, lambda: block(1))

    threads = [threading.Thread(target=fill, args=(n * 13,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.nbytes == len(cache) * 1024 <= cache.limit


def test_traces_fill_the_process_cache_and_old_ones_leave(loaded):
    traces.clear()
    first = traced(loaded, "The first text")
    assert traced(loaded, "The first text") is first
    limit, traces.limit = traces.limit, 4 * first.nbytes
    try:
        for i in range(12):
            traced(loaded, f"Text number {i} of many")
            assert traces.nbytes <= traces.limit
        assert traced(loaded, "The first text") is not first
    finally:
        traces.limit = limit
        traces.clear()


def test_interventions_are_part_of_the_key(loaded):
    plain, changed = traced(loaded, "A text"), traced(loaded, "A text", [SkipMlp(0)])
    assert np.abs(plain.logits - changed.logits).max() > 1e-3
