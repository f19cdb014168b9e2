"""12 · Training phases — what a model learns first, and what comes late and all at once."""

from collections.abc import Callable, Sequence

import streamlit as st

from engine.chapters import c12_training as cards
from engine.chapters.c12_training import live_run as tiny
from engine.chapters.c12_training.questions import ASKED
from engine.evidence.card import Card
from engine.model.loaded import Loaded
from engine.model.precisions import REFERENCE
from engine.tokens.text import markdown, shorten
from pages._shared import Beat, View, chapter, models, resources
from pages._shared.choices import pick, write
from pages._shared.runs import run as going

OLSSON = (
    "[Olsson et al. 2022]"
    "(https://transformer-circuits.pub/2022/in-context-learning-and-induction-heads/index.html)"
)
BIDERMAN = "[Biderman et al. 2023](https://arxiv.org/abs/2304.01373)"
POWER = "[Power et al. 2022](https://arxiv.org/abs/2201.02177)"
KAPLAN = "[Kaplan et al. 2020](https://arxiv.org/abs/2001.08361)"
HOFFMANN = "[Hoffmann et al. 2022](https://arxiv.org/abs/2203.15556)"
NANDA = "[Nanda et al. 2023](https://arxiv.org/abs/2301.05217)"

SNAPSHOTS, PYTHIA = "snapshots kept here", "steps of Pythia"
CURVE, TABLE = "the loss", "the stages"
TEXT, TOKENS, HEADS = "the text it writes", "the tokens it expects", "where its heads look"


def story(view: View) -> Callable[[], list[Card]]:
    stories = cards.stories()
    with view.controls:
        name = stories[view.select("story", "Run", list(stories))]
        if about := cards.last_stage(name):
            st.markdown(about)
        steps = cards.recorded_steps(name)
        step = view.select_slider(
            "step",
            "Updates",
            steps,
            steps[-1],
            of=(name, len(steps), steps[-1]),
            format_func=lambda at: cards.step_name(name, at),
        )
        unit = view.segments("unit", "Loss in", list(cards.UNITS), "nats per token")
        beside = view.segments("beside", "At this step, show", [TEXT, TOKENS, HEADS], TEXT)
    if beside == TEXT:
        sample = cards.sample(name, step)
        with view.stage:
            st.markdown(f"{markdown(sample.prompt)} :blue-background[{markdown(sample.text)}]")
            st.caption(markdown(sample.about))
    more: dict[str, Callable[[str, int], Card]] = {TOKENS: cards.expected, HEADS: cards.heads_at}
    return lambda: [
        cards.loss(name, step, unit),
        *(card(name, step) for what, card in more.items() if what == beside),
    ]


def lineage(view: View) -> Callable[[], list[Card]]:
    here = view.state.checkpoint
    with view.controls:
        run = view.segments(
            "of", "Checkpoint", list(cards.RUNS), here if here in cards.RUNS else None, of=here
        )
        # On a projector, only one of the two has room.
        shown = view.segments("show", "Show", [CURVE, TABLE]) if view.presenting else None
        st.markdown("" if view.presenting else cards.about_lineage(run))
    figures = {CURVE: cards.whole, TABLE: cards.pipeline}
    return lambda: [card(run) for name, card in figures.items() if shown in (None, name)]


def birth(view: View) -> Callable[[], Card]:
    with view.controls:
        run = pick_run(view, cards.clearest())
        axis = view.segments("axis", "Steps", ["evenly", "logarithmic"])
    return lambda: cards.birth(run, log=axis == "logarithmic")


def through(view: View) -> Callable[[], Card]:
    with view.controls:
        run = pick_run(view, cards.clearest())
        kind = view.segments("kind", "Score", list(cards.SCORES), "induction")
    return lambda: cards.heads_through(run, kind)


def prompt(view: View) -> Callable[[], list[Card]]:
    with view.controls:
        readers = (
            [SNAPSHOTS, PYTHIA] if cards.fetchable() or any(map(cards.here, cards.MODELS)) else [SNAPSHOTS]
        )
        if len(readers) > 1 and view.segments("by", "Read by", readers) == PYTHIA:
            return steps(view)
        run = pick_run(view)
        position = pick_position(view, run)

    def make() -> list[Card]:
        stages = cards.stages(finished(view, run))
        traces = [view.capture(loaded=stage.loaded) for stage in stages]
        following = cards.next_token(stages, traces, position)
        alone = len(traces[-1].tokens) < 2  # nothing stands before the only token, so it has no surprisal
        return [following] if alone else [following, cards.surprisal(stages, traces)]

    return make


