"""5 · Logits and sampling — from one score for each token to the one token that is written."""

from collections.abc import Callable, Sequence

import streamlit as st

from engine.chapters import c05_sampling as cards
from engine.chapters.c05_sampling.questions import ASKED
from engine.evidence.card import Card
from engine.ops.sampling import Filters
from engine.tokens.text import markdown, shorten
from pages._shared import Beat, View, chapter
from pages._shared.work import Progress

THREE, OFTEN = "three texts", "one token, drawn often"
TOP_K = (0, 1, 2, 3, 5, 10, 20, 40, 80, 150, 400, 1000)


def scores(view: View) -> Callable[[], Card]:
    with view.controls:
        word = view.text("word", "Find a token’s rank", hint="castle")
    return lambda: cards.logits(view.loaded, view.trace, view.state.focus, word)


def softmax(view: View) -> Callable[[], Card]:
    with view.controls:
        count = view.slider("count", "Tokens shown", 4, 20, 10)
        warmth = view.slider("temperature", "Temperature T", 0.3, 2.0, 1.0, 0.1)
        shift = view.slider("shift", "Add to every logit", -10.0, 10.0, 0.0, 0.5)
    return lambda: cards.probabilities(view.loaded, view.trace, view.state.focus, count, shift, warmth)


def filters(view: View) -> Callable[[], Card]:
    with view.controls:
        chosen = _filters(view, temperature=0.8, top_k=40, top_p=0.9, more=True)
    _offer_open(view)
    return lambda: cards.filters(view.loaded, view.trace, view.state.focus, chosen)


def texts(view: View) -> Callable[[], Card]:
    with view.controls:
        shown = view.segments("shown", "Show", (THREE, OFTEN))
    return draws(view) if shown == OFTEN else _three(view)


def _three(view: View) -> Callable[[], Card]:
    with view.controls:
        chosen = _filters(view, temperature=0.8, top_k=0, top_p=0.95)
        length = view.slider("length", "Tokens to write", 4, 24, 20)
    ids, seed = _ids(view), view.state.seed
    requests = (
        cards.Request(ids, length),
        cards.Request(ids, length, seed, chosen),
        cards.Request(ids, length, seed + 1, chosen),
    )
    written = _written(view, requests)
    return lambda: cards.texts(view.loaded, requests, written)


def draws(view: View) -> Callable[[], Card]:
    """The next token alone, drawn many times from the whole distribution."""
    with view.controls:
        warmth = view.slider("warmth", "Temperature", 0.1, 2.0, 1.0, 0.05)
        count = view.select_slider("draws", "Draws", (50, 500, 5000), 500)
    chosen = Filters(temperature=warmth)
    _offer_open(view)
    return lambda: cards.draws(view.loaded, view.trace, view.state.focus, chosen, view.state.seed, count)


def tree(view: View) -> Callable[[], Card]:
    with view.controls:
        length = view.slider("length", "Steps", 2, 12, 5)
        request = cards.Request(_ids(view), length)
        if view.toggle("draw", "Draw with the seed"):
            temperature = view.slider("temperature", "Temperature", 0.1, 2.0, 1.0, 0.1)
            request = cards.Request(request.ids, length, view.state.seed, Filters(temperature=temperature))
        step = view.slider("turn", "Leave the road at step (0: never)", 0, length, 0, of=length)
    [base] = _written(view, (request,))
    if not step or len(base) < step:
        return lambda: cards.tree(view.loaded, request, known=base)
    roads = [shorten(cards.display(view.loaded, id), 20) for id, _ in base[step - 1].alternatives]
    count = min(cards.ROADS, len(roads))
    with view.controls:
        road = view.select(
            "road",
            "Road to take",
            range(count),
            min(1, count - 1),
            format_func=lambda i: f"{i + 1}  {roads[i]}",
        )
    rest, kept = cards.turn(view.loaded, request, step - 1, road)
    after = () if kept[-1].end or not rest.n else _written(view, (rest,))[0]
    return lambda: cards.tree(view.loaded, request, rest, kept, known=after)


def beams(view: View) -> Callable[[], Card]:
    with view.controls:
        length = view.slider("length", "Tokens", 2, 12, 7)
        width = view.select_slider("width", "Beams", (2, 4, 8, 16), 8)
    ids = _ids(view)
    found = view.work(
        "Searching",
        (length, width),
        lambda progress: (
            cards.search(view.loaded, ids, length, 1),
            cards.search(view.loaded, ids, length, width, lambda share: progress(share, "Keeping the best")),
        ),
    )
    return lambda: cards.beams(view.loaded, ids, length, width, found)


def lens(view: View) -> Callable[[], Card]:
    with view.controls:
        if view.toggle("favourites", "Follow the five final favourites"):
            return lambda: cards.favourites(view.loaded, view.trace, view.state.focus)
        deep = view.loaded.spec.n_layer >= cards.ROWS
        folded = deep and not view.toggle("every", "Show every block")
    return lambda: cards.layers(view.loaded, view.trace, view.state.focus, folded=folded)


