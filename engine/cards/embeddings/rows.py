"""A token's row of the embedding matrix, and how long it is beside all others."""

import numpy as np
import torch
from torch.nn import functional as F

from engine.cards.attention.evidence import gap
from engine.cards.embeddings.matrix import CLOSE, code, quoted, signed, table, weight
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.rounding import tolerance
from engine.figures import heatmap, histogram
from engine.model.loading import Loaded
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
    first = shown[0]
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
        prove=lambda: _prove(loaded, trace, position, shown),
        code=_code(loaded, trace, position),
        numbers={"vectors": shown.tolist(), "norms": lengths.tolist()},
        atol=tolerance(loaded, shown),
        note="Norms: "
        + ", ".join(f"{n} {length:.3f}" for n, length in zip(vectors, lengths, strict=True))
        + ".",
    )


def _prove(loaded: Loaded, trace: Trace, position: int, shown: Float) -> Proof:
    matrix = weight(loaded, "embedding")
    one_hot = F.one_hot(torch.tensor(trace.ids[position], device=matrix.device), len(matrix)).to(matrix.dtype)
    product = (one_hot @ matrix).to("cpu", torch.float64).numpy()
    enters = shown[:-1].sum(0)
    return Proof(
        "The row against the product of a one-hot vector with the whole matrix; and the vector captured at the "
        "entrance of block 0 against "
        + ("the sum of the two rows." if len(shown) == 3 else "the row itself."),
        max(gap(shown[0], product), gap(trace.hidden[0, position], enters)),
        tolerance(loaded, shown),
    )


def _code(loaded: Loaded, trace: Trace, position: int) -> str:
    learned = loaded.spec.positions == "learned"
    extra = f"model.{loaded.adapter.parts['positions']}.weight[{position}].double(), " if learned else ""
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
            "id": list(trace.ids),
            "norm": own.norms[list(trace.ids)].tolist(),
        },
        prove=lambda: _prove_lengths(loaded, token.id, length, (low, middle, high)),
        code=code(
            loaded,
            f"""
            norms = W.norm(dim=-1)
            quartiles = norms.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
            result = {{"norm": norms[ids[0, {position}]], "quartiles": quartiles}}
            """,
            trace.ids,
        ),
        numbers={"norm": length, "quartiles": [low, middle, high]},
        note=f"{below:.0%} of the {own.count:,} rows are shorter. The table lists the tokens of the prompt.",
    )


def _prove_lengths(loaded: Loaded, id: int, length: float, quartiles: tuple[float, float, float]) -> Proof:
    rows = weight(loaded, "embedding")[: len(loaded.tokenizer)]
    theirs = torch.cat([torch.linalg.vector_norm(part.float(), dim=-1) for part in rows.split(1000)]).cpu()
    found = theirs.double().quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).numpy()
    return Proof(
        "Quartiles and norm against torch.linalg.vector_norm of every row in float32.",
        max(gap(quartiles, found), gap(length, theirs[id])),
        CLOSE * max(1.0, float(theirs.max())),
    )
