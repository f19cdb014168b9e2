"""The logit lens: the final norm and the unembedding put on the residual stream after every block.

nostalgebraist (2020), "interpreting GPT: the logit lens".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.ends import streams
from engine.evidence.oracles.filtering import logits_again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.rounding import pass_tolerance, probability_tolerance
from engine.evidence.script import script
from engine.figures.sampling import lens as drawn_lens
from engine.figures.series import lines
from engine.model.capturing import display
from engine.model.loaded import Loaded
from engine.model.trace import Array, Trace, inside
from engine.ops.sampling import softmax, top
from engine.tokens.text import quoted, shorten

FAVOURITES = 5

ROWS = 10
"""Rows of the folded lens at most."""

WITNESS = (
    "The stream that transformers returns before every block, through the norm and the unembedding written out with "
    "torch.nn.functional; behind the last block, the logits that it returns."
)


@torch.no_grad()
def read_off(loaded: Loaded, stream: Array) -> NDArray[np.float32]:
    """Logits (…, vocab) that the model's own final norm and unembedding make of residual streams (…, d_model)."""
    norm, unembedding = loaded.part("final_norm"), loaded.part("unembedding")
    weight = unembedding.weight
    assert isinstance(weight, torch.Tensor)
    entering = torch.tensor(stream).to(weight.device, weight.dtype)
    logits: NDArray[np.float32] = unembedding(norm(entering)).to("cpu", torch.float32).numpy()
    return logits


def layers(loaded: Loaded, trace: Trace, position: int, width: int = 6, folded: bool = False) -> Card:
    """The favourite next token after every block, at `position` and up to `width` - 1 tokens before it.

    `folded` leaves out the blocks after which the favourite at `position` is the same as before, see `fold`.
    """
    first = max(0, inside(trace, position) - width + 1)
    logits = read_off(loaded, trace.hidden[:, first : position + 1])  # layer+1, seq, vocab
    p = softmax(logits)
    best = logits.argmax(axis=-1)
    shown = np.take_along_axis(p, best[..., None], axis=-1)[..., 0]
    tokens = [t.display for t in trace.tokens[first : position + 1]]
    settled = _settled(best[:, -1])
    ends = [quoted(display(loaded, int(best[depth, -1]))) for depth in (0, -1)]
    itself = int((best[0] == trace.ids[first : position + 1]).sum())
    kept = fold(best[:, -1]) if folded else list(range(len(best)))
    left_out = len(best) - len(kept)
    rows, best, shown = [_rows(loaded)[i] for i in kept], best[kept], shown[kept]
    guesses = [[display(loaded, i) for i in row] for row in best]

    ids, apart = trace.ids, pass_tolerance(loaded, logits, steps=3)

    cells = [(i, j) for i in range(len(rows)) for j in range(len(tokens))]
    return Card(
        key="lens",
        title=(
            f"After {quoted(tokens[-1])} the favourite is {ends[0]} at the embedding and {ends[1]} at the end; "
            f"from {settled} on it stays that"
        ),
        alt="A grid: for every layer and token read, the most probable next token and its probability.",
        badge=Badge.LIVE,
        figure=drawn_lens(shown, guesses, rows, tokens),
        note="Number and bar under each favourite: its probability; a full bar is 100 %. At the embedding the "
        f"favourite is the token that was read for {itself} of {len(tokens)}."
        + _folded(left_out, len(kept) == ROWS),
        table={
            "stream": [rows[i] for i, _ in cells],
            "token read": [tokens[j] for _, j in cells],
            "favourite": [guesses[i][j] for i, j in cells],
            "id": [int(best[i, j]) for i, j in cells],
            "probability": [float(shown[i, j]) for i, j in cells],
        },
        shown={"id": best, "probability": shown},
        oracle=Oracle(
            WITNESS,
            lambda: _layers_again(loaded, ids, first, position, kept, best.tolist(), apart),
            {"id": 0.0, "probability": probability_tolerance(loaded)},
        ),
        code=_code(
            loaded,
            trace,
            first,
            position,
            f"""
            p = logits[{kept}].softmax(-1).max(-1)
            result = {{"id": p.indices, "probability": p.values}}
            """,
        ),
    )


def favourites(loaded: Loaded, trace: Trace, position: int) -> Card:
    """The final favourites after `position`: the probability each has after every block."""
    logits = read_off(loaded, trace.hidden[:, inside(trace, position)])  # layer+1, vocab
    p = softmax(logits)
    best = top(trace.logits[position], FAVOURITES).copy()
    names = _apart([display(loaded, i) for i in best])
    shown = p[:, best]
    depths = np.arange(len(p))

    ids, apart = trace.ids, pass_tolerance(loaded, trace.logits[position], steps=3)

    biggest = int(np.argmax(np.diff(shown[:, 0]))) if np.isfinite(shown).all() else 0
    return Card(
        key="favourites",
        title=(
            f"{quoted(names[0])} ends at {shown[-1, 0]:.1%}; largest rise: "
            f"{100 * (shown[biggest + 1, 0] - shown[biggest, 0]):.1f} points, in block {biggest}"
        ),
        alt=f"The probability of the {len(names)} final favourites read off after every block.",
        badge=Badge.LIVE,
        figure=lines(
            depths,
            {name: shown[:, i] for i, name in enumerate(names)},
            x_name="blocks passed",
            y_name="probability",
            zero=True,
        ),
        table={"stream": _rows(loaded), **{name: shown[:, i].tolist() for i, name in enumerate(names)}},
        shown={"id": best, "probability": shown.T},  # a line for each token
        oracle=Oracle(
            WITNESS,
            lambda: _favourites_again(loaded, ids, position, best.tolist(), apart),
            {"id": 0.0, "probability": probability_tolerance(loaded)},
        ),
        code=_code(
            loaded,
            trace,
            position,
            position,
            f"""
            p = logits.softmax(-1)[:, 0]
            best = logits[-1, 0].sort(descending=True, stable=True).indices[:{FAVOURITES}]
            result = {{"id": best, "probability": p[:, best].T}}
            """,
        ),
    )


