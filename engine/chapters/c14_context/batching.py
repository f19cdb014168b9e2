"""Several texts decoded together: a step reads the weights once, however many rows it continues."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine import figures
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import touched
from engine.evidence.passes import returned_logits
from engine.evidence.rounding import EXACT, pass_tolerance
from engine.evidence.script import preamble, script
from engine.model import kv_cache
from engine.model.loaded import Loaded, tensors
from engine.ops.timing import Timing, once
from engine.tokens.text import plural

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ROWS = (1, 2, 4, 8, 16)
"""Sizes of the batch."""

KEPT = 100
"""Logits of each row that are kept for the proof: those of the first ids."""

LONGEST = 128
"""Tokens of the prompt that are in the cache while a step is timed: one for every row of every batch size."""

_KINDS = {"weights, shared by all rows": "residual", "keys and values, each row its own": "key"}


@dataclass(frozen=True, eq=False)
class Batches:
    """One decode step after a prompt, with `ROWS` rows.

    ids      the prompt that is in the cache
    following  rows: the token that each row of the largest batch reads, no two the same
    steps    one Timing for each batch size
    logits   row, KEPT: what the largest batch gave
    held     bytes of keys and values that one row has
    """

    ids: tuple[int, ...]
    following: tuple[int, ...]
    steps: tuple[Timing, ...]
    logits: NDArray[np.float32]
    held: int

    @property
    def milliseconds(self) -> NDArray[np.float64]:
        """The median of each batch size."""
        return np.array([step.median for step in self.steps])

    @property
    def per_second(self) -> NDArray[np.float64]:
        """Tokens written in a second at each batch size, all rows together."""
        found: NDArray[np.float64] = 1000 * np.array(ROWS) / self.milliseconds
        return found


class _Step:
    """One decode step of some rows after a prompt, which can be taken again and again."""

    def __init__(self, loaded: Loaded, prompt: Sequence[int], following: Sequence[int]) -> None:
        self._model, self.cache = loaded.model, kv_cache.prefill(loaded, prompt)
        self.cache.batch_repeat_interleave(len(following))
        self._batch = torch.tensor(list(following), device=loaded.model.device)[:, None]

    @torch.no_grad()
    def __call__(self) -> torch.Tensor:
        """The logits of each row; shape row, vocab."""
        out: torch.Tensor = self._model(input_ids=self._batch, cache=self.cache, use_cache=True).logits
        self.cache.crop(-1)  # forget it again
        return out[:, -1]


@torch.no_grad()
def measure(loaded: Loaded, ids: Sequence[int], progress: kv_cache.Progress, repeats: int = 7) -> Batches:
    """Time the step after a prompt; row i reads the prompt's i-th most probable next token.

    The batch sizes take turns, so that all meet the same disturbances. Of a long prompt the last `LONGEST` tokens are
    read, and of one that fills the context the first are left out: a cache whose window is full forgets no step.
    """
    prompt = tuple(ids)[-min(LONGEST, loaded.spec.longest - 2) :]
    first = loaded.model(torch.tensor([prompt], device=loaded.model.device), use_cache=False).logits[0, -1]
    following = first.float().topk(max(ROWS)).indices.tolist()
    steps = [_Step(loaded, prompt, following[:rows]) for rows in ROWS]
    for step in steps:
        step()  # does not count
    times: list[list[float]] = [[] for _ in ROWS]
    for turn in range(repeats):
        progress(turn / repeats, f"turn {turn + 1} of {repeats}")
        for step, found in zip(steps, times, strict=True):
            found.append(once(step))
    return Batches(
        prompt,
        tuple(following),
        tuple(Timing(tuple(found)) for found in times),
        steps[-1]()[:, :KEPT].to("cpu", torch.float32).numpy(),
        kv_cache.nbytes(steps[-1].cache) // max(ROWS),
    )


def batched(loaded: Loaded, ids: Sequence[int], measured: Batches | None) -> Card:
    """Bytes that a step reads for each token it writes, by rows in the batch; the times once they are measured."""
    return _timed(loaded, measured) if measured else _counted(loaded, ids)


def _counted(loaded: Loaded, ids: Sequence[int]) -> Card:
    weights, held = _weights(loaded), kv_cache.nbytes(kv_cache.prefill(loaded, ids))
    shares = np.array([weights / rows for rows in ROWS])
    own = np.full(len(ROWS), float(held))
    one, many = (int(total) for total in (shares + own)[[0, -1]])
    names = list(_KINDS)
    return Card(
        key="batch",
        title=f"A row alone reads {_megabytes(one)} for the token it writes; with {ROWS[-1]} rows it is "
        f"{_megabytes(many)} a token",
        alt=f"Bytes read for each token written: the share of the weights falls from {weights:,} to "
        f"{weights // ROWS[-1]:,} as rows are added, and each row's keys and values stay at {held:,}.",
        badge=Badge.LIVE,
        figure=_by_rows(
            dict(zip(names, (shares / 1e6, own / 1e6), strict=True)), _KINDS, "MB read for each token written"
        ),
        table={"rows": list(ROWS)}
        | {f"{n} (bytes)": v.tolist() for n, v in zip(names, (shares, own), strict=True)},
        shown={"weights": shares, "keys and values": own},
        oracle=Oracle(
            "The weights by watching which of their storages the operations of one pass are given; keys and values "
            "by feeding the prompt token by token into transformers' cache and summing its tensors.",
            lambda: {
                "weights": [touched.weights_read(loaded.model, ids[-1:]) / rows for rows in ROWS],
                "keys and values": [_fed(loaded, ids)] * len(ROWS),
            },
            EXACT,
        ),
        code=script(loaded, ids, _WATCHED, *_sources(), _COUNTED.format(rows=ROWS)),
        note=f"Counted, not measured: {weights:,} bytes of weights, and {held:,} bytes of keys and values for a row of "
        f"{len(ids)} token{'s' * (len(ids) != 1)}. Tables from which a step only looks up a row are left out. Press "
        "Measure for the time of a step on this machine.",
    )


def _weights(loaded: Loaded) -> int:
    """Bytes of the weights that a step multiplies with: all but the tables that it only looks rows up in."""
    model = loaded.model
    output = model.get_output_embeddings().weight
    tables = [
        m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding) and m.weight is not output
    ]
    aside = {t.untyped_storage().data_ptr() for t in (*tables, *model.buffers())}
    aside -= {output.untyped_storage().data_ptr()}
    held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(model) if t.numel()}
    return sum(size for storage, size in held.items() if storage not in aside)


def _by_rows(series: dict[str, Any], colors: dict[str, str], y_name: str) -> "Figure":
    """Lines over the sizes of a batch, which double from tick to tick."""
    figure = figures.lines(
        ROWS, series, colors=colors, x_name="rows in the batch", y_name=y_name, log_x=True, log_y=True
    )
    figure.update_xaxes(tickmode="array", tickvals=list(ROWS), ticktext=[str(rows) for rows in ROWS])
    return figure


@torch.no_grad()
def _fed(loaded: Loaded, ids: Sequence[int]) -> int:
    from transformers import DynamicCache

    cache = DynamicCache(config=loaded.model.config)
    for one in ids:
        loaded.model(torch.tensor([[one]], device=loaded.model.device), cache=cache, use_cache=True)
    layers: list[Any] = list(cache.layers)
    return sum(int(t.nbytes) for layer in layers for t in (layer.keys, layer.values))


def _timed(loaded: Loaded, found: Batches) -> Card:
    milliseconds, per_second = found.milliseconds, found.per_second
    longer, more = milliseconds / milliseconds[0], per_second / per_second[0]
    names = ("milliseconds of a step", "tokens per second")
    figure = _by_rows(
        dict(zip(names, (longer, more), strict=True)),
        dict(zip(names, ("key", "logits"), strict=True)),
        "times as much as with one row",
    )
    figure.update_yaxes(tickmode="array", tickvals=list(ROWS), ticktext=[str(n) for n in ROWS])
    figure.update_xaxes(range=[-0.25, float(np.log10(ROWS[-1])) + 0.12])
    ends = (0, len(ROWS) - 1)
    sides = ("bottom", "top") if more[-1] >= longer[-1] else ("top", "bottom")
    for trace, values, unit, side in zip(
        figure.data, (milliseconds, per_second), (" ms", " per s"), sides, strict=True
    ):
        trace.update(
            mode="lines+markers+text",
            text=[f"{v:,.3g}{unit}" if i in ends else "" for i, v in enumerate(values)],
            textposition=[f"{side} left", *[f"{side} center"] * (len(ROWS) - 1)],
            cliponaxis=False,
        )
    last = ROWS[-1]
    return Card(
        key="batch",
        title=f"A step of {last} rows takes {longer[-1]:.2g} times as long as a step of one, and writes {last} tokens: "
        f"{more[-1]:.2g} times as many per second",
        alt=f"With 1 to {last} rows a step takes {milliseconds[0]:.3g} to {milliseconds[-1]:.3g} milliseconds, and "
        f"{per_second[0]:.3g} to {per_second[-1]:.3g} tokens are written in a second.",
        badge=Badge.LIVE,
        figure=figure,
        table={
            "rows": list(ROWS),
            "median (ms)": milliseconds.tolist(),
            "first quartile (ms)": [t.low for t in found.steps],
            "third quartile (ms)": [t.high for t in found.steps],
            "tokens per second": per_second.tolist(),
            "cache (bytes)": [rows * found.held for rows in ROWS],
        },
        shown={
            "milliseconds": milliseconds,
            "tokens per second": per_second,
            "time against one row": longer,
            "tokens against one row": more,
            "bytes of a row": found.held,
            "logits": found.logits,
        },
        oracle=Oracle(
            f"The logits of each of the {last} rows against a pass of its own, without a cache and with no other row "
            "beside it; its bytes from transformers' cache, fed token by token; medians and rates from the repeats. "
            "(No proof can run the clock a second time.)",
            lambda: _alone(loaded, found),
            {
                **dict.fromkeys(("milliseconds", "tokens per second"), EXACT * 1e3),
                **dict.fromkeys(("time against one row", "tokens against one row"), EXACT),
                "bytes of a row": 0.0,
                "logits": pass_tolerance(loaded, found.logits),
            },
        ),
        code=preamble(loaded, found.ids) + _ROWS.format(following=list(found.following), kept=KEPT),
        numbers={"logits": found.logits},
        atol=pass_tolerance(loaded, found.logits),
        note="Rows share the reading, not the arithmetic: each adds its own, so a step gets longer where that takes "
        f"the time. The medians of {len(found.steps[0].milliseconds)} repeats on this machine, in turns; the table has "
        f"the quartiles. Each row keeps {found.held:,} bytes of keys and values for {plural(len(found.ids), 'token')} "
        "and reads another next token, so that no two rows give the same logits. The script checks logits, not the "
        "clock.",
    )


def _alone(loaded: Loaded, found: Batches) -> dict[str, Any]:
    """All that is shown, each row read by itself."""
    medians = [median(step.milliseconds) for step in found.steps]
    rates = [1000 * rows / time for rows, time in zip(ROWS, medians, strict=True)]
    return {
        "milliseconds": medians,
        "tokens per second": rates,
        "time against one row": [time / medians[0] for time in medians],
        "tokens against one row": [rate / rates[0] for rate in rates],
        "bytes of a row": _fed(loaded, found.ids),
        "logits": [returned_logits(loaded, [*found.ids, one])[-1, :KEPT] for one in found.following],
    }


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.3g} MB"


def _sources() -> list[str]:
    return [inspect.getsource(part) for part in (touched.Touched, touched.held, touched.weights_read)]


_WATCHED = """
from typing import Any

from collections.abc import Sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache

"""

_COUNTED = """
cache = DynamicCache(config=model.config)
with torch.no_grad():
    model(input_ids=ids, cache=cache, use_cache=True)
row = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
weights = weights_read(model, ids[0, -1:].tolist())
result = {{
    "weights": [weights / rows for rows in {rows}],
    "keys and values": [row for rows in {rows}],
}}
"""

_ROWS = """
from transformers import DynamicCache

following = {following}
cache = DynamicCache(config=model.config)
with torch.no_grad():
    model(input_ids=ids, cache=cache, use_cache=True)
    cache.batch_repeat_interleave(len(following))
    step = model(input_ids=torch.tensor(following)[:, None], cache=cache, use_cache=True)
result = {{"logits": step.logits[:, -1, :{kept}].float()}}
"""
