"""2 · Vector embeddings — what a model knows of a token before it reads."""

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
RIVER = "Beside the river they sat down upon the bank"
MONEY = "He kept all of his money in the bank"
OWN = "words of my own"


def row_prose(view: View) -> str:
    spec, table = view.loaded.spec, cards.table(view.loaded)
    tied = (
        "The same matrix serves once more at the end, as the unembedding that turns a vector into logits."
        if spec.tied
        else "The unembedding at the end is another matrix of the same shape."
    )
    where = (
        "Then the row of its position, from a second table, is added to it (the last beat of this chapter)."
        if spec.positions == "learned"
        else "Nothing is added to it for its position (the last beat of this chapter)."
    )
    return rf"""
    A token's id is only a number in a list. So the first thing in {markdown(view.loaded.name)} is a learned matrix
    $W_E$ with a row for each of {spec.vocab:,} ids and {table.d_model} columns. The token's row is read out, which is
    the same as multiplying a one-hot vector with $W_E$. {where} {tied}
    """


def draw_row(view: View) -> Callable[[], Card]:
    return lambda: cards.row(view.loaded, view.trace, view.state.focus)


def draw_norms(view: View) -> Callable[[], Card]:
    return lambda: cards.lengths(view.loaded, view.trace, view.state.focus)


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
    token = look_up(view)
    return lambda: cards.neighbours(view.loaded, token)


def draw_forms(view: View) -> Callable[[], Card]:
    token = look_up(view)
    return lambda: cards.forms(view.loaded, token)


def draw_map(view: View) -> Callable[[], Card]:
    with view.controls:
        near = view.slider("near", "Neighbours of each token", 1, 8, 3)
        dimensions = view.segments("dim", "Dimensions", (2, 3), format_func=lambda n: f"{n}-D")
    return lambda: cards.token_map(view.loaded, view.tokens, view.state.focus, near, dimensions)


def draw_analogy(view: View) -> Callable[[], Card]:
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
        "At the entrance a token's two vectors differ only by their positions' rows."
        if view.loaded.spec.positions == "learned"
        else "At the entrance a token's two vectors are the same row."
    )
    return f"""
    A token has one row, whatever it means in its sentence. What it means *here* has to come from the words before it,
    and attention brings that in, block by block. Here one word goes through two sentences of yours. {start} The second
    line is a yardstick, because vectors of one layer may all point somewhat alike ({ETHAYARAJH}).
    """


def draw_drift(view: View) -> Callable[[], Card]:
    with view.controls:
        word = view.text("word", "A word", "bank", limit=60)
        one = view.text("one", "in one sentence", RIVER, limit=400)
        other = view.text("other", "and in another", MONEY, limit=400)
    return lambda: cards.drift(view.loaded, view.capture(one), view.capture(other), word)


def position_prose(view: View) -> str:
    name, spec = markdown(view.loaded.name), view.loaded.spec
    if spec.positions == "learned":
        return f"""
        Apart from its mask, attention does not see where a token stands. {name} therefore has a second table, of
        {spec.context:,} rows, one for each position it can read, and adds that row to the token's. Nobody wrote these
        rows: they were learned like all other weights. If near positions were alike and distant ones not, it would
        show as a smooth curve and as a cosine that falls with distance.
        """
    return f"""
    Apart from its mask, attention does not see where a token stands. GPT-2 adds a learned vector for each position to
    the token's row. {name} has no position vectors: it turns queries and keys by an angle that grows with the position
    (RoPE), inside every attention layer. That is the subject of chapter 10. Here it means that a token enters block 0
    as its bare row, wherever it stands.
    """


CURVE_2D, CURVE_3D, SIMILARITY, LENGTH = "Curve, 2-D", "Curve, 3-D", "Similarity by distance", "Length"


def draw_positions(view: View) -> Callable[[], Card]:
    if view.loaded.spec.positions != "learned":
        with view.controls:
            sidebar.link(chapter_number(10))
        return lambda: cards.added(view.loaded, view.trace)
    with view.controls:
        which = view.segments("which", "Show", (CURVE_2D, CURVE_3D, SIMILARITY, LENGTH))
        centred = which == SIMILARITY and view.toggle("centred", "Take away the mean row first")
    if which == LENGTH:
        return lambda: cards.added(view.loaded, view.trace)
    if which == SIMILARITY:
        return lambda: cards.similarity(view.loaded, centred, view.state.focus)
    return lambda: cards.curve(view.loaded, 3 if which == CURVE_3D else 2, view.state.focus)


