"""Snapshots of a run, small enough to keep: int8 rows with a scale each, next to the run's recording.

``python -m engine.training.snapshots --run DIR --steps 128 512 1500 --out engine/assets/snapshots/pretrain-llama``
writes one file for each step. The last part of ``--out`` is the name of the run's recording, which must hold these
steps. A matrix becomes round(w / s) with one float32 s = max|w| / 127 for each of its rows, so no weight moves by more
than s / 2; vectors (norms and biases) stay in fp16.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine import ReaderError
from engine.checkpoints.catalogue import ASSETS
from engine.model.loading import Loaded, load
from engine.training.checkpointing import write_atomically
from engine.training.record_run import snapshot_folders
from engine.training.recording import FOLDER as RECORDINGS
from engine.training.recording import Recording, load_recording

FOLDER = ASSETS / "snapshots"
SCALE = ".scale"
LARGEST = 127


@dataclass(frozen=True)
class Snapshot:
    """A kept snapshot: of which checkpoint's run, after how many steps and tokens, and the held-out loss recorded then.

    ``loss``: nats per token, of the weights before they were rounded to int8. ``begun``, ``finished``:
    :func:`fingerprint` of the weights that the run began and ended with, "" where that is not known. ``continued``: of
    the weights that a later run ended with, which began where this one ended; where several followed each other, the
    last.
    """

    path: Path
    checkpoint: str
    step: int
    tokens: int
    loss: float
    begun: str
    finished: str
    continued: str


def fingerprint(weights: Path) -> str:
    """:func:`fingerprint_of` a safetensors file's tensors, whatever its metadata say."""
    return fingerprint_of(load_file(weights))


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """The first half of the SHA-256 over names and bytes of ``tensors``, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]


def quantized(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """``matrix`` (row, column) as int8 of the same shape, and the scales (row,) in float32; 1 for a row of zeros."""
    rows = matrix.float()
    largest = rows.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / LARGEST, 1.0)
    return (rows / scale[:, None]).round().to(torch.int8), scale


def packed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a file holds: int8 and scale for each matrix, fp16 for everything else."""
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.ndim == 2:
            tensors[name], tensors[name + SCALE] = quantized(weight)
        else:
            tensors[name] = weight.to(torch.float16).contiguous()
    return tensors


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in float32 from what :func:`packed` made."""
    return {
        name: tensor.float() * tensors[name + SCALE][:, None] if name + SCALE in tensors else tensor.float()
        for name, tensor in tensors.items()
        if not name.endswith(SCALE)
    }


def write_snapshot(weights: Path, path: Path, about: Mapping[str, str | int | float]) -> None:
    """Pack the safetensors file ``weights`` into ``path``, with ``about`` as its metadata."""
    metadata = {"format": "pt"} | {key: str(value) for key, value in about.items()}
    tensors = packed(load_file(weights))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata=metadata))


def snapshots(run: str, folder: Path = FOLDER) -> tuple[Snapshot, ...]:
    """The kept snapshots of a run, by step; none when there is no such folder. Raises ReaderError for a broken file."""
    return tuple(
        sorted((described(path) for path in (folder / run).glob("*.safetensors")), key=lambda kept: kept.step)
    )


def described(path: Path) -> Snapshot:
    """What a kept file says of itself, without its weights. Raises ReaderError when it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        kept = Snapshot(
            path,
            about["checkpoint"],
            int(about["step"]),
            int(about["tokens"]),
            float(about["held_out_loss"]),
            about.get("begun", ""),
            about.get("finished", ""),
            about.get("continued", ""),
        )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise _broken(path) from error
    if not math.isfinite(kept.loss):
        raise _broken(path)
    return kept


def load_snapshot(snapshot: Snapshot) -> Loaded:
    """The bundled checkpoint with the snapshot's weights, at fp32. Raises ReaderError for a file that is not one.

    It is a value of its own: no other ``Loaded`` shares its weights.
    """
    try:
        raw = snapshot.path.read_bytes()
        weights = unpacked(load_file(snapshot.path))
    except (OSError, SafetensorError, RuntimeError, IndexError) as error:
        raise _broken(snapshot.path) from error
    base = load(snapshot.checkpoint)
    own = dict(base.model.named_parameters())
    if {name: p.shape for name, p in own.items()} != {name: w.shape for name, w in weights.items()}:
        raise ReaderError(f"The snapshot {snapshot.path.name} does not fit {snapshot.checkpoint}.")
    if not all(bool(torch.isfinite(weight).all()) for weight in weights.values()):
        raise _broken(snapshot.path)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    name = f"{snapshot.checkpoint} at step {snapshot.step:,}"
    return replace(base, name=name, revision=hashlib.sha256(raw).hexdigest()[:12])


def _broken(path: Path) -> ReaderError:
    return ReaderError(f"The snapshot {path.name} cannot be read: its file is damaged or is no snapshot.")


def keep(
    folders: Mapping[int, Path],
    steps: list[int],
    out: Path,
    recording: Recording,
    begun: str = "",
    finished: str = "",
    continued: str = "",
) -> list[Path]:
    """Write the snapshots of ``steps`` into ``out``. Raises ValueError for a step without snapshot or recorded loss."""
    recorded = {row["step"]: row["held_out_loss"] for row in recording.table("snapshots")}
    missing = [step for step in steps if step not in folders or step not in recorded]
    if missing:
        raise ValueError(
            f"Steps {missing} have no snapshot, or {recording.name} has no held-out loss of them."
        )
    plan = recording.settings
    tokens_per_step = plan["batch"] * plan["shape"]["context"]
    written = []
    for step in steps:
        about = {
            "checkpoint": f"pocket-{plan['arch']}",
            "run": recording.name,
            "step": step,
            "tokens": step * tokens_per_step,
            "held_out_loss": float(recorded[step] or math.nan),
            "begun": begun,
            "finished": finished,
            "continued": continued,
        }
        path = out / f"{step:06d}.safetensors"
        write_snapshot(folders[step] / "model.safetensors", path, about)
        written.append(path)
    return written


def ends(run: Path, folders: Mapping[int, Path]) -> tuple[str, str]:
    """Fingerprints of the weights that a run began and finished with, "" for what is not there."""
    both = [folder / "model.safetensors" for folder in (folders.get(0, run), run / "final")]
    begun, finished = (fingerprint(weights) if weights.exists() else "" for weights in both)
    return begun, finished


def main(arguments: list[str] | None = None) -> None:
    """Keep some of a run's snapshots. Raises ValueError when ``--then`` did not begin where ``--run`` ended."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.snapshots", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument(
        "--run",
        type=Path,
        nargs="+",
        required=True,
        help="the --out of a run, then those it was branched from",
    )
    parser.add_argument("--steps", type=int, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder named as the run's recording is")
    parser.add_argument(
        "--then", type=Path, help="the --out of a finished run that went on from this one's end"
    )
    parser.add_argument("--recordings", type=Path, default=RECORDINGS, help="folder of the recording")
    args = parser.parse_args(arguments)
    run, *earlier = args.run
    recording = load_recording(args.out.resolve().name, args.recordings)
    folders = snapshot_folders(run, earlier)
    begun, finished = ends(run, folders)
    continued = ""
    if args.then is not None:
        start, continued = ends(args.then, snapshot_folders(args.then))
        if not finished or start != finished:
            raise ValueError(f"{args.then} did not begin with the weights that {run} ended with.")
    for path in keep(folders, args.steps, args.out, recording, begun, finished, continued):
        print(f"wrote {path.name}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
