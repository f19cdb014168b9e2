"""The checkpoints that the app offers, and the precisions they can run at. Imports nothing heavy."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from engine import ReaderError
from engine.tokens.text import shorten

ASSETS = Path(__file__).parent.parent / "assets"

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "nf4", "fp4")
"""The last three are executed by bitsandbytes: LLM.int8, 4-bit NormalFloat, 4-bit float."""


@dataclass(frozen=True)
class Checkpoint:
    """A named checkpoint: `location` is a folder for a bundled one, a Hub id otherwise.

    A tuned one's folder holds a LoRA adapter, a tokenizer and a generation config; its weights are those of the
    bundled checkpoint named `base`, with the adapter merged in.
    """

    name: str
    location: str
    note: str
    bundled: bool = False
    base: str = ""


BUNDLED = (
    Checkpoint(
        "pocket-gpt2",
        str(ASSETS / "pocket-gpt2"),
        "GPT-2's architecture, small: learned positions, LayerNorm, GELU",
        bundled=True,
    ),
    Checkpoint(
        "pocket-llama",
        str(ASSETS / "pocket-llama"),
        "Llama's architecture, small: RoPE, RMSNorm, SwiGLU, grouped-query attention",
        bundled=True,
    ),
)

TUNED = (
    Checkpoint(
        "pocket-llama-sft",
        str(ASSETS / "pocket-llama-sft"),
        "pocket-llama tuned to answer requests",
        bundled=True,
        base="pocket-llama",
    ),
    Checkpoint(
        "pocket-llama-dpo",
        str(ASSETS / "pocket-llama-dpo"),
        "pocket-llama tuned to answer requests, then on preferences",
        bundled=True,
        base="pocket-llama",
    ),
)
"""What post-training made of a bundled checkpoint. Chapter 13 loads them by name; the sidebar does not list them."""

HUB = (
    Checkpoint("openai-community/gpt2", "openai-community/gpt2", "GPT-2 small, the classic"),
    Checkpoint("distilbert/distilgpt2", "distilbert/distilgpt2", "GPT-2 distilled to six layers"),
    Checkpoint("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M", "a modern small Llama"),
    Checkpoint(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "the same, tuned to follow instructions",
    ),
    Checkpoint("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", "grouped-query attention with attention biases"),
    Checkpoint("EleutherAI/pythia-160m", "EleutherAI/pythia-160m", "GPT-NeoX: attention and MLP in parallel"),
)

CATALOGUE = {checkpoint.name: checkpoint for checkpoint in BUNDLED + HUB}
"""What the sidebar lists."""

_NAMED = CATALOGUE | {checkpoint.name: checkpoint for checkpoint in TUNED}


def entry(name: str) -> Checkpoint | None:
    """The listed or tuned checkpoint of that name."""
    return _NAMED.get(name)


def public() -> bool:
    """Whether this is a public deployment (ANATOMY_PUBLIC=1): listed checkpoints, one heavy job at a time."""
    return os.environ.get("ANATOMY_PUBLIC", "") == "1"


def locate(name: str) -> str:
    """The folder or Hub id behind a checkpoint's name."""
    found = entry(name)
    return name if found is None else found.location


def folder(name: str) -> Path | None:
    """The folder a name stands for: a bundled checkpoint's, or an existing local one; None for a Hub id."""
    named = entry(name)
    if named is not None:
        return Path(named.location) if named.bundled else None
    try:
        path = Path(name).expanduser()
        return path if name and path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # text that no file system can hold
        return None


_HUB_PART = re.compile(r"\w([\w.-]{0,94}\w)?", re.ASCII)


def is_hub_id(name: str) -> bool:
    """Whether a text has the form of a Hub id, `name` or `owner/name`. Says nothing about its existence."""
    parts = name.split("/")
    well_formed = len(parts) <= 2 and all(_HUB_PART.fullmatch(part) for part in parts)
    return well_formed and "--" not in name and ".." not in name and not name.endswith(".git")


def known(name: str) -> bool:
    """Whether a name may be asked for: a listed checkpoint; on a private app also a folder or a Hub id."""
    return name in CATALOGUE or (not public() and (folder(name) is not None or is_hub_id(name)))


def check_name(name: str) -> None:
    """Raises ReaderError for a name that `known` does not accept, whatever text it is."""
    if known(name):
        return
    short = shorten(name, 80)
    if public():
        raise ReaderError(f"“{short}” is not one of the checkpoints that this public copy offers.")
    raise ReaderError(
        f"“{short}” is neither a listed checkpoint, nor a folder here, nor a Hub id such as owner/name."
    )


def default_checkpoint() -> str:
    """What a fresh page shows: ANATOMY_CHECKPOINT if set, GPT-2 if it is already here, else pocket-gpt2.

    Only looks at the file system. Raises ReaderError when ANATOMY_CHECKPOINT is no name that `known` accepts.
    """
    named = os.environ.get("ANATOMY_CHECKPOINT", "").strip()
    if named:
        check_name(named)
        return named
    from engine.checkpoints.hub import is_cached  # here, because engine.checkpoints.hub needs this module

    classic = HUB[0].name
    return classic if is_cached(classic) else BUNDLED[0].name
