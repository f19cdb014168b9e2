"""What the *Code* scripts of this chapter share: the model's logits, and transformers' filters by their settings."""

from engine.evidence.generating import settings
from engine.ops.sampling import Filters

_CLASSES = {
    "repetition_penalty": "RepetitionPenaltyLogitsProcessor",
    "temperature": "TemperatureLogitsWarper",
    "top_k": "TopKLogitsWarper",
    "top_p": "TopPLogitsWarper",
    "min_p": "MinPLogitsWarper",
}


def filter_lines(filters: Filters) -> str:
    """Lines of a script that define `filters`, a list of (name, transformers' class for it with its setting)."""
    chosen = settings(filters)
    names = ", ".join(_CLASSES[name] for name in chosen)
    head = f"from transformers import {names}\n" if names else ""
    made = "".join(f"    ({name!r}, {_CLASSES[name]}({value!r})),\n" for name, value in chosen.items())
    return f"{head}filters = [\n{made}]\n" if made else "filters = []\n"


FORWARD = """
    with torch.no_grad():
        logits = model(ids).logits[0].double()  # seq, vocab
"""