def _logits_again(loaded: Loaded, ids: Sequence[int], first: int, last: int) -> torch.Tensor:
    """(layer+1, seq, vocab) at some positions: the last layer's are those that transformers returns."""
    below = streams(loaded, ids)[:-1, first : last + 1].float().numpy()
    early = torch.tensor(written_out(loaded, below)).double()
    return torch.cat([early, logits_again(loaded, ids)[None, first : last + 1]])


def fold(best: NDArray[np.int64], most: int = ROWS) -> list[int]:
    """Rows to show of favourites (layer+1): the first, the last, and those with another favourite than the one before.

    Of more than `most` the last ones.
    """
    changed = [row for row in range(1, len(best)) if best[row] != best[row - 1] or row == len(best) - 1]
    return [0, *changed[-(most - 1) :]]


def _folded(left_out: int, full: bool) -> str:
    if not left_out:
        return ""
    why = "there the favourite after the last token is the same as in the row before"
    if full:
        why = (
            f"of the rows in which the favourite after the last token changes, the last {ROWS - 1} are shown"
        )
    return f" Folded away: {left_out} {'row' if left_out == 1 else 'rows'}; {why}."


def _layers_again(
    loaded: Loaded,
    ids: Sequence[int],
    first: int,
    last: int,
    kept: list[int],
    given: list[list[int]],
    apart: float,
) -> dict[str, Any]:
    logits = _logits_again(loaded, ids, first, last)[kept]
    best = torch.tensor(
        [
            [int(at_ranks([id], row, apart)[0]) for id, row in zip(chosen, rows, strict=True)]
            for chosen, rows in zip(given, logits, strict=True)
        ]
    )
    return {"id": best, "probability": logits.softmax(-1).gather(-1, best[..., None])[..., 0]}


def _favourites_again(
    loaded: Loaded, ids: Sequence[int], position: int, given: list[int], apart: float
) -> dict[str, Any]:
    logits = _logits_again(loaded, ids, position, position)[:, 0]
    best = at_ranks(given, logits[-1], apart)
    return {"id": best, "probability": logits.softmax(-1)[:, best].T}


@torch.no_grad()
def written_out(loaded: Loaded, stream: Array) -> NDArray[np.float32]:
    """`read_off` from the bare weights, in float32: LayerNorm or RMSNorm, then a product with the matrix."""
    norm, unembedding = loaded.part("final_norm"), loaded.part("unembedding")
    gain, bias, matrix = (
        _weight(value) for value in (norm.weight, getattr(norm, "bias", None), unembedding.weight)
    )
    assert gain is not None
    assert matrix is not None
    x, eps = torch.tensor(stream), loaded.spec.norm_eps
    if loaded.spec.centred:
        normed = F.layer_norm(x, gain.shape, gain, bias, eps)
    else:
        normed = F.rms_norm(x, gain.shape, gain, eps)
    logits: NDArray[np.float32] = F.linear(normed, matrix, _weight(unembedding.bias)).numpy()
    return logits


def _weight(value: object) -> torch.Tensor | None:
    return value.detach().to("cpu", torch.float32) if isinstance(value, torch.Tensor) else None


def _rows(loaded: Loaded) -> list[str]:
    return ["embedding", *(f"block {i}" for i in range(loaded.spec.n_layer))]


def _settled(best: NDArray[np.int64]) -> str:
    """The first row from which on the favourite is the final one."""
    wrong = np.flatnonzero(best != best[-1])
    row = int(wrong[-1]) + 1 if wrong.size else 0
    return "the embedding" if row == 0 else f"block {row - 1}"


def _apart(names: list[str]) -> list[str]:
    """Names as keys of one table: tokens of equal looks are numbered."""
    short = [shorten(name, 12) for name in names]
    return [name if short.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(short)]


def _code(loaded: Loaded, trace: Trace, first: int, last: int, end: str) -> str:
    norm, unembedding = loaded.path("final_norm"), loaded.path("unembedding")
    blocks = loaded.path("blocks")
    return script(
        loaded,
        trace.ids,
        f"""
        streams = []
        model.{blocks}[0].register_forward_pre_hook(lambda m, args, kwargs: streams.append(
            args[0] if args else kwargs["hidden_states"]), with_kwargs=True)
        for block in model.{blocks}:
            block.register_forward_hook(lambda m, args, out: streams.append(out[0] if isinstance(out, tuple) else out))
        with torch.no_grad():
            model(ids)
            stream = torch.stack(streams)[:, 0, {first} : {last + 1}]  # layer+1, seq, d_model
            logits = model.{unembedding}(model.{norm}(stream)).double()
        """,
        end,
    )
