"""Load a checkpoint once, ready to be shared by threads and never changed again."""

import logging
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine import ReaderError
from engine.checkpoints import gguf, hub, memory, packaged, safety
from engine.checkpoints.catalogue import check_name, entry, folder_note, public
from engine.checkpoints.catalogue import folder as local_folder
from engine.checkpoints.naming import short
from engine.model import accepting, checking, fetching, hooks, lora
from engine.model.adapters import Spec, adapter_for
from engine.model.loaded import Loaded, float_dtype, tensors, weight_bytes
from engine.model.precisions import RECORDS, REFERENCE, Precision
from engine.model.precisions import precision as record_of
from engine.tokens.encoder import prepare
from engine.tokens.guarding import one_sentence
from engine.tokens.text import reason, shorten

__all__ = ["Loaded", "compute_dtype", "load", "tensors", "weight_bytes"]

_LOCK = threading.Lock()

# With the optional package `kernels` there, bitsandbytes would fetch code from the Hub when it is imported.
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]

transformers.utils.logging.disable_progress_bar()
if public():  # many readers at once: passes side by side on one thread each, not all waiting for all
    torch.set_num_threads(1)
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # int8 warns on every forward that it casts

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all) of a download."""


@dataclass(frozen=True)
class _Files:
    """Where a checkpoint's files lie, and how it is called and told: see `Loaded`."""

    folder: Path
    revision: str
    source: str
    origin: str = ""
    base: "_Files | None" = None


_BESIDE = ("generation_config.json", "tokenizer.json", "tokenizer_config.json")
"""Files that a bundled checkpoint has: without one of them transformers would put something else in its place."""


def load(
    name: str,
    precision: str = REFERENCE,
    device: str = "auto",
    progress: Progress | None = None,
    report: gguf.Report | None = None,
) -> Loaded:
    """Load a listed checkpoint, a local folder, a GGUF file or a Hub id.

    `precision` is one of `engine.model.precisions.PRECISIONS`.
    `device` is "auto", "cpu" or "cuda". `progress(done, total)` is told of bytes while a Hub checkpoint downloads;
    without it nothing is downloaded and only what is already on this machine is loaded. `report(share, what)` is told
    how far the dequantizing of a GGUF file is, which happens once.
    Raises ReaderError, in one sentence, for anything that cannot be loaded.
    """
    record = record_of(precision)
    files = _files(name, progress, report or (lambda share, what: None))
    if files.base is not None and record.quantized:
        floats = (name for name, known in RECORDS.items() if not known.quantized)
        raise ReaderError(
            f"“{short(name)}” is merged when it is loaded, so it runs at {', '.join(floats)} only."
        )
    with _LOCK, warnings.catch_warnings(), one_sentence(f"“{short(name)}” cannot be loaded"):
        warnings.simplefilter("ignore")
        return _loaded(name, files, record, _device(device))


def _loaded(name: str, files: _Files, precision: Precision, device: str) -> Loaded:
    called = short(name)
    weights = (files.base or files).folder
    config = accepting.read_config(weights, called)
    adapter = adapter_for(config.model_type)
    spec = adapter.spec(config)
    at = record_of(REFERENCE) if files.base else precision
    memory.check(called, memory.needed(safety.weights(weights), at.peak, at.storage.other), at.name, device)
    checking.check_files(weights, spec, called)
    checking.check_shapes(weights, config, called)
    model = _model(weights, config, spec, at, device, called)
    if files.base:
        model = lora.merged(model, files.folder, float_dtype(precision.name, compute_dtype(config)))
    tokenizer = _tokenizer(files, called)
    checking.check_ends(model, called)
    checking.check_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0], called)
    loaded = Loaded(
        name=called,
        asked=name,
        revision=files.revision,
        precision=precision.name,
        device=device,
        model=model,
        tokenizer=tokenizer,
        adapter=adapter,
        spec=spec,
        source=files.source,
        half=compute_dtype(config),
        base=files.base.source if files.base else "",
        origin=files.origin,
    )
    _warm_up(loaded)
    hooks.install(loaded)
    checking.check_identities(loaded)
    return loaded


def _files(name: str, progress: Progress | None, report: gguf.Report) -> _Files:
    """Where the files of a checkpoint are, downloading and dequantizing them if that is wanted."""
    named = entry(name)
    if named is not None and named.bundled:
        return _bundled(name)
    if named is None:
        check_name(name)
    path = local_folder(name)
    if path is not None:
        return _local(path, report)
    if hub.cached(name) is None:
        package = packaged.checked(name)
        if package is not None:
            return _dequantized(package, report)
        if progress is None:
            raise ReaderError(f"“{shorten(name, 80)}” is not on this machine yet.{folder_note(name)}")
    return _from_hub(name, fetching.download(name, progress or (lambda done, total: None)), report)


