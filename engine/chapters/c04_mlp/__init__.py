"""Cards of chapter 4: the network that a neuron belongs to."""

from engine.chapters.c04_mlp.designs import two_mlps
from engine.chapters.c04_mlp.forward import mlp_pass
from engine.chapters.c04_mlp.kept import kept, sweep, swept
from engine.chapters.c04_mlp.network import EDGES, default_weight, toy_network
from engine.chapters.c04_mlp.sparse import mass, sparsity
from engine.model.neuron import activation_name, mlp_input

__all__ = [
    "EDGES",
    "activation_name",
    "default_weight",
    "kept",
    "mass",
    "mlp_input",
    "mlp_pass",
    "sparsity",
    "sweep",
    "swept",
    "toy_network",
    "two_mlps",
]
