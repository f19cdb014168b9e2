"""15 · Quantization — the same checkpoint with fewer bits."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import streamlit as st

from engine.chapters import c15_quantization as cards
from engine.chapters.c15_quantization.questions import ASKED
from engine.evidence.card import Card
from engine.model.loaded import Loaded
from engine.model.precisions import CODE_BOOKS, EIGHT_BIT, FOUR_BIT, PRECISIONS, REFERENCE, precision
from engine.tokens.passages import passage
from engine.tokens.text import display, markdown
from pages._shared import Beat, View, chapter, resources
from pages._shared.choices import pick
from pages._shared.work import Progress

PROMPT_SHOWN = 160
Names = tuple[str, str]


def other(view: View, label: str = "Compared with it") -> str:
    """What is compared with the reference: the precision of the sidebar when bitsandbytes executes it, else 4 bits."""
    named = view.state.precision
    default = named if precision(named).quantized else FOUR_BIT
    return pick(view, "other", label, PRECISIONS, default)


def pair(view: View) -> Names:
    """The names of the chapter's two precisions, picked in any of its beats."""
    with view.controls:
        left, right = st.columns(2)
        with left:
            first = pick(view, "reference", "Reference", PRECISIONS, cards.half_name(view.loaded))
        with right:
            second = other(view)
    return first, second


def at(view: View, name: str) -> cards.Get:
    """The way to the checkpoint at a precision, which holds no model and nothing of the session."""
    return partial(resources.loaded, view.chosen.checkpoint, name)


def both(view: View, names: Names) -> cards.Pair:
    """The checkpoint at the two precisions, with the tokens of the prompt. For a worker's thread: it loads them."""
    return cards.Pair(at(view, names[0]), at(view, names[1]), ids(view))


def ids(view: View) -> tuple[int, ...]:
    return tuple(token.id for token in view.tokens)


def written(view: View) -> Callable[[], Card]:
    names = pair(view)
    with view.controls:
        count = view.slider("count", "Tokens to write", 8, 48, 24, 8)
        how = view.segments("how", "Choose each token", ["greedily", "by drawing"])
        choices = cards.Choices(count)
        if how == "by drawing":
            temperature = view.slider("temperature", "Temperature", 0.1, 1.5, 0.8, 0.1)
            choices = cards.Choices(count, temperature, view.state.seed)
    key = (names, choices)
    writing, texts = view.work("Writing at two precisions", key, partial(write, view, names, choices))
    with view.stage:
        for place, text in zip(st.columns(2, gap="medium"), texts, strict=True):
            place.markdown(text)
    return lambda: cards.text(both(view, names), writing, choices)


def write(
    view: View, names: Names, choices: cards.Choices, progress: Progress
) -> tuple[cards.Writing, tuple[str, str]]:
    """In a worker's thread: both texts, shown as they grow. What was written, and the texts as markdown."""
    two, texts = both(view, names), ("", "")
    for writing in cards.write(two, choices):
        texts = said(two, writing)
        progress.show(*texts)
    return writing, texts


def said(two: cards.Pair, writing: cards.Writing) -> tuple[str, str]:
    """Both texts so far: the prompt grey, what was written alike plain, the rest on a coloured ground."""
    texts = []
    for name, (prompt, shared, rest) in zip(two.names, cards.segments(two, writing), strict=True):
        short = prompt if len(prompt) <= PROMPT_SHOWN else "…" + prompt[-PROMPT_SHOWN:]
        text = coloured("gray", short) + spaced(shared) + coloured("orange-background", rest, strong=True)
        texts.append(f"**{name}**\n\n{text}")
    return texts[0], texts[1]


def coloured(directive: str, text: str, strong: bool = False) -> str:
    """Text in one of Streamlit's colours; white space stays outside, where markdown wants it."""
    core = plain(text)
    if not core:
        return ""
    return f"{' ' if text[:1].isspace() else ''}:{directive}[{f'**{core}**' if strong else core}]"


def spaced(text: str) -> str:
    return (" " if text[:1].isspace() else "") + plain(text)


def plain(text: str) -> str:
    """Text as literal markdown, with ordinary spaces and with control and bidirectional characters spelled out."""
    return markdown("".join(" " if char.isspace() else display(char) for char in text).strip())


