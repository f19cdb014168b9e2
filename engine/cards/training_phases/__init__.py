"""Chapter 12: recorded runs as a story, and their kept snapshots live."""

from engine.cards.training_phases.common import (
    RUNS,
    SCORES,
    STORY,
    UNITS,
    mixed_in,
    recorded_steps,
    step_name,
    stories,
)
from engine.cards.training_phases.grokking import (
    about_grokking,
    grokked,
    grokking_seeds,
    grokking_steps,
    spread,
)
from engine.cards.training_phases.induction import birth, heads_through
from engine.cards.training_phases.live import Stage, about_snapshots, stages
from engine.cards.training_phases.prompt import next_token, surprisal
from engine.cards.training_phases.story import Sample, expected, heads_at, last_stage, loss, sample, told
from engine.cards.training_phases.twice import second_reading

__all__ = [
    "RUNS",
    "SCORES",
    "STORY",
    "UNITS",
    "Sample",
    "Stage",
    "about_grokking",
    "about_snapshots",
    "birth",
    "expected",
    "grokked",
    "grokking_seeds",
    "grokking_steps",
    "heads_at",
    "heads_through",
    "last_stage",
    "loss",
    "mixed_in",
    "next_token",
    "recorded_steps",
    "sample",
    "second_reading",
    "spread",
    "stages",
    "step_name",
    "stories",
    "surprisal",
    "told",
]
