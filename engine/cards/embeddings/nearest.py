"""The rows that point most nearly the same way, and the rows of the same word spelled otherwise."""

import numpy as np
import torch
from torch.nn import functional as F

from engine.cards.attention.evidence import gap
from engine.cards.embeddings.matrix import CLOSE, code, cosines_by_torch, name, pieces, quoted, table, weight
from engine.evidence.card import Badge, Card, Proof
from engine.figures import bars
from engine.model.loading import Loaded
from engine.model.trace import Token
from engine.ops.embeddings import nearest, rank


def neighbours(loaded: Loaded, token: Token, count: int = 12) -> Card:
    """The `count` rows of the whole vocabulary with the largest cosine to a token's row."""
    own = table(loaded)
    scores = own.cosines(own.rows([token.id]))[0]
    ids = nearest(scores, count, without=[token.id])
    shown, names = scores[ids], [name(loaded, i) for i in ids]
    same = [plain(text) == plain(token.display) for text in names]
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
        prove=lambda: _prove(loaded, token, ids, shown),
        code=code(
            loaded,
            f"""
            word = ids[0, 0]
            cosines = torch.nn.functional.cosine_similarity(W, W[word][None])
            best = cosines.sort(descending=True, stable=True).indices
            best = best[best != word][:{count}]
            units = torch.nn.functional.normalize(W).sum(0)
            result = {{"ids": best, "cosines": cosines[best],
                      "baseline": (units @ units - len(W)) / (len(W) * (len(W) - 1))}}
            """,
            [token.id],
        ),
        numbers={"ids": ids.tolist(), "cosines": shown.tolist(), "baseline": own.baseline},
        note=f"Of all {own.count:,} tokens. {_spellings(sum(same))}",
    )


def plain(display: str) -> str:
    """A token's text without case and without spaces around it; itself where nothing else is left."""
    return display.strip("·⏎⇥").casefold() or display


def _spellings(count: int) -> str:
    if not count:
        return "None of those shown is the same word with other capitals or another space."
    return f"In the colour of tokens: {count} that spell the same with other capitals or another space."


def _prove(loaded: Loaded, token: Token, ids: np.ndarray, shown: np.ndarray) -> Proof:
    matrix = weight(loaded, "embedding")[: len(loaded.tokenizer)]
    row = matrix[token.id].float()
    theirs = torch.cat([F.cosine_similarity(part.float(), row[None]) for part in matrix.split(4096)]).cpu()
    at_ids = gap(shown, theirs[ids.tolist()])
    theirs[token.id] = -torch.inf
    return Proof(
        "The cosines against torch's cosine_similarity of the row with every row, and the largest of them by topk.",
        max(at_ids, gap(shown, theirs.topk(len(ids)).values)),
        10 * CLOSE,
    )


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
        prove=lambda: _prove_forms(loaded, token, ids, shown, ranks),
        code=code(
            loaded,
            """
            forms = ids[0]
            units = torch.nn.functional.normalize(W)
            cosines = units @ units[forms[0]]
            cosines[forms[0]] = 1
            ranks = [int((cosines > cosines[form]).sum()) for form in forms]
            result = {"cosines": cosines[forms], "ranks": ranks}
            """,
            ids,
        ),
        numbers={"cosines": shown.tolist(), "ranks": ranks},
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


def _prove_forms(loaded: Loaded, token: Token, ids: list[int], shown: np.ndarray, ranks: list[int]) -> Proof:
    theirs = cosines_by_torch(loaded, table(loaded).rows([token.id]))[0]
    theirs[token.id] = torch.inf  # the token itself is place 0
    order = theirs.argsort(descending=True, stable=True).tolist()
    theirs[token.id] = 1
    return Proof(
        "Cosines of rows that torch normalized, and each spelling's place in the sorted vocabulary.",
        max(gap(shown, theirs[ids]), gap(ranks, [order.index(i) for i in ids])),
        CLOSE,
    )
