"""Refuse a checkpoint before anything reads its weights: foreign code, pickles, other tools' exports, damaged files.

Looks at file names, small JSON files and safetensors headers. Every refusal is a ReaderError of one sentence.
"""

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from engine import ReaderError
from engine.tokens.text import shorten

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LORA_CONFIG = "adapter_config.json"

_TOKENIZERS = ({"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"})
_SMALL = frozenset.union(
    frozenset({"config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"}),
    frozenset({"added_tokens.json", "chat_template.jinja", "chat_template.json"}),
    *_TOKENIZERS,
)
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_TEXTS = (".json", ".jinja", ".txt", ".model", ".tiktoken")
"""Endings of files that tokenizers of one kind or another look for."""
_LONG = frozenset({"tokenizer.json", "vocab.json"})
_GROWTH = 1000
"""A tokenizer replaces a character by at most so many: one that spells out names of characters needs forty."""
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

_METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "compressed-tensors": "compressed-tensors",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "mxfp4": "MXFP4",
}
"""`quant_method` in a config.json -> the name that people know the format by."""

_EXPORTS = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ", "hf_quant_config.json": "ModelOpt"}
"""Files that only an export of that kind has."""

JSON_BYTES = 16_000_000
"""The largest JSON file that is read: an index of thousands of shards has one or two megabytes."""

TEXT_BYTES = 64_000_000
"""The largest file besides the weights that a library is let read: tokenizers of 250,000 entries have half of that."""

_HEADER_BYTES = 100_000_000  # as much as safetensors itself accepts


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
    """Refuse a list of files that is no checkpoint: no config, no tokenizer, pickled weights or none.

    Also what only an export by a quantizing tool has, and a LoRA adapter beside full weights.
    """
    names = set(files)
    if "config.json" not in names:
        raise ReaderError(f"“{name}” has no config.json, so it is not a checkpoint.")
    exports = sorted(_EXPORTS[file] for file in names & set(_EXPORTS))
    if exports:
        raise quantized(name, exports[0])
    if not names & {SINGLE, INDEX}:
        _refuse_weights(names, name)
    if LORA_CONFIG in names:
        raise ReaderError(
            f"“{name}” holds a LoRA adapter ({LORA_CONFIG}) beside full weights, so it is not clear which model is "
            "meant; keep the two in folders of their own."
        )
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
    """Refuse a config.json that wants the repository's own code, whose weights another tool has already quantized, or
    whose head predicts no token."""
    refuse_remote_code(config, name)
    method = _quantized_by(config)
    if method:
        raise quantized(name, method)
    named = config.get("architectures")
    heads = [
        head for head in (named if isinstance(named, list) else [named]) if isinstance(head, str) and head
    ]
    if heads and not any(head.endswith(("LMHeadModel", "ForCausalLM", "Model")) for head in heads):
        raise ReaderError(
            f"“{name}” is a {shorten(heads[0], 60)}: it has another head in the place of a language model's, "
            "so it predicts no next token."
        )


def quantized(name: str, method: str) -> ReaderError:
    """The refusal of weights that another tool has quantized."""
    return ReaderError(
        f"“{name}” was already quantized by another tool ({method}); take the original checkpoint, "
        "which this app can quantize to 8 or 4 bits itself."
    )


def _quantized_by(config: Mapping[str, Any]) -> str:
    """The format that a config says its weights are quantized in; empty for none."""
    settings = config.get("quantization_config")
    if config.get("quantization"):
        return "MLX"
    if settings:
        stated = settings if isinstance(settings, dict) else {}
        method = str(stated.get("quant_method") or "")
        if not method and any(stated.get(flag) for flag in ("load_in_4bit", "load_in_8bit")):
            return "bitsandbytes"
        return _METHODS.get(method.lower(), shorten(method, 30) or "a format that it does not name")
    stored = (str(config.get(key) or "") for key in ("dtype", "torch_dtype"))
    return "FP8" if any(dtype.startswith("float8") for dtype in stored) else ""


def refuse_remote_code(config: Mapping[str, Any], name: str) -> None:
    """Refuse a config, of the model or of its tokenizer, that names classes in the repository's own files."""
    if config.get("auto_map"):
        raise ReaderError(f"“{name}” wants to run Python code of its own, which never happens here.")


def check_folder(path: Path) -> None:
    """Refuse a folder that cannot be loaded, by what can be seen without reading its weights."""
    name = path.name or str(path)
    if not path.is_dir():
        raise ReaderError(f"There is no folder “{shorten(str(path), 80)}” on this machine.")
    try:
        files = os.listdir(path)
    except OSError as error:
        raise ReaderError(f"The folder “{shorten(name, 80)}” cannot be read.") from error
    check_listing(files, name)
    check_ordinary(path, name)
    check_config(read_json(path / "config.json", name), name)
    check_tokenizer(path, name)
    check_weights(path, name)


