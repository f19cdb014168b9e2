"""Chapter 13: versions of one checkpoint before and after post-training, on the same tokens."""

from engine.chapters.c13_post_training.drift import favourites, kl, names_of
from engine.chapters.c13_post_training.exam import QUESTIONS, answered, ask, asked, examine, marks
from engine.chapters.c13_post_training.family import Family, Version, by_label, family_of, parameters
from engine.chapters.c13_post_training.masked import loss
from engine.chapters.c13_post_training.pairwise import pair, preference
from engine.chapters.c13_post_training.recorded import (
    QUANTITIES,
    about_length,
    about_origin,
    about_reward,
    beta,
    dpo,
    kinds,
    measured,
    pairs,
    requests,
    sft,
    simple,
)
from engine.chapters.c13_post_training.requests import LONGEST, checked, prompt_ids, rendered, speaker
from engine.chapters.c13_post_training.scripts import listed
from engine.chapters.c13_post_training.tasks import (
    Task,
    answers,
    begun,
    ended,
    judgement,
    ready,
    task,
    with_and_without,
    words,
    writing,
)
from engine.chapters.c13_post_training.templated import template
from engine.tokens.chat import has_template

__all__ = [
    "LONGEST",
    "QUANTITIES",
    "QUESTIONS",
    "Family",
    "Task",
    "Version",
    "about_length",
    "about_origin",
    "about_reward",
    "answered",
    "answers",
    "ask",
    "asked",
    "begun",
    "beta",
    "by_label",
    "checked",
    "dpo",
    "ended",
    "examine",
    "family_of",
    "favourites",
    "has_template",
    "judgement",
    "kinds",
    "kl",
    "listed",
    "loss",
    "marks",
    "measured",
    "names_of",
    "pair",
    "pairs",
    "parameters",
    "preference",
    "prompt_ids",
    "ready",
    "rendered",
    "requests",
    "sft",
    "simple",
    "speaker",
    "task",
    "template",
    "with_and_without",
    "words",
    "writing",
]
