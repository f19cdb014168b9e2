"""Checkpoints from the Hugging Face Hub and from local folders: looked at before they are read, never executed.

Nothing here opens a connection unless `describe` or `download` is called for a Hub checkpoint that is not on this
machine yet. Only safetensors weights are read: a pickle can run code, and so can a repository's own Python files.
Every failure is a ReaderError whose one sentence says which failure it was.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.adapters import SUPPORTED
from engine.checkpoints import check_name, folder, locate
from engine.errors import ReaderError
from engine.text import shorten

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all)."""

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL = frozenset(
    """config.json generation_config.json tokenizer.json tokenizer_config.json special_tokens_map.json
    added_tokens.json vocab.json merges.txt tokenizer.model chat_template.jinja chat_template.json""".split()
)
"""What `transformers` reads beside the weights."""

_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
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
    """One file of a Hub repository, with what proves that it arrived whole."""

    name: str
    size: int
    sha256: str | None  # of large files
    git_sha1: str | None  # of the others


@dataclass(frozen=True)
class _Plan:
    """What a download would fetch."""

    repo: str
    revision: str
    files: tuple[_Remote, ...]

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files)


def is_cached(name: str) -> bool:
    """Whether a checkpoint can be loaded with no network: it is bundled, a folder, or complete in the local cache."""
    return folder(name) is not None or snapshot(name) is not None


def snapshot(name: str) -> Path | None:
    """The complete local copy of a Hub checkpoint, or None. Its folder's name is the revision. No network."""
    repo = locate(name)
    store = _store(repo)
    try:
        revision = (store / "refs" / "main").read_text().strip()
        found = store / "snapshots" / revision
        return found if revision and (found / "config.json").is_file() and _weights(found) else None
    except (OSError, ValueError):  # not there, or not a name that a file system can hold
        return None


def describe(name: str) -> HubEntry:
    """Whether a checkpoint is on this machine, and its size in bytes if it has to be downloaded.

    Asks the Hub only for a checkpoint that is not cached, and then refuses what `download` would refuse.
    Raises ReaderError.
    """
    check_name(name)
    local = folder(name)
    here = local or snapshot(name)
    if here is not None:
        size = sum((here / file).stat().st_size for file in _loadable(os.listdir(here)))
        return HubEntry(name, True, size, here.name if local is None else "local")
    with _one_sentence(name):
        plan = _plan(name)
        check_config(_read_json(_fetch(plan, plan.files[0]), name), name)
    return HubEntry(name, False, plan.nbytes, plan.revision)


def download(name: str, progress: Progress) -> Path:
    """Fetch what is missing of a Hub checkpoint and return the folder that holds it.

    config.json comes first and is checked before anything else is fetched; every file is compared with the size
    and hash that the Hub states. `progress` is called from the calling thread; an exception from it ends the
    download. Raises ReaderError.
    """
    check_name(name)
    here = folder(name) or snapshot(name)
    if here is not None:
        return here
    with _one_sentence(name):
        plan = _plan(name)
        config = _fetch(plan, plan.files[0])
        check_config(_read_json(config, name), name)
        _check_adapter(config.parent)
        _check_room(name, plan)
        _fetch_all(plan, progress)
        for tokenizer in config.parent.glob("tokenizer_config.json"):
            _refuse_remote_code(_read_json(tokenizer, name), name)
        _mark_complete(plan)
    return config.parent


def check_folder(path: Path) -> None:
    """Refuse a local folder that cannot be loaded safely. Reads config files and headers, no weights.

    Raises ReaderError: no folder, no config.json, an unsupported model_type, remote code wanted, only pickled
    weights, weights missing or cut short.
    """
    name = path.name or str(path)
    if not path.is_dir():
        raise ReaderError(f"There is no folder “{shorten(str(path), 80)}” on this machine.")
    if not (path / "config.json").is_file():
        raise ReaderError(f"The folder “{name}” has no config.json, so it is not a checkpoint.")
    check_config(_read_json(path / "config.json", name), name)
    for tokenizer in path.glob("tokenizer_config.json"):
        _refuse_remote_code(_read_json(tokenizer, name), name)
    _refuse_pickles(name, os.listdir(path))
    weights = _weights(path)
    if not weights:
        raise ReaderError(f"Some of the safetensors files that “{name}” lists in its index are missing.")
    for file in weights:
        _check_whole(file, name)


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Refuse a config.json that wants the repository's own code, or whose model_type has no adapter."""
    _refuse_remote_code(config, name)
    model_type = config.get("model_type")
    if model_type not in SUPPORTED:
        stated = f"of the unsupported model_type “{shorten(str(model_type), 40)}”" if model_type else "of no model_type"
        raise ReaderError(f"“{name}” is a checkpoint {stated}; supported are {', '.join(SUPPORTED)}.")


