"""What the cards of this chapter share: names of tokens, tolerances, and the model asked once more from outside."""

from collections.abc import Sequence
from textwrap import dedent
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine import ReaderError
from engine.evidence.script import preamble
from engine.model.capturing import token
from engine.model.loading import Loaded
from engine.model.trace import Trace
from engine.ops.sampling import Filters, Float

EXACT = 1e-9
"""Tolerance between two ways through float64 that start from the same logits."""

_APART = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 2e-1, "nf4": 5e-2, "fp4": 5e-2}
"""About ten rounding steps of a logit of size 1 to 10. For int8, bitsandbytes rounds the inputs of every layer to 8
bits and decides from all rows of a pass which columns it leaves out of that, so a cached step sees other roundings."""


def tolerance(loaded: Loaded) -> float:
    """How far two ways through the same weights may differ in a logit or a surprisal (nats)."""
    return _APART[loaded.precision]


def probability_tolerance(loaded: Loaded) -> float:
    """The same for a probability, whose slope against its logit is at most 1/4. At least 1e-4."""
    return max(1e-4, tolerance(loaded) / 4)


def display(loaded: Loaded, id: int) -> str:
    """A vocabulary entry as plain text; it still needs the escaper of its sink."""
    return token(loaded, int(id)).display


def quoted(text: str) -> str:
    return f"“{text}”"


def difference(a: object, b: object) -> float:
    """max |a - b|; NaN when either holds a NaN. Raises ValueError for shapes that differ."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape:
        raise ValueError(f"shapes {x.shape} and {y.shape}")
    return float(np.abs(x - y).max(initial=0.0))


def inside(trace: Trace, position: int) -> int:
    """A position of the prompt. Raises ReaderError for one it does not have."""
    if not 0 <= position < len(trace.tokens):
        raise ReaderError(f"This prompt has no token {position}; its last one is {len(trace.tokens) - 1}.")
    return position


@torch.no_grad()
def returned_logits(loaded: Loaded, ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits (seq, vocab) that `transformers` returns for ids, with nothing recorded on the way."""
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    logits: NDArray[np.float32] = (
        loaded.model(batch, use_cache=False).logits[0].to("cpu", torch.float32).numpy()
    )
    return logits


def processors(filters: Filters) -> LogitsProcessorList:
    """transformers' own filters for the settings, in the order in which `generate` builds them."""
    chosen: list[LogitsProcessor] = []
    if filters.repetition_penalty != 1:
        chosen.append(RepetitionPenaltyLogitsProcessor(float(filters.repetition_penalty)))
    if filters.temperature != 1:
        chosen.append(TemperatureLogitsWarper(float(filters.temperature)))
    if filters.top_k:
        chosen.append(TopKLogitsWarper(filters.top_k))
    if filters.top_p is not None and filters.top_p < 1:
        chosen.append(TopPLogitsWarper(filters.top_p))
    if filters.min_p:
        chosen.append(MinPLogitsWarper(filters.min_p))
    return LogitsProcessorList(chosen)


def reference(logits: object, ids: Sequence[int], filters: Filters) -> Float:
    """Probabilities after transformers' own filters in float64, from one position's logits; shape vocab."""
    scores = torch.tensor(np.asarray(logits), dtype=torch.float64)[None]
    seen: Any = torch.tensor([list(ids)])
    result: Float = processors(filters)(seen, scores).softmax(-1)[0].numpy()
    return result


def settings(filters: Filters) -> dict[str, float]:
    """The settings that change something, under the names of `generate`'s arguments, in its order."""
    named = {
        "repetition_penalty": filters.repetition_penalty if filters.repetition_penalty != 1 else None,
        "temperature": filters.temperature if filters.temperature != 1 else None,
        "top_k": filters.top_k or None,
        "top_p": filters.top_p if filters.top_p is not None and filters.top_p < 1 else None,
        "min_p": filters.min_p or None,
    }
    return {name: value for name, value in named.items() if value is not None}


_CLASSES = {
    "repetition_penalty": "RepetitionPenaltyLogitsProcessor",
    "temperature": "TemperatureLogitsWarper",
    "top_k": "TopKLogitsWarper",
    "top_p": "TopPLogitsWarper",
    "min_p": "MinPLogitsWarper",
}


def filter_lines(filters: Filters) -> str:
    """Lines of a script that define `filters`, a list of (name, transformers' class for it with its setting)."""
    chosen = settings(filters)
    names = ", ".join(_CLASSES[name] for name in chosen)
    head = f"from transformers import {names}\n" if names else ""
    made = "".join(f"    ({name!r}, {_CLASSES[name]}({value!r})),\n" for name, value in chosen.items())
    return f"{head}filters = [\n{made}]\n" if made else "filters = []\n"


def script(loaded: Loaded, ids: Sequence[int], *parts: str) -> str:
    """A *Code* script: the model and the ids, then the given parts."""
    return preamble(loaded, ids) + "\n" + "\n".join(dedent(part).strip("\n") for part in parts) + "\n"


FORWARD = """
    with torch.no_grad():
        logits = model(ids).logits[0].double()  # seq, vocab
"""
