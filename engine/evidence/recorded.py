"""The recordings behind RECORDED figures."""

from functools import lru_cache

from engine import ReaderError
from engine.evidence.card import Recorded
from engine.training.recording import Recording, load_recording


@lru_cache(maxsize=8)
def recording(name: str) -> Recording:
    """A bundled recording, read once. Raises ReaderError when it is missing or broken."""
    try:
        return load_recording(name)
    except (FileNotFoundError, ValueError) as error:
        raise ReaderError(f"The recording “{name}” cannot be shown: {error}") from error


def source(run: Recording) -> Recorded:
    """The run behind a figure, for the card."""
    return Recorded(script=run.command.removeprefix("python -m "), date=run.date, hardware=run.hardware)