def steps(view: View) -> Callable[[], list[Card]]:
    """In the beat's controls: a step of Pythia to open, and the card of those that are on this machine."""
    model = view.select("model", "Model", cards.MODELS, None, lambda name: name.partition("/")[2])
    there = cards.here(model)
    if cards.fetchable():
        step = view.select_slider("at", "Step", cards.STEPS, cards.FIRST, format_func=lambda at: f"{at:,}")
        name = cards.name_of(model, step)
        if step in there:
            st.caption("This step is on this machine.")
        else:
            st.caption("It can be opened if it was published with safetensors weights.")
            if st.button("Open this step", key=view.key("open")):
                models.choose(name)  # the sidebar asks before it downloads anything
                st.rerun()
    text = view.chosen.prompt
    view.note("steps here", tuple(there))

    def get(step: int) -> Loaded:
        return resources.loaded(cards.name_of(model, step), REFERENCE)

    def make() -> list[Card]:
        if not there:
            return [cards.by_step(model, get, there, ())]
        tokens, _ = resources.prompt_tokens(get(there[-1]), text)
        return [cards.by_step(model, get, there, [token.id for token in tokens])]

    return make


RANDOM, OWN = "random tokens", "your prompt"


def twice(view: View) -> Callable[[], Card]:
    with view.controls:
        run = pick_run(view)
        what = view.segments("what", "Read twice", [RANDOM, OWN])

    def make() -> Card:
        final = finished(view, run)
        ids = None if what == RANDOM else [token.id for token in view.tokens_of(final)]
        return cards.second_reading(cards.stages(final), ids, view.state.seed if what == RANDOM else None)

    return make


def grokking(view: View) -> Callable[[], list[Card]]:
    steps = cards.grokking_steps()
    with view.controls:
        seed = view.segments("seed", "Seed", cards.grokking_seeds())
        until = view.select_slider("until", "Updates so far", steps, steps[-1], of=steps[-1])
    return lambda: [cards.grokked(seed, until), cards.spread(until)]


def sizes(view: View) -> Callable[[], Card]:
    with view.controls:
        over = view.segments("over", "Loss over", cards.AXES)
    return lambda: cards.by_scale(over)


def pick_run(view: View, best: str = "") -> str:
    """The checkpoint whose training the beats show: until one is picked, `best` or the one being read, if bundled."""
    here = view.state.checkpoint
    default = best or (here if here in cards.RUNS else next(iter(cards.RUNS)))
    return pick(view, "run", "Training of", list(cards.RUNS), default)


def finished(view: View, run: str) -> Loaded:
    """The bundled checkpoint at the end of the picked run, at fp32."""
    return view.load(checkpoint=run, precision=REFERENCE)


def pick_position(view: View, run: str) -> int:
    """The token after which the next one is asked for; the shared focus where both models cut the prompt alike."""
    tokens = view.tokens if run == view.loaded.name else view.tokens_of(finished(view, run))
    if [token.id for token in tokens] == [token.id for token in view.tokens]:
        return view.state.focus
    places = range(len(tokens))
    return view.select(
        "position",
        "After this token",
        places,
        len(tokens) - 1,
        lambda i: f"{i}  {shorten(tokens[i].display, 24)}",
        of=view.chosen.prompt,
    )


def about_birth(view: View) -> str:
    return f"""
    An *induction head* looks for an earlier occurrence of the current token and attends to the token after it, the
    simplest way to copy from the context ({OLSSON}). It is tested on random tokens followed by the same ones again,
    so that no meaning helps. A head's **induction score** is its mean attention to the right place in the second half
    (chapter 9).

    The models of that paper learn this from ordinary text, after billions of tokens. The runs here read millions, and
    their text was made to repeat itself; that decides when the score rises. {cards.about_clearest()}

    {cards.mixed_in("pocket-llama")}

    {cards.mixed_in("pocket-gpt2")}
    """


