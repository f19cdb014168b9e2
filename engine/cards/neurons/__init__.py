"""Cards of chapters 3 and 4: one neuron from its input to its effect, and the network that it belongs to."""

from engine.cards.neurons.changed import clamped
from engine.cards.neurons.contexts import over_prompt, top_tokens
from engine.cards.neurons.designs import two_mlps
from engine.cards.neurons.direction import direction
from engine.cards.neurons.forward import mlp_pass
from engine.cards.neurons.kept import kept, sweep, swept
from engine.cards.neurons.network import EDGES, default_weight, toy_network
from engine.cards.neurons.neuron import activation_name, mlp_input
from engine.cards.neurons.sparse import mass, sparsity
from engine.cards.neurons.sums import activation, contributions
from engine.cards.neurons.survey import survey
from engine.cards.neurons.toy import toy_neuron

__all__ = [
    "EDGES",
    "activation",
    "activation_name",
    "clamped",
    "contributions",
    "default_weight",
    "direction",
    "kept",
    "mass",
    "mlp_input",
    "mlp_pass",
    "over_prompt",
    "sparsity",
    "survey",
    "sweep",
    "swept",
    "top_tokens",
    "toy_network",
    "toy_neuron",
    "two_mlps",
]
