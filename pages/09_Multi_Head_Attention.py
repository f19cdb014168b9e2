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
MENG = (
    "[Meng et al. 2022, *Locating and Editing Factual Associations in GPT*](https://arxiv.org/abs/2202.05262)"
)
ZHANG = (
    "[Zhang and Nanda 2023, *Towards Best Practices of Activation Patching in Language Models*]"
    "(https://arxiv.org/abs/2309.16042)"
)
XIAO = "[Xiao et al. 2023](https://arxiv.org/abs/2309.17453)"


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
        f"{markdown(view.loaded.name)} runs {spec.n_head} attention heads beside each other in each of its "
        f"{spec.n_layer} layers, and each has its own query projection to {spec.d_head} numbers per token.{shared} "
        "A softmax gives a token one mixture of the values; with several heads it can fetch different things from "
        "different places at once. The outputs of a layer's heads are concatenated, and one output projection turns "
        "them into a single write to the residual stream ([Vaswani et al. "
        "2017](https://arxiv.org/abs/1706.03762), section 3.2.2)."
    )


def shared(view: View) -> tuple[int, int]:
    """The layer and the head that all beats share."""
    return view.state.layer, view.state.head


WHY = {
    "previous": "Of all heads it looks most at the token before: on random tokens with {score:.0%} of its attention.",
    "induction": "Of all heads it has the largest induction score, {score:.2f}: on random tokens that come twice, it "
    "looks at what came after the present token the first time.",
}


def offer(view: View, kind: str) -> None:
    """A button for the strongest head of a kind, and what it is strongest in."""
    seed = view.state.seed
    (layer, head), score = view.work(
        "Looking for a head", (seed, kind), lambda progress: cards.strongest(view.loaded, seed, kind)
    )
    view.offer(
        f"Show layer {layer}, head {head}", WHY[kind].format(score=score), {"layer": layer, "head": head}
    )


def draw_wall(view: View) -> Callable[[], Card]:
    return lambda: cards.wall(view.loaded, view.trace, *shared(view))


ARCS, MAP = "arcs over the text", "map"


def draw_arcs(view: View) -> Callable[[], Card]:
    offer(view, "previous")
    with view.controls:
        drawn = view.segments("drawn", "Drawn as", [ARCS, MAP])
    if drawn == MAP:
        return lambda: cards.one_head(view.loaded, view.trace, *shared(view), view.state.focus)
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
        token, {length} random tokens, and the same {length} again. The weights on four places, seen from the second
        half, now tell what the head itself does. For a query at position $i$ of the second half, with $n = {length}$:

        | kind | looks at position | source |
        |---|---|---|
        | previous token | $i-1$ | {ELHAGE} |
        | duplicate token | $i-n$, where the same token stood before | {WANG} |
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
        kind = STRONGEST[which]
        head, _ = cards.strongest(view.loaded, seed, kind)
        return cards.pattern(view.loaded, seed, *head, kind)

    return card


