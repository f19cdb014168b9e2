"""Cards of chapter 14: what the key/value cache holds, saves and forgets."""

from engine.chapters.c14_context.batching import batched
from engine.chapters.c14_context.batching import measure as measure_batches
from engine.chapters.c14_context.decode import same_answers, work_per_step
from engine.chapters.c14_context.growing import growing
from engine.chapters.c14_context.memory import held_bytes, large_models
from engine.chapters.c14_context.sharing import SIZES, Shared, begin, shared, usual_length, usual_size
from engine.chapters.c14_context.speculating import (
    ECHO,
    PARTNERS,
    Round,
    beginning,
    by_model,
    same_tokens,
    speculate,
    speculative,
)
from engine.chapters.c14_context.window import about_length, forgotten, sinks

__all__ = [
    "ECHO",
    "PARTNERS",
    "SIZES",
    "Round",
    "Shared",
    "about_length",
    "batched",
    "begin",
    "beginning",
    "by_model",
    "forgotten",
    "growing",
    "held_bytes",
    "large_models",
    "measure_batches",
    "same_answers",
    "same_tokens",
    "shared",
    "sinks",
    "speculate",
    "speculative",
    "usual_length",
    "usual_size",
    "work_per_step",
]
