"""What is trained in post-training: LoRA matrices and the rows of three special tokens; and the folder they leave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel

from engine.tokens.chat import ASSISTANT, END, USER
from engine.training.checkpointing import save_json, write_atomically

UNUSED_BYTES = "øùú"
"""How byte-level BPE writes the bytes 0xF8, 0xF9 and 0xFA, which no UTF-8 text contains: their ids are free."""

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    f"{{% if message.role == 'user' %}}{USER}{{{{ message.content }}}}"
    f"{{% elif message.role == 'assistant' %}}{ASSISTANT}"
    f"{{% generation %}}{{{{ message.content }}}}{END}{{% endgeneration %}}"
    "{% else %}{{ raise_exception('only user and assistant take part') }}{% endif %}"
    f"{{% endfor %}}{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_tokenizer(base: Path, folder: Path) -> None:
    """The base's tokenizer with three pieces renamed and made special, a chat template, and the new end token.

    The vocabulary keeps its size and every other id, so distributions can be compared id by id.
    Raises ValueError when the tokenizer has no such pieces.
    """
    folder.mkdir(parents=True, exist_ok=True)
    value = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = value["model"]["vocab"]
    if not set(UNUSED_BYTES) <= set(vocab):
        raise ValueError("The tokenizer has no pieces for single bytes that could be renamed.")
    for piece, mark in zip(UNUSED_BYTES, (USER, ASSISTANT, END), strict=True):
        vocab[mark] = vocab.pop(piece)
        like = value["added_tokens"][0]
        value["added_tokens"].append({**like, "id": vocab[mark], "content": mark})
    value["model"]["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
    text = json.dumps(value, ensure_ascii=False, indent=2)
    write_atomically(folder / "tokenizer.json", lambda partial: _write(partial, text))
    config = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    extra = {"eos_token": END, "pad_token": config["bos_token"], "chat_template": TEMPLATE}
    save_json(folder / "tokenizer_config.json", {**config, **extra})


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def special_token_ids(tokenizer: Any) -> list[int]:
    """Ids of the user, assistant and end tokens."""
    return [int(tokenizer.convert_tokens_to_ids(mark)) for mark in (USER, ASSISTANT, END)]


def with_lora(base: PreTrainedModel, tokenizer: Any, rank: int, alpha: int, seed: int) -> PeftModel:
    """``base`` frozen, with a new LoRA pair on every linear layer of its blocks and three trainable embedding rows.

    Source: Hu et al. 2021, LoRA. The embedding is also the unembedding, and the rows stay one and the same there.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=LINEAR,
        trainable_token_indices=special_token_ids(tokenizer),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PeftModel = get_peft_model(base, config)
    return model


def load_lora(base: PreTrainedModel, folder: Path) -> PeftModel:
    """``base`` with the LoRA of ``folder``, its matrices to be trained on."""
    model: PeftModel = PeftModel.from_pretrained(base, str(folder), is_trainable=True)
    return model


def trained(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The parameters that an update changes."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_lora(model: PeftModel, tokenizer: Path, base: str, folder: Path) -> None:
    """``folder`` as the app loads it: fp16 LoRA, its config naming ``base``, tokenizer and generation config."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    path = folder / "adapter_model.safetensors"
    tensors = {name: tensor.to(torch.float16).contiguous() for name, tensor in load_file(path).items()}
    write_atomically(path, lambda partial: save_file(tensors, partial, metadata={"format": "pt"}))
    path.chmod(0o644)  # safetensors makes its files readable by their owner alone
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    save_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": base})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    loaded = AutoTokenizer.from_pretrained(folder)
    ends = [loaded.eos_token_id, loaded.bos_token_id]
    GenerationConfig(
        bos_token_id=loaded.bos_token_id, eos_token_id=ends, pad_token_id=ends[1]
    ).save_pretrained(folder)
    (folder / "README.md").unlink(
        missing_ok=True
    )  # PEFT's empty form; engine.training.post_training writes one
