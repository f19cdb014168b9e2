"""The head of every *Code* script: the same prompt through the same checkpoint, with torch and transformers alone."""

from collections.abc import Sequence
from textwrap import dedent
from typing import TYPE_CHECKING

from engine.model.precisions import REFERENCE
from engine.model.precisions import precision as record_of

if TYPE_CHECKING:
    from engine.model.loaded import Loaded


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
    record = record_of(precision)
    dtype = f"torch.{record.dtype}" if record.dtype else str(loaded.half)
    if loaded.base:
        return _merged_lines(loaded, dtype, variable)
    options = f'dtype={dtype}, attn_implementation="eager"'
    lines = []
    if record.quantized:
        lines.append("from transformers import BitsAndBytesConfig")
        chosen = ", ".join(f"{key}={value!r}" for key, value in record.options(loaded.half).items())
        lines.append(f"quantization = BitsAndBytesConfig({chosen})")
        options += ", quantization_config=quantization"
    lines.append(f"{variable} = AutoModelForCausalLM.from_pretrained(name, {options}).eval()")
    return lines


def _merged_lines(loaded: "Loaded", dtype: str, variable: str) -> list[str]:
    """Lines that merge a tuned checkpoint's adapter into its base, in fp32, and cast the result."""
    reference = f"torch.{record_of(REFERENCE).dtype}"
    cast = "" if dtype == reference else f".to({dtype})"
    return [
        "from peft import PeftModel",
        "from transformers import GenerationConfig",
        f"base = AutoModelForCausalLM.from_pretrained({place(loaded.base)}, dtype={reference}, "
        'attn_implementation="eager")',
        f"{variable} = PeftModel.from_pretrained(base, name).merge_and_unload(){cast}.eval()",
        f"{variable}.generation_config = GenerationConfig.from_pretrained(name)",
    ]


def script(loaded: "Loaded", ids: Sequence[int], *parts: str) -> str:
    """A *Code* script: the model and the ids, then the given parts."""
    return preamble(loaded, ids) + "\n" + "\n".join(dedent(part).strip("\n") for part in parts) + "\n"
