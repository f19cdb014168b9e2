"""Checkpoints from the Hugging Face Hub: is it here, how large is it, fetch it.

Nothing here opens a connection unless `describe` or `download` is called for a checkpoint that is not on this
machine yet. Only safetensors weights or one GGUF file are fetched: a pickle can run code, a repository's own Python
too. A checkpoint is written `owner/name`, `owner/name@revision` or `owner/name/file.gguf` (see `hub_names`).
Every failure is a ReaderError whose one sentence says which failure it was.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine import ReaderError
from engine.checkpoints import hub_cache, hub_names, safety
from engine.checkpoints.catalogue import (
    BUNDLED,
    HUB,
    PACKAGED,
    check_name,
    folder,
    is_cached,
    locate,
    public,
    snapshot,
)
from engine.checkpoints.hub_cache import Cached
from engine.checkpoints.hub_errors import NotTheHub, one_sentence
from engine.checkpoints.hub_names import HubName
from engine.checkpoints.safety import check_folder
from engine.checkpoints.transfer import Progress, Remote, Source
from engine.tokens.text import shorten

__all__ = [
    "Cached",
    "HubEntry",
    "Progress",
    "cached",
    "check_folder",
    "default_checkpoint",
    "describe",
    "download",
    "is_cached",
    "snapshot",
]

Accept = Callable[[Mapping[str, Any], str], None]
"""Raises ReaderError for what a config.json says when no model could be made of it; given the name to speak of."""

_TIMEOUT = 10.0  # seconds until the Hub counts as silent
_CONFIG_BYTES = 1_000_000  # the largest config.json that is fetched from a stranger


@dataclass(frozen=True)
class HubEntry:
    """A checkpoint before it is loaded. `bytes` counts only the files that would be read."""

    name: str
    cached: bool
    bytes: int | None
    revision: str


@dataclass(frozen=True)
class _Plan:
    """What a download would fetch: one GGUF file, or config.json first and the weights last."""

    name: str
    asked: HubName
    source: Source
    files: tuple[Remote, ...] = ()

    @property
    def commit(self) -> str:
        return self.source.commit

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files)


def cached(name: str) -> Cached | None:
    """Where the local cache holds a Hub checkpoint, and what `from_pretrained` calls it there. No network."""
    asked = hub_names.parse(locate(name))
    return hub_cache.find(asked) if asked else None


def describe(name: str, accept: Accept) -> HubEntry:
    """Whether a checkpoint is on this machine, and how many bytes it has or would have to be downloaded.

    Asks the Hub only about a checkpoint that is not cached, and refuses what `download` would refuse before the
    weights. Raises ReaderError.
    """
    check_name(name)
    local = folder(name)
    if local is not None:
        return HubEntry(name, True, _bytes_in(local), "local")
    here = cached(name)
    if here is not None:
        return HubEntry(name, True, _bytes_in(here.path), here.commit)
    with one_sentence(name):
        plan = _plan(name)
        _check_config(plan, accept)
    return HubEntry(name, False, plan.nbytes, plan.commit)


def download(name: str, progress: Progress, accept: Accept) -> Path:
    """Fetch what is missing of a Hub checkpoint and return the folder that holds it, or the GGUF file.

    What can be refused by the names of the files and by the small ones is refused before the weights are fetched;
    every file is compared with the size and the hash that the Hub states. `progress` is called from the calling
    thread; an exception from it ends the download. Raises ReaderError.
    """
    check_name(name)
    here = folder(name) or snapshot(name)
    if here is not None:
        return here
    with one_sentence(name):
        plan = _plan(name)
        target = _check_config(plan, accept)
        _check_room(plan)
        hub_cache.mark_begun(plan.asked.repo, plan.commit)
        last = plan.source.fetch_all(plan.files, progress, _tokenizer_check(plan))
        if target:
            safety.check_weights(target, name)
        hub_cache.mark_complete(plan.asked, plan.commit)
    return target or last


def default_checkpoint() -> str:
    """What a fresh page shows: ANATOMY_CHECKPOINT if set, else GPT-2 or SmolLM2 if it is here, else pocket-gpt2.

    On a public copy not GPT-2: what some reader's machine once fetched shall not become the default of all.
    Only looks at the file system. Raises ReaderError when ANATOMY_CHECKPOINT is no name that `known` accepts.
    """
    named = os.environ.get("ANATOMY_CHECKPOINT", "").strip()
    if named:
        check_name(named)
        return named
    order = PACKAGED[:1] if public() else (HUB[0], PACKAGED[0])
    return next((one.name for one in order if is_cached(one.name)), BUNDLED[0].name)


def _bytes_in(path: Path) -> int:
    """Bytes of a GGUF file, or of the files in a folder that loading would read."""
    if path.is_file():
        return path.stat().st_size
    try:
        files = [path / file for file in safety.loadable(os.listdir(path))]
    except OSError as error:
        raise ReaderError(f"The folder “{shorten(path.name, 80)}” cannot be read.") from error
    return sum(file.stat().st_size for file in files if file.is_file())


def _plan(name: str) -> _Plan:
    """Ask the Hub for a repository's files, one request, and refuse what their names and sizes tell."""
    from huggingface_hub import HfApi

    asked = hub_names.parse(locate(name))
    if asked is None:
        raise ReaderError(f"“{name}” is no checkpoint of the Hub.")
    revision = None if asked.revision == hub_names.MAIN else asked.revision
    try:
        info = HfApi().model_info(asked.repo, revision=revision, files_metadata=True, timeout=_TIMEOUT)
    except (ValueError, KeyError, TypeError) as error:  # an answer, but not the API's
        raise NotTheHub from error
    listed = {file.rfilename: _remote(file) for file in info.siblings or []}
    plan = _Plan(name, asked, Source(asked.repo, str(info.sha)))
    if asked.file:
        return replace(plan, files=(_gguf(listed, plan),))
    _refuse_unnamed_gguf(listed, plan)
    _refuse_adapter(listed, plan)
    safety.check_listing(listed, name)
    return replace(plan, files=tuple(listed[file] for file in safety.loadable(listed)))


