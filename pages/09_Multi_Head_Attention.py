"""9 · Multi-head attention — many heads, few jobs."""

from collections.abc import Callable

import streamlit as st

from engine.chapters import c09_heads as cards
from engine.chapters.c09_heads.questions import ASKED
from engine.evidence.card import Card
from engine.model.trace import Trace
from engine.tokens.text import markdown
from pages._shared import Beat, View, chapter
from pages._shared.work import Progress

ELHAGE = "[Elhage et al. 2021](https://transformer-circuits.pub/2021/framework/index.html)"
OLSSON = (
    "[Olsson et al. 2022]"
    "(https://transformer-circuits.pub/2022/in-context-learning-and-induction-heads/index.html)"
)
WANG = "[Wang et al. 2022](https://arxiv.org/abs/2211.00593)"
XIAO = "[Xiao et al. 2023](https://arxiv.org/abs/2309.17453)"
ABNAR = "[Abnar & Zuidema 2020](https://arxiv.org/abs/2005.00928)"


def wall_prose(view: View) -> str:
    spec = view.loaded.spec
    shared = (
        f" Here {spec.n_head} query heads share {spec.n_kv_head} heads of keys and values "
        "([grouped-query attention](https://arxiv.org/abs/2305.13245)): heads that read the same keys can still "
        "look at different places, because their queries differ."
        if spec.n_kv_head < spec.n_head
        else " Every head has its own keys and values."
    )
    return (
        f"Chapter 8 followed one head. {markdown(view.loaded.name)} runs {spec.n_head} of them beside each other in "
        f"each of its {spec.n_layer} layers, and each has its own query projection to {spec.d_head} numbers per "
        f"token.{shared} What the heads of a layer read is laid end to end, and one output projection turns it into "
        "a single write to the residual stream ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section "
        "3.2.2)."
    )


def shared(view: View) -> tuple[int, int]:
    """The layer and the head that all beats share."""
    return view.state.layer, view.state.head


def draw_wall(view: View) -> Callable[[], Card]:
    return lambda: cards.wall(view.loaded, view.trace, *shared(view))


def draw_head(view: View) -> Callable[[], Card]:
    return lambda: cards.one_head(view.loaded, view.trace, *shared(view), view.state.focus)


def draw_arcs(view: View) -> Callable[[], Card]:
    with view.controls:
        least = view.slider("least", "Smallest weight drawn", 0.01, 0.9, 0.1, 0.01)
        only = view.toggle("only", "Only the chosen token's query")
    return lambda: cards.arcs(
        view.loaded, view.trace, *shared(view), view.state.focus if only else None, least
    )


def random_prose(view: View) -> str:
    length = cards.half_length(view.loaded)
    return rf"""
        On a sentence a head's map mixes what the head does with what the words mean. So take the meaning away: a start
        token, {length} random tokens, and the same {length} again. A weight that falls on one of four places in the
        second half now says what the head itself does. For a query at position $i$ of the second half, with
        $n = {length}$:

        | kind | looks at position | source |
        |---|---|---|
        | previous token | $i-1$ | {ELHAGE} |
        | duplicate token | $i-n$, the same token before | {WANG} |
        | induction | $i-n+1$, what came after it | {ELHAGE}; {OLSSON} |
        | sink | $0$, the start | {XIAO} |
        """


CHOSEN = "the chosen head"
STRONGEST = {f"the strongest {kind} head": kind for kind in ("induction", "previous", "duplicate", "sink")}


def draw_random(view: View) -> Callable[[], Card]:
    with view.controls:
        which = view.select("which", "Show", [CHOSEN, *STRONGEST], next(iter(STRONGEST)))

    def card() -> Card:
        seed = view.state.seed
        if which == CHOSEN:
            return cards.pattern(view.loaded, seed, *shared(view))
        [head] = cards.strongest_heads(cards.repeated(view.loaded, seed), STRONGEST[which], 1)
        return cards.pattern(view.loaded, seed, *head)

    return card


SCORES = rf"""
    A head's score is the mean weight on the place of a kind, over all queries of the second half:

    $$s_\text{{kind}} = \frac{{1}}{{n}}\sum_{{i=n+1}}^{{2n}} A_{{i,\,\kappa(i)}}$$

    with $\kappa(i)$ from the table above. The four places are different ones, so the four scores of a head share one
    unit of attention. A softmax must spend that unit somewhere, and heads that have nothing to say often leave it on
    the first token, the *attention sink* ({XIAO}); this can hide what they do with the rest. Take the sink out and
    scale the rows to 1 again, and the rest is shown:

    $$A'_{{ij}} = \frac{{A_{{ij}}}}{{\sum_{{k \ge 1}} A_{{ik}}}}, \quad j \ge 1$$
    """


