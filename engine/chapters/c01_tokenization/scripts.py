"""Lines of *Code* scripts that build a tokenizer."""

import hashlib
from functools import cache
from pathlib import Path

from engine.evidence.script import home_lines, place
from engine.model.loaded import Loaded
from engine.tokens import ASSETS, encodings


@cache
def fingerprint(name: str) -> str:
    """SHA-256 of a bundled rank file, so that a script refuses any other."""
    return hashlib.sha256(encodings.rank_file(name).read_bytes()).hexdigest()


ENCODE = "tokenizer({text}, split_special_tokens=True, add_special_tokens=False).input_ids"
"""Python source of the ids of a text alone: nothing in it is special, and no start token is put before it."""


def tiktoken_lines(name: str, variable: str = "encoding") -> str:
    """Lines of a script that build one of tiktoken's encodings from the bundled rank file."""
    pattern = encodings.definition(name)["pat_str"]
    return (
        "import tiktoken\n"
        "from tiktoken.load import load_tiktoken_bpe\n\n"
        f"path = {_below_the_app(encodings.rank_file(name))!r}\n"
        f"{variable} = tiktoken.Encoding(\n"
        f"    {name!r},\n"
        f"    pat_str={pattern!r},\n"
        f"    mergeable_ranks=load_tiktoken_bpe(path, {fingerprint(name)!r}),\n"
        f"    special_tokens={encodings.definition(name)['special_tokens']!r},\n"
        ")\n"
    )


def _below_the_app(file: Path) -> str:
    """A bundled file as a script names it that runs in the app's folder."""
    return f"engine/assets/{file.relative_to(ASSETS).as_posix()}"


def tokenizer_lines(loaded: Loaded) -> str:
    """Lines of a script that load the checkpoint's own tokenizer."""
    return "".join(
        f"{line}\n"
        for line in (
            *home_lines(loaded.source),
            "from transformers import AutoTokenizer",
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({place(loaded.source)})",
        )
    )
