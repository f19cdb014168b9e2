"""A row beside all others: their cosines, the nearest of them, and those of the same word spelled otherwise."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from engine.chapters.c02_embeddings.matrix import code, name, pieces, quoted, signed, table
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import embedding as again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.oracles.tokenizing import reader, spelled
from engine.evidence.rounding import EXACT
from engine.figures import bars, histogram
from engine.figures.theme import NEUTRAL
from engine.model.capturing import tokens_of
from engine.model.loaded import Loaded
from engine.ops.embeddings import Float, nearest, nearest_one, rank
from engine.tokens.text import clean_prompt
from engine.tokens.token import Token

MOST = 0.99
"""The share of the other rows that a cosine has to exceed to be called large."""


SPELLED = 12
"""Neighbours among which one is looked for that is another word."""


def usual(scores: Float, id: int) -> tuple[Float, float, float]:
    """The cosines with all rows but a token's own (vocab-1), their mean, and the value under which `MOST` lie."""
    others = np.delete(scores, id)
    return others, float(others.mean()), float(np.quantile(others, MOST))


def against_all(loaded: Loaded, token: Token) -> Card:
    """The cosines of a token's row with every other row, as a histogram."""
    own = table(loaded)
    scores = own.cosines(own.rows([token.id]))[0]
    others, mean, most = usual(scores, token.id)
    first, word = nearest_one(scores, [token.id]), token.id
    drawn = histogram(
        {"all other rows": others},
        colors={"all other rows": "embedding"},
        marks={"mean": mean, f"{MOST:.0%}": most, name(loaded, first): float(scores[first])},
        x_name=f"cosine with the row of {token.display}",
        y_name="rows",
    )
    low, high = float(others.min()), float(others.max())
    drawn.update_xaxes(
        range=[low - 0.02 * (high - low), high + 0.12 * (high - low)]
    )  # room for the last name
    return Card(
        key="cosines",
        title=f"{quoted(token.display)} with every other row: {signed(mean)} on average, {MOST:.0%} below "
        f"{signed(most)}; nearest is {quoted(name(loaded, first))}, {signed(scores[first])}",
        alt=f"A histogram of {len(others)} cosines with vertical lines at their mean, at the value that {MOST:.0%} "
        "are below, and at the largest.",
        badge=Badge.LIVE,
        figure=drawn,
        table={
            "row": ["mean", f"{MOST:.0%} are below", "largest", "smallest"],
            "cosine": [mean, most, float(others.max()), float(others.min())],
        },
        shown={"cosines": others, "mean": mean, "most": most, "nearest": first},
        oracle=Oracle(
            "The cosines of the row with every other row, both normalized by torch; torch’s mean and quantile of them, "
            "and the largest.",
            lambda: _all_again(loaded, word, first),
            {"cosines": EXACT, "mean": EXACT, "most": EXACT, "nearest": 0.0},
        ),
        code=code(
            loaded,
            f"""
            word = ids[0, 0]
            cosines = torch.nn.functional.cosine_similarity(W, W[word][None])
            others = torch.cat([cosines[:word], cosines[word + 1 :]])
            nearest = others.argmax()
            result = {{"cosines": others, "mean": others.mean(), "most": others.quantile({MOST}),
                      "nearest": nearest + (nearest >= word)}}
            """,
            [token.id],
        ),
        note=f"{len(others):,} rows. A cosine of 1 is the same direction, 0 a right angle.",
    )


def _all_again(loaded: Loaded, word: int, first: int) -> dict[str, ArrayLike]:
    """`first` is kept where another row is equally near."""
    found = again.cosines(loaded, again.rows(loaded, [word]))[0]
    others = found[torch.arange(len(found)) != word]
    found[word] = -torch.inf
    return {
        "cosines": others.numpy(),
        "mean": float(others.mean()),
        "most": float(others.quantile(torch.tensor(MOST, dtype=torch.float64))),
        "nearest": int(at_ranks([first], found, EXACT)[0]),
    }


