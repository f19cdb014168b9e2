"""The checkpoints that the app offers. Imports nothing heavy."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from engine import ReaderError
from engine.checkpoints import hub_cache, hub_names, local, packaged, safety
from engine.tokens.text import shorten

ASSETS = Path(__file__).parent.parent / "assets"


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

PACKAGED = (
    Checkpoint(
        "SmolLM2-135M-Instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "a modern small Llama, tuned to follow instructions",
    ),
)
"""Published checkpoints that an installed package can hold too (`engine.checkpoints.packaged`): no Hub is needed."""

HUB = (
    Checkpoint("openai-community/gpt2", "openai-community/gpt2", "GPT-2 small, the classic"),
    Checkpoint("distilbert/distilgpt2", "distilbert/distilgpt2", "GPT-2 distilled to six layers"),
    Checkpoint(
        "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M", "a modern small Llama, as pretrained"
    ),
    Checkpoint("HuggingFaceTB/SmolLM2-360M", "HuggingFaceTB/SmolLM2-360M", "the same, larger"),
    Checkpoint("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B", "grouped-query attention with attention biases"),
    Checkpoint("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "an RMSNorm on each head's queries and keys"),
    Checkpoint("EleutherAI/pythia-160m", "EleutherAI/pythia-160m", "GPT-NeoX: attention and MLP in parallel"),
)

CATALOGUE = {checkpoint.name: checkpoint for checkpoint in PACKAGED + BUNDLED + HUB}
"""What the sidebar lists."""

_NAMED = CATALOGUE | {checkpoint.name: checkpoint for checkpoint in TUNED}


def entry(name: str) -> Checkpoint | None:
    """The listed or tuned checkpoint of that name."""
    return _NAMED.get(name)


PRIVATE = frozenset({"", "0", "false", "no", "off"})
"""What ANATOMY_PUBLIC says, in any case and with any space around it, on a copy that is not public."""

PUBLIC_BYTES = 1_000_000_000
"""The largest weights, at four bytes a number, that a public copy loads: all of its readers share one machine."""

_public = threading.Event()


def public() -> bool:
    """Whether this is a public deployment: listed checkpoints that are on this machine, one heavy job at a time.

    ANATOMY_PUBLIC is anything but one of `PRIVATE`, or `make_public` was called. It stays so for as long as the
    process lives, whatever becomes of the variable.
    """
    if asks_for_public(os.environ.get("ANATOMY_PUBLIC", "")):
        make_public()
    return _public.is_set()


def asks_for_public(value: object) -> bool:
    """Whether a value of ANATOMY_PUBLIC, from wherever it comes, makes a copy public."""
    return str(value).strip().lower() not in PRIVATE


def make_public() -> None:
    """From now on this process is a public deployment."""
    _public.set()


def locate(name: str) -> str:
    """The folder or Hub id behind a checkpoint's name."""
    found = entry(name)
    return name if found is None else found.location


def folder(name: str) -> Path | None:
    """The files on this machine that a name stands for; None for a Hub id, and where a name could mean either.

    A bundled checkpoint's folder, an existing folder, an existing .gguf file, or the one .gguf file of a folder
    without other weights. A relative name that is also a Hub id means the Hub unless it is written as a path
    (`./owner/name`); one without an owner means the folder unless the Hub's cache has a repository of that name.
    """
    named = entry(name)
    if named is not None:
        return Path(named.location) if named.bundled else None
    path = local.existing(name)
    return None if path is None or _on_hub(name, path) else local.checkpoint(path)


def _on_hub(name: str, path: Path) -> bool:
    """Whether a name that is an existing path here does not mean it: a Hub id, or a name that could be both."""
    if hub_names.is_path(name) or path.is_file():
        return False
    return is_hub_id(name) and ("/" in name or "@" in name or _cached(name))


def _cached(name: str) -> bool:
    return snapshot(name) is not None


def snapshot(name: str) -> Path | None:
    """The complete local copy of a Hub checkpoint, a folder or a GGUF file, or None. No network."""
    asked = hub_names.parse(locate(name))
    found = hub_cache.find(asked) if asked else None
    return found.path if found else None


def is_cached(name: str) -> bool:
    """Whether a checkpoint loads with no network: bundled, a folder or file, in the local cache, or in a package."""
    return folder(name) is not None or snapshot(name) is not None or packaged.find(name) is not None


def offered() -> list[str]:
    """The listed checkpoints that a reader may choose: all, or on a public copy those that `check_name` accepts."""
    return [name for name in CATALOGUE if not public() or known(name)]


def folder_note(name: str) -> str:
    """One more sentence, with a space before it, for a Hub checkpoint that is not here while a folder of its name
    is: how to write the folder. Empty otherwise, and on a public copy."""
    if public() or folder(name) is not None or local.existing(name) is None:
        return ""
    return f" There is also a folder “{shorten(name, 80)}” here; write ./{shorten(name, 80)} for it."


def is_hub_id(name: str) -> bool:
    """Whether a text has the form of a Hub id: `name` or `owner/name`, then perhaps `@revision` and `/file.gguf`.

    Says nothing about its existence.
    """
    return hub_names.parse(name) is not None


def known(name: str) -> bool:
    """Whether a name may be asked for: a listed checkpoint; on a private app also a folder, a file or a Hub id."""
    try:
        check_name(name)
    except ReaderError:
        return False
    return True


def check_name(name: str) -> None:
    """Raises ReaderError for a name that may not be asked for, whatever text it is."""
    if name in CATALOGUE:
        if public():
            _check_public(CATALOGUE[name])
        return
    short = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shorten(name, 80))
    if public():
        raise ReaderError(f"“{short}” is not one of the checkpoints that this public copy offers.")
    path = folder(name)
    if hub_names.is_split(name):
        raise ReaderError(f"“{short}” is one part of a split GGUF file, and this app reads whole ones only.")
    if path is None:
        _check_hub_name(name, short)
    elif found := local.ggufs(path):  # several: of one alone `path` would be the file
        raise ReaderError(hub_names.choice(short, [file.name for file in found], str(found[0])))


def _check_public(listed: Checkpoint) -> None:
    """Raises ReaderError for a listed checkpoint that is not on a public copy's machine, or too large for it."""
    if listed.bundled:
        return
    if not is_cached(listed.name):
        raise ReaderError(
            f"“{listed.name}” is not on the server of this public copy, and nothing is downloaded to it."
        )
    path = snapshot(listed.name)
    size = 4 * safety.numbers(safety.weights(path)) if path is not None and path.is_dir() else 0
    if size > PUBLIC_BYTES:
        raise ReaderError(
            f"“{listed.name}” has weights of {size / 1e9:,.1f} GB at fp32, and this public copy loads none of more "
            f"than {PUBLIC_BYTES / 1e9:,.0f} GB."
        )


def _check_hub_name(name: str, short: str) -> None:
    """Raises ReaderError for a text that is no Hub id, or that is also the name of a folder here."""
    if not is_hub_id(name):
        if hub_names.is_repo_id(name.partition("@")[0]) and "@" in name:
            raise ReaderError(
                f"“{short}” names no possible revision: after the @ comes a branch, a tag or a commit, "
                "as in owner/name@step512."
            )
        raise ReaderError(
            f"“{short}” is neither a listed checkpoint, nor a folder or .gguf file here, nor a Hub id such as "
            "owner/name."
        )
    if "/" not in name and "@" not in name and local.existing(name) is not None:
        raise ReaderError(
            f"“{short}” is a folder here and also a checkpoint of the Hub on this machine; write ./{short} for the "
            f"folder, or {short}@main for the one of the Hub."
        )
