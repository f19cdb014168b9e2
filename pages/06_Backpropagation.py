"""6 · Backpropagation — how a loss reaches every weight of the model, and what one step changes."""

from collections.abc import Callable

import streamlit as st

from engine.chapters import c06_backprop as cards
from engine.chapters.c06_backprop.questions import ASKED
from engine.evidence.card import Card
from engine.model.gradients import Example
from engine.model.loaded import Loaded
from engine.model.precisions import REFERENCE
from engine.tokens.text import markdown, shorten
from pages._shared import Beat, View, chapter, words

LAST = "the last token"
LARGEST = "the one with the largest share"


def graph(view: View) -> Callable[[], Card]:
    with view.controls:
        step = view.slider("step", "Step", 0, cards.STEPS, cards.STEPS)
        left, right = st.columns(2)
        with left:
            x = view.slider("x", "x", -2.0, 2.0, 0.5, 0.1)
            b = view.slider("b", "b", -2.0, 2.0, 0.3, 0.1)
        with right:
            w = view.slider("w", "w", -2.0, 2.0, 1.2, 0.1)
            t = view.slider("t", "t, the target", -2.0, 2.0, 0.4, 0.1)
    return lambda: cards.toy(x, w, b, t, step)


def loss(view: View) -> Callable[[], Card]:
    target = _target(view)
    return lambda: cards.loss(*_asked(view, target))


def norms(view: View) -> Callable[[], Card]:
    target = _target(view)
    with view.controls:
        measure = view.segments("measure", "Measure", list(cards.MEASURES), "length")
    return lambda: cards.norms(*_asked(view, target), measure)


def outer(view: View) -> Callable[[], Card]:
    target, layer, tokens = _target(view), view.state.layer, view.tokens
    read = tokens if target or len(tokens) == 1 else tokens[:-1]
    with view.controls:
        place = view.select(
            "place",
            "Token",
            [-1, *range(len(read))],
            format_func=lambda i: LARGEST if i < 0 else f"{i}  {shorten(read[i].display, 24)}",
            of=(view.chosen.prompt, len(read)),
        )
    return lambda: cards.outer(*_asked(view, target), layer, None if place < 0 else place)


def weight(view: View) -> Callable[[], Card]:
    target, layer = _target(view), view.state.layer
    titles = cards.matrices(view.loaded)
    with view.controls:
        matrix = view.select("matrix", "Matrix", list(titles), format_func=titles.__getitem__)
        steep = view.toggle("steep", "The weight with the largest derivative", True)
        rows, columns, row, column = view.work(
            "Looking for the largest derivative",
            (layer, matrix, target),
            lambda progress: _steepest(view, target, layer, matrix),
        )
        if not steep:
            left, right = st.columns(2)
            with left:
                row = view.number("row", "Row", 0, rows - 1, row, of=(rows, row))
            with right:
                column = view.number("column", "Column", 0, columns - 1, column, of=(columns, column))
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
    small, fall = view.work(
        "Looking for a small step", target, lambda progress: cards.small_rate(*_asked(view, target))
    )
    with view.controls:
        rate = view.select_slider(
            "rate", "Learning rate", cards.RATES, small, of=small, format_func=lambda rate: f"{rate:g}"
        )
        st.caption(
            f"With {small:g} the straight line along the gradient falls by {fall:.2g} nats for this target."
        )
    return lambda: cards.step(*_asked(view, target), rate)


def _steepest(view: View, target: str, layer: int, matrix: str) -> tuple[int, ...]:
    """In a worker: the shape of a matrix, and the place of its weight with the largest derivative."""
    exact, asked = _asked(view, target)
    return *cards.shape(exact, layer, matrix), *cards.steepest(exact, asked, layer, matrix)


def _target(view: View) -> str:
    """What the reader chose or typed as the target; empty for the prompt's last token."""
    likely = view.work(
        "Looking for likely targets", "likely", lambda progress: cards.favourites(view.loaded, view.tokens)
    )
    with view.controls:
        chosen = view.segments(
            "likely",
            "Target: the prompt's last token, or one that the model expects after the prompt",
            [LAST, *likely],
            format_func=markdown,
            of=tuple(likely),
            pills=True,
        )
        word = words.field(view, "word", "Or another target")
    if word:
        return word.text
    return "" if chosen == LAST else chosen


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
        else f"\n\nYou chose {markdown(used)}. Gradients need finer numbers, so from here on this chapter uses the "
        f"fp32 weights."
    )
    return f"""
    The **loss** is the surprisal of the token that should have come next, $-\\ln p$. Here that token, the **target**,
    is the last one of your prompt, and the model reads the others. If you choose or type another target, the model
    reads the whole prompt and is asked for that token, or for the first one of your text.

    The backward pass begins with a difference: the derivative of the loss with respect to each logit is that token's
    probability, minus 1 at the target.{weights}
    """


