"""What a checkpoint is called on a page."""

import os
import re

from engine.checkpoints import hub_names


def short(name: str) -> str:
    """The last part of a path, be it a folder's or a file's; listed names and Hub ids as they are."""
    if not _is_path(name):
        return name
    parts = [part for part in re.split(r"[/\\]", name) if part]
    last = parts[-1] if parts else ""
    if last in ("", ".", "..", "~"):  # these name no folder by themselves
        return os.path.basename(os.path.abspath(os.path.expanduser(name))) or name
    return last


def _is_path(name: str) -> bool:
    """Whether a name is one of a file system: written as such, or the relative path of a .gguf file here."""
    if hub_names.is_path(name) or "\\" in name:
        return True
    if hub_names.parse(name) is None:
        return "/" in name
    return name.endswith(".gguf") and os.path.isfile(name)
