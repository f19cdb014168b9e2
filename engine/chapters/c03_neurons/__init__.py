"""Cards of chapter 3: one neuron from its input to its effect."""

from engine.chapters.c03_neurons.contexts import over_prompt, top_tokens
from engine.chapters.c03_neurons.direction import direction, longest
from engine.chapters.c03_neurons.sums import activation, contributions
from engine.chapters.c03_neurons.survey import survey, surveyed, was_surveyed
from engine.chapters.c03_neurons.toy import toy_neuron
from engine.chapters.shared.changed import clamped
from engine.model.neuron import activation_name, mlp_input

__all__ = [
    "activation",
    "activation_name",
    "clamped",
    "contributions",
    "direction",
    "longest",
    "mlp_input",
    "over_prompt",
    "survey",
    "surveyed",
    "top_tokens",
    "toy_neuron",
    "was_surveyed",
]
