"""How a checkpoint on the Hub is written: `owner/name`, with `@revision` and `/file.gguf` where they are wanted.

Only text: nothing here looks at a file system or opens a connection.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAIN = "main"
"""The revision that is meant when none is written."""

_REPO_PART = re.compile(r"\w([\w.-]{0,94}\w)?", re.ASCII)
_REVISION_PART = re.compile(r"\w[\w.+=-]*", re.ASCII)
_SPECIAL_REF = re.compile(
    r"refs/(pr/\d+|convert/\w+)", re.ASCII
)  # as huggingface_hub's HfFileSystem splits them
_NO_FILE_NAME = re.compile(r'[\\:*?"<>|@]')  # what some file system here or there cannot hold, and our own @
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_PATH = re.compile(r"[/\\~]|\.{1,2}([/\\]|$)|[A-Za-z]:[/\\]")
_SHOWN = 5  # files that a refusal lists
_LONGEST = 200  # characters of a revision or of a file's path


@dataclass(frozen=True)
class HubName:
    """A repository, the revision of it that is meant, and one GGUF file in it or, without one, its safetensors."""

    repo: str
    revision: str = MAIN
    file: str = ""

    def __str__(self) -> str:
        revision = "" if self.revision == MAIN else f"@{self.revision}"
        return self.repo + revision + (f"/{self.file}" if self.file else "")


def parse(text: str) -> HubName | None:
    """What a text names on the Hub, or None where it has no such form. Says nothing about its existence.

    `owner/name` (or a `name` of the time before owners), then `@` and a branch, tag or commit, then the path of a
    GGUF file. Before a file a revision is one word, or `refs/pr/1`; any other slash belongs to the file.
    """
    repo, at, rest = text.partition("@")
    if at:
        revision, file = _revision_and_file(rest)
    else:
        revision, (repo, file) = MAIN, _repo_and_file(repo)
    well_formed = is_repo_id(repo) and is_revision(revision) and (not file or _is_file(file))
    return HubName(repo, revision, file) if well_formed else None


def is_repo_id(text: str) -> bool:
    """Whether a text is a possible `name` or `owner/name`: `validate_repo_id`, without what it would import."""
    parts = text.split("/")
    well_formed = len(parts) <= 2 and all(_REPO_PART.fullmatch(part) for part in parts)
    return well_formed and "--" not in text and ".." not in text and not text.endswith(".git")


def is_revision(text: str) -> bool:
    """Whether a text is a possible branch, tag or commit: git's rules for refs, in letters that need no quoting."""
    return len(text) <= _LONGEST and all(
        _REVISION_PART.fullmatch(part) and ".." not in part and not part.endswith((".", ".lock"))
        for part in text.split("/")
    )


def is_split(text: str) -> bool:
    """Whether a name is that of one part of a split GGUF file, such as x-00001-of-00003.gguf."""
    return bool(_SPLIT.search(text))


def gguf_models(files: Iterable[str]) -> list[str]:
    """Of a list of files, the GGUF ones that can be a whole language model: no parts, no image encoders."""
    found = (file for file in files if file.endswith(".gguf") and not is_split(file))
    return sorted(file for file in found if "mmproj" not in file)


def choice(name: str, files: Sequence[str], example: str) -> str:
    """The sentence for a place with several GGUF files, none of which was named; `example` names one."""
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    listed = ", ".join(files[:_SHOWN]) + more
    return f"“{name}” has no safetensors weights, but GGUF files ({listed}): name one of them, such as {example}."


def is_path(text: str) -> bool:
    """Whether a text is written as a path: it starts with ./, ../, /, ~ or a drive, or it ends with a slash."""
    return bool(_PATH.match(text)) or text.endswith(("/", "\\"))


def _repo_and_file(text: str) -> tuple[str, str]:
    parts = text.split("/")
    if len(parts) > 2 and text.endswith(".gguf"):
        return "/".join(parts[:2]), "/".join(parts[2:])
    return text, ""


def _revision_and_file(text: str) -> tuple[str, str]:
    if not (text.endswith(".gguf") and "/" in text):
        return text, ""
    special = _SPECIAL_REF.match(text)
    revision = special[0] if special else text.partition("/")[0]
    return revision, text[len(revision) :].removeprefix("/")


def _is_file(text: str) -> bool:
    return (
        len(text) <= _LONGEST
        and text.isprintable()
        and not _NO_FILE_NAME.search(text)
        and all(part == part.strip() and part not in ("", ".", "..") for part in text.split("/"))
    )