def _bundled(name: str) -> _Files:
    named = entry(name)
    assert named is not None
    folder = Path(named.location)
    files = _Files(
        folder, "bundled", f"engine/assets/{folder.name}", base=_bundled(named.base) if named.base else None
    )
    missing = [file for file in _BESIDE if not (folder / file).is_file()]
    if missing:
        raise ReaderError(
            f"The bundled checkpoint {name} is not complete: its {missing[0]} is missing; install this app again."
        )
    with one_sentence(f"The bundled checkpoint {name} cannot be read"):
        if files.base:
            lora.check_folder(folder, name)
        else:
            safety.check_folder(folder)
    return files


def _local(path: Path, report: gguf.Report) -> _Files:
    if path.suffix == ".gguf":
        return _dequantized(path, report)
    if lora.is_lora(path):
        with one_sentence(f"“{path.name}” cannot be read"):
            lora.check_folder(path, path.name)
        base = _files(lora.base_of(path), None, report)
        return _Files(path, f"local {path}", _below_home(path), base=base)
    with one_sentence(f"“{path.name}” cannot be read"):
        safety.check_folder(path)
    return _Files(path, f"local {path}", _below_home(path))


def _dequantized(file: Path, report: gguf.Report) -> _Files:
    """The folder made of a GGUF file, and what its page says of the rounding in it."""
    folder = gguf.folder(file, report)
    return _Files(folder, folder.name, _below_home(folder), gguf.rounded(gguf.provenance(folder)["types"]))


def _from_hub(name: str, found: Path, report: gguf.Report) -> _Files:
    if found.suffix == ".gguf":
        return _dequantized(found, report)
    with one_sentence(f"“{shorten(name, 80)}” cannot be read"):
        safety.check_folder(found)  # other tools fill the cache too
    cached = hub.cached(name)
    by_name = (
        cached is not None and not cached.revision
    )  # else no name alone leads from_pretrained to these files
    return _Files(found, found.name, cached.repo if cached and by_name else _below_home(found))


def _below_home(path: Path) -> str:
    """A path as a script names it on this machine: from the home folder on, where it lies there."""
    whole = path.expanduser().resolve()
    try:
        return f"~/{whole.relative_to(Path.home().resolve()).as_posix()}"
    except (ValueError, RuntimeError):
        return str(whole)


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


def _model(folder: Path, config: Any, spec: Spec, precision: Precision, device: str, name: str) -> Any:
    options: dict[str, Any] = {"dtype": float_dtype(precision.name, compute_dtype(config))}
    if precision.quantized:
        options["quantization_config"] = _quantization(config, spec, precision, device)
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, and refused with the names
            device_map="auto" if device == "cuda" else None,
            **options,
        )
    except OSError as error:
        raise ReaderError(f"The weights in “{name}” cannot be read: {reason(error)}") from error
    except Exception as error:  # a stranger's files, refused with many kinds of exception
        raise ReaderError(f"“{name}” does not load at {precision.name}: {reason(error)}") from error
    model, told = found
    ignored = (
        *(type(model)._keys_to_ignore_on_load_unexpected or ()),
        *adapter_for(config.model_type).leftovers,
    )
    checking.check_report(told, ignored, name)
    model.requires_grad_(False)
    return model.eval()


def _tokenizer(files: _Files, name: str) -> Any:
    folder = files.folder
    if files.base is not None and not (folder / "tokenizer.json").is_file():
        folder = files.base.folder  # an adapter that adds no token needs none of its own
    with one_sentence(f"The tokenizer of “{name}” cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        prepare(tokenizer)
        return tokenizer


def _quantization(config: Any, spec: Spec, precision: Precision, device: str) -> Any:
    from transformers.utils.quantization_config import BitsAndBytesConfig

    if device == "cpu":
        _refuse_odd_widths(spec, precision)
    return BitsAndBytesConfig(**precision.options(compute_dtype(config)))


def _refuse_odd_widths(spec: Spec, precision: Precision) -> None:
    """Raises ReaderError for widths that bitsandbytes' kernels for CPUs cannot pack."""
    inputs = {"d_model": spec.d_model, "d_ff": spec.d_ff, "heads × d_head": spec.n_head * spec.d_head}
    outputs = {
        "kv_heads × d_head": spec.n_kv_head * spec.d_head
    }  # the others are inputs of another layer too
    for widths, step, side in zip((inputs, outputs), precision.multiples, ("input", "output"), strict=True):
        for name, width in widths.items():
            if width % step:
                raise ReaderError(
                    f"{precision.bits:.0f}-bit weights need every layer's {side} width to be a multiple of {step} "
                    f"on a CPU, and this checkpoint's {name} is {width}."
                )


@torch.no_grad()
def _warm_up(loaded: Loaded) -> None:
    """One forward before sharing: bitsandbytes repacks 4-bit weights in place on the first one on some CPUs."""
    ids = torch.zeros((1, 2), dtype=torch.long, device=loaded.model.device)
    try:
        loaded.model(input_ids=ids, use_cache=False)
    except Exception as error:  # a config that makes a model which cannot run
        raise ReaderError(f"“{loaded.name}” cannot be run: {reason(error)}") from error
