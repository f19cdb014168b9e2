"""Chapter 10: rotary position embedding, and learned positions beside it."""

from engine.cards.rope.distance import distance
from engine.cards.rope.ladder import ladder
from engine.cards.rope.pair import pair
from engine.cards.rope.rotation import rotation
from engine.cards.rope.shift import learned, room, rotated
from engine.cards.rope.theta import REACHES, theta_decay, theta_ladder, thetas
from engine.cards.rope.turned import turned

__all__ = [
    "REACHES",
    "distance",
    "ladder",
    "learned",
    "pair",
    "room",
    "rotated",
    "rotation",
    "theta_decay",
    "theta_ladder",
    "thetas",
    "turned",
]
