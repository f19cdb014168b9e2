"""A token's row of the embedding matrix."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from engine.chapters.c02_embeddings.matrix import code, quoted, signed, table, weight
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import embedding as again
from engine.evidence.rounding import float_tolerance
from engine.figures import heatmap
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
    alone = list(vectors) == ["token row"]
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
            shown[:1] if alone else shown,
            ["token row"] if alone else list(vectors),
            kind="diverging",
            column_name="dimension (d_model)",
            value_name="value",
            height=160 if alone else 130 + 30 * len(shown),
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
        + (". What enters block 0 is the token’s row itself." if alone else "."),
    )


def _row_again(loaded: Loaded, ids: Sequence[int], position: int) -> dict[str, ArrayLike]:
    rows = [again.row_by_product(loaded, ids[position])]
    if loaded.spec.positions == "learned":
        rows.append(again.position_rows(loaded, position + 1)[position])
    vectors = torch.stack([*rows, again.entering(loaded, ids)[position]])
    return {"vectors": vectors.numpy(), "norms": torch.linalg.vector_norm(vectors, dim=-1).numpy()}


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