def following(view: View) -> Callable[[], Card]:
    names = pair(view)
    return lambda: cards.next_token(both(view, names), view.state.focus)


def divergence(view: View) -> Callable[[], Card]:
    names = pair(view)
    return lambda: cards.kl(both(view, names))


def drift(view: View) -> Callable[[], Card]:
    names = pair(view)
    with view.controls:
        measure = view.segments("measure", "Measure", list(cards.DRIFTS), "relative L2")
    return lambda: cards.drift(both(view, names), measure)


def perplexity(view: View) -> Callable[[], Card]:
    names = pair(view)

    def read(progress: Progress) -> cards.Reading:
        two = both(view, names)
        return cards.read(two, cards.cut(two.reference, passage()), progress)

    whole = None
    if not cards.small(view.loaded):
        with view.controls:
            whole = view.asked("Read the whole passage", names, read)

    def card() -> Card:
        two = both(view, names)
        windows = cards.cut(two.reference, passage())
        first = windows if cards.small(two.reference) else windows[:1]
        return cards.perplexity(two, whole or cards.read(two, first))

    return card


def overview(view: View) -> Callable[[], Card]:
    checkpoint, small, found = view.chosen.checkpoint, cards.small(view.loaded), None
    first, second = (REFERENCE, FOUR_BIT) if small else pair(view)

    def get(name: str) -> Loaded:
        return resources.loaded(checkpoint, name)

    def windows() -> tuple[cards.Window, ...]:
        return cards.cut(get(first), passage())

    def measure(progress: Progress) -> tuple[cards.Point, ...]:
        return cards.points(get, list(PRECISIONS), windows(), progress)

    if not small:
        with view.controls:
            found = view.asked("Measure all precisions", None, measure)

    def make() -> Card:
        if small:
            return cards.overview(get, cards.points(get, list(PRECISIONS), windows()), windows())
        if found is None:
            few = windows()[:1]
            return cards.overview(get, cards.points(get, list(dict.fromkeys((first, second))), few), few)
        return cards.overview(get, found, windows())

    return make


def memory(view: View) -> Callable[[], Card]:
    names = pair(view)
    return lambda: cards.size(both(view, names))


def duration(view: View) -> Callable[[], Card]:
    names = pair(view)
    with view.controls:
        rounds = view.slider("rounds", "Rounds", 3, 21, 5, 2)
        press = view.again("Measure again")
    timings = view.work(
        "Measuring", (names, rounds, press), lambda progress: cards.measure(both(view, names), rounds)
    )
    return lambda: cards.time(both(view, names), timings)


def halved(view: View) -> str:
    """The precision of the 16-bit weights from which bitsandbytes starts."""
    return cards.half_name(view.loaded)


def matrix(view: View) -> tuple[str, str]:
    """The linear layer and the code book, picked in either beat."""
    names = cards.matrices(view.loaded)
    with view.controls:
        part = pick(view, "matrix", "Linear layer", list(names), next(iter(names)), names.__getitem__)
        kind = pick(view, "kind", "Code book", CODE_BOOKS, FOUR_BIT)
    return part, kind


def number(view: View) -> Callable[[], Card]:
    part, kind = matrix(view)
    plain = view.load(precision=REFERENCE)
    layer = view.state.layer
    with view.controls:
        place = view.slider(
            "place",
            "Weight of the block",
            0,
            cards.SIZE - 1,
            cards.middle(plain, part, layer),
            of=(view.loaded.name, part, layer),
        )
    return lambda: cards.number(cards.Weight(at(view, REFERENCE), part, layer, kind, place))


def tile(view: View) -> Callable[[], list[Card]]:
    part, kind = matrix(view)
    down, across = cards.steps(view.load(precision=halved(view)), part, view.state.layer)
    with view.controls:
        row = view.slider("row", "Outputs, 16 at a time", 0, down - 1, 0, of=down)
        column = view.slider("column", "Inputs, 64 at a time", 0, across - 1, 0, of=across)

    def make() -> list[Card]:
        where = cards.Where(at(view, halved(view)), part, view.state.layer, kind, 16 * row, 64 * column)
        return [cards.tile(where), cards.code_book(where)]

    return make


