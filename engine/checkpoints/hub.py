"""Checkpoints from the Hugging Face Hub: is it here, how large is it, fetch it.

Nothing here opens a connection unless `describe` or `download` is called for a checkpoint that is not on this
machine yet. Only safetensors weights are fetched: a pickle can run code, a repository's own Python too.
Every failure is a ReaderError whose one sentence says which failure it was.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import ReaderError
from engine.checkpoints import safety
from engine.checkpoints.catalogue import check_name, folder, locate
from engine.checkpoints.hub_errors import CutShort, one_sentence
from engine.checkpoints.safety import check_folder

__all__ = ["HubEntry", "Progress", "check_folder", "describe", "download", "is_cached", "snapshot"]

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""

_TIMEOUT = 10.0  # seconds until the Hub counts as silent
_RESTARTS = 3  # how often one file may start again from its first byte


@dataclass(frozen=True)
class HubEntry:
    """A checkpoint before it is loaded. `bytes` counts only the files that would be read."""

    name: str
    cached: bool
    bytes: int | None
    revision: str


@dataclass(frozen=True)
class _Remote:
    """One file of a Hub repository, and its proof: the SHA-256 of a large file, git's hash of a small one."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class _Plan:
    """What a download would fetch; config.json comes first."""

    repo: str
    revision: str
    files: tuple[_Remote, ...]

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files)


def is_cached(name: str) -> bool:
    """Whether a checkpoint loads with no network: it is bundled, a folder, or complete in the local cache."""
    return folder(name) is not None or snapshot(name) is not None


def snapshot(name: str) -> Path | None:
    """The complete local copy of a Hub checkpoint, or None. Its folder's name is the revision. No network."""
    try:
        store = _store(locate(name))
        revision = (store / "refs" / "main").read_text().strip()
        found = store / "snapshots" / revision
        return found if revision and safety.complete(found) else None
    except (
        OSError,
        ValueError,
        ReaderError,
    ):  # not there, damaged, or no possible file name
        return None


def describe(name: str) -> HubEntry:
    """Whether a checkpoint is on this machine, and how many bytes it has or would have to be downloaded.

    Asks the Hub only about a checkpoint that is not cached, and refuses what `download` would refuse.
    Raises ReaderError.
    """
    check_name(name)
    local = folder(name)
    here = local or snapshot(name)
    if here is not None:
        return HubEntry(name, True, _bytes_in(here), "local" if local else here.name)
    with one_sentence(name):
        plan = _plan(name)
        _checked_config(plan, name)
    return HubEntry(name, False, plan.nbytes, plan.revision)


def download(name: str, progress: Progress) -> Path:
    """Fetch what is missing of a Hub checkpoint and return the folder that holds it.

    config.json is fetched and checked before anything else; every file is compared with the size and the hash
    that the Hub states. `progress` is called from the calling thread; an exception from it ends the download.
    Raises ReaderError.
    """
    check_name(name)
    here = folder(name) or snapshot(name)
    if here is not None:
        return here
    with one_sentence(name):
        plan = _plan(name)
        target = _checked_config(plan, name)
        safety.check_adapter(target, name)
        _check_room(name, plan)
        _fetch_all(plan, progress)
        safety.check_tokenizer(target, name)
        safety.check_weights(target, name)
        _mark_complete(plan)
    return target


def _bytes_in(path: Path) -> int:
    return sum((path / file).stat().st_size for file in safety.loadable(os.listdir(path)))


def _store(repo: str) -> Path:
    """The folder of the Hub's local cache that holds one repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _plan(name: str) -> _Plan:
    """Ask the Hub for a repository's files: one request."""
    from huggingface_hub import HfApi

    repo = locate(name)
    info = HfApi().model_info(repo, files_metadata=True, timeout=_TIMEOUT)
    listed = {file.rfilename: file for file in info.siblings or []}
    safety.check_listing(listed, name)
    return _Plan(repo, str(info.sha), tuple(_remote(listed[file]) for file in safety.loadable(listed)))


def _remote(file: Any) -> _Remote:
    if file.lfs is not None:
        return _Remote(file.rfilename, file.lfs.size, file.lfs.sha256, None)
    return _Remote(file.rfilename, file.size or 0, None, file.blob_id)


def _checked_config(plan: _Plan, name: str) -> Path:
    """Fetch config.json alone and check it; the folder it lies in."""
    config = _fetch(plan, plan.files[0], _Meter())
    safety.check_config(safety.read_json(config, name), name)
    return config.parent


def _check_room(name: str, plan: _Plan) -> None:
    """Refuse a download that cannot fit, before it starts."""
    store = _store(plan.repo)
    free = shutil.disk_usage(next(path for path in (store, *store.parents) if path.exists())).free
    if free < plan.nbytes:
        need, have = (f"{size / 1e6:,.0f} MB" for size in (plan.nbytes, free))
        raise ReaderError(f"The disk is too full for “{name}”: it needs {need}, and {have} are free.")


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


def _fetch_all(plan: _Plan, progress: Progress) -> None:
    """Fetch every file in a worker thread; report from this one, where a page's script context lives."""
    meter = _Meter()
    worker = ThreadPoolExecutor(1, thread_name_prefix="hub-download")
    job = worker.submit(_fetch_each, plan, meter)
    try:
        while not job.done():
            progress(min(meter.finished + meter.current, plan.nbytes), plan.nbytes)
            wait([job], timeout=0.2)
    finally:
        meter.cancelled = not job.done()
        worker.shutdown(wait=False)
    job.result()
    progress(plan.nbytes, plan.nbytes)


def _fetch_each(plan: _Plan, meter: _Meter) -> None:
    finished = 0
    for file in plan.files:
        meter.begin(finished)
        meter.update(0)
        _fetch(plan, file, meter)
        finished += file.size


def _fetch(plan: _Plan, file: _Remote, meter: _Meter) -> Path:
    """One file into the local cache, verified; a damaged one is removed again."""
    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(plan.repo, file.name, revision=plan.revision, tqdm_class=_bar(meter)))
    if not _intact(path, file):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise CutShort(file.name)
    return path


def _intact(path: Path, file: _Remote) -> bool:
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


def _mark_complete(plan: _Plan) -> None:
    """Name this revision `main` in the cache, last of all: half a download never counts as cached."""
    ref = _store(plan.repo) / "refs" / "main"
    ref.parent.mkdir(parents=True, exist_ok=True)
    partial = ref.with_name(f"main.{os.getpid()}")
    partial.write_text(plan.revision)
    partial.replace(ref)
