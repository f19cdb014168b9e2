"""What the cards of this chapter share: the recordings, and how steps of them are called."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import ReaderError
from engine.checkpoints.catalogue import locate
from engine.evidence.recorded import recording
from engine.training.recording import Recording, recording_names
from engine.training.snapshots import Snapshot, fingerprint, snapshots

RUNS = {"pocket-llama": "pretrain-llama", "pocket-gpt2": "induction-gpt2"}
"""Bundled checkpoint → the recording of a run of its architecture, and the folder of the kept snapshots."""

BEGUN, FINISHED, CONTINUED, ANOTHER = "as bundled", "finished", "bundled now", "bundled"
"""What the bundled checkpoint is to that run."""

_CALLED = {
    BEGUN: "{} (trained further)",
    FINISHED: "{}",
    CONTINUED: "{} (before its last stage)",
    ANOTHER: "{} (another run)",
}

STORY = "pretrain-llama"
"""The run that begins with random weights."""

FURTHER = {"pocket-llama": "further-llama", "pocket-gpt2": "further-gpt2"}
"""Bundled checkpoint → the recording of the run that ended with its weights."""

UNITS = {"nats per token": "held_out_loss", "bits per character": "bits_per_character"}
SCORES = {"induction": "induction", "previous token": "previous_token"}
"""How a head's score is called → its column in the recording."""

Floats = NDArray[np.float64]


def stories() -> dict[str, str]:
    """The runs that can be followed from step to step: what they are called → the recording."""
    there = recording_names()
    last = {f"{checkpoint}, last stage": name for checkpoint, name in FURTHER.items() if name in there}
    return {"from random weights": STORY} | last


def recorded_steps(name: str) -> list[int]:
    """The updates after which the run was evaluated, in order."""
    return [int(step) for step in recording(name).column("snapshots", "step")]


def tokens_at(run: Recording, step: int) -> int:
    """Tokens read in `step` updates."""
    return int(step * run.settings["batch"] * run.settings["shape"]["context"])


def millions(tokens: float) -> str:
    """Tokens as a reader counts them."""
    return f"{tokens / 1e6:.1f} M" if tokens >= 1e5 else f"{tokens:,.0f}"


def step_name(name: str, step: int) -> str:
    """An update of a run, with the tokens read by then."""
    return f"{step:,} ({millions(tokens_at(recording(name), step))} tokens)"


def row_at(run: Recording, table: str, step: int) -> Any:
    """The row of a step. Raises ReaderError for a step that was not evaluated."""
    for row in run.table(table):
        if row["step"] == step:
            return row
    raise ReaderError(f"Nothing was recorded at step {step:,}.")


def level(run: Recording, name: str, column: str = "loss") -> float:
    """The cross-entropy of a reference: "uniform", "unigram" or "bigram"."""
    return float(run.column("references", column, {"name": name})[0])


def grids(run: Recording, column: str) -> tuple[list[int], Floats]:
    """Steps, and the scores of every head at each of them: (step, layer, head)."""
    steps, layers, heads = (run.column("heads", name) for name in ("step", "layer", "head"))
    order, place = np.unique(steps, return_inverse=True)
    values = np.full((len(order), int(layers.max()) + 1, int(heads.max()) + 1), np.nan)
    values[place, layers.astype(int), heads.astype(int)] = run.column("heads", column)
    return [int(step) for step in order], values


def mix_step(run: Recording) -> int | None:
    """The update from which windows that repeat were mixed into the text, or None."""
    begin = run.settings.get("induction_from")
    return None if begin is None else int(begin)


def began_trained(run: Recording) -> bool:
    """Whether a run began with the weights of an earlier one, not with random ones."""
    return "--init-from" in run.command.split()


def mixed_in(checkpoint: str) -> str:
    """One paragraph: what was mixed into the training text of a checkpoint, and when. Markdown."""
    run = recording(RUNS[checkpoint])
    begin = mix_step(run)
    weights = "a model already trained on prose" if began_trained(run) else "random weights"
    start = f"The recorded run of **{checkpoint}** began with {weights}"
    if begin is None:
        return f"{start}, and nothing was mixed into its text."
    if begin == 0:
        return f"{start}. From its first update on, {repeated(run)}."
    before = run.column("measured", "step") < begin
    best = float(run.column("measured", "induction_score")[before].max(initial=0))
    return (
        f"{start}. In {millions(tokens_at(run, begin))} tokens of ordinary text its best score never rose above "
        f"{best:.2f}. From update {begin:,} on, {repeated(run)}."
    )


def clearest() -> str:
    """The bundled checkpoint in whose recorded run the best induction score ends highest."""
    return max(RUNS, key=_last_score)


def _last_score(checkpoint: str) -> float:
    return float(recording(RUNS[checkpoint]).column("measured", "induction_score")[-1])


def about_clearest() -> str:
    """Which run these beats open on, and why. Markdown."""
    best = clearest()
    rest = " and ".join(f"{_last_score(name):.2f} in the run of {name}" for name in RUNS if name != best)
    score = f"{_last_score(best):.2f}"
    return f"The figure opens on the run of **{best}**, where the best score ends highest: {score} against {rest}."


def repeated(run: Recording) -> str:
    """What repeats in which share of a run's windows, as a clause. Raises KeyError where nothing was mixed in."""
    repeats = run.settings["repeats"]
    (low, high), (short, long) = repeats["recur_tokens"], repeats["tile_tokens"]
    parts = [
        f"in {repeats['recur_share']:.0%} of the windows a stretch of {low} to {high} tokens recurs",
        f"{repeats['tile_share']:.0%} repeat a segment of {short} to {long} tokens over and over",
    ]
    share = repeats.get("random_share", 0)
    if share:
        parts.append(f"{share:.0%} do so with random tokens")
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"


def place_of(kept: Sequence[Snapshot], checkpoint: str) -> str:
    """Whether the run of these snapshots began or finished with the bundled weights (taken for granted where none are
    kept), or another run made them from where it finished, or it has nothing to do with them.
    """
    if not kept:
        return FINISHED
    weights = Path(locate(checkpoint)) / "model.safetensors"
    known = _fingerprint(weights, weights.stat().st_mtime_ns)
    last = kept[-1]
    return {last.begun: BEGUN, last.finished: FINISHED, last.continued: CONTINUED}.get(known, ANOTHER)


@lru_cache(maxsize=4)
def _fingerprint(weights: Path, changed: int) -> str:
    return fingerprint(weights)


def called(checkpoint: str) -> str:
    """The model of a checkpoint's recorded run, by a name that says whether it became the bundled one."""
    return _CALLED[place_of(snapshots(RUNS[checkpoint]), checkpoint)].format(checkpoint)