def pick_sink(view: View) -> bool:
    """Whether the maps keep their sink."""
    return not view.toggle("sink", "Remove the sink")


def draw_scores(view: View) -> Callable[[], Card]:
    with view.controls:
        sink = pick_sink(view)
    return lambda: cards.score_map(view.loaded, view.state.seed, sink, shared(view))


def draw_kinds(view: View) -> Callable[[], Card]:
    with view.controls:
        threshold = view.slider("threshold", "Threshold", 0.05, 0.95, cards.THRESHOLD, 0.05)
        sink = pick_sink(view)
    return lambda: cards.classes(view.loaded, view.state.seed, sink, threshold, shared(view))


def draw_second(view: View) -> Callable[[], Card]:
    most = min(10, view.loaded.spec.n_layer * view.loaded.spec.n_head - 1)
    with view.controls:
        removed = view.slider("removed", "Heads removed, by induction score", 0, most, min(3, most), of=most)
    return lambda: cards.second_time(view.loaded, view.state.seed, removed)


def draw_ablation(view: View) -> Callable[[], Card]:
    spec = view.loaded.spec
    every = {
        cards.name(layer, head): (layer, head) for layer in range(spec.n_layer) for head in range(spec.n_head)
    }
    with view.controls:
        more = view.several("more", "And these heads", list(every), of=(spec.n_layer, spec.n_head))

    def card() -> Card:
        heads = tuple(sorted({shared(view), *(every[name] for name in more)}))
        return cards.ablation(view.loaded, view.trace, heads, view.state.focus)

    return card


PROMPT, RANDOM = "the next token of the prompt", "the second reading of the random tokens"
FIRST_SECONDS, MORE_SECONDS = 0.1, 0.5  # before anyone has asked for all heads; between two looks at the map


def draw_sweep(view: View) -> Callable[[], list[Card]] | list[Card]:
    with view.controls:
        on = view.select("on", "Measured on", [PROMPT, RANDOM])
        ids, positions, where = measured_on(view, on)
        name = cards.sweep_of(view.loaded, ids, positions).name
        running = view.toggle("run", "Measure all heads", of=name)
        bar = st.empty()

    def before() -> Trace:
        return cards.repeated(view.loaded, view.state.seed) if on == RANDOM else view.trace

    def first(progress: Progress) -> cards.Sweep:
        begun = cards.sweep_of(view.loaded, ids, positions)
        cards.advance(view.loaded, before(), begun, FIRST_SECONDS)
        return begun

    sweep: cards.Sweep = view.work("Measuring the first heads", name, first)

    def whole(progress: Progress) -> None:
        while not sweep.done:
            cards.advance(view.loaded, before(), sweep, MORE_SECONDS)
            progress(len(sweep.kl) / sweep.total, "Measuring")

    def made() -> list[Card]:
        return [
            cards.sweep_map(view.loaded, sweep, where, shared(view)),
            cards.sweep_ranking(view.loaded, sweep, where),
        ]

    if running and not sweep.done:
        job = view.start("Measuring all heads", name, whole, long=True)
        if isinstance(job.error, Exception):
            raise job.error
    done = len(sweep.kl)
    bar.progress(done / sweep.total, text=f"{done} of {sweep.total} heads measured")
    return made if sweep.done else made()  # a map that is filling is drawn here, again and again


def measured_on(view: View, on: str) -> tuple[tuple[int, ...], range, str]:
    """The tokens of the chosen text, where the effects are measured, and that in words."""
    if on == RANDOM:
        ids, length = cards.repeated_ids(view.loaded, view.state.seed), cards.half_length(view.loaded)
        return ids, range(length + 1, 2 * length), "at the second reading, mean over its positions"
    ids, focus = tuple(token.id for token in view.tokens), view.state.focus
    return ids, range(focus, focus + 1), f"after position {focus}"


def draw_rollout(view: View) -> Callable[[], list[Card]]:
    return lambda: [
        cards.rollout(view.loaded, view.trace, view.state.layer, view.state.focus),
        cards.shares(view.loaded, view.trace),
    ]


