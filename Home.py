"""The landing page: the reader's prompt on its way through the model, and the table of chapters."""

from engine.evidence.card import Card
from engine.tokens.text import markdown
from pages._shared import Beat, Station, View, home


def text(view: View) -> Card:
    from engine.chapters import home as cards

    return cards.text(view.loaded, view.trace)


def tokens(view: View) -> Card:
    from engine.chapters import home as cards

    return cards.tokens(view.loaded, view.trace)


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


def sizes(view: View) -> str:
    spec = view.loaded.spec
    kinds = f"{spec.n_head} attention heads" if spec.n_head > 1 else "one attention head"
    return (
        f"{markdown(view.loaded.name)} has {spec.n_layer} blocks. In each, {kinds} let the tokens look at "
        f"one another, and an MLP of {spec.d_ff:,} neurons works on every token alone. Both only ever *add* to "
        "the token's vector, which is therefore called the residual stream."
    )


home(
    title="Anatomy of a Language Model",
    lead="""
    A language model reads a text and says, for every token it knows, how likely that token is to come next.
    That is all it does; the rest is repetition. This book takes one apart while it runs. Write a sentence, and
    every chapter follows it through a real checkpoint on this machine.

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
                "alike have rows that point the same way.",
                vectors,
            ),
            (2,),
        ),
        Station(Beat("blocks", "Blocks add to the vectors", sizes, blocks), (11, 8, 9, 10, 3, 4)),
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
            ),
            (5, 14),
        ),
    ],
)
