"""Load a checkpoint once, ready to be shared by threads and never changed again."""

import logging
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from engine import ReaderError
from engine.checkpoints.catalogue import PRECISIONS, entry, locate, public
from engine.checkpoints.catalogue import folder as local_folder
from engine.model import hooks, tuned
from engine.model.adapters import Adapter, Spec, adapter_for

_LOCK = threading.Lock()
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# With the optional package `kernels` there, bitsandbytes would fetch code from the Hub when it is imported.
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]

transformers.utils.logging.disable_progress_bar()
if public():  # many readers at once: passes side by side on one thread each, not all waiting for all
    torch.set_num_threads(1)
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # int8 warns on every forward that it casts


@dataclass(frozen=True, eq=False)
class Loaded:
    """One checkpoint at one precision. Shared between readers: nothing may change `model`."""

    name: str
    revision: str
    precision: str
    device: str
    model: Any
    tokenizer: Any
    adapter: Adapter
    spec: Spec
    source: str
    half: torch.dtype
    base: str = ""  # for a tuned checkpoint, the source of the weights that its adapter is merged into
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def part(self, name: str, layer: int | None = None) -> nn.Module:
        """A module by its adapter name: `part("final_norm")`, `part("mlp", 3)`. KeyError for an unknown name."""
        if layer is None:
            module: nn.Module = self.model.get_submodule(self.adapter.parts[name])
            return module
        return self.block(layer).get_submodule(self.adapter.layer[name])

    def block(self, layer: int) -> nn.Module:
        """Transformer block number `layer`, 0 being the first."""
        block: nn.Module = self.part("blocks").get_submodule(str(layer))
        return block

    @property
    def nbytes(self) -> int:
        """Bytes of weights in memory: real storages of parameters, buffers and quantization state, each once."""
        return weight_bytes(self.model)


def load(
    name: str,
    precision: str = "fp32",
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Loaded:
    """Load a bundled checkpoint, a local folder or a Hub id.

    `precision` is one of `engine.checkpoints.catalogue.PRECISIONS`; the last three are executed by bitsandbytes.
    `device` is "auto", "cpu" or "cuda". `progress(done, total)` is told of bytes while a Hub checkpoint
    downloads; without it nothing is downloaded and only what is already on this machine is loaded.
    Raises ReaderError, in one sentence, for anything that cannot be loaded.
    """
    if precision not in PRECISIONS:
        raise ReaderError(f"The precision “{precision}” is unknown; choose one of {', '.join(PRECISIONS)}.")
    base = _base(name, precision)
    folder, revision = _folder(name, progress)
    weights = locate(base) if base else folder
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = AutoConfig.from_pretrained(weights, local_files_only=True, trust_remote_code=False)
        adapter = adapter_for(config.model_type)
        spec = adapter.spec(config)
        target, half = _device(device), compute_dtype(config)
        model = _model(weights, config, "fp32" if base else precision, target)
        if base:
            model = tuned.merged(model, Path(folder), _DTYPES[precision])
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        here, under = _source(name, folder), _source(base, weights)
        loaded = Loaded(name, revision, precision, target, model, tokenizer, adapter, spec, here, half, under)
        _warm_up(loaded)
        hooks.install(loaded)
    return loaded


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all distinct storages behind a model's parameters, buffers and bitsandbytes states."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(model) if t.numel()
    }
    return sum(storages.values())


def tensors(model: nn.Module) -> list[torch.Tensor]:
    """Everything a model keeps in memory: parameters, buffers, and what bitsandbytes holds beside them."""
    held: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        held += _quantization_state(module, getattr(module, "weight", None))
    return held


def _quantization_state(module: nn.Module, weight: Any) -> list[torch.Tensor]:
    """Scales and code books that bitsandbytes keeps beside a quantized weight."""
    state = getattr(weight, "quant_state", None)
    found = [getattr(state, name, None) for name in ("absmax", "code", "offset")]
    nested = getattr(state, "state2", None)
    found += [getattr(nested, name, None) for name in ("absmax", "code")]
    int8 = getattr(module, "state", None)
    found += [getattr(int8, "CB", None), getattr(int8, "SCB", None)]
    found += [getattr(weight, "CB", None), getattr(weight, "SCB", None)]
    return [t for t in found if isinstance(t, torch.Tensor)]


