"""Wrong figures: what a card shows, altered so that a reader would see something else."""

import numpy as np


def mutations(shown, oracle):
    """(what was done, altered `shown`) for every array, by more than the oracle's tolerance for it."""
    for name, given in shown.items():
        array = np.asarray(given, np.float64)
        for what, altered in _altered(array, oracle.allowed(name)):
            yield f"{name}: {what}", {**shown, name: altered}


def _altered(array, tolerance):
    beyond = 3 * tolerance + 1e-9 * (1 + np.abs(array).max(initial=0))
    if array.size:
        for place in {0, array.size // 2, array.size - 1}:
            moved = array.copy().reshape(-1)
            moved[place] += beyond
            yield f"number {place} moved by {beyond:.2g}", moved.reshape(array.shape)
    if np.abs(array).max(initial=0) > 0:
        yield "replaced by zeros", np.zeros_like(array)
    if array.ndim and len(array) > 1:
        yield "cut short", array[:-1]
        unlike = np.abs(array - array[0]).reshape(len(array), -1).max(axis=1)
        apart = int(unlike.argmax())  # rows that differ by less than the tolerance are one to a reader too
        if unlike[apart] > tolerance:
            swapped = array.copy()
            swapped[[0, apart]] = swapped[[apart, 0]]
            yield f"rows 0 and {apart} swapped", swapped
