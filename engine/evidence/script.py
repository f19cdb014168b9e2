"""The head of every *Code* script: the same prompt through the same checkpoint, with torch and transformers alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.model.loading import Loaded

_DTYPE = {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16"}


def preamble(loaded: "Loaded", ids: Sequence[int] | None = None, *, precision: str | None = None) -> str:
    """Python source that defines `torch`, `name`, `tokenizer`, `model` and, when `ids` is given, `ids` (1, seq).

    The prompt goes in as token ids: they are plain numbers, and exactly what the figure was computed from.
    """
    lines = [
        *home_lines(loaded.source, loaded.base),
        "import torch",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"name = {place(loaded.source)}",
        "tokenizer = AutoTokenizer.from_pretrained(name)",
        *model_lines(loaded, precision or loaded.precision),
    ]
    if ids is not None:
        lines.append(f"ids = torch.tensor([{[int(i) for i in ids]}])")
    return "\n".join(lines) + "\n"


def place(source: str) -> str:
    """The expression for where `from_pretrained` finds a checkpoint: a Hub id, a path, or one below the home folder.

    The last one needs `home_lines` before it.
    """
    return f"os.path.expanduser({source!r})" if source.startswith("~") else repr(source)


def home_lines(*sources: str) -> list[str]:
    """The import that `place` needs for these sources, if any."""
    return ["import os"] if any(source.startswith("~") for source in sources) else []


def model_lines(loaded: "Loaded", precision: str, variable: str = "model") -> list[str]:
    """Lines that load the checkpoint at a precision into `variable`."""
    dtype = _DTYPE.get(precision) or str(loaded.half)
    if loaded.base:
        return _merged_lines(loaded, dtype, variable)
    options = f'dtype={dtype}, attn_implementation="eager"'
    lines = []
    if precision not in _DTYPE:
        lines.append("from transformers import BitsAndBytesConfig")
        chosen = (
            "load_in_8bit=True"
            if precision == "int8"
            else f'load_in_4bit=True, bnb_4bit_quant_type="{precision}", bnb_4bit_compute_dtype={dtype}'
        )
        lines.append(f"quantization = BitsAndBytesConfig({chosen})")
        options += ", quantization_config=quantization"
    lines.append(f"{variable} = AutoModelForCausalLM.from_pretrained(name, {options}).eval()")
    return lines


def _merged_lines(loaded: "Loaded", dtype: str, variable: str) -> list[str]:
    """Lines that merge a tuned checkpoint's adapter into its base, in fp32, and cast the result."""
    cast = "" if dtype == "torch.float32" else f".to({dtype})"
    return [
        "from peft import PeftModel",
        "from transformers import GenerationConfig",
        f"base = AutoModelForCausalLM.from_pretrained({place(loaded.base)}, dtype=torch.float32, "
        'attn_implementation="eager")',
        f"{variable} = PeftModel.from_pretrained(base, name).merge_and_unload(){cast}.eval()",
        f"{variable}.generation_config = GenerationConfig.from_pretrained(name)",
    ]
