"""3 · Neuron activation — one neuron from its input to its effect on the next token."""

import math
from collections.abc import Callable

import numpy as np
import streamlit as st

from engine.chapters import c03_neurons as cards
from engine.chapters.c03_neurons.questions import ASKED
from engine.evidence.card import Card
from engine.model.interventions import ClampNeuron
from engine.model.neuron import act
from engine.ops.neurons import ACTIVATIONS, selective, strongest
from engine.tokens.text import markdown
from pages._shared import Beat, View, chapter
from pages._shared.choices import pick
from pages._shared.work import Progress, Work

SELECTIVE, STRONGEST = "selective", "strongest"


def pick_neuron(view: View) -> int:
    """The neuron of the layer: by number, or chosen by the focus token. It holds for the whole chapter."""
    layer, focus = view.state.layer, view.state.focus
    found: dict[str, int] = view.work(
        "Reading the prompt", (layer, focus), lambda progress: remarkable(view, layer, focus)
    )
    alone = found[SELECTIVE] != found[STRONGEST]
    says = {
        SELECTIVE: f"{found[SELECTIVE]}: strong mostly here"
        if alone
        else f"{found[SELECTIVE]}: the strongest here",
        STRONGEST: f"{found[STRONGEST]}: the strongest here",
    }
    chosen = pick(
        view,
        "neuron",
        f"Neuron (0–{view.loaded.spec.d_ff - 1}: type a number)",
        [*(found if alone else [SELECTIVE]), *map(str, range(view.loaded.spec.d_ff))],
        SELECTIVE,
        format_func=lambda name: says.get(name, name),
    )
    if chosen == SELECTIVE and alone:
        st.caption("The strongest of those that are near zero at half of the other tokens, or at more.")
    return found[chosen] if chosen in found else int(chosen)


def remarkable(view: View, layer: int, focus: int) -> dict[str, int]:
    """The neurons that the focus token chooses."""
    acts = view.trace.mlp_act[layer]
    return {SELECTIVE: selective(acts, focus), STRONGEST: strongest(acts[focus])}


def suggest_last(view: View) -> None:
    """A button that chooses the last layer, where another is chosen."""
    last = view.loaded.spec.n_layer - 1
    if view.state.layer != last:
        view.offer(
            f"Show layer {last}",
            f"No block comes after layer {last}, so there the direct effect is all there is.",
            {"layer": last},
        )


def suggest_longest(view: View) -> None:
    """A button that chooses the layer whose selective neuron writes most, compared with what it writes to."""
    focus = view.state.focus
    layer, share = view.work(
        "Reading the prompt",
        ("longest", focus),
        lambda progress: cards.longest(view.loaded, view.trace, focus),
    )
    if view.state.layer != layer:
        view.offer(
            f"Show layer {layer}",
            f"Of the neurons that respond to {focus_of(view)} in this way, one for each layer, that of layer {layer} "
            f"writes most: a vector {share:.0%} as long as the residual stream that leaves its block.",
            {"layer": layer},
        )


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
    suggest_last(view)
    return lambda: cards.direction(view.loaded, view.trace, view.state.layer, neuron, view.state.focus)


def clamp(view: View) -> Callable[[], Card]:
    layer = view.state.layer
    with view.controls:
        neuron = pick_neuron(view)
        reach: float = view.work("Reading the prompt", layer, lambda progress: reach_of(view, layer))
        value = view.slider(
            "value", "Hold the activation at", -reach, reach, 0.0, reach / 40, of=(layer, f"{reach:g}")
        )
    suggest_longest(view)
    change = ClampNeuron(layer, neuron, value)
    return lambda: cards.clamped(
        view.loaded, view.trace, view.capture(interventions=(change,)), change, view.state.focus
    )


def reach_of(view: View, layer: int) -> float:
    """Four times the largest activation of the layer in the prompt, rounded up to 1, 2 or 5 times a power of ten."""
    top = 4 * float(np.abs(np.nan_to_num(view.trace.mlp_act[layer], posinf=0, neginf=0)).max()) or 1.0
    power = 10.0 ** math.floor(math.log10(top))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= top)


def focus_of(view: View) -> str:
    """The focus token as markdown."""
    return f"**{markdown(view.tokens[view.state.focus].display)}**"


