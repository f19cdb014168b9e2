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
from engine.model.ledger import Ledger, ledger
from engine.model.loaded import Loaded
from engine.model.trace import Trace

MOST = 12
"""Parts drawn one by one in a folded ledger."""


def residual_ledger(loaded: Loaded, trace: Trace, position: int, token_id: int, whole: bool = False) -> Card:
    """A waterfall from the embedding through all sublayers to one logit; small neighbours folded unless `whole`."""
    book = ledger(loaded, trace, position, token_id)
    groups = [[i] for i in range(len(book.names))] if whole else folded(book.amounts)
    drawn = [float(book.amounts[group].sum()) for group in groups]
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
            [_called(book, group) for group in groups],
            drawn,
            colors=[
                "residual" if len(g) > 1 or book.kinds[g[0]] == "bias" else book.kinds[g[0]] for g in groups
            ],
            total_name="logit",
            value_name="logit",
        ),
        table={"part": [*book.names, "remainder"], "logit": [*book.amounts.tolist(), book.remainder]},
        shown={"amounts": book.amounts, "drawn": drawn, "logit": book.logit},
        oracle=Oracle(
            "Each entry as what the final norm, its scale held, and the unembedding lose when that part is taken out "
            "of the last stream: the embedding's rows, and what leaves attention and MLPs in a new run of a private "
            "copy. The logit is the one that transformers returns.",
            lambda: _with_groups(again.shares_of_logit(loaded, ids, position, token_id), groups),
            {
                "amounts": float_tolerance(loaded, book.amounts, steps=0.5),
                "drawn": float_tolerance(loaded, book.amounts, steps=0.5) * max(map(len, groups)) ** 0.5,
                "logit": same_pass(trace.logits[position]),
            },
        ),
        code=preamble(loaded, trace.ids) + _script(loaded, position, token_id),
        numbers={"amounts": book.amounts, "logit": book.logit},
        note=_folding(len(book.names), groups)
        + f"The parts sum to the model's own logit but for {abs(book.remainder):.1g}, rounding. The final "
        "norm's scale is held at the value it took here; change a part, and the scale would change too.",
    )


def foldable(loaded: Loaded) -> bool:
    """Whether a model has more parts than a folded ledger draws one by one."""
    return 2 * loaded.spec.n_layer > MOST


def folded(amounts: np.ndarray, most: int = MOST) -> list[list[int]]:
    """Places of the parts, in order: the `most` largest alone, the small ones between them together."""
    large = set(np.argsort(-np.abs(amounts), kind="stable")[:most].tolist())
    groups: list[list[int]] = []
    for i in range(len(amounts)):
        if i not in large and groups and groups[-1][-1] not in large:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _called(book: Ledger, group: Sequence[int]) -> str:
    if len(group) == 1:
        return (
            book.names[group[0]]
            .replace(" embedding", " emb.")
            .replace("biases of norm and unembedding", "biases")
        )
    return f"{len(group)} small parts"


def _folding(count: int, groups: Sequence[Sequence[int]]) -> str:
    together = sum(len(group) for group in groups if len(group) > 1)
    if not together:
        return ""
    return f"{together} of the {count} parts are small; neighbours among them share a bar, and the table has each. "


def _with_groups(found: dict[str, Any], groups: Sequence[Sequence[int]]) -> dict[str, Any]:
    amounts = torch.as_tensor(found["amounts"])
    return found | {"drawn": [amounts[list(group)].sum() for group in groups]}


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
        title=f"The stream at “{trace.tokens[position].display}” {_course(stream)}",
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


def _course(stream: np.ndarray) -> str:
    """How the length of the stream changes from the first block to the end, with its peak where it falls again."""
    first, last, peak = float(stream[0]), float(stream[-1]), int(stream.argmax())
    if stream[peak] > 1.05 * last and peak:
        where = f"entering block {peak}"
        return f"grows from length {first:.3g} to {stream[peak]:.3g} {where}, and ends at {last:.3g}"
    return f"{'grows' if last >= first else 'goes'} from length {first:.3g} to {last:.3g}"


def about_norms(loaded: Loaded) -> str:
    """What the norms of a checkpoint do, and what nothing does to the stream. Markdown."""
    spec = loaded.spec
    place = (
        "The norm behind each sublayer brings what it adds to a standard size, whatever the size of what it read."
        if spec.norms == "behind"
        else "The norm before each sublayer brings the residual stream to a standard size, so that a sublayer sees its "
        "direction and not its length."
    )
    bias = " and adds a learned bias" if getattr(loaded.part("final_norm"), "bias", None) is not None else ""
    how = (
        "LayerNorm subtracts the mean and divides by the standard deviation"
        if spec.centred
        else "RMSNorm divides by the root mean square"
    )
    return f"""
    {place} The stream itself is not rescaled: what a block adds stays in it unless a later block adds something that
    points against it, and once the stream is long, an addition has to be large to matter. {how}; then it multiplies by
    a learned gain{bias}.
    """


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