def outlier(view: View) -> Callable[[], list[Card]]:
    part, kind = matrix(view)
    with view.controls:
        size = view.select_slider("size", "Weights in a block", cards.SIZES, 64)

    def make() -> list[Card]:
        chosen = cards.Matrix(at(view, halved(view)), part, view.state.layer, kind)
        return [cards.outlier(chosen, size), cards.block_sizes(chosen, size)]

    return make


def columns(view: View) -> Callable[[], list[Card]]:
    view.load(precision=EIGHT_BIT)
    layer, count, limit = view.work("Looking for a layer", "columns", partial(most, view))
    if count:
        reason = f"{count} of its inputs reach {limit:g} somewhere in this text, the most of all layers."
        view.offer(f"Show layer {layer}", reason, {"layer": layer})

    def make() -> list[Card]:
        trace = view.capture(loaded=view.load(precision=EIGHT_BIT))
        entering = cards.Entering(at(view, EIGHT_BIT), at(view, halved(view)), trace, view.state.layer)
        return [cards.outlier_columns(entering), cards.decomposed(entering)]

    return make


def most(view: View, progress: Progress) -> tuple[int, int, float]:
    """In a worker's thread: the layer with the most columns apart, how many, and the limit that they reach."""
    loaded = view.load(precision=EIGHT_BIT)
    return *cards.most(loaded, view.capture(loaded=loaded)), cards.threshold(loaded, 0)


def simulation(view: View) -> Callable[[], list[Card]]:
    names = pair(view)
    with view.controls:
        bits = view.slider("bits", "Bits", 2, 8, 3)
        size = view.select_slider("size", "Weights in a block", cards.SIZES, 64)
        runs = view.asked("Try 2 to 8 bits", size, lambda progress: cards.sweep(*exact(view), size, progress))

    def make() -> list[Card]:
        executed = both(view, (REFERENCE, names[1]))
        shown = [cards.simulated(executed, bits, size)]
        return shown if runs is None else [*shown, cards.curve(executed, runs)]

    return make


def formats(view: View) -> Callable[[], Card]:
    part, layer, tried = next(iter(cards.matrices(view.loaded))), view.state.layer, None
    if not cards.small(view.loaded):
        with view.controls:
            tried = view.asked(
                "Try all formats", None, lambda progress: cards.try_all(*exact(view), progress)
            )

    def make() -> Card:
        runs = cards.try_all(*exact(view)) if cards.small(view.loaded) else tried
        if runs is None:
            return cards.one_matrix(cards.Matrix(at(view, REFERENCE), part, layer, FOUR_BIT))
        return cards.formats(at(view, REFERENCE), ids(view), runs)

    return make


def disk(view: View) -> Callable[[], list[Card]]:
    view.load(precision=REFERENCE)
    layer = view.state.layer
    file, names = view.work(
        "Reading the file",
        layer,
        lambda progress: cards.in_file(view.load(precision=REFERENCE), layer),
    )
    with view.controls:
        part = view.select("part", "Matrix", list(names), None, names.__getitem__, of=file is None)
        kind = view.segments("kind", "Format", cards.KINDS) if file is None else cards.KINDS[0]
        where = cards.Place(at(view, REFERENCE), part, layer, file=file, kind=kind)
        rows, blocks = where.shape
        where = replace(where, row=view.number("row", "Row", 0, rows - 1, 0, of=rows))
        begin, of = cards.fullest(where), (view.loaded.name, part, layer, where.row, kind)
        where = replace(where, number=view.slider("block", "Block of the row", 0, blocks - 1, begin, of=of))

        one, all_ = ("one block", "types of all tensors")  # on a projector, only one of the figures has room
        shown = view.segments("show", "Show", [one, all_]) if file and view.presenting else None

    def make() -> list[Card]:
        block = cards.disk(where)
        if file is None or shown == one:
            return [block]
        return [cards.types(file)] if shown == all_ else [block, cards.types(file)]

    return make


def exact(view: View) -> tuple[Loaded, tuple[int, ...]]:
    """The checkpoint at fp32 and the ids of the prompt."""
    return view.load(precision=REFERENCE), ids(view)


