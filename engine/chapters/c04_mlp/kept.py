"""Keep the k strongest neurons of each MLP and silence the others: what is left of the prediction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from engine.chapters.c04_mlp.sparse import steps
from engine.chapters.shared.changed import change_lines, changed_logits, compared
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.passes import logits_of
from engine.evidence.rounding import probability_tolerance
from engine.evidence.script import preamble
from engine.figures import lines
from engine.figures.axes import short
from engine.model.capturing import forward
from engine.model.interventions import KeepTopNeurons
from engine.model.loaded import Loaded
from engine.model.trace import Trace, inside
from engine.ops.sampling import kl_divergence

ENOUGH = 0.1
"""Nats of mean KL that the title of the sweep calls little."""


def kept(loaded: Loaded, before: Trace, after: Trace, change: KeepTopNeurons, position: int) -> Card:
    """The next-token distribution with all neurons, and with the k strongest at each token alone."""
    share = change.k / loaded.spec.d_ff
    return compared(
        loaded,
        before,
        after,
        change,
        position,
        key="kept",
        names=("all neurons", f"{change.k:,} strongest"),
        title=f"{change.k:,} of {loaded.spec.d_ff:,} neurons ({share:.1%}) in {where(change)}",
    )


def where(change: KeepTopNeurons) -> str:
    """The layers of a change in words."""
    if change.layers is None:
        return "every layer"
    return f"layer{'s' * (len(change.layers) > 1)} {', '.join(map(str, change.layers))}"


@dataclass(frozen=True, eq=False)
class Sweep:
    """KL (k, seq) in nats between the whole model and the one that keeps the k strongest neurons, for each of `ks`."""

    ks: tuple[int, ...]
    layers: tuple[int, ...] | None
    kl: NDArray[np.float64]


def sweep(
    loaded: Loaded,
    before: Trace,
    layers: tuple[int, ...] | None,
    progress: Callable[[float, str], None] = lambda share, what: None,
) -> Sweep:
    """Measure 1, 2, 4, … and all neurons, at every token of a prompt. `progress(share, what)` is told before each k."""
    ks = steps(loaded.spec.d_ff)
    rows = []
    for i, k in enumerate(ks):
        progress(i / len(ks), f"Keeping {k:,} neurons")
        recorded = forward(loaded, before.ids, (KeepTopNeurons(k, layers),))
        rows.append(kl_divergence(before.logits, recorded["logits", 0][0].float().cpu().numpy()))
    return Sweep(tuple(ks), layers, np.stack(rows))


def enough_of(found: Sweep) -> int:
    """The first k from which on the mean KL stays under ENOUGH; all neurons where it never does."""
    over = np.flatnonzero(~(found.kl.mean(axis=1) < ENOUGH))
    return found.ks[min(int(over[-1]) + 1, len(found.ks) - 1) if over.size else 0]


def swept(loaded: Loaded, before: Trace, found: Sweep, position: int, k: int) -> Card:
    """KL over k: the mean over the prompt's tokens, and at one of them. `k` is marked."""
    inside(before, position)
    mean, here = found.kl.mean(axis=1), found.kl[:, position]
    change = KeepTopNeurons(k, found.layers)
    enough = enough_of(found)
    token = before.tokens[position].display
    ids, layers = before.ids, found.layers
    atol = float(max(probability_tolerance(loaded), 1e-3 * float(np.nan_to_num(found.kl).max())))
    return Card(
        key="sweep",
        title=f"From {enough:,} neurons on ({enough / loaded.spec.d_ff:.0%}) in {where(change)}, the mean KL is under "
        f"{ENOUGH} nats",
        alt="KL divergence over the number of neurons kept, on a logarithmic axis, for the mean over the prompt's "
        f"tokens and for “{token}”.",
        badge=Badge.LIVE,
        figure=lines(
            found.ks,
            {"mean over the prompt": mean, f"after “{token}”": here},
            colors={"mean over the prompt": "mlp", f"after “{token}”": "token"},
            x_name="neurons kept (log scale)",
            y_name="KL, nats",
            log_x=True,
            zero=True,
            mark_x=float(k) if k else None,
        ),
        table={
            "neurons kept": list(found.ks),
            "share": [k / loaded.spec.d_ff for k in found.ks],
            "mean KL (nats)": mean.tolist(),
            "KL at the focus token (nats)": here.tolist(),
        },
        shown={"k": np.array(found.ks), "mean": mean, "here": here.copy()},
        oracle=Oracle(
            "KL by torch.nn.functional.kl_div, of private copies of the model whose down projections sum the kept "
            "neurons alone; none left out was stronger.",
            lambda: _swept_again(loaded, ids, layers, position),
            {"k": 0.0, "mean": atol, "here": atol},
        ),
        code=preamble(loaded, ids) + _code(loaded, found, position),
        note=f"KL from the whole model's next-token distribution; {short(float(mean[0]))} nats with one neuron in "
        f"each MLP of {where(change)}. Dotted: the k of the slider.",
    )


def _swept_again(
    loaded: Loaded, ids: Sequence[int], layers: tuple[int, ...] | None, position: int
) -> dict[str, Any]:
    p = torch.tensor(logits_of(loaded.model, ids)).double().log_softmax(-1)
    every = loaded.spec.d_ff
    ks = [*(1 << i for i in range((every - 1).bit_length())), every]
    rows = []
    for k in ks:
        q = changed_logits(loaded, ids, KeepTopNeurons(k, layers)).log_softmax(-1)
        rows.append(F.kl_div(q, p, log_target=True, reduction="none").sum(-1))
    kl = torch.stack(rows)  # k, seq
    return {"k": ks, "mean": kl.mean(1), "here": kl[:, position]}


def _code(loaded: Loaded, found: Sweep, position: int) -> str:
    return (
        "k = 1\n"
        + change_lines(loaded, KeepTopNeurons(1, found.layers), "k")
        + f"""

def log_p():
    with torch.no_grad():
        return model(ids, use_cache=False).logits[0].double().log_softmax(-1)


p = log_p()
changed()
kl = []
for k in {list(found.ks)}:
    q = log_p()
    kl.append((p.exp() * (p - q)).sum(-1))
kl = torch.stack(kl)  # k, seq
result = {{"k": {list(found.ks)}, "mean": kl.mean(1), "here": kl[:, {position}]}}
"""
    )
