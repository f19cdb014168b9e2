"""12 · Training phases — what a model learns first, and what comes late and all at once."""

import streamlit as st

from engine.chapters import c12_training as cards
from engine.chapters.c12_training import live_run as tiny
from engine.evidence.card import Card
from engine.model.loaded import Loaded
from engine.model.precisions import REFERENCE
from engine.tokens.text import markdown, shorten
from pages._shared import Beat, View, chapter
from pages._shared.choices import pick
from pages._shared.runs import run as going

OLSSON = (
    "[Olsson et al. 2022]"
    "(https://transformer-circuits.pub/2022/in-context-learning-and-induction-heads/index.html)"
)
POWER = "[Power et al. 2022](https://arxiv.org/abs/2201.02177)"
NANDA = "[Nanda et al. 2023](https://arxiv.org/abs/2301.05217)"

TEXT, TOKENS, HEADS = "the text it writes", "the tokens it expects", "where its heads look"


def story(view: View) -> Card | list[Card]:
    stories = cards.stories()
    with view.controls:
        name = stories[st.selectbox("Run", list(stories), key=view.key("story"))]
        if about := cards.last_stage(name):
            st.markdown(about)
        steps = cards.recorded_steps(name)
        step = st.select_slider(
            "Updates",
            steps,
            steps[-1],
            format_func=lambda at: cards.step_name(name, at),
            key=view.key(f"step-{name}-{len(steps)}-{steps[-1]}"),
        )
        unit = st.segmented_control(
            "Loss in", list(cards.UNITS), default="nats per token", required=True, key=view.key("unit")
        )
        beside = st.segmented_control(
            "At this step, show", [TEXT, TOKENS, HEADS], default=TEXT, required=True, key=view.key("beside")
        )
    curve = cards.loss(name, step, unit)
    if beside == TOKENS:
        return [curve, cards.expected(name, step)]
    if beside == HEADS:
        return [curve, cards.heads_at(name, step)]
    sample = cards.sample(name, step)
    with view.stage:
        st.markdown(f"{markdown(sample.prompt)} :blue-background[{markdown(sample.text)}]")
        st.caption(markdown(sample.about))
    return curve


def birth(view: View) -> Card:
    with view.controls:
        run = pick_run(view)
        axis = st.segmented_control(
            "Steps", ["evenly", "logarithmic"], default="evenly", required=True, key=view.key("axis")
        )
    return cards.birth(run, log=axis == "logarithmic")


def through(view: View) -> Card:
    with view.controls:
        run = pick_run(view)
        kind = st.segmented_control(
            "Score", list(cards.SCORES), default="induction", required=True, key=view.key("kind")
        )
    return cards.heads_through(run, kind)


def prompt(view: View) -> list[Card]:
    final = finished(view)
    with view.controls:
        position = pick_position(view, final)
    stages = live(view, final)
    traces = [view.capture(loaded=stage.loaded) for stage in stages]
    return [cards.next_token(stages, traces, position), cards.surprisal(stages, traces)]


RANDOM, OWN = "random tokens", "your prompt"


def twice(view: View) -> Card:
    final = finished(view)
    with view.controls:
        what = st.segmented_control(
            "Read twice", [RANDOM, OWN], default=RANDOM, required=True, key=view.key("what")
        )
        seed = view.pick_seed() if what == RANDOM else None
    ids = None if what == RANDOM else view.capture(loaded=final).ids
    return cards.second_reading(live(view, final), ids, seed)


def grokking(view: View) -> list[Card]:
    steps = cards.grokking_steps()
    with view.controls:
        seed = st.segmented_control(
            "Seed",
            cards.grokking_seeds(),
            default=cards.grokking_seeds()[0],
            required=True,
            key=view.key("seed"),
        )
        until = st.select_slider("Updates so far", steps, steps[-1], key=view.key(f"until-{steps[-1]}"))
    return [cards.grokked(seed, until), cards.spread(until)]


def pick_run(view: View) -> str:
    """The checkpoint whose training the beats show: the one being read where it is bundled, unless one is picked."""
    here = view.state.checkpoint
    default = here if here in cards.RUNS else next(iter(cards.RUNS))
    return pick(view, "run", "Training of", list(cards.RUNS), default)


def finished(view: View) -> Loaded:
    """The bundled checkpoint at the end of the picked run, at fp32."""
    with view.controls:
        name = pick_run(view)
    return view.load(checkpoint=name, precision=REFERENCE)


def live(view: View, final: Loaded) -> list[cards.Stage]:
    with view.stage, st.spinner("Reading the snapshots …"):
        return cards.stages(final)


