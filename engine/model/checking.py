"""Whether a checkpoint's tensors are what its config says, and whether a loaded model is what its adapter says.

Nothing is ever filled in: a tensor that is missing, that has no place, that has another shape or numbers that are no
numbers is a reason to refuse, with its name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from engine import ReaderError
from engine.checkpoints import safety
from engine.model.adapters import Spec
from engine.model.capturing import capture, tokenize
from engine.model.loaded import Loaded
from engine.model.precisions import REFERENCE
from engine.model.trace import Trace
from engine.tokens.text import reason, shorten

SENTENCE = "The cat sat on the mat, and the cat slept."
"""What a model is checked on. The cat comes twice, so that attention has something to choose between."""

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_ATTENTION_OFF = 1e-3
"""Mean difference of attention weights that is nothing, and on top of it what rounding explains: see `_attention`."""


def check_files(folder: Path, spec: Spec, name: str) -> None:
    """Refuse weights that cannot belong to the config, or that hold NaN or infinity. Raises ReaderError."""
    files = safety.weights(folder)
    entries: dict[str, dict[str, Any]] = {}
    for file in files:
        entries |= safety.header(file) or {}
    if spec.n_layer > len(entries):
        raise ReaderError(
            f"The config.json of “{name}” names {spec.n_layer:,} layers, and its weights are {len(entries):,} "
            "tensors in all."
        )
    strange = sorted({str(e["dtype"]) for key, e in entries.items() if key.endswith(".weight")} - _FLOATS)
    if strange:
        raise ReaderError(
            f"The weights of “{name}” are stored as {', '.join(strange[:3])}, which another tool has quantized or "
            "packed; take the original checkpoint."
        )
    for file in files:
        state = file.stat()
        broken = not_finite(file, state.st_size, state.st_mtime_ns)
        if broken:
            raise ReaderError(
                f"The {_listed(broken)} of “{name}” {_holds(broken)} NaN or infinity, so nothing can be computed."
            )


def check_shapes(folder: Path, config: Any, name: str) -> None:
    """Refuse weights whose shapes or number are not what a config says, before any memory is taken for them.

    The model is built without memory ("meta"); names are compared with and without the prefix of its base model.
    Raises ReaderError.
    """
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    except Exception as error:  # a stranger's values, refused with many kinds of exception
        raise ReaderError(f"The config.json of “{name}” makes no model: {reason(error)}") from error
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    prefix = f"{model.base_model_prefix}."
    held: dict[str, tuple[int, ...]] = {}
    for file in safety.weights(folder):
        held |= {key: tuple(entry["shape"]) for key, entry in (safety.header(file) or {}).items()}
    places = {key: key if key in expected else f"{prefix}{key}" for key in held}
    other = [key for key, place in places.items() if place in expected and expected[place] != held[key]]
    if other:
        raise ReaderError(
            f"The {_listed(other)} of “{name}” {_has(other)} another shape than its config.json says."
        )
    wanted, there = (sum(map(prod, shapes.values())) for shapes in (expected, held))
    if wanted > 10 * max(there, 1):
        raise ReaderError(
            f"The config.json of “{name}” describes a model of {wanted:,} numbers, and its weights hold {there:,}."
        )


@lru_cache(maxsize=64)
def not_finite(file: Path, _size: int, _changed: int) -> tuple[str, ...]:
    """Names of the tensors of a safetensors file that hold NaN or infinity."""
    with safe_open(file, framework="pt") as held:
        names = list(held.keys())
        return tuple(name for name in names if not _finite(held.get_tensor(name)))


def _finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = tensor.aminmax()  # NaN if there is one
    return bool(low.isfinite() and high.isfinite())


def check_report(report: Mapping[str, Any], ignored: Sequence[str], name: str) -> None:
    """Refuse a model of which `from_pretrained` reports tensors that the files lack, or that it had no place for.

    `ignored` are patterns of names that the model's class knows to be leftovers of older versions.
    """
    missing = sorted(str(key) for key in report.get("missing_keys") or ())
    homeless = sorted(str(key) for key in report.get("unexpected_keys") or ())
    homeless = [key for key in homeless if not any(re.search(pattern, key) for pattern in ignored)]
    other = sorted(str(_key(entry)) for entry in report.get("mismatched_keys") or ())
    if other:
        raise ReaderError(
            f"The {_listed(other)} of “{name}” {_has(other)} another shape than its config.json says."
        )
    if missing:
        prefix = _prefix(homeless)
        hint = f" (all its tensors are named “{prefix}…”)" if prefix else ""
        raise ReaderError(f"“{name}” lacks the {_listed(missing)}{hint}, and nothing is made up instead.")
    if homeless:
        raise ReaderError(
            f"“{name}” holds the {_listed(homeless)}, for which its architecture has no place: it is another model "
            "than its config.json says."
        )


def _key(entry: Any) -> Any:
    return entry[0] if isinstance(entry, tuple | list) else entry


def _prefix(names: Sequence[str]) -> str:
    """The first word of dotted names when they share it and it is none that models use themselves."""
    firsts = {name.partition(".")[0] for name in names}
    return f"{firsts.pop()}." if len(firsts) == 1 and len(names) > 1 else ""


def _listed(names: Iterable[str]) -> str:
    every = [shorten(name, 60) for name in names]
    more = f" and {len(every) - 3} more" if len(every) > 3 else ""
    return f"tensor{'s' if len(every) > 1 else ''} {', '.join(every[:3])}{more}"


def _holds(names: Sequence[str]) -> str:
    return "holds" if len(names) == 1 else "hold"


def _has(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def check_tokenizer(tokenizer: Any, rows: int, name: str) -> None:
    """Refuse a tokenizer with an id that the embedding has no row for. Raises ReaderError."""
    beyond = sorted((id, piece) for piece, id in tokenizer.get_vocab().items() if id >= rows)
    if beyond:
        id, piece = beyond[0]
        raise ReaderError(
            f"The tokenizer of “{name}” makes ids up to {beyond[-1][0]:,} (“{shorten(piece, 30)}” is {id:,}), and its "
            f"embedding has {rows:,} rows only: the two do not belong together."
        )


def check_ends(model: Any, name: str) -> None:
    """Refuse a generation_config.json whose end-of-text ids are no ids. Raises ReaderError."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = named if isinstance(named, list | tuple) else [named]
    if named is not None and not all(isinstance(id, int) and not isinstance(id, bool) for id in ids):
        raise ReaderError(
            f"The generation_config.json of “{name}” names {shorten(str(named), 40)} as the end of a text, which is no "
            "token's id."
        )


