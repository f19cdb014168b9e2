"""4 · Feed-forward network — thousands of neurons side by side, and how many of them are needed at once."""

from collections.abc import Callable

import streamlit as st

from engine.chapters import c04_mlp as cards
from engine.chapters.c04_mlp.questions import ASKED
from engine.checkpoints.catalogue import BUNDLED
from engine.evidence.card import Card
from engine.model.interventions import KeepTopNeurons
from engine.model.precisions import REFERENCE
from engine.ops.neurons import ACTIVATIONS
from engine.tokens.text import markdown
from pages._shared import Beat, View, chapter

GEVA = "https://arxiv.org/abs/2012.14913"
ELHAGE = "https://arxiv.org/abs/2209.10652"


def toy(view: View) -> Callable[[], Card]:
    edges = list(cards.EDGES)
    with view.controls:
        edge = view.select("edge", "Connection", edges, edges[4])
        weight = view.slider("weight", "Its weight", -2.0, 2.0, cards.default_weight(edge), 0.1, of=edge)
        left, right = st.columns(2)
        with left:
            first = view.slider("x1", "Input x1", -2.0, 2.0, 1.0, 0.1)
        with right:
            second = view.slider("x2", "Input x2", -2.0, 2.0, 0.5, 0.1)
        activation = view.segments("act", "Activation", ACTIVATIONS, "ReLU")
    return lambda: cards.toy_network((first, second), edge, weight, activation)


def real(view: View) -> Callable[[], Card]:
    return lambda: cards.mlp_pass(view.loaded, view.trace, view.state.layer, view.state.focus)


ONE, ALL = "one token", "all layers"


