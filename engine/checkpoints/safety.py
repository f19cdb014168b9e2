"""Refuse a checkpoint before anything reads its weights: foreign code, pickles, files that are cut short.

Looks at file names, small JSON files and safetensors headers. Every refusal is a ReaderError of one sentence.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine import ReaderError
from engine.model.adapters import SUPPORTED, adapter_for
from engine.tokens.text import shorten

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_TOKENIZERS = ({"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"})
_SMALL = frozenset.union(
    frozenset({"config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"}),
    frozenset({"added_tokens.json", "chat_template.jinja", "chat_template.json"}),
    *_TOKENIZERS,
)
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def loadable(files: Iterable[str]) -> list[str]:
    """Of a checkpoint's files, those that loading reads: config.json first, weights last."""
    names = set(files)
    weights = {SINGLE} if SINGLE in names else {INDEX, *filter(_SHARD.fullmatch, names)}
    small = (_SMALL & names) - {"config.json"}
    return ["config.json", *sorted(small), *sorted(weights & names)]


def complete(path: Path) -> bool:
    """Whether a folder holds a config, a tokenizer and all its safetensors weights."""
    return (path / "config.json").is_file() and _has_tokenizer(os.listdir(path)) and bool(weights(path))


def weights(path: Path) -> list[Path]:
    """The safetensors files of a folder; empty unless all of them are there."""
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    if not (path / INDEX).is_file():
        return []
    shards = read_json(path / INDEX, path.name).get("weight_map")
    names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
    found = [path / name for name in names if _SHARD.fullmatch(name) and (path / name).is_file()]
    return found if len(found) == len(names) else []


def check_listing(files: Iterable[str], name: str) -> None:
    """Refuse a list of files that is no checkpoint: no config, no tokenizer, pickled weights or none."""
    names = set(files)
    if "config.json" not in names:
        raise ReaderError(f"“{name}” has no config.json, so it is not a checkpoint.")
    if not names & {SINGLE, INDEX}:
        _refuse_weights(names, name)
    if not _has_tokenizer(names):
        raise ReaderError(f"“{name}” comes without a tokenizer, so no text can be put into it.")


def _refuse_weights(names: set[str], name: str) -> None:
    pickled = sorted(file for file in names if file.endswith(_PICKLED))
    if pickled:
        raise ReaderError(
            f"“{name}” has only pickled weights ({shorten(pickled[0], 40)}), which can run code when "
            "they are read; this app reads safetensors only."
        )
    raise ReaderError(f"“{name}” holds no safetensors weights.")


def _has_tokenizer(names: Iterable[str]) -> bool:
    return any(needed <= set(names) for needed in _TOKENIZERS)


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Refuse a config.json that wants the repository's own code, or whose model_type has no adapter."""
    refuse_remote_code(config, name)
    model_type = str(config.get("model_type") or "")
    if model_type not in SUPPORTED:
        stated = f"the unsupported model_type “{shorten(model_type, 40)}”" if model_type else "no model_type"
        raise ReaderError(f"“{name}” names {stated}; supported are {', '.join(SUPPORTED)}.")


def refuse_remote_code(config: Mapping[str, Any], name: str) -> None:
    """Refuse a config, of the model or of its tokenizer, that names classes in the repository's own files."""
    if config.get("auto_map"):
        raise ReaderError(f"“{name}” wants to run Python code of its own, which never happens here.")


def check_adapter(path: Path, name: str) -> None:
    """Let the adapter refuse what it does not know in a folder's config.json. Imports transformers."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a stranger's values, refused with many kinds of exception
        raise ReaderError(f"The config.json of “{name}” does not describe a working model.") from error
    adapter_for(config.model_type).spec(config)


def check_folder(path: Path) -> None:
    """Refuse a local folder that cannot be loaded safely. Reads config files and headers, no weights.

    Raises ReaderError: no folder, config.json or tokenizer, an unsupported model_type, remote code wanted,
    only pickled weights, weights missing or cut short.
    """
    name = path.name or str(path)
    if not path.is_dir():
        raise ReaderError(f"There is no folder “{shorten(str(path), 80)}” on this machine.")
    check_listing(os.listdir(path), name)
    check_config(read_json(path / "config.json", name), name)
    check_tokenizer(path, name)
    check_weights(path, name)


def check_weights(path: Path, name: str) -> None:
    """Refuse a folder whose safetensors files are not all there and whole."""
    found = weights(path)
    if not found:
        raise ReaderError(f"Some of the safetensors files that “{name}” lists in its index are missing.")
    for file in found:
        if not _whole(file):
            raise ReaderError(f"The file {file.name} of “{name}” is cut short or damaged; download it again.")


def check_tokenizer(path: Path, name: str) -> None:
    """Refuse a folder whose tokenizer wants the repository's own code."""
    for file in path.glob("tokenizer_config.json"):
        refuse_remote_code(read_json(file, name), name)


def _whole(file: Path) -> bool:
    """Whether a safetensors file is as long as its header says: eight bytes, the header, the tensors."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(min(length, size))
    try:
        entries = [entry for key, entry in json.loads(header).items() if key != "__metadata__"]
        return size == 8 + length + max(int(entry["data_offsets"][1]) for entry in entries)
    except (ValueError, AttributeError, KeyError, TypeError):
        return False


def read_json(path: Path, name: str) -> Mapping[str, Any]:
    """A JSON object from a file. Raises ReaderError when it is anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ReaderError(f"The {path.name} of “{name}” is not valid JSON.")
    return value
