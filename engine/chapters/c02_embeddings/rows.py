"""A token's row of the embedding matrix, and how long it is beside all others."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from engine.chapters.c02_embeddings.matrix import code, quoted, signed, table, weight
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import embedding as again
from engine.evidence.rounding import EXACT, counted, float_tolerance
from engine.figures import heatmap, histogram
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops.embeddings import Float, norms


def row(loaded: Loaded, trace: Trace, position: int) -> Card:
    """The row of the token at a position; where positions are learned also the position's row and their sum."""
    token = trace.tokens[position]
    own = table(loaded)
    vectors: dict[str, Float] = {"token row": own.rows([token.id])[0]}
    if loaded.spec.positions == "learned":
        vectors["position row"] = weight(loaded, "positions")[position].to("cpu", torch.float64).numpy()
    vectors["into block 0"] = trace.hidden[0, position].astype(np.float64)
    shown = np.stack(list(vectors.values()))
    lengths = norms(shown)
    first, ids = shown[0], trace.ids
    return Card(
        key="row",
        title=f"{quoted(token.display)} is row {token.id:,} of {len(weight(loaded, 'embedding')):,}: {own.d_model} "
        f"numbers from {signed(first.min())} to {signed(first.max())}, norm {lengths[0]:.3f}",
        alt=f"Coloured strips with one cell for each of {own.d_model} dimensions: {', '.join(vectors)}. Blue is "
        "negative, orange is positive.",
        badge=Badge.LIVE,
        figure=heatmap(
            shown,
            list(vectors),
            kind="diverging",
            column_name="dimension (d_model)",
            value_name="value",
            height=130 + 30 * len(shown),
        ),
        table={"dimension": list(range(own.d_model)), **{name: v.tolist() for name, v in vectors.items()}},
        shown={"vectors": shown, "norms": lengths},
        oracle=Oracle(
            "The row as the product of a one-hot vector with the whole matrix; what enters block 0 as "
            + ("the sum of the token’s and the position’s row" if len(shown) == 3 else "the row itself")
            + ", looked up in the weights with torch; norms by torch.",
            lambda: _row_again(loaded, ids, position),
            float_tolerance(loaded, shown),
        ),
        code=_code(loaded, trace, position),
        note="Norms: "
        + ", ".join(f"{n} {length:.3f}" for n, length in zip(vectors, lengths, strict=True))
        + ".",
    )


def _row_again(loaded: Loaded, ids: Sequence[int], position: int) -> dict[str, ArrayLike]:
    rows = [again.row_by_product(loaded, ids[position])]
    if loaded.spec.positions == "learned":
        rows.append(again.position_rows(loaded, position + 1)[position])
    vectors = torch.stack([*rows, again.entering(loaded, ids)[position]])
    return {"vectors": vectors.numpy(), "norms": torch.linalg.vector_norm(vectors, dim=-1).numpy()}


def _lengths_again(loaded: Loaded, ids: Sequence[int], position: int) -> dict[str, ArrayLike]:
    lengths = again.lengths(loaded)
    chosen = lengths[ids[position]]
    return {
        "all rows": lengths.numpy(),
        "chosen": float(chosen),
        "quartiles": lengths.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).numpy(),
        "shorter": float((lengths < chosen).double().mean()),
        "prompt": lengths[list(ids)].numpy(),
    }


def _code(loaded: Loaded, trace: Trace, position: int) -> str:
    learned = loaded.spec.positions == "learned"
    extra = f"model.{loaded.path('positions')}.weight[{position}].double(), " if learned else ""
    return code(
        loaded,
        f"""
        with torch.no_grad():
            entering = model(ids, output_hidden_states=True).hidden_states[0][0, {position}].double()
            vectors = torch.stack([W[ids[0, {position}]], {extra}entering])
        result = {{"vectors": vectors, "norms": vectors.norm(dim=-1)}}
        """,
        trace.ids,
    )


def lengths(loaded: Loaded, trace: Trace, position: int) -> Card:
    """The norms of all rows as a histogram, the chosen token's marked."""
    own, token = table(loaded), trace.tokens[position]
    length = float(own.norms[token.id])
    low, middle, high = np.quantile(own.norms, (0.25, 0.5, 0.75))
    below = float((own.norms < length).mean())
    ids = list(trace.ids)
    return Card(
        key="norms",
        title=f"{quoted(token.display)} has norm {length:.3f}; half of all rows lie between {low:.3f} and {high:.3f}",
        alt=f"A histogram of the norms of {own.count} rows with a vertical line at {length:.3f}.",
        badge=Badge.LIVE,
        figure=histogram(
            {"all rows": own.norms},
            colors={"all rows": "embedding"},
            marks={token.display: length},
            x_name="norm of a row",
            y_name="rows",
        ),
        table={
            "position": list(range(len(trace.tokens))),
            "token": [t.display for t in trace.tokens],
            "id": ids,
            "norm": own.norms[ids].tolist(),
        },
        shown={
            "all rows": own.norms,
            "chosen": length,
            "quartiles": [low, middle, high],
            "shorter": below,
            "prompt": own.norms[ids],
        },
        oracle=Oracle(
            "torch.linalg.vector_norm of every row of the matrix, and torch’s quantiles of them.",
            lambda: _lengths_again(loaded, ids, position),
            {
                **dict.fromkeys(
                    ("all rows", "chosen", "quartiles", "prompt"), EXACT * max(1.0, own.norms.max())
                ),
                "shorter": counted(own.count),
            },
        ),
        code=code(
            loaded,
            f"""
            norms = W.norm(dim=-1)
            quartiles = norms.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
            chosen = norms[ids[0, {position}]]
            result = {{"all rows": norms, "chosen": chosen, "quartiles": quartiles,
                      "shorter": (norms < chosen).double().mean(), "prompt": norms[ids[0]]}}
            """,
            trace.ids,
        ),
        note=f"{below:.0%} of the {own.count:,} rows are shorter. The table lists the tokens of the prompt.",
    )