def _refuse_remote_code(config: Mapping[str, Any], name: str) -> None:
    if config.get("auto_map"):
        raise ReaderError(f"“{name}” wants to run Python code from its own repository, which this app never does.")


def _refuse_pickles(name: str, files: Iterable[str]) -> None:
    """Raises ReaderError unless there are safetensors weights among the files."""
    names = sorted(files)
    if SINGLE in names or INDEX in names:
        return
    pickled = [file for file in names if file.endswith(_PICKLED)]
    if pickled:
        raise ReaderError(
            f"“{name}” has only pickled weights ({shorten(pickled[0], 40)}), which can run code when they are read; "
            "this app reads safetensors only."
        )
    raise ReaderError(f"“{name}” holds no safetensors weights.")


def _loadable(files: Iterable[str]) -> list[str]:
    """The files that loading would read, config.json first, weights last."""
    names = set(files)
    single = SINGLE in names
    weights = {SINGLE} if single else {INDEX, *filter(_SHARD.fullmatch, names)}
    return ["config.json", *sorted((SMALL & names) - {"config.json"}), *sorted(weights & names)]


def _weights(path: Path) -> list[Path]:
    """The safetensors files of a folder; empty unless all of them are there."""
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    if not (path / INDEX).is_file():
        return []
    names = set(json.loads((path / INDEX).read_text())["weight_map"].values())
    found = [path / name for name in sorted(names) if _SHARD.fullmatch(name) and (path / name).is_file()]
    return found if len(found) == len(names) else []


def _check_whole(file: Path, name: str) -> None:
    """Compare a safetensors file's size with what its header says: eight bytes, the header, the tensors."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length < size else None
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        whole = size == 8 + length + max(ends)
    except (ValueError, AttributeError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ReaderError(f"The file {file.name} of “{name}” is cut short or damaged; download it again.")


def _read_json(path: Path, name: str) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ReaderError(f"The {path.name} of “{name}” is not valid JSON.")
    return value


def _check_adapter(path: Path) -> None:
    """Let the adapter refuse config attributes it does not know while only config.json has been fetched."""
    from transformers import AutoConfig

    from engine.adapters import adapter_for

    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    adapter_for(config.model_type).spec(config)


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
    _refuse_pickles(name, listed)
    if "config.json" not in listed:
        raise ReaderError(f"“{name}” has no config.json, so it is not a checkpoint.")
    return _Plan(repo, str(info.sha), tuple(_remote(listed[file]) for file in _loadable(listed)))


def _remote(file: Any) -> _Remote:
    if file.lfs is not None:
        return _Remote(file.rfilename, file.lfs.size, file.lfs.sha256, None)
    return _Remote(file.rfilename, file.size or 0, None, file.blob_id)


def _check_room(name: str, plan: _Plan) -> None:
    """Refuse a download that cannot fit, before it starts."""
    store = _store(plan.repo)
    there = next(parent for parent in (store, *store.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < plan.nbytes:
        raise ReaderError(
            f"The disk is too full for “{name}”: it needs {_megabytes(plan.nbytes)} and {_megabytes(free)} are free."
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


class _Cancelled(Exception):
    """Raised inside the worker thread when the calling thread has given up."""


class _Meter:
    """Bytes received so far, counted in the worker thread and read in the calling one."""

    def __init__(self) -> None:
        self.finished = 0
        self.current = 0
        self.cancelled = False

    def bar(self) -> type:
        """A stand-in for the `tqdm` class that huggingface_hub reports to, for one file."""
        meter, restarts = self, 0

        class Bar:
            def __init__(self, *_: Any, **__: Any) -> None:
                pass

            def __enter__(self) -> "Bar":
                return self

            def __exit__(self, *_: Any) -> None:
                pass

            def update(self, n: float | None = 1) -> None:
                nonlocal restarts
                restarts += (n or 0) < 0  # the server cannot resume: the file starts again
                if meter.cancelled:
                    raise _Cancelled
                if restarts >= _RESTARTS:  # huggingface_hub itself would go on for as long as anything arrives
                    raise OSError("Consistency check failed: the connection breaks off every time")
                meter.current += int(n or 0)

            def _ignore(self, *_: Any, **__: Any) -> None:
                pass

            update_transfer = set_postfix_str = set_transfer_postfix_str = refresh = close = _ignore

        return Bar


def _fetch_all(plan: _Plan, progress: Progress) -> None:
    """Fetch every file in a worker thread while reporting from this one, where a page's script context lives."""
    meter = _Meter()
    worker = ThreadPoolExecutor(1, thread_name_prefix="hub-download")
    job = worker.submit(_fetch_each, plan, meter)
    try:
        while not job.done():
            progress(min(meter.finished + meter.current, plan.nbytes), plan.nbytes)
            wait([job], timeout=0.2)
    except BaseException:
        meter.cancelled = True
        raise
    finally:
        worker.shutdown(wait=False)
    job.result()
    progress(plan.nbytes, plan.nbytes)


