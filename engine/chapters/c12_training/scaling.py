"""Loss against size and text, as recorded: a family of small models that differ in nothing else."""

import numpy as np

from engine.chapters.c12_training.recordings import Floats
from engine.evidence.card import Badge, Card
from engine.evidence.recorded import recording, source
from engine.figures.series import lines

RECORDING = "scaling"

SIZE, TEXT = "parameters", "bytes of text"
AXES = (SIZE, TEXT)
"""What the loss can be drawn over."""

_NAMES = {SIZE: "parameters without embeddings", TEXT: "bytes of text to train on"}


def _grid() -> tuple[list[int], list[int], Floats]:
    """Parameters, bytes of text, and the lowest held-out loss of each pair, shape (sizes, texts)."""
    run = recording(RECORDING)
    sizes, texts = (sorted({int(x) for x in run.column("summary", name)}) for name in ("parameters", "text"))
    losses = [
        [float(run.column("summary", "lowest", {"parameters": size, "text": text})[0]) for text in texts]
        for size in sizes
    ]
    return sizes, texts, np.array(losses)


def _bytes(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 1e6 else f"{count / 1e3:.3g} kB"


def by_scale(over: str) -> Card:
    """The lowest held-out loss of every model of the family, over size or over text."""
    sizes, texts, losses = _grid()
    by_size = over == SIZE
    x = sizes if by_size else texts
    series = (
        {f"{_bytes(text)} of text": losses[:, i] for i, text in enumerate(texts)}
        if by_size
        else {f"{size:,} parameters": losses[i] for i, size in enumerate(sizes)}
    )
    first, *_, last = series
    named = [f"{size:,}" for size in x] if by_size else [_bytes(text) for text in x]
    return Card(
        key="scaling",
        title=f"From {named[0]} to {named[-1]} {'parameters' if by_size else 'of text'}: "
        f"{series[last][0]:.2f} → {series[last][-1]:.2f} nats a byte with {last}, "
        f"{series[first][0]:.2f} → {series[first][-1]:.2f} with {first}",
        alt=f"Lines of the lowest held-out loss over {_NAMES[over]}, both axes logarithmic: "
        + "; ".join(
            f"{name}, " + ", ".join(f"{value:.2f}" for value in values) for name, values in series.items()
        ),
        badge=Badge.RECORDED,
        figure=lines(
            x,
            series,
            x_name=_NAMES[over],
            y_name="lowest held-out loss, nats per byte",
            log_x=True,
            log_y=True,
        ).update_xaxes(tickvals=x, ticktext=named),
        table={_NAMES[over]: x} | {name: values.tolist() for name, values in series.items()},
        source=source(recording(RECORDING)),
    )


def about_scaling(kaplan: str, hoffmann: str) -> str:
    """What was trained and what came of it, from the recording. `kaplan` and `hoffmann` are links. Markdown."""
    run, (sizes, texts, losses) = recording(RECORDING), _grid()
    plan = run.settings
    gain, reads = losses[0] - losses[-1], plan["steps"] * plan["batch"] * plan["context"]
    return f"""
    {losses.size} models, trained alike but for two things: how wide they are and how much text they may read. Each is
    a GPT-2 of {plan["layers"]} blocks whose tokens are bytes. It reads its text again and again, at most
    {_bytes(reads)} in all, and counts with the lowest loss on held-out books that it reached. There is one run of
    each, so a small difference may be chance.

    {sizes[-1] / sizes[0]:.0f} times the parameters take {gain[-1]:.2f} nats off the loss with {_bytes(texts[-1])} of
    text. With {_bytes(texts[0])} they {_effect(gain[0])}. For large models both lines have been found to stay straight,
    on logarithmic axes, over many powers of ten, as long as nothing else is in short supply ({kaplan}): so the loss of
    a model can be foretold before it is trained. For a given amount of computation, parameters and text should grow
    together ({hoffmann}). Here the lines are too short for a law.
    """


def _effect(gain: float) -> str:
    return f"take {gain:.2f} off" if gain > 0 else f"add {-gain:.2f}"
