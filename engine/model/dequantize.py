"""Make an ordinary checkpoint folder of a GGUF file: ``python -m engine.model.dequantize FILE FOLDER``.

Reads it with transformers, compares what was read with what the file holds, and writes config.json, the tokenizer,
model.safetensors and a note on where they came from. Prints one JSON object on a line for each step, and in the end
either {"done": true} or {"refused": a sentence}.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

from engine import ReaderError
from engine.checkpoints import gguf, memory
from engine.model import accepting
from engine.model.precisions import REFERENCE
from engine.tokens.text import reason, shorten

EXACT = {"F32", "F16", "BF16"}
"""GGML types whose numbers were not rounded to blocks."""

DIGITS_APART = frozenset("smollm starcoder refact command-r codeshell exaone minerva-7b".split())
"""Values of `tokenizer.ggml.pre` that cut out each digit before GPT-2's pattern (llama.cpp, llama-vocab.cpp)."""

GPT2_PATTERN = frozenset("gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4".split())
"""Values of `tokenizer.ggml.pre` that stand for GPT-2's pattern alone (llama.cpp, llama-vocab.cpp)."""

_HARMLESS = frozenset(
    {"vocab_size", "tensor_data_layout", "use_parallel_residual", "expert_count", "expert_used_count"}
)


def main(file: str, folder: str) -> None:
    """Dequantize FILE into FOLDER, telling the steps on standard output."""
    path, target = Path(file), Path(folder)
    try:
        _make(path, target)
    except ReaderError as refusal:
        _say(refused=str(refusal))
    except MemoryError:
        _say(refused="there is not enough free memory to read it.")
    except Exception as error:  # whatever a library makes of a stranger's file
        _say(refused=f"transformers cannot read it: {reason(error)}")
    else:
        _say(done=True)


def _make(path: Path, target: Path) -> None:
    _say(share=0.02, what=f"Reading {path.name}")
    metadata, types, numbers = _header(path)
    _check(metadata, types)
    memory.check("it", 2 * 4 * numbers, REFERENCE, "cpu")  # as read, and as the model holds it
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    transformers.utils.logging.set_verbosity_error()
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    config = AutoConfig.from_pretrained(**place)
    _check_config(metadata, config)
    _say(share=0.2, what="Building the tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(**place)
    _set_split(tokenizer, metadata)
    tokenizer.save_pretrained(target)
    _watch_tensors()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **place, config=config, dtype=_dtype(types), output_loading_info=True, attn_implementation="eager"
    )
    model, info = loaded
    _check_tensors(model, info, path)
    _say(share=0.9, what="Keeping the weights as safetensors")
    model.hf_quantizer = None  # it is quantized no longer
    for settings in (model.config, config):
        settings.__dict__.pop("quantization_config", None)
    model.save_pretrained(target, max_shard_size="1TB")
    note = {"file": path.name, "sha256": gguf.sha256(path), "types": dict(Counter(types.values()))}
    (target / "gguf.json").write_text(json.dumps(note, indent=1), encoding="utf-8")


