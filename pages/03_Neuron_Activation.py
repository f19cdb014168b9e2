"""3 · Neuron activation — one neuron from its input to its effect on the next token."""

import math
from collections.abc import Callable

import numpy as np
import streamlit as st

from engine.chapters import c03_neurons as cards
from engine.chapters.c03_neurons.questions import ASKED
from engine.evidence.card import Card
from engine.model.interventions import ClampNeuron
from engine.ops.neurons import ACTIVATIONS, standout, strongest
from engine.tokens.text import markdown
from pages._shared import Beat, View, chapter
from pages._shared.choices import pick
from pages._shared.work import Progress, Work

STANDOUT, STRONGEST = "standout", "strongest"


def pick_neuron(view: View) -> int:
    """The neuron of the layer: by number, or chosen by the focus token. It holds for the whole chapter."""
    layer, focus = view.state.layer, view.state.focus
    found: dict[str, int] = view.work(
        "Reading the prompt", (layer, focus), lambda progress: remarkable(view, layer, focus)
    )
    says = {
        STANDOUT: f"{found[STANDOUT]}: most above its average here",
        STRONGEST: f"{found[STRONGEST]}: the strongest here",
    }
    chosen = pick(
        view,
        "neuron",
        f"Neuron (0–{view.loaded.spec.d_ff - 1}: type a number)",
        [*found, *map(str, range(view.loaded.spec.d_ff))],
        STANDOUT,
        format_func=lambda name: says.get(name, name),
    )
    return found[chosen] if chosen in found else int(chosen)


def remarkable(view: View, layer: int, focus: int) -> dict[str, int]:
    """The neurons that the focus token chooses."""
    acts = view.trace.mlp_act[layer]
    return {STANDOUT: standout(acts, focus), STRONGEST: strongest(acts[focus])}


def toy(view: View) -> Callable[[], Card]:
    with view.controls:
        activation = view.segments("act", "Activation", ACTIVATIONS, "ReLU")
        first, second, third = st.columns(3)
        with first:
            x1 = view.slider("x1", "Input x1", -2.0, 2.0, 1.0, 0.1)
            w1 = view.slider("w1", "Weight w1", -2.0, 2.0, 1.5, 0.1)
        with second:
            x2 = view.slider("x2", "Input x2", -2.0, 2.0, 0.5, 0.1)
            w2 = view.slider("w2", "Weight w2", -2.0, 2.0, -1.0, 0.1)
        with third:
            bias = view.slider("b", "Bias b", -3.0, 3.0, 0.5, 0.1)
    return lambda: cards.toy_neuron((x1, x2), (w1, w2), bias, activation)


def weighted_sum(view: View) -> Callable[[], Card]:
    side = "up"
    with view.controls:
        neuron = pick_neuron(view)
        if view.loaded.spec.gated:
            side = view.segments("side", "Matrix", ("gate", "up"))
    return lambda: cards.contributions(
        view.loaded, view.trace, view.state.layer, neuron, view.state.focus, f"{side}_proj"
    )


def activation(view: View) -> Callable[[], Card]:
    with view.controls:
        neuron = pick_neuron(view)
    return lambda: cards.activation(view.loaded, view.trace, view.state.layer, neuron, view.state.focus)


def contexts(view: View) -> Callable[[], list[Card]]:
    with view.controls:
        neuron = pick_neuron(view)
        end = view.segments("end", "Show the", ("highest", "lowest"))
        read = cards.was_surveyed(view.loaded) or view.asked("Read the sample text", (), survey(view))

    def both() -> list[Card]:
        loaded, trace, layer = view.loaded, view.trace, view.state.layer
        shown = [cards.over_prompt(loaded, trace, layer, neuron)]
        if read:
            found = cards.surveyed(loaded)
            shown.insert(0, cards.top_tokens(loaded, trace, found, layer, neuron, end == "lowest"))
        return shown

    return both


def survey(view: View) -> Work:
    """Reads the sample text into the engine's cache; a result of many megabytes is nothing for a page to hold."""

    def do(progress: Progress) -> bool:
        cards.surveyed(view.loaded, progress)
        return True

    return do


def direction(view: View) -> Callable[[], Card]:
    with view.controls:
        neuron = pick_neuron(view)
    return lambda: cards.direction(view.loaded, view.trace, view.state.layer, neuron, view.state.focus)


def clamp(view: View) -> Callable[[], Card]:
    layer = view.state.layer
    with view.controls:
        neuron = pick_neuron(view)
        reach: float = view.work("Reading the prompt", layer, lambda progress: reach_of(view, layer))
        value = view.slider(
            "value", "Hold the activation at", -reach, reach, 0.0, reach / 40, of=(layer, f"{reach:g}")
        )
    change = ClampNeuron(layer, neuron, value)
    return lambda: cards.clamped(
        view.loaded, view.trace, view.capture(interventions=(change,)), change, view.state.focus
    )


def reach_of(view: View, layer: int) -> float:
    """Four times the largest activation of the layer in the prompt, rounded up to 1, 2 or 5 times a power of ten."""
    top = 4 * float(np.abs(np.nan_to_num(view.trace.mlp_act[layer], posinf=0, neginf=0)).max()) or 1.0
    power = 10.0 ** math.floor(math.log10(top))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= top)