chapter(
    number=9,
    title="Multi-head attention",
    question="What do many heads do that one could not?",
    lead="A layer has several attention heads, and each decides for itself where every token looks. Some may have "
    "a job that can be read off their maps. Here every head of the checkpoint is on one wall; a text without meaning "
    "tests each of them for four such jobs; and taking a head out shows what the model says without it.",
    beats=[
        Beat(
            "wall",
            "Every layer looks in many ways at once",
            wall_prose,
            draw_wall,
            "Look for a dark first column, for a dark diagonal, and for a line just beside the diagonal. Then add a "
            "few words to the prompt and see which maps keep their shape.",
        ),
        Beat(
            "head",
            "A head's map says for each token where it looks",
            "Each row is one query: the weights with which a token mixes the values of the tokens up to itself. A row "
            "sums to 1, and keys after the query are masked. The weights say where a head looks; what it then takes "
            "from there is in the values and in the output projection (chapter 8).",
            draw_head,
            "Choose in the bar a token that occurs twice in the prompt, and compare the rows of its two occurrences.",
        ),
        Beat(
            "arcs",
            "Over the text, a head becomes a way of reading",
            "The same weights, drawn where the words are: every arc goes from a query back to a key, and its width is "
            "the weight. What is left out is small, but there can be much of it: lower the limit and see.",
            draw_arcs,
            "Step through the heads of one layer in the bar, with the limit unchanged.",
        ),
        Beat(
            "random",
            "A text without meaning shows what a head does by itself",
            random_prose,
            draw_random,
            "Change the seed in the bar: the tokens are other ones. What stays in the map is the head's own habit.",
        ),
        Beat(
            "scores",
            "Four numbers tell how much of a head's attention has a known aim",
            SCORES,
            draw_scores,
            "Remove the sink and look for heads whose score rises. The raw sink score, which stays on show, says how "
            "little attention that rise is about.",
        ),
        Beat(
            "kinds",
            "A head gets a name only where a score passes a threshold",
            "The kind of a head is the largest of its scores, if that reaches the threshold; otherwise it is "
            "unclassified. The threshold is a choice: at one half, a head must spend most of its attention on one aim. "
            "Unclassified does not mean idle. These four aims are simple ones, and on text a head may do what random "
            "tokens never call for.",
            draw_kinds,
            "Lower the threshold until the first cell changes its letter: would you still call that head by this name?",
        ),
        Beat(
            "second",
            "Induction shows in what a repeated text costs",
            "Nothing foretells a random token at the first reading. At the second it can be foreseen, by a model that "
            "finds where the present token stood before and reads on from there, which induction heads are said to "
            f"do ({OLSSON}). So compare the surprisal of the same tokens at both readings, and then without the heads "
            "that score highest on induction.",
            draw_second,
            "Set the number of removed heads to 0 and raise it by one at a time. Does the curve of the second reading "
            "go up with the first head, or only once several are gone?",
        ),
        Beat(
            "ablate",
            "Take a head out and see whether the next token minds",
            "To ablate a head, its output is set to zero before the output projection, at every position. The rest of "
            "the model runs as before, on a residual stream that lacks this write. How far the next-token distribution "
            "moves is measured as KL divergence in nats. A small KL does not prove that a head is useless: later parts "
            "of a model can make up for a missing one ([McDougall et al. 2023](https://arxiv.org/abs/2310.04625)).",
            draw_ablation,
            "Remove two heads one by one, then both together. Is the effect of both the sum of the two?",
        ),
        Beat(
            "sweep",
            "Head by head: which of them does this prediction rest on?",
            "One forward pass for each head, each with that head taken out. The map says where in the model the heads "
            "are that this prediction depends on; the bars rank them. The measurement can be stopped at any time and "
            "goes on from there, and what has been measured is kept.",
            draw_sweep,
            "Compare the ranking on your prompt with the one on the second reading of the random tokens. Are the heads "
            "that score highest on induction on top there?",
        ),
        Beat(
            "rollout",
            "Rollout follows attention through all layers, and assumes a lot",
            rf"""
            After a few layers a position holds a mixture of tokens, so a weight on that position is no longer a weight
            on its token. *Attention rollout* ({ABNAR}) multiplies the layers: heads are averaged to $\bar A_\ell$, and
            the residual connection counts as one half,

            $$R_\ell = \tfrac12\,(\bar A_\ell + I)\,R_{{\ell-1}}, \quad R_{{-1}} = I.$$

            The caveat is in the assumptions. All heads count the same, whatever they write; values, MLPs and norms are
            left out; and the one half is a convention, which the second figure compares with the lengths of the real
            vectors. Read rollout as where attention could have carried something from, not as what the prediction is
            due to.
            """,
            draw_rollout,
            "Move the layer in the bar from the first to the last and watch the diagonal fade: every layer multiplies "
            r"an entry of it by $\tfrac12(1 + \bar A_{ii})$, which is at least one half, whatever the head writes.",
        ),
    ],
    bar=("focus", "layer", "head", "seed"),
    asks=ASKED,
)