def _header(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """The metadata of a file, arrays as their lengths, the GGML type of each tensor, and how many numbers it holds."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from transformers.integrations.gguf.reader import _mapped, _read_metadata, _read_tensor_table

    blob = _mapped(str(path))
    metadata, count, position = _read_metadata(blob, str(path))
    entries, position = _read_tensor_table(blob, count, position)
    known = {int(kind): kind.name for kind in GGMLQuantizationType}
    align = int(metadata.get("general.alignment", 32))
    begin = (int(position) + align - 1) // align * align
    ends = [0]
    for _, shape, kind, offset in entries:
        block, size = (
            GGML_QUANT_SIZES.get(GGMLQuantizationType(int(kind)), (1, 0)) if int(kind) in known else (1, 0)
        )
        ends.append(begin + int(offset) + prod(int(n) for n in shape) // block * size)
    if max(ends) > path.stat().st_size:
        raise ReaderError("it is cut short: its tensors would end beyond it; download it again.")
    types = {name: known.get(int(kind), f"type {kind}") for name, _, kind, _ in entries}
    return metadata, types, sum(prod(int(n) for n in shape) for _, shape, _, _ in entries)


def _check(metadata: dict[str, Any], types: dict[str, str]) -> None:
    """Refuse what transformers would refuse late or read wrongly: a part of a file, types, and unknown splits."""
    from gguf.quants import _type_traits
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    if int(metadata.get("split.count", 1)) > 1:
        raise ReaderError("it is one part of a file split into several, which cannot be put together here.")
    architecture = str(metadata.get("general.architecture"))
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise ReaderError(f"transformers does not read GGUF files of the architecture “{architecture[:40]}”.")
    readable = EXACT | {kind.name for kind in _type_traits}
    strange = sorted(set(types.values()) - readable)
    if strange:
        raise ReaderError(
            f"it holds tensors of the GGML type {', '.join(strange[:4])}, which cannot be dequantized here."
        )
    pre = metadata.get("tokenizer.ggml.pre")
    byte_level = metadata.get("tokenizer.ggml.model") == "gpt2"
    told = pre in {*GGUF_PRE_TOKENIZER_SPLITS, *DIGITS_APART, *GPT2_PATTERN}
    if byte_level and not told and architecture != "gpt2":
        named = f"the pattern “{shorten(str(pre), 40)}”" if pre else "no pattern"
        raise ReaderError(f"it names {named} for cutting text into pieces, so its tokens would be a guess.")


def _check_config(metadata: dict[str, Any], config: Any) -> None:
    """Refuse an architecture without an adapter here, and metadata that the config does not carry on."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_TO_TRANSFORMERS_MAPPING

    accepting.config_from({key: value for key, value in config.to_dict().items() if value is not None}, "it")
    architecture = metadata["general.architecture"]
    every: Any = GGUF_TO_TRANSFORMERS_MAPPING["config"]
    mapped: dict[str, Any] = every.get(architecture, {})
    carried = {name for name, attribute in mapped.items() if attribute not in (None, -1)}
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    neutral = {"attention.key_length": width, "attention.value_length": width, "rope.dimension_count": width,
               "attention.causal": True, "rope.scaling.type": "none", "rope.scaling.finetuned": True,
               "attention.head_count_kv": config.num_attention_heads}  # fmt: skip
    for key, value in metadata.items():
        prefix, _, name = key.partition(".")
        if prefix != architecture or name in carried | _HARMLESS or neutral.get(name) == value:
            continue
        raise ReaderError(
            f"its metadata sets {name} = {str(value)[:40]}, which transformers does not carry over."
        )


def _check_tensors(model: Any, info: dict[str, Any], path: Path) -> None:
    """Refuse when a weight of the model is not from the file, or a number of the file is not in the model."""
    from gguf import GGUFReader

    missing = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in info.get(kind) or ())
    if missing:
        raise ReaderError(f"it lacks {len(missing)} of the model's tensors ({', '.join(missing[:3])}).")
    held = sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    used = sum(parameter.numel() for parameter in {p.data_ptr(): p for p in model.parameters()}.values())
    if held != used:
        raise ReaderError(
            f"it holds {held:,} numbers where the model has {used:,}: something in it (scaled RoPE frequencies, "
            "for one) would be left out."
        )


def _set_split(tokenizer: Any, metadata: dict[str, Any]) -> None:
    """Cut text as the file's vocabulary was trained to, where transformers leaves GPT-2's pattern in its place."""
    from tokenizers import pre_tokenizers

    if metadata.get("tokenizer.ggml.pre") in DIGITS_APART:
        digits = pre_tokenizers.Digits(individual_digits=True)
        pattern = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pattern])


def _dtype(types: dict[str, str]) -> Any:
    """float32, in which blocks dequantize exactly; a file of 16-bit floats stays what it is."""
    import torch

    kinds = set(types.values()) - {"F32"}
    return {frozenset({"F16"}): torch.float16, frozenset({"BF16"}): torch.bfloat16}.get(
        frozenset(kinds), torch.float32
    )


def _watch_tensors() -> None:
    """Let transformers' progress bar over the tensors report here."""
    from transformers import modeling_gguf_pytorch_utils as loader

    def bar(tensors: Iterable[Any], **_: Any) -> Iterator[Any]:
        every = list(tensors)
        for done, tensor in enumerate(every):
            if done % 8 == 0:
                _say(share=0.4 + 0.5 * done / len(every), what="Dequantizing the weights")
            yield tensor

    setattr(loader, "tqdm", bar)  # noqa: B010 - a name that the module only imported


def _say(**what: Any) -> None:
    print(json.dumps(what), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
