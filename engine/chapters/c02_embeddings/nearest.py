"""The rows that point most nearly the same way, and the rows of the same word spelled otherwise."""

from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike

from engine.chapters.c02_embeddings.matrix import code, pieces, quoted, table
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import embedding as again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.oracles.tokenizing import reader, spelled
from engine.evidence.rounding import EXACT
from engine.figures import bars
from engine.model.capturing import tokens_of
from engine.model.loaded import Loaded
from engine.ops.embeddings import nearest, rank
from engine.tokens.text import clean_prompt
from engine.tokens.token import Token


def neighbours(loaded: Loaded, token: Token, count: int = 12) -> Card:
    """The `count` rows of the whole vocabulary with the largest cosine to a token's row."""
    own = table(loaded)
    scores = own.cosines(own.rows([token.id]))[0]
    ids = nearest(scores, count, without=[token.id])
    shown, found = scores[ids], tokens_of(loaded, ids.tolist())
    names = [one.display for one in found]
    same = [plain(one) == plain(token) for one in found]
    word, given = token.id, ids.tolist()
    return Card(
        key="neighbours",
        title=f"Nearest to {quoted(token.display)}: {quoted(names[0])} at {shown[0]:.2f}; two tokens at random "
        f"have {own.baseline:.2f} on average",
        alt=f"Bars of the cosine with {token.display}: "
        + ", ".join(f"{text} {value:.2f}" for text, value in zip(names, shown, strict=True)),
        badge=Badge.LIVE,
        figure=bars(
            names,
            shown,
            colors=["token" if spelled else "embedding" for spelled in same],
            value_name="cosine",
            label_name="token",
        ),
        table={"token": names, "id": ids.tolist(), "cosine": shown.tolist(), "other spelling": same},
        shown={
            "ids": given,
            "cosines": shown,
            "other spelling": [int(spelling) for spelling in same],
            "two at random": own.baseline,
        },
        oracle=Oracle(
            "The cosines of the row with every row, both normalized by torch, and the largest of them; which tokens "
            "spell the same, from the bytes of their pieces; the mean of all pairs from every row’s cosines with the "
            "sum of the others.",
            lambda: _neighbours_again(loaded, word, given),
            {"ids": 0.0, "cosines": EXACT, "other spelling": 0.0, "two at random": EXACT},
        ),
        code=code(
            loaded,
            f"""
            word = ids[0, 0]
            cosines = torch.nn.functional.cosine_similarity(W, W[word][None])
            best = cosines.sort(descending=True, stable=True).indices
            best = best[best != word][:{count}]
            units = torch.nn.functional.normalize(W).sum(0)
            names = [tokenizer.decode([id]).strip().casefold() for id in [int(word), *best.tolist()]]
            result = {{"ids": best, "cosines": cosines[best],
                      "other spelling": [int(other == names[0]) for other in names[1:]],
                      "two at random": (units @ units - len(W)) / (len(W) * (len(W) - 1))}}
            """,
            [token.id],
        ),
        note=f"Of all {own.count:,} tokens. {_spellings(sum(same))}",
    )


def plain(token: Token) -> str:
    """A token's text without case and without spaces around it; itself where nothing else is left."""
    text = token.bytes.decode("utf-8", "backslashreplace") or token.display
    return text.strip(" \n\t").casefold() or text


def _spellings(count: int) -> str:
    if not count:
        return "None of those shown is the same word with other capitals or another space."
    return f"In the colour of tokens: {count} that spell the same with other capitals or another space."


def _neighbours_again(loaded: Loaded, word: int, given: Sequence[int]) -> dict[str, ArrayLike]:
    found = again.cosines(loaded, again.rows(loaded, [word]))[0]
    others = found.clone()
    others[word] = -torch.inf
    ids = at_ranks(given, others, EXACT)
    texts = [_text(loaded, int(id)) for id in (word, *ids)]
    return {
        "ids": ids,
        "cosines": found[ids].numpy(),
        "other spelling": [int(text == texts[0]) for text in texts[1:]],
        "two at random": again.mean_cosine(loaded),
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
