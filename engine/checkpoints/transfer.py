"""Files of one Hub repository on their way into the local cache: verified, counted, and stopped when asked to.

`huggingface_hub` moves the bytes. What is added is a thread to do it in, a limit to starting again, and the proof.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoints.hub_errors import CutShort

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""

_RESTARTS = 3  # how often one file may start again from its first byte


@dataclass(frozen=True)
class Remote:
    """One file of a Hub repository, and its proof: the SHA-256 of a large file, git's hash of a small one."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class Source:
    """Where files come from: a repository at one commit."""

    repo: str
    commit: str

    def fetch(self, file: Remote) -> Path:
        """One file into the local cache, verified; a damaged one is removed again. Raises OSError."""
        return _fetch(self, file, _Meter())

    def fetch_all(
        self, files: Sequence[Remote], progress: Progress, arrived: Callable[[Remote, Path], None]
    ) -> Path:
        """Fetch files one after the other in a worker thread; the path of the last.

        `progress` is called from this thread, where a page's script context lives; `arrived(file, path)` from the
        worker before the next file begins. An exception from either ends the transfer.
        """
        meter = _Meter()
        total = sum(file.size for file in files)
        worker = ThreadPoolExecutor(1, thread_name_prefix="hub-download")
        job = worker.submit(_fetch_each, self, files, meter, arrived)
        try:
            while not job.done():
                progress(min(meter.finished + meter.current, total), total)
                wait([job], timeout=0.2)
        finally:
            meter.cancelled = not job.done()
            worker.shutdown(wait=False)
        last = job.result()
        progress(total, total)
        return last


class _Cancelled(Exception):
    """Raised inside the worker thread when the calling thread has given up."""


class _Meter:
    """Bytes received so far: counted in the worker thread, read in the calling one."""

    def __init__(self) -> None:
        self.finished = 0
        self.current = 0
        self.restarts = 0
        self.cancelled = False

    def begin(self, finished: int) -> None:
        self.finished, self.current, self.restarts = finished, 0, 0

    def update(self, received: int) -> None:
        """Count bytes of the current file; fewer than none when the server makes it start again."""
        if self.cancelled:
            raise _Cancelled
        self.restarts += received < 0
        if self.restarts >= _RESTARTS:  # huggingface_hub would go on for as long as anything arrives
            raise ConnectionError("the connection breaks off every time")
        self.current += received


def _bar(meter: _Meter) -> Any:
    """A stand-in for the `tqdm` class that huggingface_hub reports to: as much of it as a download calls."""

    class Bar:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, n: float | None = 1) -> None:
            meter.update(int(n or 0))

        def _ignore(self, *_: Any, **__: Any) -> None: ...

        update_transfer = set_postfix_str = set_transfer_postfix_str = refresh = close = _ignore

    return Bar


def _fetch_each(
    source: Source, files: Iterable[Remote], meter: _Meter, arrived: Callable[[Remote, Path], None]
) -> Path:
    finished, path = 0, Path()
    for file in files:
        meter.begin(finished)
        meter.update(0)
        path = _fetch(source, file, meter)
        arrived(file, path)
        finished += file.size
    return path


def _fetch(source: Source, file: Remote, meter: _Meter) -> Path:
    """One file into the local cache, verified; a damaged one is removed again."""
    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(source.repo, file.name, revision=source.commit, tqdm_class=_bar(meter)))
    if not _intact(path, file):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise CutShort(file.name)
    return path


def _intact(path: Path, file: Remote) -> bool:
    """Whether a file has the size and the hash that the Hub states for it."""
    if path.stat().st_size != file.size:
        return False
    if file.sha256:
        return _digest(path, hashlib.sha256()) == file.sha256
    blob = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    return file.git_sha1 is None or _digest(path, blob) == file.git_sha1


def _digest(path: Path, running: Any) -> str:
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            running.update(chunk)
    return str(running.hexdigest())
