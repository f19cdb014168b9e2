"""What the process keeps for all sessions: loaded checkpoints, and traces through `engine.model.cache`."""

import gc
import threading
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine import Loaded, Token, Trace

TOKENS_SHOWN = 128
"""The pages look at the first tokens of a prompt, at most so many."""

KEPT_BYTES = 1_200_000_000
"""Weights that may stay in memory; the least recently used leave first. One that is larger stays alone."""

_models: "OrderedDict[tuple[str, str], Loaded]" = OrderedDict()
_models_lock = threading.Lock()
_one_at_a_time = threading.Lock()


def in_memory(name: str, precision: str) -> bool:
    """Whether this checkpoint at this precision can be had without loading it."""
    return (name, precision) in _models


def loaded(name: str, precision: str) -> "Loaded":
    """A checkpoint at a precision, loaded once for the process. Raises ReaderError when it cannot be loaded."""
    model = _recent(name, precision)
    if model is not None:
        return model
    with _one_at_a_time:
        model = _recent(name, precision)
        if model is None:
            from engine import load

            _set_libraries_aside()
            model = load(name, precision)
            _keep(name, precision, model)
    return model


@cache
def _set_libraries_aside() -> None:
    """Once: tell the garbage collector that all there is now, which is libraries, stays.

    Streamlit collects after every run, before its last messages leave. Walking torch and transformers each time would
    add a quarter of a second between a control and its figure.
    """
    gc.collect()
    gc.freeze()


def _recent(name: str, precision: str) -> "Loaded | None":
    with _models_lock:
        if (name, precision) not in _models:
            return None
        _models.move_to_end((name, precision))
        return _models[name, precision]


def _keep(name: str, precision: str, model: "Loaded") -> None:
    with _models_lock:
        _models[name, precision] = model
        while len(_models) > 1 and sum(m.nbytes for m in _models.values()) > KEPT_BYTES:
            _models.popitem(last=False)


def prompt_tokens(model: "Loaded", text: str) -> "tuple[tuple[Token, ...], int]":
    """The tokens of a prompt that the pages look at, and how many it has in all."""
    from engine import tokenize

    tokens = tokenize(model, text)
    return tokens[: min(TOKENS_SHOWN, model.spec.context)], len(tokens)


def prompt_trace(model: "Loaded", text: str, interventions: tuple[Any, ...] = ()) -> "Trace":
    """The trace of the tokens that the pages look at."""
    from engine.model.cache import traced

    tokens, _ = prompt_tokens(model, text)
    return traced(model, tuple(token.id for token in tokens), interventions)
