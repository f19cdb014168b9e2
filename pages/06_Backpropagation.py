"""6 · Backpropagation — how a loss reaches every weight of the model, and what one step changes."""

from collections.abc import Callable

import streamlit as st

from engine.chapters import c06_backprop as cards
from engine.chapters.c06_backprop.questions import ASKED
from engine.evidence.card import Card
from engine.model.gradients import Example
from engine.model.loaded import Loaded
from engine.model.precisions import REFERENCE
from engine.tokens.text import markdown
from pages._shared import Beat, View, chapter, words


def graph(view: View) -> Callable[[], Card]:
    with view.controls:
        left, right = st.columns(2)
        with left:
            x = view.slider("x", "x", -2.0, 2.0, 0.5, 0.1)
            b = view.slider("b", "b", -2.0, 2.0, 0.3, 0.1)
        with right:
            w = view.slider("w", "w", -2.0, 2.0, 1.2, 0.1)
            t = view.slider("t", "t, the target", -2.0, 2.0, 0.4, 0.1)
        step = view.slider("step", "Step", 0, cards.STEPS, cards.STEPS)
    return lambda: cards.toy(x, w, b, t, step)


def loss(view: View) -> Callable[[], Card]:
    target = _target(view)
    return lambda: cards.loss(*_asked(view, target))


def norms(view: View) -> Callable[[], Card]:
    target = _target(view)
    with view.controls:
        measure = view.segments("measure", "Measure", list(cards.MEASURES), "length")
    return lambda: cards.norms(*_asked(view, target), measure)


def weight(view: View) -> Callable[[], Card]:
    target, layer = _target(view), view.state.layer
    titles = cards.matrices(view.loaded)
    with view.controls:
        matrix = view.select("matrix", "Matrix", list(titles), format_func=titles.__getitem__)
        rows, columns = view.work(
            "Looking up the matrix",
            (layer, matrix),
            lambda progress: cards.shape(_exact(view), layer, matrix),
        )
        left, right = st.columns(2)
        with left:
            row = view.number("row", "Row", 0, rows - 1, 0, of=rows)
        with right:
            column = view.number("column", "Column", 0, columns - 1, 0, of=columns)
        power = view.slider("power", "Step of the central difference: 10 to the", -12, 0, -4)
        reach = view.select_slider(
            "reach", "Curve drawn to ± this many typical weights", (1, 10, 100, 1000), 100
        )
    return lambda: cards.weight(
        *_asked(view, target), layer, matrix, (row, column), 10.0**power, float(reach)
    )


def blame(view: View) -> Callable[[], Card]:
    target = _target(view)
    with view.controls:
        order = view.segments("order", "Order", cards.ORDERS)
    return lambda: cards.blame(*_asked(view, target), order)


def step(view: View) -> Callable[[], Card]:
    target = _target(view)
    with view.controls:
        rate = view.select_slider(
            "rate", "Learning rate", cards.RATES, 1e-3, format_func=lambda rate: f"{rate:g}"
        )
    return lambda: cards.step(*_asked(view, target), rate)


def _target(view: View) -> str:
    """A field for a target of the reader's own; empty for the prompt's last token."""
    with view.controls:
        word = words.field(view, "word", "Target (empty: the prompt's own last token)")
    return word.text if word else ""


def _asked(view: View, target: str) -> tuple[Loaded, Example]:
    """In a worker: the checkpoint at fp32, and whose loss is taken."""
    exact = _exact(view)
    return exact, cards.example(exact, view.tokens, target)


def _exact(view: View) -> Loaded:
    return view.load(precision=REFERENCE)


def _about_loss(view: View) -> str:
    used = view.state.precision
    weights = (
        ""
        if used == REFERENCE
        else f"\n\nYou read at {markdown(used)}. Gradients need finer numbers, so from here on this chapter uses the "
        f"fp32 weights."
    )
    return f"""
    Cut off the last token of your prompt and ask the model for it. The **loss** is its surprisal, $-\\ln p$. With a
    target of your own, the whole prompt is read and your token is asked for.

    The backward pass begins with a difference: the derivative of the loss with respect to each logit is that token's
    probability, minus 1 at the target.{weights}
    """


