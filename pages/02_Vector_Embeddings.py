"""2 · Vector embeddings — what a model knows about a token before it reads."""

from collections.abc import Callable

import streamlit as st

from engine import ReaderError, Token
from engine.chapters import c02_embeddings as cards
from engine.chapters.c02_embeddings.questions import ASKED
from engine.evidence.card import Card
from engine.tokens.text import markdown, shorten
from pages._shared import Beat, View, chapter, sidebar
from pages._shared.chapters import chapter_number

MIKOLOV = "[Mikolov et al. 2013](https://aclanthology.org/N13-1090/)"
LINZEN = "[Linzen 2016](https://arxiv.org/abs/1606.07736)"
ETHAYARAJH = "[Ethayarajh 2019](https://arxiv.org/abs/1909.00512)"
RIVER = """The boat drifted down the river to the bank
They sat in the green grass on the bank
The water of the river rose over the bank"""
MONEY = """He kept all of his money in the bank
She took all of her gold to the bank
He had taken all the money from the bank"""
NEAREST, SPELLINGS = "nearest rows", "other spellings"
ONE, LISTED, MISSED = "one analogy", "a list of them", "where it fails"
OWN = "words of my own"


def row_prose(view: View) -> str:
    spec, table = view.loaded.spec, cards.table(view.loaded)
    tied = (
        "At the end the same matrix serves once more, as the **unembedding**: the score of each possible next token is "
        "the dot product of the last vector with that token’s row (chapter 5)."
        if spec.tied
        else "At the end another matrix of the same shape, the **unembedding**, turns a vector into a score for each "
        "possible next token (chapter 5)."
    )
    where = (
        "Then the row of its position, from a second table, is added to it (a later beat of this chapter)."
        if spec.positions == "learned"
        else "Nothing is added to it for its position (a later beat of this chapter)."
    )
    return rf"""
    A token’s id is only a number in a list, so the first thing in {markdown(view.loaded.name)} is a learned matrix
    $W_E$ with a row for each of {spec.vocab:,} ids and {table.d_model} columns. The token’s row, its **embedding**, is
    read out, which is the same as multiplying a one-hot vector by $W_E$. {where} {tied}
    """


def draw_row(view: View) -> Callable[[], Card]:
    return lambda: cards.row(view.loaded, view.trace, view.state.focus)


def draw_cosines(view: View) -> Callable[[], Card]:
    return lambda: cards.against_all(view.loaded, view.tokens[view.state.focus])


def look_up(view: View) -> Token:
    """The focus token, or a token of any other text that the reader types."""
    with view.controls:
        typed = view.text("typed", "Or any other text", limit=60)
        space = view.toggle("space", "With a space in front", True)
        if not typed:
            return view.tokens[view.state.focus]
        found = cards.pieces(view.loaded, f" {typed}" if space else typed)[:40]
        if not found:
            raise ReaderError("This tokenizer has no token for this text.")
        if len(found) == 1:
            return found[0]
        chosen = view.select(
            "piece",
            "It is several tokens; look up",
            range(len(found)),
            format_func=lambda i: f"{i}  {shorten(found[i].display, 24)}",
            of=len(found),
        )
    return found[chosen]


def draw_neighbours(view: View) -> Callable[[], Card]:
    with view.controls:
        which = view.segments("which", "Show", (NEAREST, SPELLINGS))
    token = look_up(view)
    if which == NEAREST:
        suggest(view)
    card = cards.forms if which == SPELLINGS else cards.neighbours
    return lambda: card(view.loaded, token)


def suggest(view: View) -> None:
    """A button that chooses the word of the prompt with the nearest neighbour, where it is not chosen yet."""
    found: int | None = view.work(
        "Comparing rows", "closest", lambda progress: cards.closest(view.loaded, view.tokens)
    )
    if found is None or view.tokens[found].id == view.tokens[view.state.focus].id:
        return
    word = shorten(view.tokens[found].display, 24)
    view.offer(
        f"Show “{markdown(word)}”",
        f"Of this prompt’s words, “{markdown(word)}” has the nearest neighbour that is another word.",
        {"focus": found},
    )


def draw_map(view: View) -> Callable[[], Card]:
    with view.controls:
        near = view.slider("near", "Neighbours of each token", 1, 8, 3)
        dimensions = view.segments("dim", "Dimensions", (2, 3), format_func=lambda n: f"{n}-D")
    return lambda: cards.token_map(view.loaded, view.tokens, view.state.focus, near, dimensions)


