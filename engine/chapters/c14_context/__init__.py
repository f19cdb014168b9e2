"""Cards of chapter 14: what the key/value cache holds, saves and forgets."""

from engine.chapters.c14_context.decode import same_answers, work_per_step
from engine.chapters.c14_context.growing import growing
from engine.chapters.c14_context.memory import held_bytes, large_models
from engine.chapters.c14_context.window import about_length, forgotten, sinks

__all__ = [
    "about_length",
    "forgotten",
    "growing",
    "held_bytes",
    "large_models",
    "same_answers",
    "sinks",
    "work_per_step",
]
