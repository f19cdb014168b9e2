"""One logit taken apart, and the sizes of what was written into the stream."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import figures
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import stream as again
from engine.evidence.rounding import float_tolerance, same_pass
from engine.evidence.script import preamble
from engine.model.capturing import token
from engine.model.ledger import ledger
from engine.model.loaded import Loaded
from engine.model.trace import Trace


def residual_ledger(loaded: Loaded, trace: Trace, position: int, token_id: int) -> Card:
    """A waterfall from the embedding through every attention and every MLP to one logit."""
    book = ledger(loaded, trace, position, token_id)
    name = token(loaded, token_id).display
    order = np.argsort(-np.abs(book.amounts))
    first, ids = int(order[0]), trace.ids
    return Card(
        key="ledger",
        title=f"The logit of “{name}” is {book.logit:+.2f}; the largest entry is {book.names[first]}, "
        f"{book.amounts[first]:+.2f}",
        alt=f"A waterfall of {len(book.names)} signed parts that sum to the logit.",
        badge=Badge.LIVE,
        figure=figures.waterfall(
            book.names,
            book.amounts,
            colors=["residual" if kind == "bias" else kind for kind in book.kinds],
            total_name="logit",
            value_name="logit",
        ),
        table={"part": [*book.names, "remainder"], "logit": [*book.amounts.tolist(), book.remainder]},
        shown={"amounts": book.amounts, "logit": book.logit},
        oracle=Oracle(
            "Each entry as what the final norm, its scale held, and the unembedding lose when that part is taken out "
            "of the last stream: the embedding's rows, and what leaves attention and MLPs in a new run of a private "
            "copy. The logit is the one that transformers returns.",
            lambda: again.shares_of_logit(loaded, ids, position, token_id),
            {
                "amounts": float_tolerance(loaded, book.amounts, steps=0.5),
                "logit": same_pass(trace.logits[position]),
            },
        ),
        code=preamble(loaded, trace.ids) + _script(loaded, position, token_id),
        note=f"The parts sum to the model's own logit but for {abs(book.remainder):.1g}, rounding. The final "
        "norm's scale is held at the value it took here; change a part, and the scale would change too.",
    )


def _script(loaded: Loaded, position: int, token_id: int) -> str:
    attention, mlp = (loaded.adapter.inside(loaded.adapter.writes(part)) for part in ("attention", "mlp"))
    learned = loaded.spec.positions == "learned"
    positions = f"model.{loaded.path('positions')}.weight[at].double()" if learned else None
    centre = "direction -= direction.mean()" if loaded.spec.centred else "pass"
    spread = "x.var(unbiased=False)" if loaded.spec.centred else "(x**2).mean()"
    return f"""
at, token = {position}, {token_id}
starts, writes, ends = [], [], []
model.{loaded.path("blocks")}[0].register_forward_pre_hook(lambda m, args: starts.append(args[0][0, at].double()))
for block in model.{loaded.path("blocks")}:
    block.{attention}.register_forward_hook(lambda m, args, out: writes.append(out[0, at].double()))
    block.{mlp}.register_forward_hook(lambda m, args, out: writes.append(out[0, at].double()))
norm, unembedding = model.{loaded.path("final_norm")}, model.{loaded.path("unembedding")}
norm.register_forward_pre_hook(lambda m, args: ends.append(args[0][0, at].double()))
with torch.no_grad():
    logit = model(ids, use_cache=False).logits[0, at, token]
    start, x, row = starts[0], ends[0], unembedding.weight[token].double()
    place = {positions}
    vectors = [start - place, place] if place is not None else [start]
    direction = row * norm.weight.double()
    {centre}
    direction /= ({spread} + {loaded.spec.norm_eps}).sqrt()
    constant = float(row @ norm.bias.double()) if getattr(norm, "bias", None) is not None else 0.0
    constant += float(unembedding.bias[token]) if unembedding.bias is not None else 0.0
