"""Train on from a kept snapshot: ``python -m engine.training.restore --snapshot FILE --out DIR`` writes a folder that
``engine.training.pretrain --init-from`` reads.

``python -m engine.training.restore --snapshot FILE --then RUN`` afterwards notes in the file with which weights that
run ended, so that the app knows a bundled checkpoint as what came of the snapshot.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoints.catalogue import locate
from engine.training.checkpointing import write_atomically
from engine.training.record_run import snapshot_folders
from engine.training.snapshots import described, ends, fingerprint_of, unpacked

BESIDE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def restored(path: Path) -> dict[str, Tensor]:
    """The weights of a kept snapshot in fp16, as a checkpoint's file holds them."""
    return {name: weight.to(torch.float16) for name, weight in unpacked(load_file(path)).items()}


def restore(path: Path, out: Path) -> None:
    """Write the snapshot at ``path`` as a checkpoint folder. Raises ReaderError for a file that is not one."""
    checkpoint = Path(locate(described(path).checkpoint))
    out.mkdir(parents=True, exist_ok=True)
    for name in BESIDE:
        shutil.copyfile(checkpoint / name, out / name)
    save_file(restored(path), out / "model.safetensors", metadata={"format": "pt"})


def note_continued(path: Path, run: Path) -> None:
    """Note in the snapshot at ``path`` which weights ``run`` ended with.

    Raises ValueError when the run began neither with the snapshot nor with what the snapshot's own run or the one noted
    before ended with, or when it is not finished.
    """
    start, continued = ends(run, snapshot_folders(run))
    if not continued:
        raise ValueError(f"{run} is not finished.")
    known = described(path)
    if not start or start not in (known.finished, known.continued, fingerprint_of(restored(path))):
        raise ValueError(f"{run} did not begin where {path.name} stands or where its run ended.")
    with safe_open(path, "pt") as file:
        about = dict(file.metadata())
    tensors = load_file(path)
    write_atomically(
        path, lambda partial: save_file(tensors, partial, metadata=about | {"continued": continued})
    )


def main(arguments: list[str] | None = None) -> None:
    """Restore a snapshot, or note what came of it."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.restore", description=__doc__.split(":")[0]
    )
    parser.add_argument("--snapshot", type=Path, required=True, help="a kept snapshot")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="the checkpoint folder to write")
    what.add_argument("--then", type=Path, help="the --out of a finished run that went on from it")
    args = parser.parse_args(arguments)
    if args.out is not None:
        restore(args.snapshot, args.out)
    else:
        note_continued(args.snapshot, args.then)


if __name__ == "__main__":
    main()