def draw_analogy(view: View) -> Callable[[], Card]:
    with view.controls:
        shown = view.segments("shown", "Show", (ONE, LISTED, MISSED))
    return {ONE: draw_one, LISTED: draw_score, MISSED: draw_failures}[shown](view)


def draw_one(view: View) -> Callable[[], Card]:
    listed = {" ".join(one.words): one for one in cards.usable(view.loaded)[0]}
    with view.controls:
        which = view.select(
            "which",
            "a − b + c",
            [*listed, OWN],
            format_func=lambda name: listed[name].question if name in listed else name,
        )
        words = listed[which].words if which in listed else own_words(view)
    return lambda: cards.one(view.loaded, words)


def own_words(view: View) -> list[str]:
    left, right = st.columns(2)
    names = (("a", "king", left), ("b", "man", right), ("c", "girl", left), ("expected", "princess", right))
    given = []
    for name, default, column in names:
        with column:
            given.append(view.text(name, name, default))
    return given


def draw_score(view: View) -> Callable[[], Card]:
    return lambda: cards.score(view.loaded)


def draw_failures(view: View) -> Callable[[], Card]:
    kinds = cards.categories(view.loaded) or ["male and female"]
    with view.controls:
        kind = view.select("kind", "Analogies about", kinds)
    return lambda: cards.failures(view.loaded, kind)


def drift_prose(view: View) -> str:
    start = (
        "At the entrance its vectors are that row plus the row of the position where the word stands."
        if view.loaded.spec.positions == "learned"
        else "At the entrance all its vectors are that one row."
    )
    return f"""
    A token has one row, whatever it means in its sentence. What it means *here* has to come from the words before it,
    and attention brings that in, block by block. Here one word is read in sentences that use it in one sense, and in
    sentences that use it in another. {start} If context tells the senses apart, the line between the senses falls
    further than the line within a sense. The third line is a yardstick, because all vectors of one layer may point
    somewhat alike ({ETHAYARAJH}). The second figure takes away what they have in common, the **mean vector** of the
    layer, before it compares: what is left belongs to the single token in its context. Which figure tells the senses
    apart more clearly?
    """


def draw_drift(view: View) -> Callable[[], list[Card]]:
    with view.controls:
        word = view.text("word", "A word", "bank", limit=60)
        senses = [
            sentences(view.text(name, label, start, limit=600, tall=True, height=110))
            for name, label, start in (
                ("one", "in one sense (a sentence on each line)", RIVER),
                ("other", "and in another", MONEY),
            )
        ]

    def made() -> list[Card]:
        one, other = ([view.capture(text) for text in texts] for texts in senses)
        return cards.senses(view.loaded, one, other, word)

    return made


def sentences(text: str) -> list[str]:
    """The first lines of a text that have something on them."""
    return [line.strip() for line in text.splitlines() if line.strip()][: cards.MOST]


def position_prose(view: View) -> str:
    name, spec = markdown(view.loaded.name), view.loaded.spec
    if spec.positions == "learned":
        return f"""
        Attention by itself does not see where a token stands, apart from its mask, which hides later tokens. So
        {name} has a second table of {spec.context:,} rows, one for each position it can read, and adds the
        position’s row to the token’s. Nobody wrote these rows: they were learned like all other weights. If near
        positions are alike and distant ones are not, it shows as a smooth curve and as a cosine that falls with
        distance.
        """
    return f"""
    {name} has no position vectors: a token enters block 0 as its bare row, wherever it stands. Attention by itself does
    not see where a token stands, apart from its mask, which hides later tokens. GPT-2 therefore adds a learned vector
    for each position to the token’s row. {name} rotates queries and keys instead, by an angle that grows with the
    position (RoPE), inside every attention layer: the subject of chapter 10.
    """


CURVE_2D, CURVE_3D, SIMILARITY, LENGTH = "Curve, 2-D", "Curve, 3-D", "Similarity by distance", "Length"


