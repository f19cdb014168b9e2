"""One logit taken apart, and the sizes of what was written into the stream."""

import numpy as np
import torch

from engine import figures
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.comparing import max_difference
from engine.evidence.rounding import float_tolerance, same_pass
from engine.evidence.script import preamble
from engine.model.capturing import token
from engine.model.ledger import Ledger, ledger
from engine.model.loaded import Loaded
from engine.model.trace import Trace


def residual_ledger(loaded: Loaded, trace: Trace, position: int, token_id: int) -> Card:
    """A waterfall from the embedding through every attention and every MLP to one logit."""
    book = ledger(loaded, trace, position, token_id)
    name = token(loaded, token_id).display
    order = np.argsort(-np.abs(book.amounts))
    first, allowed = int(order[0]), float_tolerance(loaded, trace.logits[position], steps=3)
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
        prove=lambda: _proof(book, allowed),
        code=preamble(loaded, trace.ids) + _script(loaded, position, token_id),
        numbers={"amounts": book.amounts},
        atol=allowed,
        note=f"The parts sum to the model's own logit but for {abs(book.remainder):.1g}, rounding. The final "
        "norm's scale is held at the value it took here; change a part, and the scale would change too.",
    )


def _proof(book: Ledger, allowed: float) -> Proof:
    return Proof(
        "The sum of all parts, against the logit that the model returned.", abs(book.remainder), allowed
    )


def _script(loaded: Loaded, position: int, token_id: int) -> str:
    attention, mlp = (loaded.adapter.inside(loaded.adapter.writes(part)) for part in ("attention", "mlp"))
    learned = loaded.spec.positions == "learned"
    positions = f"model.{loaded.path('positions')}.weight[at].double()" if learned else None
    centre = "direction -= direction.mean()" if loaded.spec.centred else "pass"
    spread = "x.var(unbiased=False)" if loaded.spec.centred else "(x**2).mean()"
    return f"""
at, token = {position}, {token_id}
writes, ends = [], []
for block in model.{loaded.path("blocks")}:
    block.{attention}.register_forward_hook(lambda m, args, out: writes.append(out[0, at].double()))
    block.{mlp}.register_forward_hook(lambda m, args, out: writes.append(out[0, at].double()))
norm, unembedding = model.{loaded.path("final_norm")}, model.{loaded.path("unembedding")}
norm.register_forward_pre_hook(lambda m, args: ends.append(args[0][0, at].double()))
with torch.no_grad():
    model(ids, use_cache=False)
    x, row = ends[0], unembedding.weight[token].double()
    start = x - sum(writes)
    place = {positions}
    vectors = [start - place, place] if place is not None else [start]
    direction = row * norm.weight.double()
    {centre}
    direction /= ({spread} + {loaded.spec.norm_eps}).sqrt()
    constant = float(row @ norm.bias.double()) if getattr(norm, "bias", None) is not None else 0.0
    constant += float(unembedding.bias[token]) if unembedding.bias is not None else 0.0
result = {{"amounts": [float(v @ direction) for v in vectors + writes] + [constant]}}
"""


def stream_norms(loaded: Loaded, trace: Trace, position: int) -> Card:
    """Length of the residual stream before and after every block, and of what each sublayer wrote."""
    stream = np.linalg.norm(trace.hidden[:, position].astype(np.float64), axis=-1)
    attention = np.linalg.norm(trace.attn_out[:, position].astype(np.float64), axis=-1)
    mlp = np.linalg.norm(trace.mlp_out[:, position].astype(np.float64), axis=-1)
    layers = list(range(loaded.spec.n_layer + 1))
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
        prove=lambda: _norm_proof(loaded, trace, position, stream),
        code=preamble(loaded, trace.ids)
        + f"""
with torch.no_grad():
    states = model(ids, output_hidden_states=True, use_cache=False).hidden_states
result = {{"stream": [float(h[0, {position}].double().norm()) for h in states[:-1]]}}
""",
        numbers={"stream": stream[:-1]},
        atol=same_pass(stream),
        note="transformers returns the last hidden state after the final norm; the last point here is before it.",
    )


def _norm_proof(loaded: Loaded, trace: Trace, position: int, stream: np.ndarray) -> Proof:
    batch = torch.tensor([list(trace.ids)], device=loaded.model.device)
    with torch.no_grad():
        states = loaded.model(batch, output_hidden_states=True, use_cache=False).hidden_states
    theirs = np.array([float(h[0, position].double().norm()) for h in states[:-1]])
    return Proof(
        "Lengths of the hidden states that transformers returns for the same prompt.",
        max_difference(theirs, stream[:-1]),
        same_pass(stream),
    )
