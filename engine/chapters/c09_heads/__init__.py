"""Chapter 9: many heads beside each other, what kinds there are, and what happens without one."""

from engine.chapters.c09_heads.ablation import ablation
from engine.chapters.c09_heads.circuit import circuit
from engine.chapters.c09_heads.copying import best_copier, copies, direct_effects, own_first
from engine.chapters.c09_heads.kinds import THRESHOLD, classes, found, score_map
from engine.chapters.c09_heads.looks import looks
from engine.chapters.c09_heads.maps import arcs, one_head, wall
from engine.chapters.c09_heads.naming import name, names
from engine.chapters.c09_heads.patching import (
    NAMES,
    Pair,
    Patched,
    patch,
    patching,
    random_pair,
    steps,
    tells_names,
    typed_pair,
)
from engine.chapters.c09_heads.repeats import pattern, repeated, second_time, strongest, strongest_heads
from engine.chapters.c09_heads.sweep import Sweep, advance, ranked, sweep_map, sweep_of, sweep_ranking
from engine.model.repeated import half_length, repeated_ids

__all__ = [
    "NAMES",
    "THRESHOLD",
    "Pair",
    "Patched",
    "Sweep",
    "ablation",
    "advance",
    "arcs",
    "best_copier",
    "circuit",
    "classes",
    "copies",
    "direct_effects",
    "found",
    "half_length",
    "looks",
    "name",
    "names",
    "one_head",
    "own_first",
    "patch",
    "patching",
    "pattern",
    "random_pair",
    "ranked",
    "repeated",
    "repeated_ids",
    "score_map",
    "second_time",
    "steps",
    "strongest",
    "strongest_heads",
    "sweep_map",
    "sweep_of",
    "sweep_ranking",
    "tells_names",
    "typed_pair",
    "wall",
]