def _about_norms(view: View) -> str:
    return f"""
    From the logits, the same rule that the toy showed runs back through all {view.loaded.spec.n_layer} blocks. One
    backward pass gives the derivative of the loss with respect to every one of the model's weights. As a
    vector, the gradient of a part points where its weights would raise the loss fastest, and its length says how fast.

    Each residual connection is an addition, so the gradient passes it unchanged: no block has to wait
    for what the blocks above let through.
    """


chapter(
    number=6,
    title="Backpropagation",
    question="How does a model find out which of its weights to change?",
    lead=(
        "Training asks one question of every weight: if you were a little larger, would the loss rise or fall? "
        "Backpropagation answers it for all weights at once, by the chain rule, in one pass from the end to the start."
    ),
    bar=("layer",),
    beats=[
        Beat(
            "graph",
            "Each operation needs to know only its own derivative",
            prose="""
            A neuron beside a residual path: $y = x + \\tanh(w x + b)$, and the loss $L = (y - t)^2$. Forwards, every
            node computes its value and its **local derivatives**: how much its output would move with each input.

            Backwards, every node multiplies the gradient that arrives by each local derivative and hands the product
            on. That is the **chain rule**. Where a value was used twice, as x is, what arrives adds up.
            """,
            draw=graph,
            try_this=(
                "Set the step to 0 and go through the pass one operation at a time. Then give b the value 2: tanh "
                "saturates, its local derivative shrinks, and w learns little."
            ),
        ),
        Beat(
            "loss",
            "The backward pass begins with probability minus truth",
            prose=_about_loss,
            draw=loss,
            try_this="Name a target that the model would never expect: its derivative comes close to −1.",
        ),
        Beat(
            "norms",
            "One pass gives the gradient of every part",
            prose=_about_norms,
            draw=norms,
            try_this="Ask for a target that fits and one that does not: the worse the guess, the longer the gradients.",
        ),
        Beat(
            "weight",
            "A derivative can be checked by nudging the weight",
            prose="""
            Nothing has to be believed. Take one weight, make it a little smaller and a little larger, and run the
            model both times: the **central difference** $\\frac{L(w + h) - L(w - h)}{2h}$ needs no chain rule at
            all. It costs two passes for one weight; backpropagation costs about as much for all of them.

            The straight line has the slope that autograd found. It touches the curve and then leaves it: a
            derivative is a promise about small steps only.
            """,
            draw=weight,
            try_this=(
                "Make the step 1, then 10⁻¹²: the central difference fails at both ends, by the curve's bend and by "
                "the rounding of float64."
            ),
        ),
        Beat(
            "blame",
            "The gradient also reaches the words you typed",
            prose="""
            The backward pass does not stop at the weights: it gives a derivative for the embedding of every token of
            the prompt. Its dot product with the embedding says how fast the loss would change if that token spoke a
            little louder. It is a first-order answer and no more: what a token would do if it were taken out
            altogether may differ.
            """,
            draw=blame,
            try_this="Change one word of the prompt, in the sidebar, and see whether the ranking moves.",
        ),
        Beat(
            "step",
            "One step helps the target and disturbs the rest",
            prose="""
            Gradient descent subtracts the gradient times a **learning rate** from every weight. Here one such step is
            taken on a private copy, for your prompt's target alone. The same weights also serve every other text, so
            three control prompts are read before and after. The shared model stays as it was.
            """,
            draw=step,
            try_this=(
                "Raise the learning rate one notch at a time. Compare how soon the target is as good as certain with "
                "how far the controls have moved by then."
            ),
        ),
    ],
    asks=ASKED,
)
