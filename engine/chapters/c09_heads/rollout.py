"""Attention followed through all layers at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine import Loaded
from engine.chapters.c09_heads.naming import table
from engine.chapters.c09_heads.passes import ATTENTION_CODE
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.attentions import returned_attention, rolled_out, write_shares
from engine.evidence.rounding import same_pass, tolerance
from engine.evidence.script import preamble
from engine.figures import attention_map, lines
from engine.model.trace import Trace
from engine.ops.heads import attention_share
from engine.ops.heads import rollout as roll
from engine.tokens.text import shorten


def rollout(loaded: Loaded, trace: Trace, layer: int, query: int) -> Card:
    """Rollout from the embeddings to the output of a layer, with one query outlined."""
    ids, rolled = tuple(trace.ids), roll(trace.attention[: layer + 1])[-1].copy()
    mean = trace.attention[: layer + 1].mean((0, 1))[query, : query + 1]
    tokens = [token.display for token in trace.tokens]
    row = rolled[query, : query + 1]
    return Card(
        key="rollout",
        title=f"Up to layer {layer}, “{shorten(tokens[query])}” {_sources(row, tokens)}",
        alt=f"Attention rollout through layers 0 to {layer}: rows are positions at the output of that layer, columns "
        "are tokens of the prompt; later tokens are masked.",
        badge=Badge.LIVE,
        figure=attention_map(
            rolled,
            tokens,
            query=query,
            row_name="position after the layer",
            column_name="token of the prompt",
            value_name="rollout",
        ),
        table=table(
            {
                "position": list(range(query + 1)),
                "token": tokens[: query + 1],
                "rollout": row,
                "mean weight of all heads": mean,
            }
        ),
        shown={"rollout": rolled, "mean weight": mean},
        oracle=Oracle(
            "Every row by a plain loop that hands one unit down from the layer to the embeddings, half of it straight "
            "on and half along the mean weights that transformers returns; the mean weights from the same.",
            lambda: _again(loaded, ids, layer, query),
            same_pass(),
        ),
        code=preamble(loaded, ids) + ATTENTION_CODE + _CODE.format(last=layer, query=query),
        note="Rollout is a bookkeeping of attention weights. It knows nothing of values, of MLPs and of norms.",
    )


def shares(loaded: Loaded, trace: Trace) -> Card:
    """The caveat in numbers: how long attention's write is beside the stream, where rollout assumes one half."""
    ids, values = tuple(trace.ids), attention_share(trace.hidden, trace.attn_out)
    layers = np.arange(loaded.spec.n_layer)
    return Card(
        key="rollout-share",
        title=f"Rollout counts attention as 50% of every layer; by length it is {_range(values)} here",
        alt="A line over the layers of the share of attention's write in the length of write and stream together, "
        "beside the constant one half that rollout assumes.",
        badge=Badge.LIVE,
        figure=lines(
            layers,
            {"measured": values, "rollout's assumption": np.full(len(layers), 0.5)},
            colors={"measured": "attention", "rollout's assumption": "residual"},
            x_name="layer",
            y_name="share of attention's write",
            zero=True,
            markers=True,
            height=280,
        ),
        table=table({"layer": layers, "measured share": values}),
        shown={"share": values},
        oracle=Oracle(
            "From the hidden states, the weights and the cache that transformers returns: weights × cached values, "
            "through each layer's output projection.",
            lambda: {"share": write_shares(loaded, ids)},
            tolerance(loaded, values),
        ),
        code=preamble(loaded, ids) + _share_code(loaded),
        note="‖write‖ / (‖write‖ + ‖stream‖), mean over the prompt's positions; the stream is what enters the block.",
    )


def _sources(row: np.ndarray, tokens: list[str]) -> str:
    """The token of the prompt with the largest rollout, in words."""
    if not np.isfinite(row).all():
        return "has no finite rollout"
    key = int(row.argmax())
    own = f"{row[-1]:.0%} from itself"
    if key == len(row) - 1:
        return f"draws {own}, more than from any other token"
    return f"draws {row[key]:.0%} from “{shorten(tokens[key])}” at position {key}, {own}"


def _range(values: np.ndarray) -> str:
    if not np.isfinite(values).all():
        return "not a number"
    low, high = f"{values.min():.0%}", f"{values.max():.0%}"
    return low if low == high else f"{low} to {high}"


def _again(loaded: Loaded, ids: Sequence[int], layer: int, query: int) -> dict[str, Any]:
    weights = returned_attention(loaded, ids)
    mean = weights[: layer + 1, :, query, : query + 1].double().mean((0, 1))
    return {"rollout": rolled_out(weights, layer), "mean weight": mean}


_CODE = """\
identity = torch.eye(weights.shape[-1], dtype=torch.float64)
rolled = identity
for layer in weights[: {last} + 1].double():
    rolled = 0.5 * (layer.mean(0) + identity) @ rolled
mean = weights[: {last} + 1].mean((0, 1))[{query}, : {query} + 1]
result = {{"rollout": rolled, "mean weight": mean}}
"""


def _share_code(loaded: Loaded) -> str:
    path = loaded.path(loaded.adapter.writes("attention"), "{layer}")
    return _SHARE_CODE.format(path=path, n_layer=loaded.spec.n_layer)


_SHARE_CODE = """\
writes = {{}}
for layer in range({n_layer}):
    def keep(module, args, output, layer=layer):
        writes[layer] = output[0].float()

    model.get_submodule(f"{path}").register_forward_hook(keep)
with torch.no_grad():
    streams = model(ids, output_hidden_states=True).hidden_states
share = []
for layer, write in writes.items():
    write, stream = write.norm(dim=-1), streams[layer][0].float().norm(dim=-1)
    share.append((write / (write + stream)).mean())
result = {{"share": torch.stack(share)}}
"""