def _fetch_each(plan: _Plan, meter: _Meter) -> None:
    for file in plan.files:
        if meter.cancelled:
            raise _Cancelled
        _fetch(plan, file, meter)
        meter.finished, meter.current = meter.finished + file.size, 0


def _fetch(plan: _Plan, file: _Remote, meter: _Meter | None = None) -> Path:
    """One file into the local cache, verified."""
    from huggingface_hub import hf_hub_download

    bar: Any = (meter or _Meter()).bar()
    path = Path(hf_hub_download(plan.repo, file.name, revision=plan.revision, tqdm_class=bar))
    if not _intact(path, file):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise ReaderError(_cut_short(plan.repo, file.name))
    return path


def _intact(path: Path, file: _Remote) -> bool:
    """Whether a file has the size and the hash that the Hub states for it."""
    if path.stat().st_size != file.size:
        return False
    if file.sha256:
        return _digest(path, hashlib.sha256()) == file.sha256
    if file.git_sha1:
        return _digest(path, hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)) == file.git_sha1
    return True


def _digest(path: Path, running: Any) -> str:
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            running.update(chunk)
    return str(running.hexdigest())


def _mark_complete(plan: _Plan) -> None:
    """Name this revision as `main` in the cache, last of all, so that half a download never counts as cached."""
    ref = _store(plan.repo) / "refs" / "main"
    ref.parent.mkdir(parents=True, exist_ok=True)
    partial = ref.with_name(f"main.{os.getpid()}")
    partial.write_text(plan.revision)
    partial.replace(ref)


@contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """Turn whatever can go wrong between here and the Hub into one sentence about it."""
    from httpx2 import HTTPError

    try:
        yield
    except (OSError, RuntimeError, HTTPError) as error:
        raise ReaderError(_sentence(name, error)) from error


def _sentence(name: str, error: BaseException) -> str:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return _sentence(name, error.__cause__)
    if isinstance(error, OfflineModeIsEnabled):
        return f"“{name}” is not on this machine, and HF_HUB_OFFLINE forbids to download it."
    if isinstance(error, HfHubHTTPError):
        return _refusal(name, error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return f"The disk ran full while “{name}” was downloaded; nothing of the unfinished file was kept."
    if "Consistency check failed" in str(error):
        return _cut_short(name, "")
    return _silence(name, error)


def _refusal(name: str, error: Any) -> str:
    """The Hub answered, and the answer was no."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    status = error.response.status_code
    if isinstance(error, GatedRepoError) or status == 403:
        return (
            f"“{name}” is gated ({status}): accept its conditions on its page on the Hub, "
            "set HF_TOKEN to a token of your account, and try again."
        )
    if status == 401:
        return f"The Hub asks for a login for “{name}” (401): it is gated or private and needs HF_TOKEN, or it does not exist."
    if status == 404 or isinstance(error, RepositoryNotFoundError):
        return f"The Hub has no checkpoint called “{name}” (404)."
    if status == 416:
        return _cut_short(name, "")
    if status == 429:
        return f"The Hub asks for patience (429): too many requests came from this address, so try “{name}” again later."
    return f"The Hub could not deliver “{name}”: it answered with the status {status}."


def _silence(name: str, error: BaseException) -> str:
    """No answer, or one that broke off."""
    from httpx2 import ConnectError, TimeoutException, TransportError
    from huggingface_hub import constants

    host = constants.ENDPOINT.split("://")[-1]
    if isinstance(error, TimeoutException):
        return f"The Hub ({host}) did not answer in time, so “{name}” was not downloaded."
    if isinstance(error, ConnectError):
        return f"The Hub ({host}) cannot be reached from this machine, so “{name}” was not downloaded."
    if isinstance(error, TransportError):
        return f"The connection to the Hub ({host}) broke off while “{name}” was downloaded."
    return f"“{name}” was not downloaded: {shorten(str(error).strip().splitlines()[0] if str(error) else type(error).__name__, 160)}"


def _cut_short(name: str, file: str) -> str:
    what = f"The file {file}" if file else "A file"
    return f"{what} of “{name}” arrived cut short or damaged and was thrown away; try again."