def _folder(name: str, progress: Callable[[int, int], None] | None) -> tuple[str, str]:
    """Where the files of a checkpoint are, downloading them if that was asked for, and their revision."""
    named, path = entry(name), local_folder(name)
    if named is not None and named.bundled:
        return named.location, "bundled"
    from engine.checkpoints import (  # here, so that a bundled checkpoint never loads the hub client
        hub,
        safety,
    )

    if path is not None:
        hub.check_folder(path)
        safety.check_adapter(path, path.name)
        return str(path), "local"
    if progress is None and not hub.is_cached(name):
        raise ReaderError(f"“{name}” is not on this machine yet.")
    found = hub.download(name, progress or (lambda done, total: None))
    safety.check_adapter(found, name)
    return str(found), found.name


def _base(name: str, precision: str) -> str:
    """The bundled checkpoint that a tuned one adapts; empty for any other."""
    named = entry(name)
    if named is None or not named.base:
        return ""
    if precision not in _DTYPES:
        raise ReaderError(f"“{name}” is merged when it is loaded, so it runs at {', '.join(_DTYPES)} only.")
    tuned.check_folder(Path(named.location), name)
    return named.base


def _source(name: str, folder: str) -> str:
    """What a *Code* script passes to from_pretrained: a path inside the repository, a folder or a Hub id."""
    named = entry(name)
    if named is not None and named.bundled:
        return f"engine/assets/{Path(folder).name}"
    return name


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ReaderError("This machine has no CUDA device.")
    return device


def compute_dtype(config: Any) -> torch.dtype:
    """The 16-bit type in which a bitsandbytes model keeps and computes everything that is not quantized.

    bfloat16 where the checkpoint was trained in it (its activations may exceed fp16's range), else float16.
    """
    return torch.bfloat16 if getattr(config, "dtype", None) == torch.bfloat16 else torch.float16


def _model(folder: str, config: Any, precision: str, device: str) -> Any:
    options: dict[str, Any] = {"dtype": _DTYPES.get(precision) or compute_dtype(config)}
    if precision not in _DTYPES:
        options["quantization_config"] = _quantization(folder, config, precision, device)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            device_map="auto" if device == "cuda" else None,
            **options,
        )
    except OSError as error:
        raise ReaderError(f"The weights in “{Path(folder).name}” cannot be read: {_first(error)}") from error
    except (RuntimeError, ValueError) as error:
        raise ReaderError(f"This checkpoint does not load at {precision}: {_first(error)}") from error
    model.requires_grad_(False)
    return model.eval()


def _first(error: Exception) -> str:
    """The first sentence of an exception's message."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def _quantization(folder: str, config: Any, precision: str, device: str) -> Any:
    from transformers.utils.quantization_config import BitsAndBytesConfig

    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if device == "cpu":
        _refuse_odd_widths(adapter_for(config.model_type).spec(config))
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=precision, bnb_4bit_compute_dtype=compute_dtype(config)
    )


def _refuse_odd_widths(spec: Spec) -> None:
    """bitsandbytes' 4-bit kernels for CPUs read weights in runs of 64 inputs and pack them by 32 outputs."""
    inputs = {"d_model": spec.d_model, "d_ff": spec.d_ff, "heads × d_head": spec.n_head * spec.d_head}
    outputs = {
        "kv_heads × d_head": spec.n_kv_head * spec.d_head
    }  # the others are inputs of another layer too
    for widths, step, side in ((inputs, 64, "input"), (outputs, 32, "output")):
        for name, width in widths.items():
            if width % step:
                raise ReaderError(
                    f"4-bit weights need every layer's {side} width to be a multiple of {step} on a CPU, "
                    f"and this checkpoint's {name} is {width}."
                )


@torch.no_grad()
def _warm_up(loaded: Loaded) -> None:
    """One forward before sharing: bitsandbytes repacks 4-bit weights in place on the first one on some CPUs."""
    ids = torch.zeros((1, 2), dtype=torch.long, device=loaded.model.device)
    loaded.model(input_ids=ids, use_cache=False)
