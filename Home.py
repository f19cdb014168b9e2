"""The landing page: the reader's prompt on its way through the model, and the table of chapters."""

from collections.abc import Sequence

import streamlit as st

from engine.evidence.card import Card
from engine.evidence.question import Question
from engine.tokens.text import markdown, plural
from pages._shared import Beat, Station, Step, View, home, starting


def text(view: View) -> Card:
    from engine.chapters import home as cards

    return cards.text(view.loaded, view.trace, view.total)


def tokens(view: View) -> Card:
    from engine.chapters import home as cards

    return cards.tokens(view.loaded, view.trace, view.total)


def vectors(view: View) -> Card:
    from engine.chapters import home as cards

    return cards.vectors(view.loaded, view.trace)


def blocks(view: View) -> Card:
    from engine.chapters import home as cards

    return cards.blocks(view.loaded, view.trace)


def logits(view: View) -> Card:
    from engine.chapters import home as cards

    return cards.logits(view.loaded, view.trace)


def next_token(view: View) -> Card:
    from engine.chapters import home as cards

    return cards.next_token(view.loaded, view.trace)


def ask_about_the_rest(drawn: Sequence[Card]) -> Question | None:
    from engine.chapters.home.questions import ASKED

    return ASKED["next"](drawn)


def sizes(view: View) -> str:
    spec = view.loaded.spec
    kinds = f"{spec.n_head} attention heads let" if spec.n_head > 1 else "one attention head lets"
    return (
        f"{markdown(view.loaded.name)} has {spec.n_layer} blocks. In each, {kinds} each token look back "
        f"at those before it, and an MLP of {spec.d_ff:,} neurons works on every token alone. Both only ever *add* to "
        "the token's vector, which is therefore called the residual stream. Here the last token's vector is read off "
        "before the first block and after each, as if the model ended there: watch when the favourite next token "
        "becomes that of the last block."
    )


def steps(view: View, card: Card) -> list[Step]:
    """What the drawing shows, step by step, from its own numbers."""
    import numpy as np

    from engine.chapters.home import settled as settled_after

    spec = view.loaded.spec
    reads, guess = np.asarray(card.shown["reads"]), np.asarray(card.shown["guess"])
    attention, mlp = np.asarray(card.shown["attention adds"]), np.asarray(card.shown["MLP adds"])
    names = [token.display for token in view.tokens]
    favourites, chances = card.table["favourite"], card.table["probability"]
    others = reads[:, :-1] if len(names) > 1 else reads
    block, key = np.unravel_index(int(others.argmax()), others.shape)
    settled = settled_after(guess)
    strongest = int(np.abs(np.concatenate([attention, mlp])).argmax())
    kind, where = (
        ("attention", strongest) if strongest < len(attention) else ("the MLP", strongest - len(attention))
    )
    amount = float(np.concatenate([attention, mlp])[strongest])
    heads = "one attention head" if spec.n_head == 1 else f"{spec.n_head} attention heads"
    when = "at the very first vector" if settled == 0 else f"after {settled} of {spec.n_layer} blocks"
    last = card.table["favourite"][-1]
    return [
        Step(
            "This is the whole machine",
            f"{view.loaded.name} from its foot to its head: your text enters below, {spec.n_layer} blocks work on it, "
            "and a guess at the next token leaves at the top. Scroll on, and its parts light up one after another.",
            "all",
            (),
        ),
        Step(
            "Text becomes tokens, tokens become vectors",
            f"Your text is {plural(len(names), 'token')} for this model. Each is a number that selects a vector of "
            f"{spec.d_model} numbers; from here on there are only vectors.",
            "tokens",
            (1, 2),
        ),
        Step(
            "Attention carries something from token to token",
            f"In each block {heads} let every token look back. Here you see where the last token, “{names[-1]}”, "
            f"looks: beside itself most of all, in block {block}, at “{names[key]}” ({others[block, key]:.0%}).",
            "reads tokens",
            (8, 9, 10),
        ),
        Step(
            "Every block adds to the last vector",
            f"Attention and then an MLP of {spec.d_ff:,} neurons add to the token's vector. The bars say for and "
            f"against what: {kind} of block {where} counts most, with {amount:+.1f} for the logit of “{last}”.",
            "attention mlp",
            (3, 4, 11),
        ),
        Step(
            "The guess settles on the way",
            f"Read off between the blocks, the favourite is “{favourites[0]}” at first. “{last}” leads for good "
            f"{when} and ends at {chances[-1]:.0%}.",
            "guess",
            (5, 11),
        ),
        Step(
            "One token is written",
            f"The last vector is compared with all {spec.vocab:,} tokens; softmax makes probabilities of the scores, "
            "and one token is drawn. Then everything begins again with a longer text.",
            "answer",
            (5, 14),
        ),
        Step(
            "How it came to be so",
            "Nothing of this was written by hand. Training moved every weight a little, again and again, until "
            "texts like those it read became probable.",
            "all",
            (6, 7, 12, 13),
        ),
    ]


if __name__ == "__main__":  # a reader's run; the server imports this file as it starts
    home(
        title="Anatomy of a Language Model",
        lead="""
        A language model reads a text and says, for every token it knows, how likely that token is to come next. Write a
        sentence, let it go on, and see what happens inside: every chapter follows your text through a real model.
        """,
        steps=steps,
        about="""
        ## The same way, number by number

        A figure says where its numbers come from. :green-badge[LIVE] is computed now, from the loaded checkpoint, and
        can prove it. :blue-badge[RECORDED] is read from a run whose script is in the repository.
        :orange-badge[TOY] is a small made-up example of a formula. Nothing else is shown.
        """,
        stations=[
            Station(
                Beat(
                    "text",
                    "Text is bytes",
                    "A computer holds your sentence as a row of bytes (UTF-8). A plain letter takes one, an accented "
                    "or Cyrillic letter two, a Chinese or Hindi character three, most emoji four or more.",
                    text,
                ),
                (1,),
            ),
            Station(
                Beat(
                    "tokens",
                    "Bytes become tokens",
                    "A tokenizer groups bytes that often stand together. From here on, the model sees only these "
                    "numbers: it never sees a letter.",
                    tokens,
                ),
                (1,),
            ),
            Station(
                Beat(
                    "vectors",
                    "Tokens become vectors",
                    "Each number selects a row of a large table that training has filled. Tokens that are used "
                    "alike have rows that point in similar directions.",
                    vectors,
                ),
                (2,),
            ),
            Station(Beat("blocks", "Blocks add to the vectors", sizes, blocks), (11, 8, 9, 10, 3, 4, 5)),
            Station(
                Beat(
                    "logits",
                    "The last vector becomes logits",
                    "Only the last token's vector is needed to continue the text. It is compared with every token of "
                    "the vocabulary; the score of each is its logit.",
                    logits,
                ),
                (5,),
            ),
            Station(
                Beat(
                    "next",
                    "Logits become the next token",
                    "Softmax turns logits into probabilities that sum to one. One token is drawn and written down, and "
                    "the whole way begins again with a text that is one token longer.",
                    next_token,
                    ask=ask_about_the_rest,
                ),
                (5, 14),
            ),
        ],
    )
else:
    app = st.App(__file__, lifespan=starting.importing)