def neighbours(loaded: Loaded, token: Token, count: int = 12) -> Card:
    """The `count` rows of the whole vocabulary with the largest cosine to a token's row."""
    own = table(loaded)
    scores = own.cosines(own.rows([token.id]))[0]
    ids = nearest(scores, count, without=[token.id])
    shown, found = scores[ids], tokens_of(loaded, ids.tolist())
    names = [one.display for one in found]
    same = [plain(one) == plain(token) for one in found]
    word, given = token.id, ids.tolist()
    _, mean, most = usual(scores, word)
    drawn = bars(
        names,
        shown,
        colors=["token" if spelled else "embedding" for spelled in same],
        value_name="cosine",
        label_name="token",
    )
    for place in (mean, most):
        if place > 0:
            drawn.add_vline(x=place, line={"color": NEUTRAL, "width": 1.5, "dash": "dot"})
    return Card(
        key="neighbours",
        title=f"Nearest to {quoted(token.display)}: {quoted(names[0])} at {signed(shown[0])}; all other rows have "
        f"{signed(mean)} on average, {MOST:.0%} of them less than {signed(most)}",
        alt=f"Bars of the cosine with {token.display}: "
        + ", ".join(f"{text} {value:.2f}" for text, value in zip(names, shown, strict=True)),
        badge=Badge.LIVE,
        figure=drawn,
        table={"token": names, "id": ids.tolist(), "cosine": shown.tolist(), "other spelling": same},
        shown={
            "ids": given,
            "cosines": shown,
            "other spelling": [int(spelling) for spelling in same],
            "mean": mean,
            "most": most,
        },
        oracle=Oracle(
            "The cosines of the row with every row, both normalized by torch, and the largest of them; which tokens "
            "spell the same, from the bytes of their pieces; torch’s mean and quantile of the cosines with all other "
            "rows.",
            lambda: _neighbours_again(loaded, word, given),
            {"ids": 0.0, "cosines": EXACT, "other spelling": 0.0, "mean": EXACT, "most": EXACT},
        ),
        code=code(
            loaded,
            f"""
            word = ids[0, 0]
            cosines = torch.nn.functional.cosine_similarity(W, W[word][None])
            best = cosines.sort(descending=True, stable=True).indices
            best = best[best != word]
            others, best = cosines[best], best[:{count}]
            names = [tokenizer.decode([id]).strip().casefold() for id in [int(word), *best.tolist()]]
            result = {{"ids": best, "cosines": cosines[best],
                      "other spelling": [int(other == names[0]) for other in names[1:]],
                      "mean": others.mean(), "most": others.quantile({MOST})}}
            """,
            [token.id],
        ),
        note=f"Of all {own.count:,} tokens. {_spellings(sum(same))} Dotted: {_lines(mean, most)}.",
    )


def closest(loaded: Loaded, tokens: Sequence[Token]) -> int | None:
    """The first place of the word of a prompt whose nearest row of another word is nearest; None without a word."""
    words = {token.id: i for i, token in reversed(list(enumerate(tokens))) if plain(token).isalpha()}
    if not words:
        return None
    own, ids = table(loaded), list(words)
    found = own.cosines(own.rows(ids))
    best = [_nearest_word(loaded, id, scores) for id, scores in zip(ids, found, strict=True)]
    return words[ids[int(np.argmax(best))]]


def _nearest_word(loaded: Loaded, id: int, scores: Float) -> float:
    """The largest cosine of a token that does not spell the same."""
    given, *others = tokens_of(loaded, [id, *nearest(scores, SPELLED, [id]).tolist()])
    cosines = (float(scores[other.id]) for other in others if plain(other) != plain(given))
    return next(cosines, -1.0)


def plain(token: Token) -> str:
    """A token's text without case and without spaces around it; itself where nothing else is left."""
    text = token.bytes.decode("utf-8", "backslashreplace") or token.display
    return text.strip(" \n\t").casefold() or text


def _spellings(count: int) -> str:
    if not count:
        return "None of those shown is the same word with other capitals or another space."
    return f"In the colour of tokens: the same word with other capitals or another space ({count} of those shown)."


def _lines(mean: float, most: float) -> str:
    """What the dotted lines of a figure stand for whose axis begins at zero."""
    both = f"the mean of all other rows, and the value that {MOST:.0%} of them are below"
    return both if mean > 0 else both.partition(", and ")[2] if most > 0 else "nothing here"


def _neighbours_again(loaded: Loaded, word: int, given: Sequence[int]) -> dict[str, ArrayLike]:
    found = again.cosines(loaded, again.rows(loaded, [word]))[0]
    others = found.clone()
    others[word] = -torch.inf
    rest = others[torch.arange(len(found)) != word]
    ids = at_ranks(given, others, EXACT)
    texts = [_text(loaded, int(id)) for id in (word, *ids)]
    return {
        "ids": ids,
        "cosines": found[ids].numpy(),
        "other spelling": [int(text == texts[0]) for text in texts[1:]],
        "mean": float(rest.mean()),
        "most": float(rest.quantile(torch.tensor(MOST, dtype=torch.float64))),
    }