result = {{"amounts": [float(v @ direction) for v in vectors + writes] + [constant], "logit": logit}}
"""


def stream_norms(loaded: Loaded, trace: Trace, position: int) -> Card:
    """Length of the residual stream before and after every block, and of what each sublayer wrote."""
    stream = np.linalg.norm(trace.hidden[:, position].astype(np.float64), axis=-1)
    attention = np.linalg.norm(trace.attn_out[:, position].astype(np.float64), axis=-1)
    mlp = np.linalg.norm(trace.mlp_out[:, position].astype(np.float64), axis=-1)
    layers, ids = list(range(loaded.spec.n_layer + 1)), trace.ids
    pad = [float("nan")]
    return Card(
        key="norms",
        title=f"The stream at “{trace.tokens[position].display}” grows from length {stream[0]:.3g} "
        f"to {stream[-1]:.3g}"
        if stream[-1] >= stream[0]
        else f"The stream at “{trace.tokens[position].display}” goes from length {stream[0]:.3g} to {stream[-1]:.3g}",
        alt="Euclidean length of the residual stream and of every write, by block.",
        badge=Badge.LIVE,
        figure=figures.lines(
            layers,
            {
                "residual stream": stream,
                "attention writes": [*attention, *pad],
                "MLP writes": [*mlp, *pad],
            },
            colors={"residual stream": "residual", "attention writes": "attention", "MLP writes": "mlp"},
            x_name="block (the stream entering it)",
            y_name="Euclidean length",
            zero=True,
        ),
        table={
            "block": layers,
            "stream entering": stream.tolist(),
            "attention writes": [*attention.tolist(), *pad],
            "MLP writes": [*mlp.tolist(), *pad],
        },
        shown={"residual stream": stream, "attention writes": attention, "MLP writes": mlp},
        oracle=Oracle(
            "Lengths by torch of the hidden states that transformers returns, the last one from a private copy without "
            "its final norm; of the attention that transformers returns times the values in its cache, through the "
            "output projection; and of what leaves the MLPs in a new run of that copy.",
            lambda: _lengths_again(loaded, ids, position),
            {
                "residual stream": same_pass(stream),
                "attention writes": float_tolerance(loaded, attention, steps=1),
                "MLP writes": same_pass(mlp),
            },
        ),
        code=preamble(loaded, trace.ids) + _lengths_script(loaded, position),
        note="transformers returns the last hidden state after the final norm; the last point here is before it.",
    )


def _lengths_again(loaded: Loaded, ids: Sequence[int], position: int) -> dict[str, Any]:
    return {
        "residual stream": [torch.linalg.vector_norm(x[position]) for x in again.streams(loaded, ids)],
        "attention writes": [
            torch.linalg.vector_norm(x[position]) for x in again.attention_writes(loaded, ids)
        ],
        "MLP writes": [torch.linalg.vector_norm(x[position]) for x in again.mlp_writes(loaded, ids)],
    }


def _lengths_script(loaded: Loaded, position: int) -> str:
    attention, mlp = (loaded.adapter.inside(loaded.adapter.writes(part)) for part in ("attention", "mlp"))
    return f"""
lengths = {{"residual stream": [], "attention writes": [], "MLP writes": []}}


def keep(name, vector):
    lengths[name].append(float(vector[0, {position}].double().norm()))


for block in model.{loaded.path("blocks")}:
    block.register_forward_pre_hook(lambda m, args: keep("residual stream", args[0]))
    block.{attention}.register_forward_hook(lambda m, args, out: keep("attention writes", out))
    block.{mlp}.register_forward_hook(lambda m, args, out: keep("MLP writes", out))
model.{loaded.path("final_norm")}.register_forward_pre_hook(lambda m, args: keep("residual stream", args[0]))
with torch.no_grad():
    model(ids, use_cache=False)
result = lengths
"""