def check_weights(path: Path, name: str) -> None:
    """Refuse a folder whose safetensors files are not all there and whole."""
    found = weights(path)
    if not found and not (path / INDEX).is_file():
        raise ReaderError(f"The {SINGLE} of “{name}” is no ordinary file.")
    if not found:
        raise ReaderError(f"Some of the safetensors files that “{name}” lists in its index are missing.")
    for file in found:
        if header(file) is None:
            raise ReaderError(f"The file {file.name} of “{name}” is cut short or damaged; download it again.")


def check_ordinary(path: Path, name: str) -> None:
    """Refuse a folder with something that a library would read for ever, or that it would stumble over.

    Every file that is read by the name that it has is an ordinary one of a size that such files have; JSON is JSON.
    """
    chats = path / "additional_chat_templates"
    for file in [*path.iterdir(), *(chats.iterdir() if chats.is_dir() else ())]:
        read = file.name in _SMALL or file.suffix in _TEXTS
        try:
            state = file.stat()
        except OSError:  # a link that leads nowhere
            if file.name in _SMALL:
                raise ReaderError(f"The {file.name} of “{name}” cannot be read.") from None
            continue
        if stat.S_ISDIR(state.st_mode):
            ordinary = file.name not in _SMALL
        else:
            ordinary = stat.S_ISREG(state.st_mode) and (not read or state.st_size <= TEXT_BYTES)
        if not ordinary:
            raise ReaderError(
                f"The {shorten(file.name, 60)} of “{name}” is no ordinary file, or larger than any such file is."
            )
    for file in sorted(_SMALL):
        if file.endswith(".json") and (path / file).is_file():
            read_json(path / file, name, TEXT_BYTES if file in _LONG else JSON_BYTES)


def check_tokenizer(path: Path, name: str) -> None:
    """Refuse a folder whose tokenizer wants the repository's own code, or would make texts grow without end."""
    for file in path.glob("tokenizer_config.json"):
        refuse_remote_code(read_json(file, name), name)
    if (path / "tokenizer.json").is_file():
        written = read_json(path / "tokenizer.json", name, TEXT_BYTES)
        growth = _growth(written.get("normalizer")) * _growth(written.get("decoder"))
        if growth > _GROWTH:
            raise ReaderError(
                f"The tokenizer of “{name}” replaces text by longer text so often that it could grow by a factor of "
                f"{min(growth, 10**9):,} or more, so it is not used."
            )


def _growth(part: Any) -> int:
    """How many times longer a step of a tokenizer may make a text: what it puts in for a character, step by step."""
    if not isinstance(part, dict):
        return 1
    steps = [part[key] for key in ("normalizers", "decoders") if isinstance(part.get(key), list)]
    grown = [_growth(step) for listed in steps for step in listed[:1000]]
    own = [len(part[key]) for key in ("content", "replacement") if isinstance(part.get(key), str)]
    return min(prod(max(1, factor) for factor in [*grown, *own]), 10**12)


def header(file: Path) -> dict[str, dict[str, Any]] | None:
    """The tensors that a safetensors file names: name -> dtype, shape, data_offsets. None for a damaged file.

    A whole file is as long as its header says: eight bytes, the header, the tensors.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(size, _HEADER_BYTES):
                return None
            entries = json.loads(stream.read(length))
        entries.pop("__metadata__", None)
        whole = size == 8 + length + max(int(entry["data_offsets"][1]) for entry in entries.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    return entries if whole else None


def numbers(files: Iterable[Path]) -> int:
    """How many numbers some safetensors files hold, by their headers."""
    return sum(prod(shape(entry)) for file in files for entry in (header(file) or {}).values())


def shape(entry: Mapping[str, Any]) -> list[int]:
    """The shape that a header states for a tensor; one that states none has no numbers."""
    stated = entry.get("shape")
    return [size if isinstance(size, int) else 0 for size in stated] if isinstance(stated, list) else [0]


def read_json(path: Path, name: str, most: int = JSON_BYTES) -> Mapping[str, Any]:
    """A JSON object from a file of at most `most` bytes. Raises ReaderError when it is anything else."""
    try:
        if not path.is_file() or path.stat().st_size > most:
            raise ReaderError(
                f"The {path.name} of “{name}” is no ordinary file, or larger than any such file is."
            )
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        value = None
    except OSError as error:
        raise ReaderError(f"The {path.name} of “{name}” cannot be read.") from error
    if not isinstance(value, dict):
        raise ReaderError(f"The {path.name} of “{name}” is not valid JSON.")
    return value
