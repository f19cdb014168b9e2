"""Stages of a training once more: numbers that numpy reads from kept files, in transformers' own model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from engine.checkpoints.catalogue import locate

Tensor = torch.Tensor


def stage_models(checkpoint: str, files: Sequence[Path | None]) -> Iterator[Any]:
    """A model for each kept file of a bundled checkpoint's run, one after the other; None: its own weights."""
    for file in files:
        model = AutoModelForCausalLM.from_pretrained(
            locate(checkpoint),
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            use_safetensors=True,
        ).eval()
        if file is not None:
            _fill(model, file)
        yield model


@torch.no_grad()
def _fill(model: Any, file: Path) -> None:
    """A matrix is kept as int8 with a scale for each of its rows, a vector as fp16."""
    kept = load_file(file)
    for name, parameter in model.named_parameters():
        weight = kept[name].astype(np.float32)
        if f"{name}.scale" in kept:
            weight = weight * kept[f"{name}.scale"][:, np.newaxis]
        parameter.copy_(torch.from_numpy(weight))


@torch.no_grad()
def stage_logits(checkpoint: str, files: Sequence[Path | None], ids: Sequence[int]) -> Tensor:
    """Logits of every stage, float64, (stage, seq, vocab)."""
    batch = torch.tensor([list(ids)])
    return torch.stack(
        [model(batch, use_cache=False).logits[0].double() for model in stage_models(checkpoint, files)]
    )


@torch.no_grad()
def best_induction(checkpoint: str, files: Sequence[Path | None], ids: Sequence[int]) -> Tensor:
    """The best head's induction score in every stage (stage,), on a start token and the same n tokens twice.

    From the weights that transformers returns: a head's mean on one diagonal, the one n - 1 places back.
    """
    n = (len(ids) - 1) // 2
    batch, found = torch.tensor([list(ids)]), []
    for model in stage_models(checkpoint, files):
        weights = torch.cat(model(batch, output_attentions=True, use_cache=False).attentions).double()
        back = weights.diagonal(1 - n, -2, -1)  # layer, head, query from n - 1 on
        found.append(back[..., 2:].mean(-1).max())
    return torch.stack(found)
