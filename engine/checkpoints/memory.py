"""Whether a checkpoint fits into memory, said before its weights are read. Imports torch only to ask a GPU."""

from collections.abc import Iterable
from math import prod
from pathlib import Path

import psutil

from engine import ReaderError
from engine.checkpoints import gguf, safety

_ALWAYS = 64_000_000
"""Bytes besides the weights: buffers of reading, the first forward pass."""

_UNQUANTIZED = ("embed", "wte", "wpe", "lm_head", "norm")
"""In the names of tensors that bitsandbytes leaves as they are."""


class NoRoom(ReaderError):
    """A checkpoint that does not fit into memory now; at fewer bits, or later, it may."""


def needed(files: Iterable[Path], linear: float, other: float) -> int:
    """Bytes of memory that loading some safetensors files takes at its peak.

    `linear` are the bytes that an entry of a linear layer inside a block takes then, `other` those of any other number.
    Reads the headers only. An estimate from above: a tensor that the model does not use is counted too.
    """
    total = 0.0
    for file in files:
        for name, tensor in (safety.header(file) or {}).items():
            shape = safety.shape(tensor)
            total += prod(shape) * (linear if _is_linear(name, len(shape)) else other)
    return int(total) + _ALWAYS


def _is_linear(name: str, dimensions: int) -> bool:
    return dimensions == 2 and not any(part in name for part in _UNQUANTIZED)


def files(name: str) -> list[Path]:
    """The safetensors files that a name stands for, where they are on this machine; else none."""
    from engine.checkpoints import hub, packaged
    from engine.checkpoints.catalogue import entry, folder

    named = entry(name)
    if named is not None and named.base:
        return files(named.base)
    path = folder(name) or hub.snapshot(name) or packaged.find(name)
    if path is not None and path.suffix == ".gguf":
        path = gguf.kept(path)
    return safety.weights(path) if path is not None else []


def check(name: str, needs: int, precision: str, device: str) -> None:
    """Raise NoRoom when a device has fewer bytes free than loading needs. `name` is shown."""
    has = free(device)
    if has is not None and needs > has:
        raise no_room(name, needs, has, precision, device)


def no_room(name: str, needs: int, has: int, precision: str, device: str) -> NoRoom:
    """The sentence about a checkpoint that does not fit."""
    where = "on the GPU" if device.startswith("cuda") else "on this machine"
    return NoRoom(
        f"“{name}” at {precision} needs {_gigabytes(needs)} of memory, and {_gigabytes(has)} are free {where}."
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{max(count, 0) / 1e6:,.0f} MB"


def device() -> str:
    """Where checkpoints are loaded when nobody says it: "cuda" or "cpu". Imports torch."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def free(on: str) -> int | None:
    """Bytes that can still be had on a device, "cpu" or "cuda"; None where nothing tells.

    On a CPU what the system has available, or less where control groups (containers) allow less. On a GPU also what
    torch has reserved there and does not use.
    """
    if on.startswith("cuda"):
        import torch

        unused = torch.cuda.memory_reserved(on) - torch.cuda.memory_allocated(on)
        return int(torch.cuda.mem_get_info(on)[0]) + unused
    groups = control_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    found = [room for room in (_available(), *map(_room_in, groups)) if room is not None]
    return min(found, default=None)


def _available() -> int | None:
    try:
        return int(psutil.virtual_memory().available)
    except (OSError, RuntimeError):  # a sandbox may hide what psutil reads
        return None


def control_groups(membership: Path, root: Path) -> list[Path]:
    """The folders of this process's memory control group and of all above it, of version 2 or 1.

    In a container the path that the kernel states may not exist below `root`: then `root` is the container's own.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return []
    found = []
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" or "memory" in controllers.split(","):
            top = root if number == "0" else root / "memory"
            group = top / path.lstrip("/")
            found += [top, *(one for one in (group, *group.parents) if top in one.parents)]
    return found


def _room_in(group: Path) -> int | None:
    """Bytes that a control group may still take; None without a limit. Cached pages of files make way by themselves."""
    limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
    used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    return limit - used + _inactive(group / "memory.stat")


def _inactive(stat: Path) -> int:
    try:
        lines = dict(line.split(" ", 1) for line in stat.read_text().splitlines())
        return int(lines.get("total_inactive_file") or lines.get("inactive_file") or 0)
    except (OSError, ValueError):
        return 0


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no such file, or "max" in it."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
