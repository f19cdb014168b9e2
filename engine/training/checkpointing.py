"""State on disk: atomic writes, a log that can be cut back, and snapshots that anybody can open.

A run can die between any two instructions. So every file is written beside its place, flushed and renamed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` on a temporary name beside ``path``, flush to disk, and rename: the old file or the new one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    write(partial)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Resume state (tensors, numbers, strings) of a run; not for distribution: publish safetensors."""
    write_atomically(path, lambda partial: torch.save(state, partial))


def load_state(path: Path, device: str) -> dict[str, Any]:
    """What :func:`save_state` wrote; only tensors and plain values are unpickled."""
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def save_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_atomically(path, lambda partial: _write_text(partial, json.dumps(value, indent=1) + "\n"))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def append_log(path: Path, line: dict[str, Any]) -> None:
    """Append one JSON line and hand it to the operating system at once."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL log; a last line that was cut short by a kill is left out."""
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def cut_log(path: Path, step: int) -> None:
    """Drop what was logged after ``step``: the run goes on from there and will log those steps again."""
    kept = [line for line in read_log(path) if line["step"] <= step]
    write_atomically(path, lambda partial: _write_text(partial, "".join(json.dumps(x) + "\n" for x in kept)))


def save_snapshot(model: PreTrainedModel, folder: Path) -> None:
    """fp16 weights and config as an ordinary Hugging Face folder, without the tokenizer.

    Tied weights are stored once. Raises ValueError when a weight does not fit in fp16.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().to("cpu", torch.float16).contiguous() for name, p in model.named_parameters()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has values that fp16 cannot hold.")
    config = {
        **model.config.to_diff_dict(),
        **{key: value for key, value in model.config.to_dict().items() if not key.startswith("_")},
        "architectures": [type(model).__name__],
        "dtype": "float16",
    }
    save_json(folder / "config.json", config)
    # Last and by renaming: a folder with weights is a complete snapshot.
    write_atomically(
        folder / "model.safetensors", lambda partial: save_file(tensors, partial, metadata={"format": "pt"})
    )
