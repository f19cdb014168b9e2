"""The model asked once more from outside, with nothing recorded on the way."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.model.loaded import Loaded


def returned_logits(loaded: Loaded, ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits (seq, vocab) that `transformers` returns for ids, with nothing recorded on the way."""
    return logits_of(loaded.model, ids)


@torch.no_grad()
def logits_of(model: Any, ids: Sequence[int]) -> NDArray[np.float32]:
    """The same of any transformers model, such as a private copy."""
    batch = torch.tensor([list(ids)], device=model.device)
    logits: NDArray[np.float32] = model(batch, use_cache=False).logits[0].to("cpu", torch.float32).numpy()
    return logits
