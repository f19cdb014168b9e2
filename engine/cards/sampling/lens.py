"""The logit lens: the final norm and the unembedding put on the residual stream after every block.

nostalgebraist (2020), "interpreting GPT: the logit lens".
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from engine.cards.sampling.common import difference, display, inside, probability_tolerance, quoted, script
from engine.evidence.card import Badge, Card, Proof
from engine.figures.sampling import lens as drawn_lens
from engine.figures.series import lines
from engine.model.loading import Loaded
from engine.model.trace import Array, Trace
from engine.ops.sampling import Float, softmax, top
from engine.tokens.text import shorten

FAVOURITES = 5


@torch.no_grad()
def read_off(loaded: Loaded, stream: Array) -> NDArray[np.float32]:
    """Logits (…, vocab) that the model's own final norm and unembedding make of residual streams (…, d_model)."""
    norm, unembedding = loaded.part("final_norm"), loaded.part("unembedding")
    weight = unembedding.weight
    assert isinstance(weight, torch.Tensor)
    entering = torch.tensor(stream).to(weight.device, weight.dtype)
    logits: NDArray[np.float32] = unembedding(norm(entering)).to("cpu", torch.float32).numpy()
    return logits


def layers(loaded: Loaded, trace: Trace, position: int, width: int = 6) -> Card:
    """The favourite next token after every block, at `position` and up to `width` - 1 tokens before it."""
    first = max(0, inside(trace, position) - width + 1)
    logits = read_off(loaded, trace.hidden[:, first : position + 1])  # layer+1, seq, vocab
    p = softmax(logits)
    best = logits.argmax(axis=-1)
    shown = np.take_along_axis(p, best[..., None], axis=-1)[..., 0]
    tokens = [t.display for t in trace.tokens[first : position + 1]]
    rows = _rows(loaded)
    guesses = [[display(loaded, i) for i in row] for row in best]
    settled = _settled(best[:, -1])

    def prove() -> Proof:
        return _proof(loaded, trace, first, position, shown, best, logits)

    cells = [(i, j) for i in range(len(rows)) for j in range(len(tokens))]
    return Card(
        key="lens",
        title=(
            f"After {quoted(tokens[-1])} the favourite is {quoted(guesses[0][-1])} at the embedding and "
            f"{quoted(guesses[-1][-1])} at the end, there for good from {settled} on"
        ),
        alt="A grid: for every layer and token read, the most probable next token and its probability.",
        badge=Badge.LIVE,
        figure=drawn_lens(shown, guesses, rows, tokens),
        note="Number and bar under each favourite: its probability; a full bar is 100 %.",
        table={
            "stream": [rows[i] for i, _ in cells],
            "token read": [tokens[j] for _, j in cells],
            "favourite": [guesses[i][j] for i, j in cells],
            "id": [int(best[i, j]) for i, j in cells],
            "probability": [float(shown[i, j]) for i, j in cells],
        },
        prove=prove,
        code=_code(
            loaded,
            trace,
            first,
            position,
            """
            p = logits.softmax(-1).max(-1)
            result = {"ids": p.indices, "probabilities": p.values}
            """,
        ),
        numbers={"ids": best.tolist(), "probabilities": shown.tolist()},
        atol=probability_tolerance(loaded),
    )


def favourites(loaded: Loaded, trace: Trace, position: int) -> Card:
    """The final favourites after `position`: the probability each has after every block."""
    logits = read_off(loaded, trace.hidden[:, inside(trace, position)])  # layer+1, vocab
    p = softmax(logits)
    best = top(trace.logits[position], FAVOURITES)
    names = _apart([display(loaded, i) for i in best])
    shown = p[:, best]
    depths = np.arange(len(p))

    def prove() -> Proof:
        return _proof(
            loaded, trace, position, position, shown[:, :1], np.repeat(best[None, :1], len(p), 0), logits
        )

    biggest = int(np.argmax(np.diff(shown[:, 0]))) if np.isfinite(shown).all() else 0
    return Card(
        key="favourites",
        title=(
            f"{quoted(names[0])} ends at {shown[-1, 0]:.1%}; block {biggest} adds most, "
            f"{shown[biggest + 1, 0] - shown[biggest, 0]:+.1%}"
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
        prove=prove,
        code=_code(
            loaded,
            trace,
            position,
            position,
            f"""
            p = logits.softmax(-1)[:, 0]
            best = logits[-1, 0].sort(descending=True, stable=True).indices[:{FAVOURITES}]
            result = {{"ids": best, "probabilities": p[:, best]}}
            """,
        ),
        numbers={"ids": best.tolist(), "probabilities": shown.tolist()},
        atol=probability_tolerance(loaded),
    )


def _proof(
    loaded: Loaded, trace: Trace, first: int, last: int, shown: Float, ids: Float, logits: Array
) -> Proof:
    """Shown probabilities of `ids` against norm and unembedding written out; the last layer against the logits."""
    again = torch.tensor(written_out(loaded, trace.hidden[:, first : last + 1])).softmax(-1).numpy()
    theirs = np.take_along_axis(again, ids.reshape(len(again), -1, 1).astype(np.int64), axis=-1)[..., 0]
    gap = difference(shown.reshape(theirs.shape), theirs)
    end = logits[-1].reshape(-1, logits.shape[-1])
    return Proof(
        "Every layer's probability against the norm and the unembedding written out with torch.nn.functional, and "
        "the last layer's logits against those that the model returned.",
        max(gap, difference(end, trace.logits[first : last + 1])),
        probability_tolerance(loaded),
    )


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
    if loaded.spec.norm == "LayerNorm":
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
    norm, unembedding = loaded.adapter.parts["final_norm"], loaded.adapter.parts["unembedding"]
    blocks = loaded.adapter.parts["blocks"]
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