def _text(loaded: Loaded, id: int) -> str:
    """A token's text without case and spaces around it, from its bytes; the spaces where there is nothing else."""
    text = spelled(loaded.tokenizer, id).decode("utf-8", "backslashreplace")
    return text.strip(" \n\t").casefold() or text


def spellings(loaded: Loaded, token: Token) -> list[Token]:
    """The token, then those of its spellings (capitals, a space in front) that are one token too."""
    word = token.bytes.decode("utf-8", "ignore").strip()
    found = {token.id: token}
    for text in (word, word.lower(), word.capitalize(), word.upper()):
        for spelling in (text, " " + text):
            tokens = pieces(loaded, spelling) if word else ()
            if len(tokens) == 1:
                found.setdefault(tokens[0].id, tokens[0])
    return list(found.values())


def forms(loaded: Loaded, token: Token) -> Card:
    """The cosine of a token's row with those of its spellings, and their ranks among its neighbours."""
    own, found = table(loaded), spellings(loaded, token)
    ids = [t.id for t in found]
    scores = own.cosines(own.rows([token.id]))[0]
    ranks = [0, *(rank(scores, i, without=[token.id]) for i in ids[1:])]
    shown = scores[ids]
    labels = [t.display if i == 0 else f"{t.display} #{ranks[i]:,}" for i, t in enumerate(found)]
    return Card(
        key="forms",
        title=_found(token, ranks[1:]),
        alt="Bars of the cosine with the token itself, which is 1, and with its other spellings: "
        + ", ".join(f"{text} {value:.2f}" for text, value in zip(labels, shown, strict=True)),
        badge=Badge.LIVE,
        figure=bars(
            labels, shown, concept="token", limit=1.0, value_name="cosine", label_name="token # rank"
        ),
        table={"token": [t.display for t in found], "id": ids, "cosine": shown.tolist(), "rank": ranks},
        shown={"ids": ids, "cosines": shown, "ranks": ranks},
        oracle=Oracle(
            "The spellings cut again by merges replayed in Python, or by the tokenizer’s model piece by piece; the "
            "cosines of rows that torch normalized; the ranks from counting the larger ones.",
            lambda: _forms_again(loaded, token.id, ranks),
            {"ids": 0.0, "cosines": EXACT, "ranks": 0.0},
        ),
        code=code(
            loaded,
            """
            forms = ids[0]
            units = torch.nn.functional.normalize(W)
            cosines = units @ units[forms[0]]
            cosines[forms[0]] = 1
            ranks = [int((cosines > cosines[form]).sum()) for form in forms]
            result = {"ids": forms, "cosines": cosines[forms], "ranks": ranks}
            """,
            ids,
        ),
        note="After #: the place among all tokens, the nearest neighbour being 1.",
    )


def _found(token: Token, ranks: list[int]) -> str:
    word = quoted(token.display)
    if not ranks:
        return f"No other spelling of {word} is a single token here"
    if len(ranks) == 1:
        return f"One other spelling of {word} is a token too, and neighbour no. {ranks[0]:,} of its row"
    span = f"{min(ranks):,} to {max(ranks):,}"
    return f"{len(ranks)} other spellings of {word} are tokens too; as neighbours they rank {span}"


def _forms_again(loaded: Loaded, id: int, ranks: Sequence[int]) -> dict[str, ArrayLike]:
    """`ranks` are kept where rounding lets them stand."""
    read, word = reader(loaded, loaded.name), spelled(loaded.tokenizer, id).decode("utf-8", "ignore").strip()
    texts = [
        space + text for text in (word, word.lower(), word.capitalize(), word.upper()) for space in ("", " ")
    ]
    cut = [read(clean_prompt(text)) for text in texts if word]
    ids = list(dict.fromkeys([id, *(tokens[0][0] for tokens in cut if len(tokens) == 1)]))
    found = again.cosines(loaded, again.rows(loaded, [id]))[0]
    shown = dict(zip(ids, ranks, strict=False))
    return {
        "ids": ids,
        "cosines": found[ids].numpy(),
        "ranks": [0, *(again.place(found, i, shown.get(i, 0), without=[id]) for i in ids[1:])],
    }
