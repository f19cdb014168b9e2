"""Merge a LoRA into the checkpoint that it was trained on."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from engine import ReaderError
from engine.checkpoints import safety
from engine.model.checking import not_finite
from engine.tokens.text import reason, shorten

CONFIG, WEIGHTS = safety.LORA_CONFIG, "adapter_model.safetensors"
_PLAIN = re.compile(r"[\w.-]{1,200}")


def is_lora(folder: Path) -> bool:
    """Whether a folder holds a LoRA and no weights of its own."""
    return (
        (folder / CONFIG).is_file()
        and not (folder / safety.SINGLE).is_file()
        and not (folder / safety.INDEX).is_file()
    )


def base_of(folder: Path) -> str:
    """The name of the checkpoint that a LoRA belongs to. Raises ReaderError when it names none, or is no LoRA."""
    name = folder.name
    settings = safety.read_json(folder / CONFIG, name)
    kind, base = str(settings.get("peft_type") or ""), settings.get("base_model_name_or_path")
    if kind.upper() != "LORA":
        raise ReaderError(
            f"“{name}” is a PEFT adapter of the kind “{shorten(kind or 'unnamed', 30)}”; only LoRA can be merged here."
        )
    if not base or not isinstance(base, str):
        raise ReaderError(f"“{name}” is a LoRA adapter that does not say which checkpoint it belongs to.")
    _refuse_patterns(settings, name)
    return _on_this_machine(base, name)


def check_folder(folder: Path, name: str) -> None:
    """Raises ReaderError when a file of the LoRA is missing or damaged."""
    if (folder / "adapter_model.bin").is_file() and not (folder / WEIGHTS).is_file():
        raise ReaderError(
            f"The LoRA adapter “{name}” is pickled (adapter_model.bin), which can run code when it is read; this app "
            "reads safetensors only."
        )
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise ReaderError(f"The LoRA adapter “{name}” is not complete: {missing[0]} is missing.")
    safety.check_ordinary(folder, name)
    if safety.header(folder / WEIGHTS) is None:
        raise ReaderError(f"The file {WEIGHTS} of “{name}” is cut short or damaged; download it again.")
    safety.check_tokenizer(folder, name)


def _refuse_patterns(settings: Any, name: str) -> None:
    """A regular expression from a stranger can run for ever, so layers are to be named by plain words."""
    for key in (
        "target_modules",
        "exclude_modules",
        "layers_pattern",
        "modules_to_save",
        "target_parameters",
    ):
        named = settings.get(key)
        words = named if isinstance(named, list) else [named]
        if any(word is not None and not (isinstance(word, str) and _PLAIN.fullmatch(word)) for word in words):
            raise ReaderError(
                f"The LoRA adapter “{name}” selects its layers by a pattern ({key}), which is not followed here."
            )


def _on_this_machine(base: str, name: str) -> str:
    """The name under which a LoRA's base can be loaded with no network. Raises ReaderError with the base's name."""
    from engine.checkpoints import hub
    from engine.checkpoints.catalogue import BUNDLED, folder, known

    bundled = [c.name for c in BUNDLED if base in (c.name, c.location, f"engine/assets/{c.name}")]
    for candidate in (*bundled, base):
        here = (folder(candidate) or hub.snapshot(candidate)) if known(candidate) else None
        if here is not None and here.is_dir() and is_lora(here):
            raise ReaderError(f"“{name}” is a LoRA adapter of “{shorten(base, 80)}”, which is itself one.")
        if here is not None:
            return candidate
    raise ReaderError(
        f"“{name}” is a LoRA adapter of “{shorten(base, 80)}”, which is not on this machine; load that checkpoint "
        "first, then this folder."
    )


@torch.no_grad()
def merged(base: Any, folder: Path, dtype: torch.dtype) -> Any:
    """`base` (fp32, changed in place) with the LoRA's matrices added to its weights, then cast to `dtype`.

    A LoRA is the low-rank update (alpha / rank) · B A of each linear layer (Hu et al. 2021, LoRA, section 4.1)
    and whole rows of the embedding for the special tokens. It is added in fp32, whatever the precision asked for.
    Raises ReaderError when it does not fit the base.
    """
    from peft import (  # here: a second to import, and only a LoRA needs it
        PeftModel,
        get_peft_model_state_dict,
    )

    try:
        # PEFT writes safetensors and reads one where there is one: no pickle is opened.
        beside = PeftModel.from_pretrained(base, str(folder), is_trainable=False)
        _refuse_made_up(folder, set(get_peft_model_state_dict(beside)))
        model: Any = beside.merge_and_unload()
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a stranger's files, refused with many kinds of exception
        raise ReaderError(
            f"The LoRA adapter “{folder.name}” does not fit its base: {reason(error)}"
        ) from error
    model.requires_grad_(False)
    return model.to(dtype).eval()


def _refuse_made_up(folder: Path, wanted: set[str]) -> None:
    """PEFT leaves what it does not find at its random start: refuse that, and tensors that have no place."""
    file = folder / WEIGHTS
    held = set(safety.header(file) or {})
    for what, names in (("lacks", wanted - held), ("holds, without a place for it,", held - wanted)):
        if names:
            first, more = (
                shorten(min(names), 90),
                f" and {len(names) - 1} more tensors" if len(names) > 1 else "",
            )
            raise ReaderError(
                f"The adapter “{folder.name}” {what} {first}{more}; nothing is made up instead."
            )
    state = file.stat()
    broken = not_finite(file, state.st_size, state.st_mtime_ns)
    if broken:
        raise ReaderError(f"The tensor {shorten(broken[0], 90)} of “{folder.name}” holds NaN or infinity.")
