"""7 · Optimizers — how gradients become steps, on made-up surfaces and in the real model."""

from collections.abc import Callable

import streamlit as st

from engine.chapters import c07_optimizers as cards
from engine.chapters.c05_sampling import surprisal
from engine.chapters.c07_optimizers.questions import ASKED
from engine.evidence.card import Card
from engine.model.cache import traced
from engine.model.loaded import Loaded
from engine.model.precisions import REFERENCE
from engine.ops.optimizers import SCHEDULES, SURFACES, VECTOR
from engine.tokens.text import markdown
from pages._shared import Beat, View, chapter

MOST = 64  # tokens of the prompt that a copy is trained on


def surface(view: View) -> Callable[[], list[Card]]:
    with view.controls:
        name = view.segments("surface", "Surface", list(SURFACES), "ravine")
        ground = SURFACES[name]
        left, right, bottom, top = (float(edge) for edge in ground.window)
        x0, y0 = (float(number) for number in ground.start)
        one, two = st.columns(2)
        with one:
            x = view.slider("x", "Start x", left, right, x0, 0.01, of=name)
        with two:
            y = view.slider("y", "Start y", bottom, top, y0, 0.01, of=name)
        chosen = view.several("optimizers", "Optimizers", VECTOR, ["SGD", "Momentum", "Adam"], pills=True)
        rate = None if view.toggle("best", "Each at its best learning rate", True) else _rate(view, 0.03)
        steps = view.slider("steps", "Steps", 5, 200, 60)
        schedule = view.select("schedule", "Schedule of the rate", list(SCHEDULES))
    return lambda: cards.surface(name, (x, y), chosen, rate, steps, schedule)


def curvature(view: View) -> Callable[[], Card]:
    with view.controls:
        rate = view.slider("rate", "Learning rate", 0.005, 0.1, 0.06, 0.001, format="%.3f")
    return lambda: cards.curvature(rate)


def momentum(view: View) -> Callable[[], list[Card]]:
    with view.controls:
        beta = view.select_slider("beta", "β, the share of the last step that is kept", cards.BETAS, 0.6)
        rate = view.select_slider("rate", "Learning rate", cards.MOMENTUM_RATES, 0.08)
    return lambda: cards.momentum(beta, rate)


def turned(view: View) -> Callable[[], list[Card]]:
    with view.controls:
        degrees = view.select_slider("degrees", "Turn the ravine by (degrees)", cards.ANGLES, 45)
        usual = ["SGD", "RMSProp", "Adam"]
        chosen = view.several("optimizers", "Optimizers", cards.TURNABLE, usual, pills=True)
        steps = view.slider("steps", "Steps", 10, 60, 40, 5)
    return lambda: cards.turned(degrees, chosen, steps)


def schedules(view: View) -> Callable[[], list[Card]]:
    with view.controls:
        rate = view.slider("rate", "Highest learning rate", 0.005, 0.075, 0.06, 0.005, format="%.3f")
        noise = view.slider("noise", "Noise on each derivative", 0.0, 5.0, 2.0, 0.5)
        steps = view.slider("steps", "Steps", 20, 300, 150, 10)
    return lambda: cards.noisy(rate, noise, steps, view.state.seed)


def muon(view: View) -> Callable[[], list[Card]]:
    with view.controls:
        condition = view.select_slider(
            "condition",
            "Variance of the strongest input over the weakest",
            (1, 10, 100, 1000, 10000),
            100,
        )
        factor = _factor(view)
        steps = view.slider("steps", "Steps", 10, 200, 100, 10)
    return lambda: cards.matrix(float(condition), factor, steps, view.state.seed)


def plane(view: View) -> Callable[[], Card | list[Card]]:
    seed = view.state.seed
    with view.controls:
        one, two = st.columns(2)
        with one:
            a = view.slider("a", "Start 1", -cards.REACH, cards.REACH, 0.6, 0.05)
        with two:
            b = view.slider("b", "Start 2", -cards.REACH, cards.REACH, -0.5, 0.05)
        factor = _factor(view)
        steps = view.slider("steps", "Steps", 5, 40, 15, 5)
        found = view.asked(
            "Measure the plane",
            (seed, a, b, factor, steps),
            lambda progress: cards.survey(*_text(view), seed, (a, b), factor, steps, progress),
        )
        if found is None:
            return lambda: cards.cuts(*_text(view), seed)
        names = list(found.paths)
        shown = view.several("shown", "Paths", names, names, pills=True)

    def make() -> list[Card]:
        loaded, ids = _text(view)
        return [cards.plane(loaded, ids, seed, (a, b), found, shown), cards.cuts(loaded, ids, seed)]

    return make


