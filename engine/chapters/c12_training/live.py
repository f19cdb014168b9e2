"""The kept snapshots and the bundled checkpoint beside each other, and where their numbers come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from engine import ReaderError
from engine.chapters.c12_training.recordings import (
    ANOTHER,
    BEGUN,
    CONTINUED,
    FINISHED,
    RUNS,
    began_trained,
    millions,
    place_of,
)
from engine.checkpoints.catalogue import ASSETS
from engine.evidence.recorded import recording
from engine.evidence.script import preamble
from engine.model.loaded import Loaded
from engine.training.snapshots import Snapshot, described, load_snapshot, snapshots

COLORS = ("token", "query", "value", "key")
"""From the earliest to the last."""


@dataclass(frozen=True)
class Stage:
    """A model of one run: a kept snapshot, or the bundled checkpoint (`snapshot` is None)."""

    name: str
    loaded: Loaded
    snapshot: Snapshot | None


def stages(checkpoint: Loaded) -> list[Stage]:
    """A bundled checkpoint and the kept snapshots of its run by step: it stands first where the run began with it."""
    if checkpoint.name not in RUNS:
        raise ReaderError(f"No snapshots of the training of {checkpoint.name} are kept here.")
    kept = snapshots(RUNS[checkpoint.name])
    place = place_of(kept, checkpoint.name)
    models = [
        Stage(f"update {one.step:,}", _loaded(one.path, one.path.stat().st_mtime_ns), one) for one in kept
    ]
    here = Stage(place, checkpoint, None)
    return [here, *models] if place == BEGUN else [*models, here]


def bundled(stages: Sequence[Stage]) -> Loaded:
    """The bundled checkpoint among the stages."""
    return next(stage.loaded for stage in stages if stage.snapshot is None)


@lru_cache(maxsize=4)
def _loaded(path: Path, changed: int) -> Loaded:
    """A snapshot's model, kept while it is used; `changed` is the time of the file."""
    return load_snapshot(described(path))


def about_snapshots() -> str:
    """Which snapshots there are, of both runs. Markdown."""
    parts, others, count = [], [], 0
    for checkpoint, run in RUNS.items():
        kept = snapshots(run)
        if kept:
            count += len(kept)
            steps = ", ".join(f"{one.step:,} ({millions(one.tokens)} tokens)" for one in kept)
            parts.append(f"**{checkpoint}** after update{'s' if len(kept) > 1 else ''} {steps}")
            if kept[0].step == 0 and began_trained(recording(run)):
                others.append(f" Update 0 of {checkpoint} is a model already trained on prose.")
            others.append(_WHENCE[place_of(kept, checkpoint)].format(checkpoint))
    if not parts:
        return "No snapshots are kept here, so only the bundled checkpoint reads your prompt."
    return (
        f"A snapshot is a model as it was at one update of its training, and your prompt goes through it now. "
        f"{_NUMBERS.get(count, str(count))} {'are' if count > 1 else 'is'} kept: {' and '.join(parts)}. To be small, "
        "a snapshot has its matrices as 8-bit numbers with one scale for each row. All of them run at fp32, whatever "
        f"precision you read at.{''.join(others)}"
    )


_NUMBERS = {1: "One", 2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six"}

_WHENCE = {
    BEGUN: " The bundled {} is the model that its run began with.",
    FINISHED: "",
    CONTINUED: " The bundled {} was trained further from where that run ended.",
    ANOTHER: " The bundled {} comes from another run than its snapshots.",
}


@dataclass(frozen=True)
class Origin:
    """Where the numbers of some stages come from, for an oracle to read them again; None: the bundled weights."""

    checkpoint: str
    files: tuple[Path | None, ...]


def origin(stages: Sequence[Stage]) -> Origin:
    """Names and paths alone, so that a proof holds no model."""
    files = tuple(stage.snapshot.path if stage.snapshot is not None else None for stage in stages)
    return Origin(bundled(stages).name, files)


def script(stages: Sequence[Stage], ids: Sequence[int], rest: str) -> str:
    """A *Code* script that defines `stages`, one model after the other, and goes on with `rest`."""
    paths = [
        None if s.snapshot is None else f"engine/{s.snapshot.path.relative_to(ASSETS.parent)}" for s in stages
    ]
    return preamble(bundled(stages), ids) + _STAGES.format(paths=paths) + rest


_STAGES = """\
from safetensors.torch import load_file


def stages():
    \"\"\"Every stage in order, all in the same variable; None stands for the bundled weights.\"\"\"
    bundled = {{name: value.clone() for name, value in model.state_dict().items()}}
    for path in {paths}:
        kept = bundled if path is None else load_file(path)  # int8 matrices with a scale for each row, fp16 vectors
        weights = {{
            name: value.float() * kept[name + ".scale"][:, None] if name + ".scale" in kept else value.float()
            for name, value in kept.items()
            if not name.endswith(".scale")
        }}
        model.load_state_dict(weights, strict=False)  # a tied unembedding is the embedding
        yield model


"""
