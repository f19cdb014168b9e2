"""Where in the prompt and in the model the point of a beat is easiest to see, found on the loaded checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from engine.chapters.c08_attention.outputs import weight_of
from engine.model.capturing import display
from engine.model.head import Head
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops import attention as ops
from engine.ops.attention import Floats
from engine.ops.heads import on_previous

BEYOND = 2.0
"""Where a share is larger, the values nearly cancel, and shares of their small sum say little."""


@dataclass(frozen=True)
class Instance:
    """Fields of the reader's state to choose, what a button for them says, and why; plain text."""

    picks: Mapping[str, int]
    label: str
    reason: str


def previous_token(trace: Trace) -> Instance | None:
    """The head that gives the token before each query the largest mean weight; none for fewer than three tokens."""
    weights = on_previous(trace.attention)
    if not np.isfinite(weights).any():
        return None
    layer, head = _largest(np.nan_to_num(weights))
    return _head(
        layer,
        head,
        f"Of all heads it looks most at the token before: with {weights[layer, head]:.0%} of its attention, on average "
        f"over this prompt.",
    )


def unlike(loaded: Loaded, trace: Trace, query: int) -> Instance | None:
    """The head in which the share of some key in the sum falls furthest behind the key's weight."""
    gaps = np.full((loaded.spec.n_layer, loaded.spec.n_head, query + 1), -np.inf)
    found = np.zeros((*gaps.shape, 2))
    for layer, head in np.ndindex(*gaps.shape[:2]):
        weights, shares = weights_and_shares(Head(loaded, trace, layer, head), query)
        if np.isfinite(shares).all() and np.abs(shares).max() < BEYOND:
            gaps[layer, head], found[layer, head] = weights - shares, np.stack([weights, shares], -1)
    layer, head, key = (int(i) for i in np.unravel_index(int(gaps.argmax()), gaps.shape))
    if not gaps[layer, head, key] > 0:
        return None
    weight, share = found[layer, head, key]
    return _head(
        layer,
        head,
        f"Of all heads it parts weight from effect most for this token: “{trace.tokens[key].display}” has {weight:.0%} "
        f"of the weight and {share:.0%} of the sum.",
    )


def weights_and_shares(one: Head, query: int) -> tuple[Floats, Floats]:
    """The weights of the keys that a query sees, and the share of each weighted value in their sum."""
    weights = one.weights[query, : query + 1].astype(np.float64)
    return weights, ops.shares(ops.contributions(weights, one.v[: query + 1]))


def loudest(loaded: Loaded, trace: Trace, layer: int, query: int) -> Instance:
    """The head of a layer that writes the longest vector at a query."""
    heads = range(loaded.spec.n_head)
    lengths = np.array([float(ops.length(Head(loaded, trace, layer, head).write(query))) for head in heads])
    head = int(np.nan_to_num(lengths).argmax())
    return _head(
        layer,
        head,
        f"It writes the longest vector of the {len(heads)} heads of layer {layer} here: {lengths[head]:.3g}.",
    )


def voter(loaded: Loaded, trace: Trace, query: int) -> Instance:
    """The head whose write raises the logit of the model's own favourite most, directly."""
    favourite = int(np.nan_to_num(trace.logits[query], nan=-np.inf).argmax())
    votes = direct_votes(loaded, trace, query, favourite)
    layer, head = _largest(np.nan_to_num(votes))
    return _head(
        layer,
        head,
        f"Of all heads it votes most for “{display(loaded, favourite)}”, which the model expects most here: "
        f"{votes[layer, head]:+.2f} on its logit.",
    )


def direct_votes(loaded: Loaded, trace: Trace, query: int, token: int) -> Floats:
    """The direct effect of every head's write on one logit, relative to the vocabulary's mean, (layer, head)."""
    reader = _reader(loaded, trace, query, token)
    votes = np.zeros((loaded.spec.n_layer, loaded.spec.n_head))
    for layer, head in np.ndindex(*votes.shape):
        votes[layer, head] = Head(loaded, trace, layer, head).write(query) @ reader
    return votes


def _reader(loaded: Loaded, trace: Trace, query: int, token: int) -> Floats:
    """What a write has to be multiplied with for its effect on a logit, d_model: the final norm's scale is held."""
    table, stream = weight_of(loaded, "unembedding"), trace.hidden[-1, query].astype(np.float64)
    row = (table[token].float() - table.mean(0, dtype=torch.float32)).cpu().double().numpy()
    row = row * weight_of(loaded, "final_norm").float().cpu().numpy()
    if loaded.spec.centred:
        row, stream = row - row.mean(), stream - stream.mean()
    result: Floats = row / np.sqrt(np.square(stream).mean() + loaded.spec.norm_eps)
    return result


def _head(layer: int, head: int, reason: str) -> Instance:
    return Instance({"layer": layer, "head": head}, f"Show layer {layer}, head {head}", reason)


def _largest(values: Floats) -> tuple[int, int]:
    layer, head = np.unravel_index(int(values.argmax()), values.shape)
    return int(layer), int(head)