def draw_positions(view: View) -> Callable[[], Card]:
    if view.loaded.spec.positions != "learned":
        with view.controls:
            sidebar.link(chapter_number(10))
        return lambda: cards.added(view.loaded, view.trace)
    with view.controls:
        which = view.segments("which", "Show", (CURVE_2D, CURVE_3D, SIMILARITY, LENGTH))
        centred = which == SIMILARITY and view.toggle("centred", "Subtract the mean row first")
    if which == LENGTH:
        return lambda: cards.added(view.loaded, view.trace)
    if which == SIMILARITY:
        return lambda: cards.similarity(view.loaded, centred, view.state.focus)
    return lambda: cards.curve(view.loaded, 3 if which == CURVE_3D else 2, view.state.focus)


def position_try(view: View) -> str:
    if view.loaded.spec.positions == "learned":
        return (
            "Look at the similarity by distance, and subtract the mean row: what all positions share hides how they "
            "differ. Then switch to a checkpoint with RoPE in the sidebar."
        )
    return "Switch to a GPT-2 in the sidebar: there this beat shows the curve of its position vectors."


chapter(
    number=2,
    title="Vector embeddings",
    question="What does a model know about a token before it has read any text?",
    lead="Every token enters the network as a list of numbers, one row of a learned table. We can compare rows, map "
    "them and do arithmetic with them, and each method shows less than it seems to. Then the sentence takes over: the "
    "same row becomes different vectors in different contexts.",
    bar=("focus",),
    beats=[
        Beat(
            "row",
            "A token enters as a row of numbers",
            row_prose,
            draw_row,
            "Choose two tokens in the bar, one after the other, and look for a dimension that means something by "
            "itself. Single numbers seldom do; the rest of the chapter compares whole rows.",
        ),
        Beat(
            "cosines",
            "Cosine compares the directions of two rows",
            r"""
            Two rows are compared by the angle between them, so that their lengths do not count.

            $$\cos(u, v) = \frac{u \cdot v}{\lVert u\rVert\,\lVert v\rVert}$$

            The cosine is 1 for the same direction, 0 at a right angle and −1 for opposite ones. Whether one is large
            depends on the row: the histogram shows the cosines of this token’s row with all others, and every
            comparison in this chapter should be read beside it.
            """,
            draw_cosines,
            "Compare a word with “the” or a full stop. Is the average cosine the same?",
        ),
        Beat(
            "neighbours",
            "The nearest rows tell how a token is used",
            """
            A row learns from the texts around its token, so what comes near is what could stand in the same place:
            words of similar meaning, but also opposites and other spellings. Here one row is compared with every other
            row of the vocabulary, and the largest cosines are shown. Nothing tells a new model that a word with a
            capital or with a space in front is the same word: where such rows are near, training has brought them
            together. The neighbours of a token that training seldom met mean little.
            """,
            draw_neighbours,
            "Type a number, a colour, a name, a verb. Then a rare word that is several tokens: what are the neighbours "
            "of its pieces?",
        ),
        Beat(
            "map",
            "A map keeps only part of the distances",
            r"""
            To draw rows on paper, they are projected on the directions in which they differ most, their **principal
            components**: the singular vectors of the centred matrix of rows. The share of the variance that a component
            holds, its **explained variance**, is printed on its axis. The rest is lost, so two points may look close
            that are not.
            """,
            draw_map,
            "Turn the map in 3-D. Then read below the figure for how many tokens the nearest point is the nearest row.",
        ),
        Beat(
            "analogy",
            "A step from one row to another can be tried elsewhere",
            rf"""
            If the step from one word to another is the same for many pairs, then $a - b + c$ should end near the word
            that is to $c$ what $a$ is to $b$ ({MIKOLOV}). The input words stay in the list here. They often come first,
            because the sum has hardly moved away from them; to leave them out, as is usual, can make the result look
            better than it is ({LINZEN}). One example proves little. So a fixed list is scored, the same for every
            checkpoint, and scored without any arithmetic too: by what is nearest to $a$ or to $c$ alone.
            """,
            draw_analogy,
            "Show the list, and compare the lines at the left end, where only the first answer counts: how much is due "
            "to the arithmetic, and how much to words that were near anyway? Then look at where it fails.",
        ),
        Beat(
            "positions",
            "Does a place in the text have a vector of its own?",
            position_prose,
            draw_positions,
            position_try,
        ),
        Beat(
            "drift",
            "Context makes one row into different vectors",
            drift_prose,
            draw_drift,
            "Write the same sentence twice and then change only what comes after the word: the cosine stays 1 but for "
            "rounding, because no token looks ahead. Change one word before it and see in which block it starts to "
            "matter.",
        ),
    ],
    asks=ASKED,
    parts=("embedding",),
)