def surprisal(view: View) -> Callable[[], Card]:
    with view.controls:
        unit = view.segments("unit", "Unit", ("nats", "bits"))
    return lambda: cards.prompt(view.loaded, view.trace, unit)


def _ids(view: View) -> tuple[int, ...]:
    """The prompt that is continued."""
    return tuple(token.id for token in view.tokens)


def _offer_open(view: View) -> None:
    """Where the next token is nearly certain, a button that chooses the token after which it is least so."""
    found = view.work("Reading the prompt", "entropies", lambda progress: cards.entropies(view.trace))
    here, place = view.state.focus, int(found.argmax())
    if found[here] >= cards.SURE or found[place] < cards.SURE:
        return
    now, then = (markdown(shorten(view.tokens[i].display, 20)) for i in (here, place))
    with view.controls:
        st.caption(
            f"After “{now}” the model is nearly certain: the entropy of its distribution is {found[here]:.2f} nats. It "
            f"is largest after “{then}”: {found[place]:.2f} nats."
        )
        st.button(
            f"Show “{then}” (position {place})",
            key=view.key("open"),
            on_click=view.pick,
            args=({"focus": place},),
        )


def _filters(view: View, *, temperature: float, top_k: int, top_p: float, more: bool = False) -> Filters:
    """Sliders for the filters, in the order in which they run; with `more`, all five."""
    places = iter([column for _ in range(3 if more else 2) for column in st.columns(2)])
    penalty, low = 1.0, 0.0
    if more:
        with next(places):
            penalty = view.slider("penalty", "Repetition penalty", 1.0, 2.0, 1.2, 0.05)
    with next(places):
        warmth = view.slider("temperature", "Temperature", 0.1, 2.0, temperature, 0.05)
    with next(places):
        k = view.select_slider("top_k", "Top-k", TOP_K, top_k, format_func=lambda n: f"{n}" if n else "off")
    with next(places):
        p = view.slider("top_p", "Top-p (1: off)", 0.05, 1.0, top_p, 0.05)
    if more:
        with next(places):
            low = view.slider("min_p", "Min-p (0: off)", 0.0, 0.5, 0.05, 0.01)
    return Filters(penalty, warmth, k or None, p, low)


def _written(view: View, requests: tuple[cards.Request, ...]) -> tuple[tuple[cards.Choice, ...], ...]:
    """The texts of some requests, shown while they are being written."""

    def do(progress: Progress) -> tuple[tuple[cards.Choice, ...], ...]:
        texts: list[list[cards.Choice]] = [[] for _ in requests]
        for request, choices in zip(requests, texts, strict=True):
            for choice in cards.write(view.loaded, request):
                choices.append(choice)
                progress.show(*map(said, requests, texts))
        return tuple(tuple(choices) for choices in texts)

    def said(request: cards.Request, choices: Sequence[cards.Choice]) -> str:
        words = markdown(cards.text(view.loaded, choices))
        return f"{markdown(cards.name(request))}: …{words}"

    written: tuple[tuple[cards.Choice, ...], ...] = view.work("Writing", requests, do)
    return written


def _about_scores(view: View) -> str:
    spec = view.loaded.spec
    biased = ", plus a learned bias," if view.loaded.part("unembedding").bias is not None else ""
    return f"""
    The model gives {spec.vocab:,} **logits**: one score for each token that could come next, the absurd ones included.
    After the last block and the final norm, a position is one vector of {spec.d_model:,} numbers. Its dot product with
    a row of the **unembedding** matrix{biased} is the logit of that row’s token.

    The curve shows all of them, best first. A logit has no unit and no zero that means anything: only the
    differences between logits count.
    """


LENS = "https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens"
TUNED = "https://arxiv.org/abs/2303.08112"
HOLTZMAN = "https://arxiv.org/abs/1904.09751"


def _about_lens(view: View) -> str:
    spec = view.loaded.spec
    tied = (
        "The top row often returns the token that was read, because here the unembedding is the embedding matrix once "
        "more."
        if spec.tied
        else ""
    )
    return f"""
    The **logit lens** reads the residual stream after every block as if that block were the last: it puts the final
    norm and the unembedding on it ([nostalgebraist 2020]({LENS})). Both were trained for the stream that leaves the
    last of the {spec.n_layer} blocks. So an early row tells what would be written if the model stopped there, not what
    that layer “thinks”, and a confident one may be an artefact; the **tuned lens** trains a map for each layer instead
    ([Belrose et al. 2023]({TUNED})). {tied}
    """