def about_prompt(view: View) -> str:
    known = view.loaded.name in cards.RUNS
    here = markdown(view.loaded.name)
    instead = f"No snapshots of the training of {here} are here, so two smaller models stand in for it."
    return cards.about_snapshots() + ("" if known else f" {instead}") + f"\n\n{cards.about_steps(BIDERMAN)}"


def train(view: View) -> Sequence[Card]:
    with view.controls:
        source = view.segments("text", "Text to learn", [*tiny.TEXTS, "Your own"], "A ship")
        text = tiny.TEXTS.get(source)
        if text is None:
            hint = f"{tiny.LEAST} to {tiny.MOST:,} characters"
            text = write(view, "own", "Your own text", limit=tiny.MOST, tall=True, hint=hint)
        buttons, (one, two) = st.container(), st.columns(2)
        with one:
            layers = view.segments("layers", "Blocks", tiny.LAYERS, 2)
        with two:
            rate = view.select_slider("rate", "Learning rate", tiny.RATES, 3e-3)
    settings = tiny.Settings(text, layers, rate, view.state.seed)
    return going(view, settings, lambda: tiny.Training(settings), tiny.cards, buttons)


chapter(
    number=12,
    title="Training phases",
    question="What does a model learn first, and what last?",
    lead=(
        "A language model is trained on one task from beginning to end, yet it does not learn everything at the same "
        "pace. These runs were recorded by the scripts in this repository, and some of their snapshots were kept: "
        "your own prompt goes through them, live."
    ),
    bar=("focus", "seed"),
    beats=[
        Beat(
            "story",
            "The loss falls fast, then slowly, and says little about what is being learned",
            prose=lambda view: cards.told(cards.STORY),
            draw=story,
            try_this=(
                "With the run from random weights, begin at 0 and move up one step at a time. At which loss do words "
                "appear in the text, and at which sentences?"
            ),
        ),
        Beat(
            "lineage",
            "A checkpoint is made in stages, with other texts and another rate in each",
            prose=(
                "A checkpoint is often the end of several trainings, each of which went on from the weights that the "
                "one before had left. The figure puts those that were recorded here one after the other, with a gap "
                "where a record is missing; the table has what each of them read, how long it took and what it "
                "changed."
            ),
            draw=lineage,
            try_this=(
                "Look at the beginning of the last stage: which way does the loss go at first? Compare its learning "
                "rate and its texts with those of the stage before."
            ),
        ),
        Beat(
            "birth",
            "Copying from the context is learned when the text rewards it",
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
                f"what stood before it ({OLSSON}). Compare the two scores: which rows darken first?"
            ),
            draw=through,
            try_this="Find the darkest row of the induction map, then look for its helper in the layers before it.",
        ),
        Beat(
            "prompt",
            "Your prompt, read by the model as it was",
            prose=about_prompt,
            draw=prompt,
            try_this="Type a name twice into the prompt and look at the surprisal of its second occurrence.",
        ),
        Beat(
            "twice",
            "Before and after: what a second reading costs",
            prose=(
                "When a text repeats itself, a model that can look back knows the second half already. "
                "Each line is one stage of training: the surprisal of every token at its second reading."
            ),
            draw=twice,
            try_this="Change the seed in the bar: other tokens. Then read your own prompt twice, where the model can "
            "also guess.",
        ),
        Beat(
            "sizes",
            "More parameters help where there is text for them",
            prose=lambda view: cards.about_scaling(KAPLAN, HOFFMANN),
            draw=sizes,
            try_this="Draw the loss over the text instead. Which of the lines would you extend, and how far?",
        ),
        Beat(
            "grokking",
            "Memorised at once, generalised much later, or not at all",
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
            A very small GPT-2 can be trained while you watch: its tokens are characters, and it sees the last
            {tiny.CONTEXT} of them. It starts no better than a uniform guess among all characters (dashed line). Below
            the dotted line it must be using context, because the frequencies of characters alone get no lower. The end
            of the text is held out: when only the loss of the batches still falls, the model is learning the text by
            heart.

            A run pauses after a minute, and this server trains one model at a time.
            """,
            draw=train,
            try_this="Stop and continue: the curve goes on as if nothing had happened. Then paste a text of your own.",
        ),
    ],
    asks=ASKED,
    parts=("training",),
)
