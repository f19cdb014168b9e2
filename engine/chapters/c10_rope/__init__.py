"""Chapter 10: rotary position embedding, and learned positions beside it."""

from engine.chapters.c10_rope.beyond import beyond, readable
from engine.chapters.c10_rope.by_pair import by_pair
from engine.chapters.c10_rope.distance import LONGEST, NEAR, distance, looking_back, previous_head
from engine.chapters.c10_rope.ladder import ladder
from engine.chapters.c10_rope.pair import pair
from engine.chapters.c10_rope.rotation import rotation
from engine.chapters.c10_rope.shift import learned, room, rotated
from engine.chapters.c10_rope.theta import REACHES, theta_decay, theta_ladder, thetas
from engine.chapters.c10_rope.turned import turned

__all__ = [
    "LONGEST",
    "NEAR",
    "REACHES",
    "beyond",
    "by_pair",
    "distance",
    "ladder",
    "learned",
    "looking_back",
    "pair",
    "previous_head",
    "readable",
    "room",
    "rotated",
    "rotation",
    "theta_decay",
    "theta_ladder",
    "thetas",
    "turned",
]
