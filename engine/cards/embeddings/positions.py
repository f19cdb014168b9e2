"""Learned position vectors, or the fact that there are none."""

import numpy as np
import torch
from torch.nn import functional as F

from engine import ReaderError
from engine.cards.attention.evidence import gap
from engine.cards.embeddings.map import axis_names, components_code, printed, prove_components, share_shown
from engine.cards.embeddings.matrix import CLOSE, code, signed, table, weight
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.rounding import largest, tolerance
from engine.figures import grouped_bars, lines
from engine.figures.embeddings import ordered_curve
from engine.model.loading import Loaded
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
    learned = loaded.spec.positions == "learned"
    title = (
        f"What the position adds is {extra.min():.2f} to {extra.max():.2f} long; the tokens’ rows {own.min():.2f} to "
        f"{own.max():.2f}"
        if learned
        else f"{loaded.name} has no position vectors: every token enters block 0 as its bare row"
    )
    names = [f"{i} {token.display}" for i, token in enumerate(trace.tokens[some])]
    series = {"token’s row": own, "added for the position": extra}
    return Card(
        key="added",
        title=title,
        alt="For the first tokens of the prompt two bars: the norm of the token’s row, and the norm of what is added "
        "to it before block 0.",
        badge=Badge.LIVE,
        figure=grouped_bars(
            names,
            {name: values[some] for name, values in series.items()},
            colors={"token’s row": "embedding", "added for the position": "query"},
            value_name="norm",
            label_name="token",
        ),
        table={"token": [t.display for t in trace.tokens], **{n: v.tolist() for n, v in series.items()}},
        prove=lambda: _prove_added(loaded, trace, own, extra),
        code=code(
            loaded,
            """
            with torch.no_grad():
                entering = model(ids, output_hidden_states=True).hidden_states[0][0].double()
            result = {"rows": W[ids[0]].norm(dim=-1), "added": (entering - W[ids[0]]).norm(dim=-1)}
            """,
            trace.ids,
        ),
        numbers={"rows": own.tolist(), "added": extra.tolist()},
        atol=tolerance(loaded, own, extra),
        note=_added_note(learned, len(trace.tokens)),
    )


def _added_note(learned: bool, count: int) -> str:
    shown = f"The first {_BARS} of {count} tokens; the table has all. " if count > _BARS else ""
    return shown + (
        "The stream that enters block 0, less the token’s row."
        if learned
        else "Positions come in later: each attention head rotates its queries and keys (RoPE, chapter 10)."
    )


def _prove_added(loaded: Loaded, trace: Trace, own: Float, extra: Float) -> Proof:
    rows = F.embedding(torch.tensor(trace.ids), weight(loaded, "embedding").to("cpu", torch.float64))
    if loaded.spec.positions == "learned":
        theirs = weight(loaded, "positions")[: len(trace.ids)].to("cpu", torch.float64).norm(dim=-1)
        claim = (
            "What was added, by the captured stream, against the norms of the rows of the table of positions"
        )
    else:
        theirs = torch.zeros(len(trace.ids))
        claim = "The captured stream at the entrance of block 0 less the tokens’ rows, against nothing at all"
    return Proof(
        f"{claim}; and the tokens’ rows against torch.nn.functional.embedding.",
        max(gap(own, rows.norm(dim=-1)), gap(extra, theirs)),
        tolerance(loaded, own, extra),
    )


def curve(loaded: Loaded, dimensions: int, chosen: int) -> Card:
    """The position vectors on their first principal components, joined in order."""
    rows = vectors(loaded)
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
        ),
        table={
            "position": list(range(len(rows))),
            **{f"PC {i + 1}": found.scores[:, i].tolist() for i in range(3)},
        },
        prove=lambda: prove_components(found, rows, "the position vectors"),
        code=code(loaded, components_code(_script_rows(loaded))),
        numbers={"scores": found.scores.tolist(), "shares": shares.tolist()},
        note=f"Explained variance: {printed(shares)}. Numbers on the curve are positions; {chosen} is the chosen "
        "token’s.",
    )


def _script_rows(loaded: Loaded) -> str:
    return f"model.{loaded.adapter.parts['positions']}.weight.detach()[:{MOST}].double()"


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
        prove=lambda: _prove_similarity(rows, found, after, chosen),
        code=code(
            loaded,
            f"""
            P = {_script_rows(loaded)}
            P = P - P.mean(0) * {int(centred)}
            U = torch.nn.functional.normalize(P)
            similar = U @ U.T
            result = {{"mean": [float(similar.diagonal(d).mean()) for d in range({most + 1})],
                      "chosen": similar[{chosen}, {chosen} : {chosen + most + 1}]}}
            """,
        ),
        numbers={"mean": found[:, 0].tolist(), "chosen": after.tolist()},
        note=f"All pairs of the first {len(rows)} positions"
        + (", after the mean of all rows was taken away." if centred else "."),
    )


def _prove_similarity(rows: Float, found: Float, after: Float, chosen: int) -> Proof:
    given = torch.tensor(rows)
    means = [F.cosine_similarity(given[: len(given) - d], given[d:]).mean().item() for d in range(len(found))]
    theirs = F.cosine_similarity(given[chosen : chosen + len(after)], given[chosen][None])
    return Proof(
        "Every mean against torch’s cosine_similarity of the table with itself moved by the distance, and the chosen "
        "position’s line against the same function.",
        max(gap(found[:, 0], means), gap(after, theirs)),
        CLOSE * max(1.0, largest(found)),
    )