def sparsity(view: View) -> Callable[[], Card]:
    with view.controls:
        if view.segments("shown", "Show", (ONE, ALL)) == ONE:
            return lambda: cards.mass(view.loaded, view.trace, view.state.layer, view.state.focus)
        threshold = view.select_slider(
            "threshold",
            "Near zero: below this share of the token’s largest",
            (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
            0.1,
            format_func=lambda share: f"{share:.1%}",
        )
    return lambda: cards.sparsity(view.loaded, view.trace, threshold)


def keep(view: View) -> Callable[[], list[Card]]:
    d_ff = view.loaded.spec.d_ff
    ks = (0, *(2**i for i in range(d_ff.bit_length()) if 2**i < d_ff), d_ff)
    with view.controls:
        k = view.select_slider(
            "k",
            "Neurons kept in each MLP",
            ks,
            max(k for k in ks if 4 * k <= d_ff),
            of=d_ff,
            format_func=lambda k: f"{k:,}",
        )
        layers = (view.state.layer,) if view.toggle("one", "In one layer only") else None
        found = view.asked(
            "Measure every k",
            layers,
            lambda progress: cards.sweep(view.loaded, view.trace, layers, progress),
        )
    change = KeepTopNeurons(k, layers)

    def both() -> list[Card]:
        loaded, trace, position = view.loaded, view.trace, view.state.focus
        after = view.capture(interventions=(change,))
        shown = [cards.kept(loaded, trace, after, change, position)]
        if found is not None:
            shown.append(cards.swept(loaded, trace, found, position, k))
        return shown

    return both


def designs(view: View) -> Callable[[], list[Card]]:
    def both() -> list[Card]:
        models = [view.load(checkpoint=checkpoint.name, precision=REFERENCE) for checkpoint in BUNDLED]
        last = min(model.spec.n_layer for model in models) - 1
        return cards.two_mlps(
            [(model, view.capture(loaded=model)) for model in models], min(view.state.layer, last)
        )

    return both


def focus(view: View) -> str:
    """The focus token as markdown."""
    return f"**{markdown(view.tokens[view.state.focus].display)}**"


def real_prose(view: View) -> str:
    spec = view.loaded.spec
    name = markdown(cards.activation_name(view.loaded))
    middle = (
        f"Two matrices make **gate** and **up** of it, {spec.d_ff:,} numbers each, and {name}(gate) · up is what the "
        f"{spec.d_ff:,} neurons pass on."
        if spec.gated
        else f"W_up makes {spec.d_ff:,} sums of it, one for each neuron, and {name} bends them."
    )
    keys = "its columns of W_gate and W_up are" if spec.gated else "its column of W_up is"
    before, after = (", after the norm", "") if spec.norms != "behind" else ("", ", after a norm,")
    return f"""
        In the model, an MLP does the same to every token, each by itself: no other token is involved. Into it goes x,
        the {spec.d_model} numbers of {focus(view)} in the residual stream{before}. {middle} W_down adds up their output
        directions, and the result{after} is added to the residual stream. A neuron can be read as a key and a value:
        {keys} a pattern that it looks for in x, its row of W_down what it adds where the pattern is found. In this
        reading, the MLPs are the model’s memory ([Geva et al. 2021]({GEVA})). Seldom does one neuron stand for one
        thing: a layer can hold more patterns than it has neurons, each spread over several (*superposition*, [Elhage
        et al. 2022]({ELHAGE})).
    """


def sparsity_prose(view: View) -> str:
    return f"""
        All {view.loaded.spec.d_ff:,} neurons are computed at every token, but some are far more active than others.
        Here those of one layer are sorted, and the line shows how much of the **mass**, the sum of all magnitudes, the
        strongest carry. Two grey lines are there to compare with: neurons that are all equally active, and
        activations that are nothing but normally distributed noise. Only a layer whose line rises above that of noise
        concentrates its work on few neurons.
    """


def designs_prose(view: View) -> str:
    return """
        A plain MLP bends one sum for each neuron; a gated one multiplies two. Here your prompt goes through two
        checkpoints of this book at fp32, and the bar’s layer of each is compared (the last layer that both have, where
        the bar goes further). The plain one uses GELU, which never goes below −0.17: its neurons say “more” or nearly
        nothing. In the gated one a neuron’s output has a sign, and a closed gate (near zero) silences the neuron,
        however large up is. The price is a third matrix.
    """


chapter(
    number=4,
    title="Feed-forward network",
    question="What do thousands of neurons do together?",
    lead=(
        "Between two rounds of attention every token is alone with a feed-forward network, the MLP: two layers of "
        "weights with a bend in between. In every model offered here it holds more trained numbers than attention "
        "does. This chapter shows what these numbers do to one token, how unequally the neurons are active, and how "
        "many of them the prediction needs."
    ),
    bar=("focus", "layer"),
    beats=[
        Beat(
            "toy",
            "A layer of neurons is a matrix",
            prose="""
            A network of two inputs, three hidden neurons and two outputs is two matrix products with a bend between
            them. Every line is one weight, and every weight is one cell of a matrix: the row says where it comes from,
            the column where it goes.
            """,
            draw=toy,
            try_this="Follow one connection from the picture to its cell. With ReLU, make a hidden sum negative: "
            "nothing you do to that neuron’s outgoing weights matters any more.",
        ),
        Beat(
            "pass",
            "Each token’s vector is widened, bent and narrowed again",
            prose=real_prose,
            draw=real,
            try_this="Open the table for the shapes and sizes of the matrices. Then choose another token in the bar: "
            "the matrices stay, everything else changes.",
        ),
        Beat(
            "sparsity",
            "How unequally are the neurons active?",
            prose=sparsity_prose,
            draw=sparsity,
            try_this="Compare the first token of the prompt with a later one. Then show all layers: is there one whose "
            "activity is spread as evenly as noise?",
        ),
        Beat(
            "keep",
            "Keep the strongest, silence the rest, and read the difference",
            prose="""
            A small activation is not proof of a small effect, so it has to be tested. At every token only the k
            strongest neurons of each MLP may write; all others are set to zero. The **KL divergence** (in nats) says
            how far the distribution of the next token then is from that of the whole model; zero means that nothing
            was lost.
            """,
            draw=keep,
            try_this="Find the k from which on the favourite stays. Then switch to one layer only: which layer can do "
            "without its weak neurons most easily?",
        ),
        Beat(
            "designs",
            "A gate lets a neuron multiply",
            prose=designs_prose,
            draw=designs,
            try_this="Move the layer in the bar. Where are the activations of the gated model largest?",
        ),
    ],
    asks=ASKED,
    parts=("mlp",),
)
