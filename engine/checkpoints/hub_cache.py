"""The Hub's local cache, as every tool of Hugging Face fills it: what of it is complete. No network.

A repository's folder holds `snapshots/<commit>/`, and `refs/<branch or tag>` with the commit that it meant when it
was fetched. Written and read without huggingface_hub's own functions, whose import costs more than the look-up.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from engine import ReaderError
from engine.checkpoints import safety
from engine.checkpoints.hub_names import MAIN, HubName, is_revision

_COMMIT = re.compile(r"[0-9a-f]{40}")
_RENAMED = {
    "openai-community/gpt2": "gpt2",
    "openai-community/gpt2-medium": "gpt2-medium",
    "openai-community/gpt2-large": "gpt2-large",
    "openai-community/gpt2-xl": "gpt2-xl",
    "distilbert/distilgpt2": "distilgpt2",
}
"""Repositories that had no owner once. The Hub knows both names; a cache has the one that was asked for."""
_OTHER_NAME = _RENAMED | {old: new for new, old in _RENAMED.items()}


@dataclass(frozen=True)
class Cached:
    """A checkpoint in the cache: `path` is its snapshot's folder, or its GGUF file in there.

    `repo` and `revision` are what `from_pretrained` needs to find the same files without a network: the name under
    which the cache holds them, and a revision, empty where none is needed.
    """

    path: Path
    commit: str
    repo: str
    revision: str


def find(name: HubName) -> Cached | None:
    """The complete copy of a checkpoint in the cache, or None.

    A repository that the Hub has renamed is found under its other name too. Where `main` is meant and the cache does
    not say which commit that was (older tools, a download by commit), the newest complete snapshot is taken, but none
    that another branch or tag names.
    """
    for repo in filter(None, (name.repo, _OTHER_NAME.get(name.repo))):
        try:
            found = _find_in(repo, name)
        except (OSError, ValueError, ReaderError):  # damaged, or a name that no file system can hold
            continue
        if found is not None:
            return found
    return None


def store(repo: str) -> Path:
    """The folder of the cache that holds one repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / constants.REPO_ID_SEPARATOR.join(["models", *repo.split("/")])


def mark_begun(repo: str, commit: str) -> None:
    """Note that a snapshot's files are on their way and not yet verified: no ref may be there to tell."""
    note = _unverified(store(repo), commit)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def mark_complete(name: HubName, commit: str) -> None:
    """Write the ref of the asked revision, last of all: half a download never counts as cached."""
    if not _COMMIT.fullmatch(name.revision):
        ref = store(name.repo) / "refs" / name.revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        partial = ref.with_name(f"{ref.name}.{os.getpid()}")
        partial.write_text(commit)
        partial.replace(ref)
    _unverified(store(name.repo), commit).unlink(missing_ok=True)


def _find_in(repo: str, name: HubName) -> Cached | None:
    at = store(repo)
    ref = _commit_of(at / "refs" / name.revision)
    if _COMMIT.fullmatch(name.revision):
        commits = [name.revision] if _verified(at, name.revision) else []
    elif ref or name.revision != MAIN:
        commits = [ref] if ref else []
    else:
        commits = _newest_first(at)
    for commit in commits:
        path = _content(at / "snapshots" / commit, name.file)
        if path is not None:
            revision = name.revision if ref else commit
            return Cached(path, commit, repo, "" if revision == MAIN else revision)
    return None


def _content(snapshot: Path, file: str) -> Path | None:
    if file:
        return snapshot / file if (snapshot / file).is_file() else None
    return snapshot if safety.complete(snapshot) else None


def _commit_of(ref: Path) -> str:
    """The commit that a ref names; empty for no ref, or one that would lead out of the snapshots."""
    commit = ref.read_text().strip() if ref.is_file() else ""
    return commit if is_revision(commit) and "/" not in commit else ""


def _newest_first(at: Path) -> list[str]:
    """Commits in the cache that no ref names, the newest first."""
    named = {_commit_of(path) for path in (at / "refs").rglob("*")}
    found = [
        path for path in (at / "snapshots").iterdir() if path.name not in named and _verified(at, path.name)
    ]
    return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def _unverified(at: Path, commit: str) -> Path:
    return at / ".unverified" / commit


def _verified(at: Path, commit: str) -> bool:
    return not _unverified(at, commit).exists()