chapter(
    number=5,
    title="Logits and sampling",
    question="How does a model pick its next word?",
    lead=(
        "A language model never outputs a word. It outputs a score for every token it knows, and a small procedure "
        "outside the network turns the scores into one token. This chapter takes that procedure apart."
    ),
    beats=[
        Beat(
            "logits",
            "Every token of the vocabulary gets a score",
            prose=_about_scores,
            draw=scores,
            try_this=(
                "Look up a word with and without a space in front: they are different tokens with different scores. "
                "Then choose another token in the bar and watch the favourites change."
            ),
        ),
        Beat(
            "softmax",
            "Softmax turns differences of scores into probabilities",
            prose="""
            Softmax turns logits into probabilities: it divides each logit by a **temperature** T, raises *e* to that
            power, and divides by the sum over the vocabulary, $p_i = e^{z_i/T} / \\sum_j e^{z_j/T}$. The results are
            positive and add up to 1. At T = 1 a token one logit ahead of another is *e* ≈ 2.72 times as probable; a
            lower temperature widens the gaps, a higher one narrows them.

            The many tokens with a tiny probability each can add up to a considerable share: the grey row.
            """,
            draw=softmax,
            try_this=(
                "Lower the temperature, then raise it. Then set it back to 1 and add a constant to every logit: two "
                "columns change, the probabilities do not."
            ),
        ),
        Beat(
            "filters",
            "Filters cut and reshape the distribution, one after another",
            prose="""
            Between the logits and the draw stand filters, and their order matters because each sees what the one before
            it left. A **repetition penalty** lowers the logits of tokens already in the text. **Temperature**
            divides all logits: below 1 it favours the favourites. **Top-k** keeps the k best, **top-p** the smallest
            set that holds a share p, **min-p** whatever has at least that fraction of the best one's probability.

            The order here is the one in which `transformers` runs them.
            """,
            draw=filters,
            try_this=(
                "Raise the temperature to 2 and watch top-p let more tokens through: it comes after the temperature. "
                "Then let min-p alone cut the tail."
            ),
        ),
        Beat(
            "texts",
            "Greedy always writes the same; sampling writes what the seed draws",
            prose=f"""
            **Greedy** decoding takes the most probable token at every step: no chance, one text. **Sampling** draws
            from the filtered distribution. The seed fixes the random numbers, so the same seed with the same
            settings gives the same text again, and the next seed usually gives another.

            The bars show the probability of each token in the model’s own distribution. Greedy text is made of
            favourites only, and it easily falls into a loop, because a repetition makes the next one more probable
            ([Holtzman et al. 2020]({HOLTZMAN})).

            One draw says little about the distribution. Draw the next token many times from the whole distribution,
            each time with a new random number, and the counts follow the probabilities: of *n* draws, a token of
            probability *p* is expected in *n·p*, give or take a standard deviation σ of $\\sqrt{{n p (1 - p)}}$.
            """,
            draw=texts,
            try_this=(
                "Set top-k to 1: both samples turn into the greedy text. Then show one token drawn often, and change "
                "the seed in the bar: the points move, the bars do not."
            ),
        ),
        Beat(
            "tree",
            "Each token closes off the roads not taken",
            prose="""
            Text is written one token at a time: each choice is added to the prompt, and the next distribution is
            computed for that longer text. So a different token at one step changes what every later step has to
            choose from.

            Each row shows the best candidates of one step; the bold one was taken. The probability of the whole text
            is the product of those along the road.
            """,
            draw=tree,
            try_this="Leave the road at step 1 with the second candidate and read where that road leads.",
        ),
        Beat(
            "beams",
            "The likeliest steps are not always the likeliest text",
            prose=f"""
            The likeliest token at every step need not make the likeliest text: a less probable token may open a road on
            which everything that follows is more probable. **Beam search** keeps not one text but several, the beams:
            at every step all of them are continued, and the likeliest ones are kept.

            The likeliest text is seldom the best one: it tends to be dull and to repeat itself, which is one reason to
            sample ([Holtzman et al. 2020]({HOLTZMAN})).
            """,
            draw=beams,
            try_this="Raise the number of tokens: from which length on do the two part?",
        ),
        Beat(
            "lens",
            "Reading the stream early",
            prose=_about_lens,
            draw=lens,
            try_this=(
                "Find the block from which on the favourite no longer changes. Then follow the five final favourites "
                "through the blocks."
            ),
        ),
        Beat(
            "surprisal",
            "Surprisal measures how unexpected your words were",
            prose="""
            The **surprisal** of a token is $-\\ln p$, where *p* is the probability that the model gave it: 0 nats for
            a certainty, and each further nat makes it *e* times less probable (each further bit, half as probable).
            Here the tokens are those of your prompt. The mean over a text is the loss that training lowers; *e* to that
            mean is the **perplexity**, the number of equally probable tokens that would be as hard to guess.
            Perplexities compare only between models with the same tokenizer: longer tokens are fewer, and each is
            harder to guess.
            """,
            draw=surprisal,
            try_this="Repeat your sentence in the prompt and compare the second half with the first.",
        ),
    ],
    bar=("focus", "seed"),
    asks=ASKED,
    parts=("unembedding", "prediction"),
)
