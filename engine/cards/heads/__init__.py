"""Chapter 9: many heads beside each other, what kinds there are, and what happens without one."""

from engine.cards.heads.ablation import ablation
from engine.cards.heads.common import name, names
from engine.cards.heads.kinds import THRESHOLD, classes, found, score_map
from engine.cards.heads.maps import arcs, one_head, wall
from engine.cards.heads.repeats import half_length, pattern, repeated, second_time, strongest_heads
from engine.cards.heads.rollout import rollout, shares
from engine.cards.heads.sweep import Sweep, advance, ranked, sweep_map, sweep_of, sweep_ranking

__all__ = [
    "THRESHOLD",
    "Sweep",
    "ablation",
    "advance",
    "arcs",
    "classes",
    "found",
    "half_length",
    "name",
    "names",
    "one_head",
    "pattern",
    "ranked",
    "repeated",
    "rollout",
    "score_map",
    "second_time",
    "shares",
    "strongest_heads",
    "sweep_map",
    "sweep_of",
    "sweep_ranking",
    "wall",
]
