"""Learned position vectors, or the fact that there are none."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn import functional as F

from engine import ReaderError
from engine.chapters.c02_embeddings.map import SPREAD, axis_names, components_code, printed, share_shown
from engine.chapters.c02_embeddings.matrix import code, signed, table, weight
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import embedding as again
from engine.evidence.rounding import EXACT, float_tolerance, largest
from engine.figures import grouped_bars, lines
from engine.figures.embeddings import ordered_curve
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops.embeddings import Float, by_distance, norms, pca, unit

MOST = 1024
"""Positions that are compared pair by pair; GPT-2 has as many."""

_BARS = 10


def vectors(loaded: Loaded) -> Float:
    """The learned vectors (seq, d_model) of the first positions. Raises ReaderError where positions are rotary."""
    if loaded.spec.positions != "learned":
        raise ReaderError(f"{loaded.name} has no position vectors: it rotates queries and keys (chapter 10).")
    found: Float = weight(loaded, "positions")[:MOST].to("cpu", torch.float64).numpy()
    return found


def added(loaded: Loaded, trace: Trace) -> Card:
    """How long the vector is that enters block 0 beyond each token's own row."""
    rows = table(loaded).rows(trace.ids)
    extra = norms(trace.hidden[0] - rows)
    own = norms(rows)
    some = slice(0, _BARS)
    learned, ids = loaded.spec.positions == "learned", trace.ids
    title = (
        f"What the position adds is {extra.min():.2f} to {extra.max():.2f} long; the tokens’ rows {own.min():.2f} to "
        f"{own.max():.2f}"
        if learned
        else f"{loaded.name} has no position vectors: nothing is added to any of the {len(own)} rows before block 0"
    )
    names = [f"{i} {token.display}" for i, token in enumerate(trace.tokens[some])]
    series = {"token’s row": own, "added for the position": extra}
    drawn = series if learned else {"token’s row": own}
    return Card(
        key="added",
        title=title,
        alt="For the first tokens of the prompt bars of the norm of the token’s row"
        + (
            ", and of what is added to it before block 0."
            if learned
            else "; nothing is added before block 0."
        ),
        badge=Badge.LIVE,
        figure=grouped_bars(
            names,
            {name: values[some] for name, values in drawn.items()},
            colors={name: {"token’s row": "embedding"}.get(name, "query") for name in drawn},
            value_name="norm",
            label_name="token",
        ),
        table={"token": [t.display for t in trace.tokens], **{n: v.tolist() for n, v in series.items()}},
        shown={"rows": own, "added": extra},
        oracle=Oracle(
            "The tokens’ rows looked up by torch; what was added against "
            + ("the norms of the rows of the table of positions." if learned else "nothing at all."),
            lambda: _added_again(loaded, ids),
            {"rows": EXACT * max(1.0, largest(own)), "added": float_tolerance(loaded, own, extra)},
        ),
        code=code(
            loaded,
            """
            with torch.no_grad():
                entering = model(ids, output_hidden_states=True).hidden_states[0][0].double()
            result = {"rows": W[ids[0]].norm(dim=-1), "added": (entering - W[ids[0]]).norm(dim=-1)}
            """,
            trace.ids,
        ),
        note=_added_note(learned, len(trace.tokens)),
    )


def _added_note(learned: bool, count: int) -> str:
    shown = f"The first {_BARS} of {count} tokens; the table has all. " if count > _BARS else ""
    return shown + (
        "The stream that enters block 0, less the token’s row."
        if learned
        else "Positions come in later: each attention head rotates its queries and keys (RoPE, chapter 10)."
    )


def curve(loaded: Loaded, dimensions: int, chosen: int) -> Card:
    """The position vectors on their first principal components, joined in order.

    Without position 0: models without a start token rest attention on it, and its row lies so far from all others that
    it would have a component to itself.
    """
    rows = vectors(loaded)[1:]
    found = pca(rows, 3)
    shares = found.shares
    every = 2 ** max(0, int(np.ceil(np.log2(max(len(rows), 1) / 8))))
    return Card(
        key="curve",
        title=f"{share_shown(rows, shares, dimensions)} of the variance between {len(rows)} position vectors",
        alt="A curve through the projected position vectors in order, its colour growing from the first to the last.",
        badge=Badge.LIVE,
        figure=ordered_curve(
            found.scores[:, :dimensions],
            every=every * (dimensions - 1),
            chosen=chosen,
            names=axis_names(shares),
            concept="embedding",
            first=1,
        ),
        table={
            "position": list(range(1, len(rows) + 1)),
            **{f"PC {i + 1}": found.scores[:, i].tolist() for i in range(3)},
        },
        shown={"scores": found.scores, "shares": shares},
        oracle=Oracle(
            "Coordinates and explained variance by the eigenvectors and eigenvalues of the covariance matrix of the "
            "position vectors; signs, which are free, made equal.",
            lambda: _curve_again(loaded, found.scores),
            {"scores": SPREAD * max(1.0, largest(found.scores)), "shares": SPREAD},
        ),
        code=code(loaded, components_code(f"{_script_rows(loaded)}[1:]")),
        note=f"Explained variance: {printed(shares)}. Numbers on the curve are positions"
        + (f"; {chosen} is the chosen token’s" if chosen else "")
        + f". Position 0 is left out: its row is {_away(loaded):.3g} times as far from the mean of the others as they "
        "are.",
    )


