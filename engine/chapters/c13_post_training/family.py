"""Which versions of a checkpoint are compared: the one before post-training and those after it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from engine.checkpoints import memory, safety
from engine.checkpoints.catalogue import CATALOGUE
from engine.checkpoints.hub import is_cached

if TYPE_CHECKING:
    from engine.model.loaded import Loaded

POCKET = {"base": "pocket-llama", "SFT": "pocket-llama-sft", "DPO": "pocket-llama-dpo"}
"""The bundled family: pre-trained, then fine-tuned on instructions, then on preferences."""

PAIRS = {"HuggingFaceTB/SmolLM2-135M": "SmolLM2-135M-Instruct"}
"""Checkpoints of the Hub and their tuned siblings."""

COLORS = {"base": "token", "SFT": "query", "DPO": "key", "instruct": "query"}
"""One colour for each version, in every figure of the chapter."""


@dataclass(frozen=True)
class Version:
    """One version of a checkpoint. `get` loads it, so that cards can take one after the other into memory."""

    label: str
    name: str
    get: "Callable[[], Loaded]" = field(compare=False, repr=False)


@dataclass(frozen=True)
class Family:
    """Version names by label, the base first.

    reference  label of the version that DPO's loss measures the last one against
    note       one sentence for a reader whose checkpoint is not one of these; empty when it is
    """

    names: dict[str, str]
    reference: str
    note: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.names)

    @property
    def recorded(self) -> bool:
        """Whether the runs that made these versions were recorded."""
        return self.names is POCKET

    @property
    def tuned(self) -> tuple[str, ...]:
        """Labels of the versions that were tuned."""
        return self.labels[1:]

    def versions(self, get: "Callable[[str], Loaded]") -> tuple[Version, ...]:
        """All versions; `get` loads a checkpoint by its name."""
        return tuple(Version(label, name, _later(get, name)) for label, name in self.names.items())


def _later(get: "Callable[[str], Loaded]", name: str) -> "Callable[[], Loaded]":
    return lambda: get(name)


def family_of(checkpoint: str, here: Callable[[str], bool] = is_cached) -> Family:
    """The family of the checkpoint that the reader has chosen; the bundled one where it has none of its own.

    here  whether a checkpoint loads without a download
    """
    for base, tuned in PAIRS.items():
        if checkpoint in (base, tuned):
            missing = [name for name in (base, tuned) if not here(name)]
            if not missing:
                return Family({"base": base, "instruct": tuned}, "base")
            return _pocket(
                f"{checkpoint} would be compared with {missing[0]}, which is not on this machine yet: choose it "
                "once in the sidebar to download it. Until then this chapter compares pocket-llama with its two tuned "
                "versions."
            )
    if checkpoint in POCKET.values():
        return _pocket("")
    shown = checkpoint if checkpoint in CATALOGUE else "your checkpoint"
    return _pocket(
        f"No version of {shown} from before or after tuning is known here, so this chapter compares pocket-llama with "
        "its two tuned versions."
    )


def parameters(family: Family) -> int:
    """How many numbers the base learned: those that its files state, without loading them."""
    headers = [safety.header(file) or {} for file in memory.files(family.names[family.labels[0]])]
    return sum(prod(tensor["shape"]) for header in headers for tensor in header.values())


def _pocket(note: str) -> Family:
    return Family(POCKET, "SFT", note)


def by_label(versions: Sequence[Version], label: str) -> Version:
    """The version of that label. Raises KeyError."""
    return {version.label: version for version in versions}[label]