def one_text(view: View) -> Callable[[], Card | list[Card]]:
    with view.controls:
        usual = ["SGD", "Momentum", "Adam", "Muon"]
        chosen = view.several("optimizers", "Optimizers", list(cards.RATES), usual, pills=True)
        factor = _factor(view)
        steps = view.slider("steps", "Steps", 5, 60, 20, 5)
    names = tuple(name for name in cards.RATES if name in chosen)
    if not names:
        return lambda: _before(view)
    with view.controls:
        runs = view.asked(
            "Train copies on your sentence",
            (names, factor, steps),
            lambda progress: cards.trained(*_text(view), names, factor, steps, progress),
        )
        if runs is None:
            return lambda: _before(view)
        name = view.segments("after", "Surprisal after training with", names, of=names)
    run = next(run for run in runs if run.optimizer == name)

    def make() -> list[Card]:
        loaded, ids = _text(view)
        return [
            cards.curves(loaded, ids, runs),
            cards.changed(loaded, ids, run),
            cards.writing(loaded, ids, runs),
        ]

    return make


def _before(view: View) -> Card:
    """The surprisal of the text that is to be learned, before any training."""
    loaded, ids = _text(view)
    return surprisal.prompt(loaded, traced(loaded, ids))


def _rate(view: View, usual: float) -> float:
    choices = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.2, 0.5, 1.0)
    return view.select_slider("rate", "Learning rate", choices, usual)


def _factor(view: View) -> float:
    return view.select_slider("factor", "All learning rates times", (0.1, 0.3, 1.0, 3.0, 10.0, 30.0), 1.0)


def _text(view: View) -> tuple[Loaded, tuple[int, ...]]:
    """The checkpoint at fp32 and the ids of the prompt. For a worker's thread: it loads."""
    return view.load(precision=REFERENCE), tuple(token.id for token in view.tokens)[:MOST]


def _about_plane(view: View) -> str:
    loaded = view.loaded
    return f"""
    The loss of {markdown(loaded.name)} on your prompt is a surface too, with as many dimensions as there are weights.
    Two random directions through the weights of block {loaded.spec.n_layer - 1} span a plane in it
    ([Li et al. 2018](https://arxiv.org/abs/1712.09913)). The trained weights are in the middle.

    The button measures the loss on a grid and lets the optimizers walk from your start, with the model's own
    gradients. A random plane shows little of the way that training took, so take it as a glimpse. Muon is missing: it
    acts on matrices, and a point in a plane is not one.
    {_fp32(view)}
    """


def _about_one_text(view: View) -> str:
    return f"""
    Each optimizer trains a private copy of the model, with all of its weights, on one text: your prompt (at most
    its first {MOST} tokens). The loss falls because the copy learns the text by heart, and what it writes after the
    first words shows this. Where a rate is too large at first, the loss rises before it falls.

    Muon trains the matrices inside the blocks, and AdamW the embeddings, norms and biases, as Muon's authors advise
    ([Jordan et al. 2024](https://kellerjordan.github.io/posts/muon/)).
    {_fp32(view)}
    """


def _fp32(view: View) -> str:
    if view.state.precision == REFERENCE:
        return ""
    return f"You chose {markdown(view.state.precision)}; gradients need finer numbers, so this uses the fp32 weights."


