"""Calls of `model.generate` in scripts, with every setting said."""

from engine.model.generation import end_of_text
from engine.model.loaded import Loaded
from engine.model.writing import Request
from engine.ops.sampling import Filters


def settings(filters: Filters) -> dict[str, float]:
    """The settings that change something, under the names of `generate`'s arguments, in its order."""
    named = {
        "repetition_penalty": filters.repetition_penalty if filters.repetition_penalty != 1 else None,
        "temperature": filters.temperature if filters.temperature != 1 else None,
        "top_k": filters.top_k or None,
        "top_p": filters.top_p if filters.top_p is not None and filters.top_p < 1 else None,
        "min_p": filters.min_p or None,
    }
    return {name: value for name, value in named.items() if value is not None}


def call(kind: str, loaded: Loaded, requests: tuple[Request, ...], n: str, ids: str = "ids") -> str:
    """Source of a call of `model.generate` that says every setting, so that no generation_config.json decides."""
    neutral: dict[str, float | None] = {
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": None,
    }
    seeded = next((r for r in requests if r.seed is not None), None)
    options = neutral | dict(settings(seeded.filters) if seeded is not None else {})
    if kind == "greedy":
        options = {"repetition_penalty": 1.0}
    said = "".join(f", {key}={value!r}" for key, value in options.items())
    ends = sorted(end_of_text(loaded))
    return (
        f"model.generate({ids}, attention_mask=torch.ones_like({ids}), max_new_tokens={n}, "
        f"do_sample={kind == 'seeded'}, eos_token_id={ends}{said})"
    )