def position_try(view: View) -> str:
    if view.loaded.spec.positions == "learned":
        return (
            "Look at the similarity by distance, and take away the mean row: what all positions share hides how they "
            "differ. Then switch to a checkpoint with RoPE in the sidebar."
        )
    return "Switch to a GPT-2 in the sidebar: there this beat shows the curve of its position vectors."


chapter(
    number=2,
    title="Vector embeddings",
    question="What does a model know of a token before it has read any text?",
    lead="Every token enters the network as a list of numbers, one row of a learned table. What two rows have in "
    "common can be measured, mapped and calculated with, and each of these says less than it seems to. Then the "
    "sentence takes over: the same row becomes different vectors in different contexts.",
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
            "norms",
            "A row has a length and a direction, and cosine compares directions",
            r"""
            The length of a row is its norm, $\lVert u\rVert = \sqrt{\sum_i u_i^2}$. Two rows are compared by the angle
            between them, so that length does not count:

            $$\cos(u, v) = \frac{u \cdot v}{\lVert u\rVert\,\lVert v\rVert}$$

            It is 1 for the same direction, 0 at a right angle and −1 for opposite ones. The histogram shows what the
            division takes away.
            """,
            draw_norms,
            "Go through the tokens in the bar: are the words with a meaning of their own on another side than "
            "“the”, “a” and the punctuation?",
        ),
        Beat(
            "neighbours",
            "The nearest rows tell how a token is used",
            "The row of one token against every other row of the vocabulary, the largest cosines shown. A row learns "
            "from the texts around its token, so what comes near is what could stand in the same place: words of like "
            "meaning, but just as well opposites and other spellings. The neighbours of a token "
            "that training seldom met mean little. And a cosine is large or small only beside that of two rows taken "
            "at random, which the title gives.",
            draw_neighbours,
            "Type a number, a colour, a name, a verb. Then a rare word that is several tokens: what are the neighbours "
            "of its pieces?",
        ),
        Beat(
            "forms",
            "Another spelling is another row",
            "A capital or a space in front makes another token (chapter 1), and a new model begins with random "
            "numbers in every row. Nothing tells it that two of them are the same word. Where the rows of two "
            "spellings are neighbours, training has brought them together; where they are not, the model knows the "
            "word twice.",
            draw_forms,
            "Type a name, then a common word such as “the”, each with and without the space.",
        ),
        Beat(
            "map",
            "A map keeps only part of the distances",
            r"""
            To draw rows on paper they are projected on the directions in which they differ most, their principal
            components: the singular vectors of the centred matrix of rows. The share of the variance that a component
            holds, its *explained variance*, is printed on its axis. The rest is lost, and with it the truth about
            who is near whom. (The sign of a component is free; here the sum of the cubes of its entries is positive.)
            """,
            draw_map,
            "Turn the map in 3-D. Then read below the figure for how many tokens the nearest point is the nearest row.",
        ),
        Beat(
            "analogy",
            "A step from one row to another can be tried elsewhere",
            rf"""
            If the step from one word to another is the same for many pairs, then $a - b + c$ should end near the word
            that is to $c$ what $a$ is to $b$ ({MIKOLOV}). The rows nearest to that sum are shown, and nothing is left
            out: the words put in are often nearer than any answer, because the sum has not gone far from them.
            """,
            draw_analogy,
            "Choose words of your own, say where the sum should end, and look at the rank.",
        ),
        Beat(
            "score",
            "An example proves little; a list gives a score",
            rf"""
            A fixed list of analogies, the same for every checkpoint; those with a word of several tokens are
            skipped and named. It is usual to leave the three words put in out of the answers, and this can make
            the result look better than it is ({LINZEN}): so it is scored with them too. And it is scored without any
            arithmetic, by what is nearest to $a$ or to $c$ alone.
            """,
            draw_score,
            "Compare the lines at the left end, where only the first answer counts. How much is due to the "
            "arithmetic, and how much to words that were near anyway?",
        ),
        Beat(
            "failures",
            "Where it fails, look how far off it is",
            "For every analogy the rank of the expected word among all tokens, on a logarithmic axis; below the "
            "question the answer that came first. The answer may be a fair one that the list did not foresee, or it "
            "may have nothing to do with the question.",
            draw_failures,
            "Go through the categories: is there one in which all are right? Which one is worst?",
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
        Beat(
            "positions",
            "Does a place in the text have a vector of its own?",
            position_prose,
            draw_positions,
            position_try,
        ),
    ],
    asks=ASKED,
)
