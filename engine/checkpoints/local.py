"""Checkpoints that lie on this machine as a folder or a .gguf file of the reader's own."""

from pathlib import Path

from engine.checkpoints import hub_names, safety


def existing(text: str) -> Path | None:
    """The folder or .gguf file that a text leads to as a path, or None."""
    try:
        path = Path(text).expanduser()
        there = path.is_dir() or (text.endswith(".gguf") and path.is_file())
        return path if text and there else None
    except (OSError, RuntimeError, ValueError):  # text that no file system can hold
        return None


def ggufs(path: Path) -> list[Path]:
    """The GGUF checkpoints of a folder that has no safetensors weights; empty for any other path."""
    try:
        files = {file.name for file in path.iterdir()} if path.is_dir() else set()
    except OSError:  # not to be read
        return []
    if files & {safety.SINGLE, safety.INDEX}:
        return []
    return [path / name for name in hub_names.gguf_models(files) if (path / name).is_file()]


def checkpoint(path: Path) -> Path:
    """What there is to load at an existing path: the only GGUF checkpoint of a folder, else the path itself."""
    found = ggufs(path)
    return found[0] if len(found) == 1 else path