def scale(view: View) -> Callable[[], Card]:
    with view.controls:
        name = other(view, "Check the sum at")
    return lambda: cards.scale(at(view, name))


chapter(
    number=15,
    title="Quantization",
    question="How many bits does a weight need?",
    lead="A checkpoint is a list of numbers, and each number can be stored with fewer bits. Here the same checkpoint "
    "runs twice on the same tokens: with the weights of the reference, and rounded. `int8`, `nf4` and `fp4` are "
    "executed by bitsandbytes; nothing is imitated unless the figure says *simulation*.",
    bar=("focus", "layer", "seed"),
    beats=[
        Beat(
            "text",
            "Two precisions write alike until one choice goes the other way",
            prose="""
            The same checkpoint continues your prompt at two precisions, token by token. Text on which they agree is
            plain; from the first difference on it is coloured. After that, the two models read different texts.

            The figure shows the step that decides: where the texts part or, if they never do, where the two best
            candidates were closest.
            """,
            draw=written,
            try_this="Compare `fp16` with `fp32`, then with `fp4`. Which pair parts sooner?",
        ),
        Beat(
            "number",
            "A weight is a row of bits, and fewer bits can name fewer numbers",
            prose="""
            Each row of the figure stores the same weight in another format. A float has a sign, an exponent that
            chooses a power of two, and a fraction that says where the number lies between that power and the next.
            `bf16` keeps the whole exponent of `fp32` and little of its fraction; `fp16` keeps more of the fraction,
            and a smaller range of exponents. `int8` is a whole number times a scale that a row of the matrix shares. At
            4 bits only an index is left; what it points to is the subject of the next beat.

            The figure opens on the weight of middle size in its block.
            """,
            draw=number,
            try_this="Move the slider until 4 bits err less than `int8`. Why has almost every block such a weight?",
        ),
        Beat(
            "tile",
            "A 4-bit weight is an index into a code book, times the scale of its block",
            prose="""
            The figure shows a piece of a real weight matrix before and after 4-bit rounding. bitsandbytes divides each
            block of 64 weights by its largest magnitude (*absmax*) and keeps for every weight the index of the nearest
            of the levels in a code book: weight ≈ absmax · code[index].

            The second figure lays the levels over the weights. The 16 levels of NF4 are quantiles of a normal
            distribution, close together where weights are dense
            ([Dettmers et al. 2023](https://arxiv.org/abs/2305.14314)). FP4 is a tiny float with a sign, an exponent
            and a mantissa; since two of its codes are 0, with either sign, it has 15 levels.
            """,
            draw=tile,
            try_this="Change the code book to FP4 and compare the bits that are used.",
        ),
        Beat(
            "outlier",
            "One outlier sets the scale of its whole block",
            prose="""
            All weights of a block share one scale, and the largest of them sets it. The figure shows the block of the
            chosen matrix whose largest weight stands out most. With that weight in the block the steps are wide; with
            it taken out, the same weights are rounded more finely.

            Short blocks confine the damage and cost more scales; the second figure has the error of the whole matrix.
            *Double quantization* makes scales cheaper by rounding them to 8 bits too, 256 of them sharing a scale of
            their own (Dettmers et al. 2023, [QLoRA: Efficient Finetuning of Quantized
            LLMs](https://arxiv.org/abs/2305.14314)): the caption has the bytes.
            """,
            draw=outlier,
            try_this="Make the blocks longer. How do the error and the bits per weight change?",
        ),
        Beat(
            "columns",
            "Eight bits for what flows through, too, except where it is large",
            prose="""
            `int8` rounds the inputs of a layer as well as its weights. The numbers of a token are divided by the
            largest of them and become whole numbers up to 127, so that a computer multiplies whole numbers only. One
            very large number then leaves few steps for all others of its token.

            Trained models have such numbers, in most layers in few columns or in none. LLM.int8 takes those columns
            apart in which any token reaches a limit: they are multiplied in 16 bits, the rest in 8 (Dettmers et al.
            2022, [LLM.int8()](https://arxiv.org/abs/2208.07339)). The first figure shows the largest number of every
            column that enters the last matrix of an MLP. The second has the error of what leaves it, with those columns
            apart and with all of them in 8 bits.
            """,
            draw=columns,
            try_this="Step through the layers, in the bar. Is there one in which nothing is taken apart?",
        ),
        Beat(
            "bytes",
            "4-bit shrinks the linear layers and little else",
            prose="""
            The bars sum the bytes of the tensors in memory, instead of multiplying parameters by bits. At 4 bits each
            linear layer also keeps one scale for every 64 weights and a code book of 16 numbers; the embeddings, the
            norms and the biases stay at 16 bits. In a small model the embeddings weigh a lot, so the whole shrinks
            less than its linear layers do.
            """,
            draw=memory,
            try_this="Compare `int8` with `nf4`. What part of the model no longer shrinks?",
        ),
        Beat(
            "time",
            "Fewer bits are not faster by themselves",
            prose="""
            A forward pass is timed twice: over one token, as when a text is written, and over many at once, as when a
            prompt is read. The two precisions take turns, so that both meet the same disturbances. A 4-bit weight has
            to be turned back into a float before it can be multiplied; int8 multiplies whole numbers, for which the
            activations are rounded too. With one token, most of the time goes into reading weights from memory, and
            fewer bytes can win; with many, it goes into arithmetic, and the extra work can lose. 16-bit floats can be
            slow on a CPU as well.
            """,
            draw=duration,
            try_this="Compare `fp32` with `nf4`, then `fp32` with `bf16`.",
        ),
        Beat(
            "next",
            "Rounding moves probability between tokens",
            prose="""
            The bars show which tokens gain probability at the second precision, and which lose it. The probabilities
            sum to 1 at either, so all gains together are as large as all losses. That sum, over the whole vocabulary
            and not only over the tokens drawn, is the *total variation*: the share of probability that moved.
            """,
            draw=following,
            try_this="Find a token of your prompt, in the bar, after which the first choice changes.",
        ),
        Beat(
            "kl",
            "KL measures the cost at every token; a flip is where greedy text shows it",
            prose=r"""
            The KL divergence $\mathrm{KL}(p\,\|\,q)=\sum_v p_v\,(\ln p_v-\ln q_v)$ compares the two next-token
            distributions, in nats: how much more, on average, a token drawn from $p$ surprises $q$ than $p$. A *top-1
            flip* is a position where the most probable token is another one. Large KL and a flip need not coincide: a
            near tie flips for very little.
            """,
            draw=divergence,
            try_this="Compare `bf16` with `fp16`: the weights have the same number of bits, spent differently.",
        ),
        Beat(
            "drift",
            "Errors enter in every layer and travel on with the residual stream",
            prose="""
            Each cell compares the residual stream of one token at one depth, at both precisions: how far apart are the
            two vectors? Relative L2 is the length of their difference over the length of the reference; 1 − cosine
            looks at the direction alone. bitsandbytes leaves the embeddings at 16 bits, so the drift begins inside
            the first block.
            """,
            draw=drift,
            try_this="With `nf4`, which tokens drift most, and from which depth on?",
        ),
        Beat(
            "perplexity",
            "Over a passage, losses and gains are summed into perplexity",
            prose="""
            The histogram has, for every token of a passage, its surprisal at one precision minus its surprisal at the
            other. The passage is cut into windows of at most 128 tokens without overlap. Perplexity is exp of the mean
            surprisal, so the mean of this histogram is the logarithm of the ratio of the two perplexities.

            Some tokens become more surprising and some less, so a short text can favour either precision by chance:
            mind the standard error. A large checkpoint reads one window at first; its button reads them all.
            """,
            draw=perplexity,
            try_this="How many tokens became *less* surprising through rounding?",
        ),
        Beat(
            "overview",
            "Bytes saved against perplexity lost, for every precision",
            prose="""
            The map shows what each precision of the checkpoint takes in memory and what it costs on the same passage.
            The best place is at the bottom left. 16 bits cost next to nothing; where 4 bits lie depends on how much of
            the model is embeddings, which stay at 16 bits, and on how well its weights fit the code book.

            A large checkpoint opens with two precisions and one window of text; its button measures all of them on the
            whole passage.
            """,
            draw=overview,
            try_this="Which precisions lie within their error bars of each other?",
        ),
        Beat(
            "simulation",
            "Any number of bits can be simulated",
            prose="""
            bitsandbytes has no 3-bit or 6-bit layers, but we can still compute what such weights would do: round the
            weights of every linear layer to the nearest of 2ᵇ − 1 evenly spaced levels, then run the model with them
            at fp32. That says what rounding does to the predictions, and nothing about bytes or speed. The other line
            is the precision chosen above, as it is executed.

            Rounding to nearest looks at the weights alone; two methods look at what flows through them as well. GPTQ
            goes through the inputs of a matrix in turn and lets the weights not yet rounded make up for the error of
            those that are, measured on sample texts (Frantar et al. 2022, [GPTQ: Accurate Post-Training Quantization
            for Generative Pre-trained Transformers](https://arxiv.org/abs/2210.17323)). AWQ finds the inputs with
            large activations and scales their weights up before rounding, so that they lose less, and the activations
            down in return (Lin et al. 2023, [AWQ: Activation-aware Weight Quantization for LLM Compression and
            Acceleration](https://arxiv.org/abs/2306.00978)). *Clipping* gives up the largest weights of a block, so
            that all others get finer steps. *Quantization-aware training* rounds while the model still learns, so that
            its weights get used to it (Jacob et al. 2018, [Quantization and Training of Neural Networks for Efficient
            Integer-Arithmetic-Only Inference](https://arxiv.org/abs/1712.05877)).
            """,
            draw=simulation,
            try_this="How many evenly spaced bits match the KL of `nf4` on your prompt?",
        ),
        Beat(
            "formats",
            "The formats that people download spend their bits differently",
            prose="""
            Models for laptops are often downloaded as GGUF files, whose older formats store blocks of 32 weights.
            The simplest, `Q4_0`, keeps a 16-bit scale for each block and a whole number of 4 bits for each weight;
            `Q4_1` adds the smallest weight of the block, and `Q5_0` and `Q8_0` spend 5 and 8 bits. `Q4_K` does as
            `Q4_1`, but rounds the scales and minima of eight blocks to 6 bits each
            ([llama.cpp, k-quants](https://github.com/ggml-org/llama.cpp/pull/1684)). `MXFP4` stores tiny floats, whose
            shared scale is a power of two
            ([Open Compute Project 2023](https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf)).

            Lower is better, and further left is smaller: formats at the same number of bits need not be equally good.
            """,
            draw=formats,
            try_this="Which format would you choose for 4.5 bits, and what does half a bit more buy?",
        ),
        Beat(
            "disk",
            "On disk, a block of weights is a scale and then whole numbers, byte after byte",
            prose="""
            In a GGUF file, the weights of a matrix follow one another in blocks of a few bytes. A block of `Q4_1` has
            20 bytes for 32 weights: a 16-bit scale, a 16-bit minimum, and 16 bytes with two whole numbers from 0 to 15
            in each; a weight is scale · number + minimum. `Q4_0` does without the minimum and counts from −8 to 7, and
            `Q8_0` spends a whole byte on each number.

            Where the checkpoint was loaded from a GGUF file, the block is read from it, and a second figure counts
            which types its tensors have; where it was not, the title says that the block was laid out for this page.
            """,
            draw=disk,
            try_this="Take one byte and work out by hand the two weights that it stands for (at `Q8_0`, the one).",
        ),
        Beat(
            "scale",
            "How much memory 8 and 70 billion parameters take",
            prose="""
            What a large model weighs can be summed from its published dimensions: linear layers at the chosen bits
            with their scales, embeddings and unembedding at 16 bits. The larger the model, the smaller the share of
            its embeddings, and the closer the whole comes to the 4.5 bits that a weight and its part of a 32-bit scale
            take.

            The keys and values of the text come on top of that, and grow with it. They can be rounded as well: KIVI
            gives keys a scale for each channel, because a few channels hold large values, and values a scale for each
            token (Liu et al. 2024, [KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV
            Cache](https://arxiv.org/abs/2402.02750)).
            """,
            draw=scale,
            try_this="Which of these fits into the memory of your own machine?",
        ),
    ],
    asks=ASKED,
    parts=("embedding", "attention", "mlp", "unembedding"),
)