def pick_position(view: View, final: Loaded) -> int:
    """The token after which the next one is asked for; the shared focus where both models cut the prompt alike."""
    tokens = view.capture(loaded=final).tokens
    if [token.id for token in tokens] == [token.id for token in view.tokens]:
        return view.pick_token("After this token")
    places = range(len(tokens))
    return st.selectbox(
        "After this token",
        places,
        len(tokens) - 1,
        format_func=lambda i: f"{i}  {shorten(tokens[i].display, 24)}",
        key=view.key("position"),
    )


def about_birth(view: View) -> str:
    return f"""
    An *induction head* looks for where the present token stood before, and at what came after it: the simplest way to
    copy from the context ({OLSSON}). The test has no meaning to lean on: random tokens, and then the same ones again.
    A head's **induction score** is its mean attention to the right place in the second half (chapter 9).

    {cards.mixed_in("pocket-llama")}

    {cards.mixed_in("pocket-gpt2")}
    """


def train(view: View) -> None:
    with view.controls:
        source = st.segmented_control(
            "Text to learn", [*tiny.TEXTS, "Your own"], default="A ship", required=True, key=view.key("text")
        )
        text = tiny.TEXTS.get(source)
        if text is None:
            hint = f"{tiny.LEAST} to {tiny.MOST:,} characters"
            text = st.text_area("Your own text", height=140, placeholder=hint, key=view.key("own"))
        buttons, (one, two) = st.container(), st.columns(2)
        layers = one.segmented_control(
            "Blocks", tiny.LAYERS, default=2, required=True, key=view.key("layers")
        )
        rate = two.select_slider("Learning rate", tiny.RATES, 3e-3, key=view.key("rate"))
        seed = view.pick_seed()
    settings = tiny.Settings(text, layers, rate, seed)
    going(view, settings, lambda: tiny.Training(settings), tiny.cards, buttons)


chapter(
    number=12,
    title="Training phases",
    question="What does a model learn first, and what last?",
    lead=(
        "A language model is trained on one task from beginning to end, yet it does not learn everything at the same "
        "pace. These runs were recorded by the scripts in this repository, and some of their snapshots were kept: "
        "your own prompt goes through them, live."
    ),
    beats=[
        Beat(
            "story",
            "The loss falls fast, then slowly, and says little about what is being learned",
            prose=lambda view: cards.told(cards.STORY),
            draw=story,
            try_this=(
                "With the run from random weights, begin at 0 and move up one step at a time. At which loss does the "
                "text get words, and at which sentences?"
            ),
        ),
        Beat(
            "birth",
            "Copying from the context is learned at a time of its own",
            prose=about_birth,
            draw=birth,
            try_this="Compare the two runs: how many updates lie between a score of 0.1 and most of the final score?",
        ),
        Beat(
            "through",
            "Which heads take on the job, and when",
            prose=(
                "Every row is one head of the finished model, followed through the run. An induction head needs a "
                "helper: a head in an earlier layer that looks at the **previous token**, so that each position knows "
                f"what stood before it ({OLSSON}). See in which order the rows of the two maps darken."
            ),
            draw=through,
            try_this="Find the darkest row of the induction map, then look for its helper in the layers before it.",
        ),
        Beat(
            "prompt",
            "Your prompt, read by the model as it was",
            prose=lambda view: cards.about_snapshots(),
            draw=prompt,
            try_this="Type a name twice into the prompt and look at the surprisal of its second occurrence.",
        ),
        Beat(
            "twice",
            "Before and after: what a second reading costs",
            prose=(
                "Read some tokens, then the same ones again. Whoever can look back knows the second half already. "
                "The kept snapshots show it live: the lines are the surprisal of each token at its second reading."
            ),
            draw=twice,
            try_this="Change the seed: other tokens. Then read your own prompt twice, where the model can also guess.",
        ),
        Beat(
            "grokking",
            "Learned by heart at once, understood much later, or not at all",
            prose=lambda view: cards.about_grokking(POWER, NANDA),
            draw=grokking,
            try_this=(
                "Move the slider back to 0 and let the run begin again. Could you tell early which seed will get there?"
            ),
        ),
        Beat(
            "train",
            "From noise to words in a minute, and then by heart",
            prose=f"""
            This GPT-2 is as small as they come: its tokens are characters, and it sees the last {tiny.CONTEXT}. It
            starts no better than a guess among all characters (dashed line). Below the dotted line it must be using
            context, for the frequencies of characters lead no lower. The end of the text is kept from it: when only
            the loss of the batches still falls, it is learning the text by heart.

            A run pauses after a minute, and this server trains one at a time.
            """,
            draw=train,
            try_this="Stop and continue: the curve goes on as if nothing had been. Then paste a text of your own.",
        ),
    ],
)
