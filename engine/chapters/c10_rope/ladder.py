"""The frequencies of all pairs."""

from typing import Any

import numpy as np
import torch

from engine.chapters.c10_rope.rotation import ROUNDED, Rotation, rotation
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.rope import RopeAgain, counted_turns, rope_again
from engine.evidence.rounding import largest
from engine.evidence.script import preamble
from engine.figures import heatmap
from engine.figures.axes import numbers
from engine.figures.rope import ladder as drawn
from engine.model.loaded import Loaded
from engine.model.trace import Array
from engine.ops import rope

LONGEST_SHOWN = 512
"""The cosines of more positions than this do not fit the width of a figure."""


LOG = "tokens to a full turn (log10)"
"""As a logarithmic axis has them: beside the slowest pair, the fast ones would be nothing."""


def ladder(loaded: Loaded, view: str = "wavelengths") -> Card:
    """How many tokens each pair needs for a full turn; with `view` "cosines", each pair at each position."""
    own, context = rotation(loaded), loaded.spec.context
    lengths, made = rope.wavelengths(own.inv_freq), rope.turns(own.inv_freq, context)
    complete = int((made >= 1).sum())
    count = min(context, LONGEST_SHOWN)
    cosines = {"cosines": own.cos_sin(range(count))[0].T} if view == "cosines" else {}
    figure = (
        _cosines(own, cosines["cosines"])
        if cosines
        else drawn({"wavelength": lengths}, context, colors={"wavelength": "key"})
    )
    return Card(
        key="ladder",
        title=f"From {tokens(lengths.min())} to {tokens(lengths.max())} for a full turn: {complete} of "
        f"{own.pairs} pairs complete one within the context",
        alt=f"{own.pairs} pairs of dimensions. The fastest needs {tokens(lengths.min())} for a full turn, the slowest "
        f"{tokens(lengths.max())}; the context is {context:,} tokens long.",
        badge=Badge.LIVE,
        figure=figure,
        table={
            "pair": list(range(own.pairs)),
            "frequency (rad per token)": own.inv_freq.tolist(),
            "tokens to a full turn": lengths.tolist(),
            f"turns in {context:,} tokens": made.tolist(),
        },
        shown={"frequency": own.inv_freq, LOG: np.log10(lengths), "turns": made, **cosines},
        oracle=Oracle(
            "Frequencies and wavelengths by the formula of their paper"
            + (", and the cosines of position × frequency" if cosines else "")
            + ", against the model’s rotary module; the turns counted from position to position along the cosines and "
            "sines that it returns.",
            lambda: _again(loaded, count if cosines else 0),
            {
                "frequency": ROUNDED * largest(own.inv_freq),
                LOG: ROUNDED,
                "turns": ROUNDED * largest(made) + 1e-6,
                "cosines": own.factor * (ROUNDED * count * largest(own.inv_freq) + 2.0**-20),
            },
        ),
        code=preamble(loaded)
        + _SCRIPT.format(rotary=loaded.path("rotary"), context=context)
        + (_COSINES.format(count=count) if cosines else ""),
        note=_note(own, loaded),
    )


def log_wavelengths(turner: RopeAgain) -> torch.Tensor:
    """log10 of the tokens to a full turn of each pair, as the axis has them."""
    return torch.log10(2 * torch.pi / turner.frequency)


def _again(loaded: Loaded, count: int) -> dict[str, Any]:
    turner = rope_again(loaded)
    found = {
        "frequency": turner.frequency,
        LOG: log_wavelengths(turner),
        "turns": counted_turns(loaded, loaded.spec.context),
    }
    return found | ({"cosines": turner.factor * turner.angles(range(count)).cos().T} if count else {})


def tokens(length: float) -> str:
    """A wavelength as it is read aloud."""
    return f"{length:.1f} tokens" if length < 100 else f"{length:,.0f} tokens"


def _cosines(own: Rotation, cosines: Array) -> object:
    return heatmap(
        cosines,
        rows=numbers(own.pairs),
        kind="diverging",
        limit=own.factor,
        row_name="pair of dimensions",
        column_name="position",
        value_name="cosine",
    )


def _note(own: Rotation, loaded: Loaded) -> str:
    rotated, d_head = 2 * own.pairs, loaded.spec.d_head
    part = "" if rotated == d_head else f" RoPE is applied to {rotated} of the {d_head} dimensions of a head."
    kind = (
        ""
        if own.kind == "default"
        else f" The frequencies are scaled by the “{own.kind}” rule of its config."
    )
    scaled = "" if own.factor == 1 else f" Cosines and sines are multiplied by {own.factor:.4g}."
    return f"Read from the rotary module of {loaded.name}; θ = {own.theta:,.0f}.{part}{kind}{scaled}"


_SCRIPT = """
rotary = model.get_submodule({rotary!r})
frequency = rotary.inv_freq.double()
result = {{
    "frequency": frequency,
    "tokens to a full turn (log10)": (2 * torch.pi / frequency).log10(),
    "turns": {context} * frequency / (2 * torch.pi),
}}
"""

_COSINES = """
cos, _ = rotary(torch.zeros(1), torch.arange({count})[None])
result["cosines"] = cos[0, :, : len(frequency)].T
"""