chapter(
    number=7,
    title="Optimizers",
    question="How does a gradient become a step?",
    lead=(
        "The gradient tells every weight which way the loss rises. An optimizer decides how far to go, and what to "
        "remember of earlier gradients. Here the optimizers of PyTorch walk over made-up surfaces first, and then "
        "over the real model's loss."
    ),
    bar=("seed",),
    beats=[
        Beat(
            "surface",
            "Every optimizer takes its own way down",
            prose="""
            All optimizers aim downhill, but each makes its steps from the gradients in its own way. **SGD**
            (stochastic gradient descent) steps against the gradient. **Momentum** keeps a share of its last step, and
            **Nesterov** looks ahead along it. **RMSProp** divides each coordinate's derivative by its recent size;
            **Adam** does that and keeps momentum, so that it moves each coordinate by about the rate at first, whatever
            the gradient; **AdamW** also shrinks the weights, which helps it in the ravine here, whose minimum is at
            the origin. In a ravine the gradient points mostly across it, and there the optimizers behave differently.

            One learning rate for all would compare unlike things: with momentum, steps in one direction add up to ten
            times the rate. So at first each optimizer walks at the rate, of eleven, with which it ends lowest.
            """,
            draw=surface,
            try_this=(
                "Give all the same rate, and raise it until a path leaves the window. Then take the saddle and set "
                "y to 0: the gradient's y part is exactly zero, and no optimizer leaves the ridge."
            ),
        ),
        Beat(
            "curvature",
            "Past a limit, a larger step does not learn faster: it explodes",
            prose="""
            On a parabola of curvature $c$, a step of gradient descent with the learning rate $\\eta$ multiplies the
            distance from the minimum by $1 - \\eta c$. Below a rate of $2/c$ the distance shrinks; above it, every step
            lands further away on the other side. In a ravine the steepest direction sets the limit, and the flattest
            one converges slowly.
            """,
            draw=curvature,
            try_this="Find the rate at which both lines fall equally fast. Then go past 0.08.",
        ),
        Beat(
            "momentum",
            "Momentum goes faster along a ravine and bears larger steps",
            prose="""
            Momentum keeps a share β of its last step and adds the new gradient to it. Steps in one direction add up,
            to as much as $1/(1-\\beta)$ times the rate, and steps to and fro across the ravine partly cancel, so that
            the steep direction bears a rate of up to $2(1+\\beta)/c$. On a parabola of curvature $c$ each step in the
            long run multiplies the distance by the larger root, in size, of
            $\\lambda^2 - (1 + \\beta - \\eta c)\\,\\lambda + \\beta = 0$
            ([Goh 2017](https://distill.pub/2017/momentum/)). Too much momentum is no help: the path then swings past
            the minimum, and each step leaves at least $\\sqrt{\\beta}$ of the distance.
            """,
            draw=momentum,
            try_this=(
                "Set β to 0 and raise the rate past 0.08, then raise β until both lines fall again. Look in the map "
                "for the best pair, and choose it."
            ),
        ),
        Beat(
            "turned",
            "A rate for each coordinate helps less in a ravine that is turned",
            prose="""
            RMSProp and Adam divide each coordinate's derivative by its recent size, which suits a ravine along an axis:
            one coordinate is steep, the other flat. In a turned ravine each coordinate's derivative is a mix of both,
            so both are divided by similar numbers, and what is left is little more than one rate for all. SGD and
            momentum know no axes: when the ravine and the start are turned, their paths turn with them. Adam's momentum
            swings about at every angle, and the angle matters less to it than to RMSProp.

            Each walks at the rate, of eleven, with which it ends lowest at that angle.
            """,
            draw=turned,
            try_this="Turn the ravine back to 0, step by step, and compare the paths of SGD and RMSProp.",
        ),
        Beat(
            "schedules",
            "A rate that falls ends nearer the minimum",
            prose="""
            In training, each gradient comes from a small batch of texts, so gradients are noisy. With a constant rate
            the noise never stops pushing the weights about. A **schedule** takes large steps early and small ones
            late. A **warm-up** begins with small steps, because the averages of momentum and Adam have not settled
            yet; plain SGD, which runs here, has no averages to wait for.
            """,
            draw=schedules,
            try_this="Set the noise to 0: without noise, lowering the rate only slows the descent.",
        ),
        Beat(
            "muon",
            "Muon treats a matrix as a whole",
            prose="""
            **Muon** ([Jordan et al. 2024](https://kellerjordan.github.io/posts/muon/)) changes a weight matrix as a
            whole, where other optimizers treat it as a list of numbers. It takes the momentum of the matrix and pulls
            its singular values, the lengths of its steps in different directions, towards one size. It does so by
            five steps of an approximation, the Newton–Schulz iteration, so directions with weak gradients move much
            further than with SGD, though the weakest still lag behind. Muon needs a matrix, so it cannot be shown on
            the surfaces above. Here it solves a small linear regression, with inputs that are strong in some
            directions and weak in others.
            """,
            draw=muon,
            try_this="Make the inputs equally strong, then very unequal, and compare the sizes of the first step.",
        ),
        Beat(
            "plane",
            "The real loss is a landscape too",
            prose=_about_plane,
            draw=plane,
            try_this="Take another seed in the bar and measure: other directions, another landscape, "
            "the same trained weights.",
        ),
        Beat(
            "tune",
            "Trained on one sentence, a model soon knows it by heart",
            prose=_about_one_text,
            draw=one_text,
            try_this="Multiply all rates by 10 or 30: which optimizers still learn, and what does the text become?",
        ),
    ],
    asks=ASKED,
    parts=("training",),
)