def focus(view: View) -> str:
    """The focus token as markdown."""
    return f"**{markdown(view.tokens[view.state.focus].display)}**"


def sum_prose(view: View) -> str:
    spec = view.loaded.spec
    inputs = (
        "the input of the block" if spec.parallel else "the residual stream after attention has written to it"
    )
    place = {
        "before": f"behind the block’s second {spec.norm}",
        "shared": f"behind the block’s {spec.norm}",
        "behind": "with no norm in between",
    }[spec.norms]
    sides = (
        "This MLP is gated, so every neuron has **two** columns of weights and makes two sums from the same input: "
        "its **gate** and its **up**."
        if spec.gated
        else "The sum is the neuron’s **pre-activation**."
    )
    return f"""
        Each of the {spec.n_layer} blocks has an MLP with {spec.d_ff:,} neurons. A real neuron is the toy with more
        inputs: {spec.d_model} numbers, which are {inputs} at one token, {place}. It
        multiplies each by a weight of its own and adds up. {sides} Below: the largest products at {focus(view)}, all
        others together, and the sum.
    """


def activation_prose(view: View) -> str:
    spec = view.loaded.spec
    name = markdown(cards.activation_name(view.loaded))
    if spec.gated:
        return f"""
            This model’s MLP is gated: {name} bends the **gate**, and the result is multiplied by **up**. The gate
            decides how far the neuron opens, up decides what goes through, and its sign: so the activation can be
            large in both directions. Dashed: {name} alone. Solid: the same, times this token’s up. (With SiLU this
            is called SwiGLU: [Shazeer 2020](https://arxiv.org/abs/2002.05202).)
        """
    shape = (
        ""
        if name == "tanh"
        else "Far to the right the curve is nearly the identity, far to the left nearly zero."
    )
    return f"""
        This model bends the sum with **{name}** (its config says {markdown(spec.activation)}). {shape} Without a bend
        the MLP’s two matrices could be multiplied into one, and the neuron would say nothing that a linear map cannot
        say.
    """


def direction_prose(view: View) -> str:
    norm = view.loaded.spec.norm
    return f"""
        A neuron has as many output weights as the stream has numbers: its row of W_down, the **direction** in which
        it writes. The activation says how far. Sent straight through the final {norm} (gain included, its scale held
        at {focus(view)}) and the unembedding, the direction is a vote on the next token. This is the **direct**
        effect only: blocks after layer {view.state.layer} read the write too.
    """


def contexts_prose(view: View) -> str:
    return f"""
        Read a text, and list the tokens at which a neuron is most active: here your prompt and, at the press of a
        button, a tale of a few pages, for all {view.loaded.spec.d_ff:,} neurons of every layer at once. The same token
        again and again speaks for a detector of that token; a mixture says that the neuron takes part in several
        things, or that the list is too short.
    """


chapter(
    number=3,
    title="Neuron activation",
    question="What does a single neuron do?",
    lead=(
        "A neuron multiplies, adds, bends, and writes. That is all of it, and here it is done with one real neuron of "
        "the loaded model: from the numbers it reads at one token of your prompt to what changes in the prediction "
        "when it is held still."
    ),
    bar=("focus", "layer"),
    beats=[
        Beat(
            "toy",
            "A neuron is a weighted sum and a bend",
            prose="""
            Every input is multiplied by a weight, the products and a **bias** are added, and the sum goes through a
            fixed curve, the **activation function**. The weights say which inputs count and in which direction; the
            bias moves the point at which the neuron begins to respond; the curve makes it more than a linear map.
            """,
            draw=toy,
            try_this="Move only the bias until ReLU gives 0. Then switch to GELU and SiLU: both still let a little "
            "through, and a little of it is negative.",
        ),
        Beat(
            "sum",
            "A real neuron sums a product for every number of the stream",
            prose=sum_prose,
            draw=weighted_sum,
            try_this="Choose another token in the bar and keep the neuron’s number: the weights stay, the inputs "
            "change. Do the same dimensions matter?",
        ),
        Beat(
            "activation",
            "The bend decides how much of the sum gets through",
            prose=activation_prose,
            draw=activation,
            try_this="Type the number of another neuron. Is it as active at this token?",
        ),
        Beat(
            "contexts",
            "Its most active tokens hint at what it looks for",
            prose=contexts_prose,
            draw=contexts,
            try_this="Compare a neuron of the first layer with one of the last. Then look at the lowest activations: "
            "in a gated MLP they can be as large as the highest.",
        ),
        Beat(
            "direction",
            "It writes in one direction, which votes on the next token",
            prose=direction_prose,
            draw=direction,
            try_this="Go to the last layer, where nothing but the final norm stands between the write and the vote. "
            "In early layers, expect less that can be read.",
        ),
        Beat(
            "clamp",
            "Hold it at a value, and the prediction moves",
            prose="""
            The direct vote is not the whole effect. So take the neuron’s activation away from the model: hold it at
            one value at **every** token, run the rest as it is, and compare what comes out. At zero the neuron is
            silenced. One neuron among thousands seldom changes much; far outside its usual range it can.
            """,
            draw=clamp,
            try_this="Move the value from one end to the other, and watch which tokens rise. Are they those that its "
            "direction promotes?",
        ),
    ],
    asks=ASKED,
)
