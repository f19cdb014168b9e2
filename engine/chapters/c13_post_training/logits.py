"""The logits of one version, remembered."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.chapters.c13_post_training.family import Version
from engine.model.cache import ByteLRU
from engine.model.capturing import capture
from engine.model.loaded import Loaded
from engine.model.trace import Array
from engine.ops.sampling import finite


@dataclass(frozen=True, eq=False)
class _Logits:
    values: Array

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


_passes: "ByteLRU[_Logits]" = ByteLRU(limit=96 * 1024 * 1024)


def logits(version: Version, ids: Sequence[int]) -> Array:
    """Logits (seq, vocab) of one pass over ids, remembered. Raises ReaderError for a number that is not finite."""
    key = (version.name, tuple(ids))
    return _passes.get(key, lambda: _Logits(_pass(version.get(), ids))).values


def _pass(loaded: Loaded, ids: Sequence[int]) -> Array:
    kept = np.array(capture(loaded, ids).logits)
    finite(kept)
    kept.setflags(write=False)
    return kept
