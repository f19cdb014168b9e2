"""Which config.json is understood: transformers' config class decides what a name means, the adapter what it may say.

A name that is no field of the class is ignored, as transformers' models ignore it, save the few that generic code of
transformers reads from any config. A field that the adapter does not know, or a value that it does not stand for, is
refused by name.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from engine import ReaderError
from engine.checkpoints import safety
from engine.model.adapters import SUPPORTED, Spec, adapter_for
from engine.tokens.text import reason, shorten

_ROPE = frozenset({"rope_theta", "rope_scaling", "partial_rotary_factor", "rotary_pct", "rotary_emb_base"})
"""Older names that config classes turn into fields (`RotaryEmbeddingConfigMixin`, `GPTNeoXConfig`)."""

_READ_FROM_ANY: Mapping[str, tuple[Any, ...]] = {
    "is_causal": (True, None),
    "per_layer_config": (None, {}),
    "transformers_weights": (None,),
    "fusion_config": (None, {}),
    "sliding_window": (None,),
    "attention_chunk_size": (None,),
    "kv_sharing_modes": (None, []),
    "logits_mup_width_multiplier": (None, 1.0),
    "unpadded_vocab_size": (None,),
    "original_max_position_embeddings": (None,),
    "use_bidirectional_attention": (None, False),
}
"""Names that generic code of transformers (masking_utils, modeling_utils, modeling_rope_utils, cache_utils) reads from
a config whatever its class, and the values with which they change nothing."""

_LAYERS = 10_000
"""More than any model has: the deepest published ones have a few hundred."""

_DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")


def read_config(path: Path, name: str) -> Any:
    """The transformers config of a checkpoint's folder, made of the fields that its class has. Raises ReaderError."""
    values = safety.read_json(path / "config.json", name)
    safety.check_config(values, name)
    return config_from(values, name)


def accept(values: Mapping[str, Any], name: str) -> None:
    """Refuse a config.json that this app would not stand for, before anything else is fetched. Raises ReaderError."""
    config_from(values, name)


def config_from(values: Mapping[str, Any], name: str) -> Any:
    """A config from what a config.json says; `values` has passed `safety.check_config`. Raises ReaderError."""
    model_type = str(values.get("model_type") or "")
    if model_type not in SUPPORTED:
        stated = f"the unsupported model_type “{shorten(model_type, 40)}”" if model_type else "no model_type"
        raise ReaderError(f"“{name}” names {stated}; supported are {', '.join(SUPPORTED)}.")
    kind = CONFIG_MAPPING[model_type]
    known = _fields(kind)
    _refuse_twice(values, kind.attribute_map)
    _refuse_two_ropes(values)
    _refuse_no_heads(values)
    _refuse_towers(values)
    _refuse_read(values, known)
    kept = {key: value for key, value in values.items() if key in known | _ROPE | {"torch_dtype"}}
    dtype = kept.pop("torch_dtype", None) or kept.pop("dtype", None)
    kept["dtype"] = None if dtype in (None, "auto") else _dtype(dtype, name)
    try:
        config = kind(**kept)
        _refuse_absurd(adapter_for(kind.model_type).spec(config), config)
    except ReaderError:
        raise
    except Exception as error:  # a stranger's values, refused with many kinds of exception
        raise ReaderError(f"The config.json of “{name}” is not valid: {reason(error)}") from error
    return config


def _fields(kind: Any) -> frozenset[str]:
    """The names that a config class gives a meaning to: its fields and their aliases."""
    return frozenset(field.name for field in dataclasses.fields(kind)) | frozenset(kind.attribute_map)


def _refuse_twice(values: Mapping[str, Any], aliases: Mapping[str, str]) -> None:
    """Refuse a field that is given under two names with two values."""
    for alias, field in aliases.items():
        if alias in values and field in values and values[alias] != values[field]:
            raise ReaderError(
                f"This checkpoint's config.json contradicts itself: {field} is {shorten(str(values[field]), 20)} and "
                f"{alias}, another name for it, is {shorten(str(values[alias]), 20)}."
            )


