"""Merge a LoRA adapter into the checkpoint that it was trained on."""

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from engine import ReaderError

_FILES = ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "generation_config.json")


def check_folder(folder: Path, name: str) -> None:
    """Raises ReaderError when a file of the adapter is missing."""
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise ReaderError(f"The adapter “{name}” is not complete: {missing[0]} is missing.")


@torch.no_grad()
def merged(base: Any, folder: Path, dtype: torch.dtype) -> Any:
    """`base` (fp32, changed in place) with the adapter's matrices added to its weights, then cast to `dtype`.

    An adapter is the low-rank update (alpha / rank) · B A of each linear layer (Hu et al. 2021, LoRA, section 4.1)
    and whole rows of the embedding for the special tokens. It is added in fp32, whatever the precision asked for.
    """
    from peft import PeftModel  # here: a second to import, and only tuned checkpoints need it

    # PEFT writes a safetensors adapter and reads one where there is one: no pickle is opened.
    model: Any = PeftModel.from_pretrained(base, str(folder), is_trainable=False).merge_and_unload()
    model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    model.requires_grad_(False)
    return model.to(dtype).eval()
