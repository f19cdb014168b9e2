"""Cards of chapters 3 and 4: one neuron from its input to its effect, and the network that it belongs to."""

from engine.cards.neurons.changed import clamped
from engine.cards.neurons.contexts import over_prompt, top_tokens
from engine.cards.neurons.direction import direction
from engine.cards.neurons.neuron import activation_name
from engine.cards.neurons.sums import activation, contributions
from engine.cards.neurons.survey import survey
from engine.cards.neurons.toy import toy_neuron

__all__ = [
    "activation",
    "activation_name",
    "clamped",
    "contributions",
    "direction",
    "over_prompt",
    "survey",
    "top_tokens",
    "toy_neuron",
]
