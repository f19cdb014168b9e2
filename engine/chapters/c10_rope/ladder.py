"""The frequencies of all pairs."""

from engine.chapters.c10_rope.rotation import Rotation, rotation
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.comparing import max_difference
from engine.evidence.script import preamble
from engine.figures import heatmap
from engine.figures.axes import numbers
from engine.figures.rope import ladder as drawn
from engine.model.loaded import Loaded
from engine.ops import rope

LONGEST_SHOWN = 512
"""The cosines of more positions than this do not fit the width of a figure."""

LONGEST_FOLLOWED = 8192
"""Positions that the proof goes through one by one."""


def ladder(loaded: Loaded, view: str = "wavelengths") -> Card:
    """How many tokens each pair needs for a full turn; with `view` "cosines", each pair at each position."""
    own, context = rotation(loaded), loaded.spec.context
    lengths, made = rope.wavelengths(own.inv_freq), rope.turns(own.inv_freq, context)
    complete = int((made >= 1).sum())
    figure = (
        _cosines(own, context)
        if view == "cosines"
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
        prove=lambda: measured(own, context),
        code=preamble(loaded) + _SCRIPT.format(rotary=loaded.path("rotary"), context=context),
        numbers={"frequency": own.inv_freq, "wavelength": lengths, "turns": made},
        atol=1e-6,
        note=_note(own, loaded),
    )


def measured(own: Rotation, context: int, whose: str = "the model’s rotary module") -> Proof:
    """Follow a rotary module's cosines and sines through the context and count the turns."""
    last = min(context, LONGEST_FOLLOWED) - 1
    counted = rope.measured_turns(*own.cos_sin(range(last + 1)))
    return Proof(
        f"The turns counted along the cosines and sines that {whose} returns for every position up to {last:,}, "
        "against position × frequency / 2π.",
        max_difference(counted, rope.turns(own.inv_freq, last)),
        max(1e-5, last * float(own.inv_freq.max()) * 2.0**-22),  # the module multiplies in float32
    )


def tokens(length: float) -> str:
    """A wavelength as it is read aloud."""
    return f"{length:.1f} tokens" if length < 100 else f"{length:,.0f} tokens"


def _cosines(own: Rotation, context: int) -> object:
    shown = min(context, LONGEST_SHOWN)
    cos, _ = own.cos_sin(range(shown))
    return heatmap(
        cos.T,
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
frequency = model.get_submodule({rotary!r}).inv_freq.double()
result = {{
    "frequency": frequency.tolist(),
    "wavelength": (2 * torch.pi / frequency).tolist(),
    "turns": ({context} * frequency / (2 * torch.pi)).tolist(),
}}
"""
