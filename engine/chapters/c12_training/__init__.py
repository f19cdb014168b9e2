"""Chapter 12: recorded runs as a story, their kept snapshots live, and a tiny model in training."""

from engine.chapters.c12_training.grokking import (
    about_grokking,
    grokked,
    grokking_seeds,
    grokking_steps,
    spread,
)
from engine.chapters.c12_training.induction import birth, heads_through
from engine.chapters.c12_training.lineage import about_lineage, pipeline, whole
from engine.chapters.c12_training.live import Stage, about_snapshots, stages
from engine.chapters.c12_training.prompt import next_token, surprisal
from engine.chapters.c12_training.pythia import (
    FIRST,
    MODELS,
    STEPS,
    about_steps,
    by_step,
    fetchable,
    here,
    name_of,
)
from engine.chapters.c12_training.recordings import (
    RUNS,
    SCORES,
    STORY,
    UNITS,
    about_clearest,
    clearest,
    mixed_in,
    recorded_steps,
    step_name,
    stories,
)
from engine.chapters.c12_training.scaling import AXES, about_scaling, by_scale
from engine.chapters.c12_training.story import Sample, expected, heads_at, last_stage, loss, sample, told
from engine.chapters.c12_training.twice import second_reading

__all__ = [
    "AXES",
    "FIRST",
    "MODELS",
    "RUNS",
    "SCORES",
    "STEPS",
    "STORY",
    "UNITS",
    "Sample",
    "Stage",
    "about_clearest",
    "about_grokking",
    "about_lineage",
    "about_scaling",
    "about_snapshots",
    "about_steps",
    "birth",
    "by_scale",
    "by_step",
    "clearest",
    "expected",
    "fetchable",
    "grokked",
    "grokking_seeds",
    "grokking_steps",
    "heads_at",
    "heads_through",
    "here",
    "last_stage",
    "loss",
    "mixed_in",
    "name_of",
    "next_token",
    "pipeline",
    "recorded_steps",
    "sample",
    "second_reading",
    "spread",
    "stages",
    "step_name",
    "stories",
    "surprisal",
    "told",
    "whole",
]