SCORES = rf"""
    A head's score for a kind is the mean weight that the queries of the second half give to that kind's place.

    $$s_\text{{kind}} = \frac{{1}}{{n}}\sum_{{i=n+1}}^{{2n}} A_{{i,\,\kappa(i)}}$$

    Here $A$ is the head's map, and $\kappa(i)$ is the position from the table above. The four places are different
    keys, so the four scores of a head add up to at most 1. A softmax must put its weights somewhere, and heads that
    find nothing to fetch often leave them on the first token, the *attention sink* ({XIAO}). This can hide what they
    do with the rest, so the switch takes the sink out and scales the rows to 1 again:

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
    offer(view, "induction")
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
        drawn = [cards.sweep_map(view.loaded, sweep, where, shared(view))]
        return [*drawn, cards.sweep_ranking(view.loaded, sweep, where)] if sweep.done else drawn

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


COPIER = "the head that copies most"


def draw_copies(view: View) -> Callable[[], Card]:
    with view.controls:
        which = view.select("which", "Show", [COPIER, CHOSEN, *STRONGEST])

    def card() -> Card:
        seed = view.state.seed
        if which == CHOSEN:
            return cards.copies(view.loaded, seed, *shared(view))
        if which == COPIER:
            head, _ = cards.best_copier(view.loaded, seed)
        else:
            head, _ = cards.strongest(view.loaded, seed, STRONGEST[which])
        return cards.copies(view.loaded, seed, *head)

    return card


def draw_circuit(view: View) -> Callable[[], Card]:
    most = min(6, view.loaded.spec.n_layer * view.loaded.spec.n_head // 4)
    with view.controls:
        removed = view.slider(
            "removed", "Previous-token heads taken out, strongest first", 0, most, min(3, most), of=most
        )
    return lambda: cards.circuit(view.loaded, view.state.seed, removed)


INDUCTION = next(iter(STRONGEST))


def draw_looks(view: View) -> Callable[[], Card]:
    with view.controls:
        which = view.select("which", "Show", [INDUCTION, CHOSEN])

    def card() -> Card:
        seed = view.state.seed
        if which == CHOSEN:
            return cards.looks(view.loaded, seed, *shared(view))
        head, _ = cards.strongest(view.loaded, seed, STRONGEST[which])
        return cards.looks(view.loaded, seed, *head)

    return card


LOOKS = f"""
    A head's score of a key is a sum of shares, one for each part that wrote into the key's residual stream. These parts
    are the embedding, each earlier head and each earlier MLP; the scale of the norm between stream and key is held. So
    the lead of the right key, the one after the earlier occurrence, over the other keys is such a sum, too. If a head
    finds that key by the token *before* it, the lead should come from heads below that look at the token before
    ({ELHAGE} call this K-composition). A head above other induction heads may know already which token comes next, and
    look for that token itself.
    """


TOLD, REPEAT, OWN = "the names exchanged", "random tokens, one exchanged", "your own two texts"
ROWS = 10  # layers patched at first, at most about so many
TYPED = 240  # characters of a text


def draw_patching(view: View) -> Callable[[], Card]:
    told = view.work("Looking for a pair", "names", lambda progress: cards.tells_names(view.loaded))
    count, seed = view.loaded.spec.n_layer, 0
    with view.controls:
        which = view.select("texts", "Texts", [TOLD, REPEAT, OWN], TOLD if told else REPEAT, of=told)
        texts = cards.NAMES
        if which == OWN:
            texts = (
                view.text("first", "First text", cards.NAMES[0], limit=TYPED),
                view.text("second", "Second text", cards.NAMES[1], limit=TYPED),
            )
        every = view.slider("every", "Every n-th layer", 1, max(1, count // 2), -(-count // ROWS), of=count)
    if which == REPEAT:
        seed = view.state.seed

    def measured(progress: Progress) -> cards.Patched:
        loaded = view.loaded
        pair = cards.random_pair(loaded, seed) if which == REPEAT else cards.typed_pair(loaded, *texts)
        return cards.patch(loaded, pair, cards.steps(loaded, every), progress)

    found: cards.Patched = view.work("Patching", (which, seed, texts, every), measured)
    return lambda: cards.patching(view.loaded, found)


PATCHING = rf"""
    Take two texts that the model continues differently, run the second with one vector of the first in it, and see
    whether the first text's answer comes back. The vector is the residual stream at one token, where it enters one
    layer; this is called *activation patching* ({MENG}, who spoil the text with noise; {ZHANG} compare the variants).
    Where the answer comes back, the stream holds what decides between these two texts.

    $$\text{{share restored}} = \frac{{d_p - d_2}}{{d_1 - d_2}}$$

    Here $d$ is the logit of the first text's answer minus that of the second's, after the last token: $d_1$ of the
    first text, $d_2$ of the second, $d_p$ of the second with the patch. The map tells only of what differs between
    the two texts: what both need alike it cannot show.
    """


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
            "arcs",
            "Over the text, a head becomes a way of reading",
            "Drawn over the text, the weights of one head show how it reads: every arc goes from a query back to a "
            "key, and its width is the weight. Each omitted weight is small, but together they can be a large share: "
            "lower the limit and see. The same weights as a map have one row for each query. They say where a head "
            "looks; what it takes from there is in the values and in the output projection (chapter 8).",
            draw_arcs,
            "Step through the heads of one layer in the bar, with the limit unchanged. Then choose a token that occurs "
            "twice in the prompt, and compare the rows of its two occurrences in the map.",
        ),
        Beat(
            "random",
            "A text without meaning shows what a head does by itself",
            random_prose,
            draw_random,
            "Change the seed in the bar: the tokens change; whatever stays in the map is the head's habit.",
        ),
        Beat(
            "scores",
            "Four numbers tell how much of a head's attention has a known aim",
            SCORES,
            draw_scores,
            "Remove the sink and look for heads whose score rises. The raw sink score, which is still shown, tells how "
            "little attention the rise is based on.",
        ),
        Beat(
            "kinds",
            "A head gets a name only where a score passes a threshold",
            "A head is named after its largest score, if that reaches the threshold; otherwise it is unclassified. "
            "The threshold is a choice: at one half, a head must spend at least half of its attention on one aim. "
            "Unclassified does not mean idle. These four aims are simple ones, and on text a head may do what random "
            "tokens never call for.",
            draw_kinds,
            "Lower the threshold until the next dot becomes a letter: would you call that head by this name?",
        ),
        Beat(
            "second",
            "Induction makes a repeated text cheap",
            "On the first reading nothing predicts a random token; on the second a model can, if it finds where the "
            "present token stood before and reads on from there. Induction heads are said to do this "
            f"({OLSSON}). So compare the surprisal of the same tokens at both readings, and then without the heads "
            "that score highest on induction. Taking out any heads may hurt, so the control takes out as many others: "
            "only what taking out the induction heads costs beyond that speaks for them.",
            draw_second,
            "Set the number of removed heads to 0 and raise it by one at a time. Does the curve of the second reading "
            "go up with the first head, or only once several are gone?",
        ),
        Beat(
            "copies",
            "Some heads copy the token that they look at",
            "Where a head looks is decided by its queries and keys; what it does with a token there, by its values and "
            "its rows of the output projection. So ask separately: if this head looked at one token alone, which "
            "tokens' logits would it raise? A head whose diagonal is dark passes on the token itself "
            f"({ELHAGE} call it copying). To make a repeated text cheap, a model needs induction *and* copying, in one "
            "head or in two.",
            draw_copies,
            "Take the strongest induction head, then the strongest previous-token head. Does this model copy in its "
            "induction heads, or in others?",
        ),
        Beat(
            "circuit",
            "Induction takes two heads, one after the other",
            "An induction head needs help from a layer below: its query knows the present token, but the key that it "
            "should find, the token after the earlier occurrence, is another token. A previous-token head in such a "
            "layer solves this. It writes into each position which token stands before it, the induction head's keys "
            f"read that, and the match is made ({ELHAGE}). If this is how it works, taking out the previous-token "
            "heads must break the induction heads, and taking out as many others must not. Chapter 10 shows what lets "
            "a head look back by one token.",
            draw_circuit,
            "Begin with 0 and raise the number one by one. Does the first previous-token head break induction in this "
            "model, or do several do the same work?",
        ),
        Beat(
            "looks",
            "What a head looks for can be traced to the parts that wrote it",
            LOOKS,
            draw_looks,
            "Choose the induction heads of the figure above in the bar, one by one, and show the chosen head: does the "
            "same part come first for each?",
        ),
        Beat(
            "ablate",
            "Take a head out and see how the next token changes",
            "To **ablate** a head, its output is set to zero before the output projection, at every position. The rest "
            "of the model runs as before, on a residual stream that lacks this write. How far the next-token "
            "distribution moves is measured as KL divergence (Kullback–Leibler) in nats. Zero is not neutral: a head "
            "that writes nearly the same everywhere takes that constant away, too, which alone can change the "
            "prediction. And a small KL does not prove that a head is useless: later parts of a model can make up for "
            "a missing one ([McDougall et al. 2023](https://arxiv.org/abs/2310.04625)).",
            draw_ablation,
            "Remove two heads one by one, then both together. Is the effect of both the sum of the two?",
        ),
        Beat(
            "sweep",
            "Taken out one by one, the heads show which of them a prediction depends on",
            "The model runs once for each head, with that head taken out. The map shows which heads this prediction "
            "depends on, and the bars rank them when all are measured. You can stop and resume; results are kept.",
            draw_sweep,
            "Compare the ranking on your prompt with the one on the second reading of the random tokens. Are the heads "
            "that score highest on induction on top there?",
        ),
        Beat(
            "patching",
            "Patching one text into another shows where an answer is decided",
            PATCHING,
            draw_patching,
            "Take the random tokens, one exchanged, and read the map from the top: which token's patch brings the "
            "answer back in the first layers, and which in the last? Then type two texts of your own that differ in "
            "one word.",
        ),
    ],
    bar=("focus", "layer", "head", "seed"),
    asks=ASKED,
    parts=("attention",),
)
