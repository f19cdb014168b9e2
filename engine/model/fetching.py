"""Checkpoints from the Hub that this app can load: `engine.checkpoints.hub`, with the adapters asked first."""

from pathlib import Path

from engine.checkpoints import hub
from engine.checkpoints.hub import HubEntry, Progress


def describe(name: str) -> HubEntry:
    """Whether a checkpoint is on this machine, and how many bytes it would take to fetch. Raises ReaderError."""
    from engine.model.accepting import accept  # here, because it imports transformers

    return hub.describe(name, accept)


def download(name: str, progress: Progress) -> Path:
    """Fetch what is missing of a checkpoint; the folder that holds it, or its GGUF file. Raises ReaderError."""
    from engine.model.accepting import accept

    return hub.download(name, progress, accept)