def _refuse_two_ropes(values: Mapping[str, Any]) -> None:
    """Refuse RoPE settings that stand twice, in `rope_parameters` and by their older names, and differ."""
    given = values.get("rope_parameters")
    nested = given if isinstance(given, dict) else {}
    for old, new in (("rope_theta", "rope_theta"), ("partial_rotary_factor", "partial_rotary_factor"),
                     ("rotary_pct", "partial_rotary_factor"), ("rotary_emb_base", "rope_theta")):  # fmt: skip
        if old in values and new in nested and values[old] != nested[new]:
            raise ReaderError(
                f"This checkpoint's config.json contradicts itself: rope_parameters say {new} = "
                f"{shorten(str(nested[new]), 20)}, and {old} is {shorten(str(values[old]), 20)}."
            )


def _refuse_no_heads(values: Mapping[str, Any]) -> None:
    """Config classes divide by the number of heads before anything else."""
    for key in ("num_attention_heads", "n_head", "num_heads"):
        if key in values and (not isinstance(values[key], int) or values[key] < 1):
            raise ReaderError(
                f"This checkpoint's config.json sets {key} = {shorten(str(values[key]), 20)}, which is no number of "
                "heads."
            )


def _refuse_towers(values: Mapping[str, Any]) -> None:
    """Config classes write a list with an entry for each layer, however many are named."""
    for key in ("num_hidden_layers", "n_layer", "num_layers"):
        named = values.get(key)
        if isinstance(named, int | float) and named > _LAYERS:
            raise ReaderError(
                f"This checkpoint's config.json names {shorten(format(named, ','), 20)} layers; no model has so many."
            )
    kinds = values.get("attention_types")
    for kind in kinds if isinstance(kinds, list) else ():
        if isinstance(kind, list) and any(isinstance(n, int | float) and n > _LAYERS for n in kind):
            raise ReaderError(
                "This checkpoint's config.json repeats its attention_types more often than any model has layers."
            )


def _refuse_absurd(spec: Spec, config: Any) -> None:
    """Refuse sizes of which no model can be made, and a RoPE without a base."""
    for name in ("n_layer", "n_head", "n_kv_head", "d_model", "d_head", "d_ff", "vocab", "context"):
        size = getattr(spec, name)
        if not isinstance(size, int) or size < 1:
            raise ReaderError(
                f"This checkpoint's config.json makes {name} = {shorten(str(size), 20)}, which is no size."
            )
    theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta", 1.0)
    if not isinstance(theta, int | float) or not 0 < theta < float("inf"):
        raise ReaderError(
            f"This checkpoint's config.json sets rope_theta = {shorten(str(theta), 20)}, which is no base."
        )


def _refuse_read(values: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse a name that is no field of the class and changes something all the same."""
    harmless = dict(_READ_FROM_ANY)
    width, heads = (
        _first(values, *names) for names in (("hidden_size", "n_embd"), ("num_attention_heads", "n_head"))
    )
    if isinstance(width, int) and isinstance(heads, int) and heads > 0:
        harmless["head_dim"] = (None, width // heads)
    for key, neutral in harmless.items():
        if key in values and key not in known and values[key] not in neutral:
            raise ReaderError(
                f"This {values['model_type']} checkpoint sets {key} = {shorten(repr(values[key]), 40)}, which changes "
                "the model although its architecture has no such setting, so it is refused rather than guessed at."
            )
    if (
        set(values.get("layer_types") or ["full_attention"]) != {"full_attention"}
        and "layer_types" not in known
    ):
        raise ReaderError("Layers with sliding-window attention are not supported here.")


def _first(values: Mapping[str, Any], *names: str) -> Any:
    return next((values[name] for name in names if name in values), None)


def _dtype(stated: Any, name: str) -> torch.dtype:
    if stated not in _DTYPES:
        raise ReaderError(
            f"The config.json of “{name}” names the dtype “{shorten(str(stated), 30)}”, which is not read here."
        )
    found: torch.dtype = getattr(torch, stated)
    return found
