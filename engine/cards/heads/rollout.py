"""Attention followed through all layers at once."""

import numpy as np
import torch

from engine import Loaded
from engine.cards.heads.common import ATTENTION_CODE, largest_difference, returned_attention, table, tolerance
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.script import preamble
from engine.figures import attention_map, lines
from engine.model.trace import Trace
from engine.ops.heads import attention_share
from engine.ops.heads import rollout as roll
from engine.tokens.text import shorten


def rollout(loaded: Loaded, trace: Trace, layer: int, query: int) -> Card:
    """Rollout from the embeddings to the output of a layer, with one query outlined."""
    rolled = roll(trace.attention)[layer]
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
                "mean weight of all heads": trace.attention[: layer + 1].mean((0, 1))[query, : query + 1],
            }
        ),
        prove=lambda: _prove(loaded, trace, layer, rolled),
        code=preamble(loaded, trace.ids) + ATTENTION_CODE + _CODE.format(last=layer),
        numbers={"rollout": rolled},
        atol=tolerance(loaded),
        note="Rollout is a bookkeeping of attention weights. It knows nothing of values, of MLPs and of norms.",
    )


def shares(loaded: Loaded, trace: Trace) -> Card:
    """The caveat in numbers: how long attention's write is beside the stream, where rollout assumes one half."""
    values = attention_share(trace.hidden, trace.attn_out)
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
        prove=lambda: _prove_shares(loaded, trace, values),
        code=preamble(loaded, trace.ids) + _share_code(loaded),
        numbers={"share": values},
        atol=tolerance(loaded),
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


def _prove(loaded: Loaded, trace: Trace, layer: int, rolled: np.ndarray) -> Proof:
    """Each query on its own: one unit is handed down from the layer to the embeddings."""
    mean = returned_attention(loaded, trace.ids).double().mean(1)
    seq, rows = mean.shape[-1], []
    for query in range(seq):
        unit = torch.zeros(seq, dtype=torch.float64)
        unit[query] = 1
        for weights in reversed(mean[: layer + 1]):
            handed = torch.zeros_like(unit)
            for position in range(query + 1):
                handed += unit[position] * weights[position]
            unit = 0.5 * unit + 0.5 * handed
        rows.append(unit)
    return Proof(
        claim="Every row against a plain loop that hands one unit down from the layer to the embeddings, half of it "
        "straight on and half along the mean weights that transformers returns.",
        max_abs_diff=largest_difference(rolled, torch.stack(rows).numpy()),
        tolerance=tolerance(loaded),
    )


def _prove_shares(loaded: Loaded, trace: Trace, values: np.ndarray) -> Proof:
    """From transformers' own hidden states, and from attention weights × values × the output projection."""
    with torch.no_grad():
        batch = torch.tensor([list(trace.ids)], device=loaded.model.device)
        out = loaded.model(
            input_ids=batch, use_cache=False, output_hidden_states=True, output_attentions=True
        )
        others = []
        for layer in range(loaded.spec.n_layer):
            groups = loaded.spec.n_head // loaded.spec.n_kv_head
            v = torch.tensor(trace.v[layer]).repeat_interleave(groups, dim=0)  # head, seq, d_head
            joined = (out.attentions[layer][0].float().cpu() @ v).transpose(0, 1).flatten(1)
            projection = loaded.part("o_proj", layer)
            dtype = out.hidden_states[layer].dtype
            write = projection(joined.to(loaded.model.device, dtype)).float().norm(dim=-1)
            stream = out.hidden_states[layer][0].float().norm(dim=-1)
            others.append((write / (write + stream)).mean().cpu())
    return Proof(
        claim="Against the hidden states and weights that transformers returns: weights × captured values, through "
        "each layer's output projection.",
        max_abs_diff=largest_difference(values, torch.stack(others).numpy()),
        tolerance=tolerance(loaded),
    )


_CODE = """\
identity = torch.eye(weights.shape[-1], dtype=torch.float64)
rolled = identity
for layer in weights[: {last} + 1].double():
    rolled = 0.5 * (layer.mean(0) + identity) @ rolled
result = {{"rollout": rolled}}
"""


def _share_code(loaded: Loaded) -> str:
    path = f"{loaded.adapter.parts['blocks']}.{{layer}}.{loaded.adapter.layer['attention']}"
    return _SHARE_CODE.format(path=path, n_layer=loaded.spec.n_layer)


_SHARE_CODE = """\
writes = {{}}
for layer in range({n_layer}):
    def keep(module, args, output, layer=layer):
        writes[layer] = output[0][0].float()

    model.get_submodule(f"{path}").register_forward_hook(keep)
with torch.no_grad():
    streams = model(ids, output_hidden_states=True).hidden_states
share = []
for layer, write in writes.items():
    write, stream = write.norm(dim=-1), streams[layer][0].float().norm(dim=-1)
    share.append((write / (write + stream)).mean())
result = {{"share": torch.stack(share)}}
"""