def check_identities(loaded: Loaded) -> None:
    """Run a sentence and refuse a model whose own numbers do not fit together as its adapter says.

    softmax(q · kᵀ · scale + mask) is the attention that was returned; residual + attention + MLP is the next
    residual; final norm and unembedding give the logits. Raises ReaderError with the identity that failed.
    """
    try:
        trace = capture(loaded, [token.id for token in tokenize(loaded, SENTENCE)][: loaded.spec.longest])
    except ReaderError:
        raise
    except Exception as error:  # a stranger's model, refused with many kinds of exception
        raise ReaderError(f"“{loaded.name}” cannot be run: {reason(error)}") from error
    if not (np.isfinite(trace.hidden).all() and np.isfinite(trace.logits).all()):
        raise ReaderError(
            f"The numbers of “{loaded.name}” grow beyond what {loaded.precision} holds on their way through the layers"
            + (
                "; choose another precision."
                if loaded.precision != REFERENCE
                else ", so nothing can be computed."
            )
        )
    for failed in (_attention(loaded, trace), _residual(loaded, trace), _logits(loaded, trace)):
        if failed:
            raise ReaderError(f"“{loaded.name}” is refused, because this app would misread it: {failed}.")


def _step(loaded: Loaded) -> float:
    """From 1 to the next number, in the type of the arithmetic between the matrices."""
    return float(torch.finfo(loaded.dtype).eps)


def _attention(loaded: Loaded, trace: Trace) -> str:
    seq, shared = len(trace.tokens), loaded.spec.n_head // loaded.spec.n_kv_head
    visible = np.tril(np.ones((seq, seq), dtype=bool))
    for layer, returned in enumerate(trace.attention):
        k = np.repeat(trace.k[layer], shared, axis=0)  # head, seq, d_head
        scores = np.where(visible, trace.q[layer] @ k.transpose(0, 2, 1) * loaded.spec.score_scale, -np.inf)
        ours = torch.from_numpy(scores).softmax(-1).numpy()
        off = float(np.abs(ours - returned)[:, visible].mean())
        if not off <= _ATTENTION_OFF + 2 * _step(loaded):
            return f"the softmax of q·k in layer {layer} is not the attention that the layer returned"
    return ""


def _residual(loaded: Loaded, trace: Trace) -> str:
    for layer in range(loaded.spec.n_layer):
        parts = (trace.hidden[layer], trace.attn_out[layer], trace.mlp_out[layer])
        off = np.abs(parts[0] + parts[1] + parts[2] - trace.hidden[layer + 1])
        allowed = 8 * _step(loaded) * (sum(np.abs(part) for part in parts) + 1e-3)
        if not (off <= allowed).all():
            return f"what enters layer {layer}, its attention and its MLP do not sum to what leaves it"
    return ""


@torch.no_grad()
def _logits(loaded: Loaded, trace: Trace) -> str:
    norm = loaded.part("final_norm")
    given = next(norm.parameters())
    stream = torch.from_numpy(np.array(trace.hidden[-1])).to(given.device, given.dtype)
    ours = loaded.part("unembedding")(norm(stream)).float().cpu().numpy()
    off = np.abs(ours - trace.logits).max()
    if not off <= 64 * _step(loaded) * np.abs(trace.logits).max():
        return "the final norm and the unembedding do not give its logits"
    return ""