def sum_prose(view: View) -> str:
    spec = view.loaded.spec
    inputs = (
        "the stream as its block finds it"
        if spec.parallel
        else "the stream after attention has written to it"
    )
    place = {
        "before": f", after the block’s second {spec.norm}, which brings it to a common scale",
        "shared": f", after the block’s {spec.norm}, which brings it to a common scale",
        "behind": "",
    }[spec.norms]
    sides = (
        "This MLP is gated, so every neuron has **two** columns of weights and makes two sums from the same input: "
        "its **gate** and its **up**."
        if spec.gated
        else "The sum is the neuron’s **pre-activation**."
    )
    return f"""
        A real neuron of this model multiplies each of {spec.d_model} numbers by a weight of its own and adds up the
        products, as the toy did with two. The numbers are the **residual stream** of one token. It runs through all
        {spec.n_layer} **blocks** of the model; in each, attention adds what it brings from other tokens, and an MLP of
        {spec.d_ff:,} neurons adds what it makes of that token alone. The neuron reads {inputs}{place}. {sides}
        Shown are the largest products at {focus_of(view)}, all others together, and the sum.
    """


def activation_prose(view: View) -> str:
    spec = view.loaded.spec
    name = markdown(cards.activation_name(view.loaded))
    if spec.gated:
        return f"""
            This model’s MLP is gated: {name} bends the **gate**, and the result is multiplied by **up**. The gate
            decides how far the neuron opens, and up decides what goes through; its sign is kept while the gate is
            open, so the activation can be large in both directions. {leak(view)} Dashed: {name} alone. Solid: the
            same, times this token’s up. (With SiLU this is called SwiGLU:
            [Shazeer 2020](https://arxiv.org/abs/2002.05202).)
        """
    shape = (
        ""
        if name == "tanh"
        else "Far to the right the curve is nearly the identity, far to the left nearly zero."
    )
    return f"""
        This model bends the sum with **{name}** (its config says {markdown(spec.activation)}). {shape} Without the
        bend the MLP’s two matrices would collapse into one, and the whole MLP would be a linear map.
    """


def leak(view: View) -> str:
    """What a closed gate lets through, where the curve goes below zero."""
    lowest = float(act(view.loaded, np.linspace(-6.0, 0.0, 1201)).min())
    if lowest > -0.01:
        return ""
    low = f"{lowest:.2f}".replace("-", "−")
    return f"A closed gate still leaks a little with the sign turned: the curve goes down to {low}."


def direction_prose(view: View) -> str:
    spec, layer = view.loaded.spec, view.state.layer
    rest = (
        "No block comes after this one to read the write."
        if layer == spec.n_layer - 1
        else f"This is the **direct** effect only: the blocks after layer {layer} read the write too."
    )
    return f"""
        A neuron writes to the residual stream in one **direction**: its row of W_down, an output weight for each of the
        stream’s {spec.d_model} numbers. The activation says how far. At its end, the stream goes through the final
        {spec.norm} and the **unembedding**, which gives every token of the vocabulary a score, its **logit**, as the
        next one (chapter 5). Sent straight there (with the norm’s gain, its scale held at {focus_of(view)}), the
        direction is a vote on the next token. {rest}
    """


def contexts_prose(view: View) -> str:
    return f"""
        To see what a neuron responds to, list the tokens of a text at which it is most active. Here that is your
        prompt and, at the press of a button, a tale of a few pages, for all {view.loaded.spec.d_ff:,} neurons of every
        layer at once. The same token again and again suggests that the neuron detects that token; values that rise or
        fall steadily along your prompt, or places that all lie late in a window of the tale, suggest that it follows
        the position; a mixture means that it takes part in several things, or that the list is too short.
    """


chapter(
    number=3,
    title="Neuron activation",
    question="What does a single neuron do?",
    lead=(
        "A neuron multiplies, adds, bends and writes. That is all. This chapter follows one real neuron of the loaded "
        "model, from the numbers that it reads at one token of your prompt to its effect on the prediction."
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
            "A real neuron adds up hundreds of products",
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
            "A neuron’s most active tokens hint at what it looks for",
            prose=contexts_prose,
            draw=contexts,
            try_this="Compare a neuron of the first layer with one of the last. Then look at the lowest activations: "
            "in a gated MLP they can be as large as the highest.",
        ),
        Beat(
            "direction",
            "A neuron writes in one direction, which votes on the next token",
            prose=direction_prose,
            draw=direction,
            try_this="Compare the last layer, where nothing but the final norm stands between the write and the vote, "
            "with an early one: expect less there that can be read.",
        ),
        Beat(
            "clamp",
            "Hold a neuron at a value, and the prediction moves",
            prose="""
            Holding a neuron at one value shows its whole effect, not only its direct vote. The activation is set at
            **every** token, the rest runs as it is, and the two predictions are compared: their **KL divergence** is
            zero where nothing has changed (it is measured in nats, natural units of information). At zero the neuron
            is silenced. One neuron among thousands seldom changes much; far outside its usual range it can.
            """,
            draw=clamp,
            try_this="Move the value from one end to the other, and watch which tokens rise. Are they those that its "
            "direction raises?",
        ),
    ],
    asks=ASKED,
    parts=("mlp",),
)