def _about_norms(view: View) -> str:
    return f"""
    One backward pass gives the derivative of the loss with respect to every weight of the model. From the logits, the
    chain rule runs back through all {view.loaded.spec.n_layer} blocks. The **gradient** of a part is the vector of its
    weights' derivatives: it points where the loss rises fastest, and its length says how steep that rise is.

    Each residual connection is an addition, so the gradient passes it unchanged: even if the blocks above pass little
    back, the gradient still reaches every block along the residual stream.
    """


chapter(
    number=6,
    title="Backpropagation",
    question="How does a model find out which of its weights to change?",
    lead=(
        "Training asks one question about every weight: if it were a little larger, would the loss rise or fall? "
        "Backpropagation answers it for all weights at once, by the chain rule, in one pass from the end to the start."
    ),
    bar=("layer",),
    beats=[
        Beat(
            "graph",
            "Each operation needs to know only its own derivative",
            prose="""
            The graph computes a neuron beside a residual path, $y = x + \\tanh(w x + b)$, and its loss
            $L = (y - t)^2$. In the forward pass, every node computes its value and its **local derivatives**: how
            fast its output changes with each of its inputs.

            In the backward pass, every node multiplies the gradient that arrives by each local derivative and passes
            the product on. That is the **chain rule**. Where a value was used twice, as x is, its gradients add up.
            """,
            draw=graph,
            try_this=(
                "Set the step to 0 and go through the pass one operation at a time. Then give b the value 2: tanh "
                "saturates, its local derivative shrinks, and the gradient of w is small."
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
            try_this="Ask for a target that the model expects, then for two that it does not. A good guess gives short "
            "gradients; beyond that p − 1 cannot get past −1, and the lengths say little about how bad the guess was.",
        ),
        Beat(
            "outer",
            "For each token, the gradient of a matrix is an outer product",
            prose="""
            For a weight matrix, the chain rule multiplies two vectors: what went in, and the gradient that comes back.
            The weight from input $i$ to output $j$ multiplies $x_i$, so its derivative is $x_i$ times the gradient
            that arrives at output $j$. All of them together are the **outer product** of the two vectors.

            Every token of the prompt makes one such product, and the products add up; in training, so do those of all
            texts in a batch. The backward pass needs the inputs again, so training has to keep what the forward pass
            computed.
            """,
            draw=outer,
            try_this="Choose the last block in the bar: only the last token's output reaches the loss from there, so "
            "one product is the whole gradient. In block 0 it is a sum over many tokens.",
        ),
        Beat(
            "weight",
            "A derivative can be checked by nudging the weight",
            prose="""
            You need not take a derivative on trust: you can measure it. Make one weight a little smaller and a little
            larger, and run the model both times. The **central difference** $\\frac{L(w + h) - L(w - h)}{2h}$ needs no
            chain rule, but it takes two passes for one weight; a single backward pass gives the derivatives of all.

            The straight line has the slope that **autograd**, PyTorch's backpropagation, found. It touches the curve
            and then leaves it: a derivative describes small steps only.
            """,
            draw=weight,
            try_this=(
                "Make the step 1, then 10⁻¹²: the two derivatives part at both ends, at the first because the curve "
                "bends, at the second because float64 rounds the losses."
            ),
        ),
        Beat(
            "step",
            "One small step helps the target; every other text moves too",
            prose="""
            Gradient descent subtracts the gradient times a **learning rate** from every weight. Here a private copy
            of the model takes one such step, for your prompt's target alone. The same weights also serve every other
            text, so three control prompts are read before and after.
            """,
            draw=step,
            try_this=(
                "Raise the learning rate one notch at a time. At which rate does the target become almost certain, how "
                "far have the controls moved by then, and does a still larger step help or hurt?"
            ),
        ),
        Beat(
            "blame",
            "The gradient also reaches the words you typed",
            prose="""
            The backward pass does not stop at the weights: it also gives the gradient of the loss with respect to the
            embedding of every token of the prompt. Its dot product with the embedding says how fast the loss would
            change if that embedding were a little longer. Followed along a straight line to the point where
            nothing is left of the embedding, it predicts the loss without the token.

            The second bar is the measured change: the loss with this embedding set to zero, minus the loss as it is.
            The two can differ much, even in sign, because taking a token out is not a small step.
            """,
            draw=blame,
            try_this="Find the token with the largest measured change. Did its gradient announce it?",
        ),
    ],
    asks=ASKED,
    parts=("training",),
)