def _remote(file: Any) -> Remote:
    if file.lfs is not None:
        return Remote(file.rfilename, file.lfs.size, file.lfs.sha256, None)
    return Remote(file.rfilename, file.size or 0, None, file.blob_id)


def _gguf(listed: Mapping[str, Remote], plan: _Plan) -> Remote:
    """The GGUF file that was asked for."""
    if plan.asked.file in listed:
        return listed[plan.asked.file]
    others = hub_names.gguf_models(listed)
    hint = f"; it has {others[0]}" if others else ", nor any other GGUF file"
    raise ReaderError(f"“{plan.asked.repo}” has no file {shorten(plan.asked.file, 80)}{hint}.")


def _refuse_unnamed_gguf(listed: Mapping[str, Remote], plan: _Plan) -> None:
    """Refuse a repository whose only weights are GGUF files when none of them was named."""
    if safety.SINGLE in listed or safety.INDEX in listed:
        return
    whole = hub_names.gguf_models(listed)
    if whole:
        example = str(replace(plan.asked, file=whole[0]))
        raise ReaderError(hub_names.choice(plan.name, whole, example))
    if any(hub_names.is_split(file) for file in listed):
        raise ReaderError(f"“{plan.name}” holds split GGUF files only, and this app reads whole ones.")


def _refuse_adapter(listed: Mapping[str, Remote], plan: _Plan) -> None:
    """Refuse a repository that holds a LoRA adapter alone, and say what it adapts."""
    if safety.LORA_CONFIG not in listed or safety.SINGLE in listed or safety.INDEX in listed:
        return
    settings = safety.read_json(_fetch_small(plan, listed[safety.LORA_CONFIG]), plan.name)
    base = settings.get("base_model_name_or_path")
    of = f" for “{shorten(base, 80)}”" if isinstance(base, str) and base else ""
    raise ReaderError(
        f"“{plan.name}” is a LoRA adapter{of} without weights of its own; take a checkpoint that it is merged into."
    )


def _check_config(plan: _Plan, accept: Accept) -> Path | None:
    """Fetch config.json alone and check it; the folder it lies in. None for a GGUF file, which has its own."""
    if plan.asked.file:
        return None
    config = _fetch_small(plan, plan.files[0])
    values = safety.read_json(config, plan.name)
    safety.check_config(values, plan.name)
    accept(values, plan.name)
    return config.parent


def _fetch_small(plan: _Plan, file: Remote) -> Path:
    """Fetch a config, unless it is larger than any config is."""
    if file.size > _CONFIG_BYTES:
        size = f"{file.size / 1e6:,.1f} MB"
        raise ReaderError(f"The {file.name} of “{plan.name}” has {size}, more than any config needs.")
    return plan.source.fetch(file)


def _tokenizer_check(plan: _Plan) -> Callable[[Remote, Path], None]:
    """Told of every file that has arrived: checks the tokenizer once it is there, while no weights are."""

    def arrived(file: Remote, path: Path) -> None:
        if file.name == "tokenizer_config.json":
            safety.check_tokenizer(path.parent, plan.name)

    return arrived


def _check_room(plan: _Plan) -> None:
    """Refuse a download that cannot fit, before it starts."""
    store = hub_cache.store(plan.asked.repo)
    free = shutil.disk_usage(next(path for path in (store, *store.parents) if path.exists())).free
    if free < plan.nbytes:
        need, have = (f"{size / 1e6:,.0f} MB" for size in (plan.nbytes, free))
        raise ReaderError(f"The disk is too full for “{plan.name}”: it needs {need}, and {have} are free.")
