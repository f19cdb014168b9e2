"""GGUF files: dequantized once, kept as safetensors in the user's cache directory under the file's SHA-256.

The work is done by `engine.model.dequantize` in a process of its own: a damaged or hostile file can then
neither stop this one nor hold its locks, and the memory that reading takes is given back.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from engine import ReaderError
from engine.checkpoints import safety

Report = Callable[[float, str], None]
"""Told (share done between 0 and 1, what is being done)."""

LAYOUT = "1"
"""Changes whenever `dequantize` writes something else: what an older version left is then made again."""

_SILENCE = 300.0  # seconds without a line after which the other process is given up
_ROOT = Path(__file__).resolve().parents[2]
_LOCK = threading.Lock()


def cache_directory() -> Path:
    """Where dequantized files are kept: ANATOMY_CACHE, or the place that this system has for such things."""
    named = os.environ.get("ANATOMY_CACHE", "").strip()
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("anatomy-of-a-language-model", appauthor=False)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, remembered for as long as its size and its time of change stay. Raises ReaderError."""
    try:
        state = path.stat()
        return _sha256(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise ReaderError(f"The file {path.name} cannot be read.") from error


@lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def kept(path: Path) -> Path | None:
    """The folder with what was made of a GGUF file before, or None."""
    name = f"{sha256(path)}-{LAYOUT}"
    homes = [cache_directory() / "gguf", *([_temporary()] if _temporary.cache_info().currsize else [])]
    return next((home / name for home in homes if safety.complete(home / name)), None)


def folder(path: Path, report: Report) -> Path:
    """The folder with config, tokenizer and safetensors made of a GGUF file, made now if it has to be.

    Raises ReaderError for a file that transformers cannot read, one of several parts, and a full disk.
    """
    _check_magic(path)
    with _LOCK:  # two readers who ask for the same file shall not make it twice
        found = kept(path)
        if found is not None:
            return found
        home = _home()
        work = Path(tempfile.mkdtemp(prefix="unfinished-", dir=home))
        try:
            _dequantize(path, work, report)
            meanwhile = kept(path)
            if meanwhile is not None:  # made by another process, which may be reading it by now
                return meanwhile
            target = home / f"{sha256(path)}-{LAYOUT}"
            shutil.rmtree(target, ignore_errors=True)  # remains that nothing can be loaded from
            work.replace(target)
        except OSError as error:
            raise ReaderError(
                f"What was made of {path.name} cannot be kept on this machine's disk."
            ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return target


def _check_magic(path: Path) -> None:
    """Refuse at once what does not begin as GGUF files do."""
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise ReaderError(f"The file {path.name} cannot be read.") from error
    if magic != b"GGUF":
        raise ReaderError(f"“{path.name}” is refused: it does not begin as a GGUF file does.")


def provenance(folder: Path) -> dict[str, Any]:
    """What `dequantize` noted beside the weights: the file's name, its SHA-256, and tensors by GGML type."""
    found: dict[str, Any] = json.loads((folder / "gguf.json").read_text(encoding="utf-8"))
    return found


def rounded(types: dict[str, int]) -> str:
    """A sentence on what the rounding in a GGUF file was, from its count of tensors by GGML type; "" for none."""
    exact = {"F32", "F16", "BF16", "F64"}
    coarse = {name: count for name, count in types.items() if name not in exact}
    if not coarse:
        return ""
    kinds = ", ".join(
        f"{count} as {name}" for name, count in sorted(coarse.items(), key=lambda item: -item[1])
    )
    bits = min(_bits(name) for name in coarse)
    return (
        f"These weights were rounded to {bits} bits once, when their GGUF file was made "
        f"({kinds}, of {sum(types.values())} tensors); what is shown is computed from the rounded ones."
    )


def _bits(name: str) -> int:
    """The bits of a GGML type by its name: Q4_1, IQ4_XS, TQ2_0 and MXFP4 say them in their first digit."""
    return int(next(char for char in name if char.isdigit()))


@cache
def _temporary() -> Path:
    """A folder for this process alone, for a machine on which nothing can be kept between two starts."""
    return Path(tempfile.mkdtemp(prefix="anatomy-gguf-"))


def _home() -> Path:
    """The folder that new results go to: the cache directory where it can be written, else a temporary one."""
    home = cache_directory() / "gguf"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return home
    except OSError:
        return _temporary()


def _dequantize(path: Path, work: Path, report: Report) -> None:
    """Run `engine.model.dequantize` and pass on what it reports. Raises ReaderError when it refuses or fails."""
    command = [sys.executable, "-m", "engine.model.dequantize", str(path.resolve()), str(work)]
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=_ROOT,
        env=environment,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            said = deque((_told(line, report) for line in _lines(process)), maxlen=1)
        finally:
            process.kill()
    last = said[0] if said else {}
    if "refused" in last:
        raise ReaderError(f"“{path.name}” is refused: {last['refused']}")
    if not last.get("done"):
        raise ReaderError(f"“{path.name}” could not be read as a GGUF file.")


def _lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    """The lines of a process, until it ends or has said nothing for too long."""
    assert process.stdout is not None
    alarm = threading.Timer(_SILENCE, process.kill)
    alarm.start()
    try:
        for line in process.stdout:
            alarm.cancel()
            alarm = threading.Timer(_SILENCE, process.kill)
            alarm.start()
            yield line
    finally:
        alarm.cancel()


def _told(line: str, report: Report) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    if "share" in said:
        report(float(said["share"]), str(said["what"]))
    return said