def _away(loaded: Loaded) -> float:
    """How far the row of position 0 is from the mean of the others, in their own mean distances from it."""
    rows = vectors(loaded)
    apart = norms(rows - rows[1:].mean(0))
    return float(apart[0] / apart[1:].mean())


def _script_rows(loaded: Loaded) -> str:
    return f"model.{loaded.path('positions')}.weight.detach()[:{MOST}].double()"


def similarity(loaded: Loaded, centred: bool, chosen: int) -> Card:
    """Mean cosine between position vectors by their distance, and the chosen position's with those after it."""
    rows = vectors(loaded)
    rows = rows - rows.mean(0) if centred else rows
    most = min(len(rows) - 1, len(rows) // 2)
    found = by_distance(rows, most)
    own = np.full(most + 1, np.nan)
    after = unit(rows[chosen : chosen + most + 1]) @ unit(rows[chosen])
    own[: len(after)] = after
    mine = f"position {chosen} with those after it"
    distances = np.arange(most + 1)
    return Card(
        key="similarity",
        title=f"Mean cosine {signed(found[min(1, most), 0])} at distance 1, {signed(found[min(16, most), 0])} at "
        f"{min(16, most)}, {signed(found[-1, 0])} at {most}",
        alt="The mean cosine between position vectors against their distance, with the 10 and 90 % quantiles, and "
        "the cosines of one position with those after it.",
        badge=Badge.LIVE,
        figure=lines(
            distances,
            {"mean of all pairs": found[:, 0], "10 %": found[:, 1], "90 %": found[:, 2], mine: own},
            colors={"mean of all pairs": "embedding", "10 %": "token", "90 %": "token", mine: "query"},
            x_name="distance in tokens",
            y_name="cosine",
            markers=False,
        ),
        table={
            "distance": distances.tolist(),
            "mean": found[:, 0].tolist(),
            "10 %": found[:, 1].tolist(),
            "90 %": found[:, 2].tolist(),
            mine: own.tolist(),
        },
        shown={"mean": found[:, 0], "10 %": found[:, 1], "90 %": found[:, 2], "chosen": after},
        oracle=Oracle(
            "torch’s cosine_similarity of the table with itself moved by every distance, its mean and torch’s "
            "quantiles; the chosen position’s line by the same function.",
            lambda: _similarity_again(loaded, centred, chosen),
            EXACT,
        ),
        code=code(
            loaded,
            f"""
            P = {_script_rows(loaded)}
            P = P - P.mean(0) * {int(centred)}
            U = torch.nn.functional.normalize(P)
            similar = U @ U.T
            pairs = [similar.diagonal(d) for d in range({most + 1})]
            result = {{"mean": [float(pair.mean()) for pair in pairs],
                      "10 %": [float(pair.quantile(0.1)) for pair in pairs],
                      "90 %": [float(pair.quantile(0.9)) for pair in pairs],
                      "chosen": U[{chosen} : {chosen + most + 1}] @ U[{chosen}]}}
            """,
        ),
        note=f"All pairs of the first {len(rows)} positions"
        + (", after the mean of all rows was subtracted." if centred else "."),
    )


def _added_again(loaded: Loaded, ids: Sequence[int]) -> dict[str, ArrayLike]:
    rows = again.rows(loaded, ids).norm(dim=-1)
    learned = loaded.spec.positions == "learned"
    added = again.position_rows(loaded, len(ids)).norm(dim=-1) if learned else torch.zeros_like(rows)
    return {"rows": rows.numpy(), "added": added.numpy()}


def _curve_again(loaded: Loaded, scores: Float) -> dict[str, ArrayLike]:
    """`scores` tell the signs."""
    found = again.components(again.position_rows(loaded, MOST)[1:], scores)
    return {"scores": found.scores, "shares": found.shares}


def _similarity_again(loaded: Loaded, centred: bool, chosen: int) -> dict[str, ArrayLike]:
    rows = again.position_rows(loaded, MOST)
    rows = rows - rows.mean(0) if centred else rows
    most = min(len(rows) - 1, len(rows) // 2)
    pairs = [F.cosine_similarity(rows[: len(rows) - d], rows[d:]) for d in range(most + 1)]
    return {
        "mean": [float(pair.mean()) for pair in pairs],
        "10 %": [float(pair.quantile(0.1)) for pair in pairs],
        "90 %": [float(pair.quantile(0.9)) for pair in pairs],
        "chosen": F.cosine_similarity(rows[chosen : chosen + most + 1], rows[chosen][None]).numpy(),
    }
