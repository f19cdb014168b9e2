"""What the figures of the landing page are compared with, and how exactly they have to agree."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.evidence.card import Proof
from engine.evidence.rounding import tolerance
from engine.model.loading import Loaded
from engine.model.trace import Array, Trace
from engine.tokens.encoder import decode, literal_runs


def close(loaded: Loaded, claim: str, ours: Array, theirs: Array) -> Proof:
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(initial=0)
    return Proof(claim, float(difference), tolerance(loaded, ours))


def same(claim: str, ours: Sequence[int], theirs: Sequence[int]) -> Proof:
    """Whole numbers, so nothing may differ; a different length counts as an infinite difference."""
    if len(ours) != len(theirs):
        return Proof(claim, float("inf"), 0.0)
    pairs: NDArray[Any] = np.array([ours, theirs], dtype=np.int64)
    return Proof(claim, float(np.abs(pairs[0] - pairs[1]).max(initial=0)), 0.0)


@torch.no_grad()
def embedded(loaded: Loaded, ids: Sequence[int]) -> Array:
    """Rows of the embedding table (seq, d_model), and of the position table where there is one."""
    rows = _matrix(loaded, "embedding").float().cpu().numpy()[list(ids)]
    if loaded.spec.positions == "learned":
        rows = rows + _matrix(loaded, "positions").float().cpu().numpy()[: len(ids)]
    return np.asarray(rows, np.float32)


@torch.no_grad()
def unembedded(loaded: Loaded, vector: Array) -> Array:
    """The logits of a residual stream vector (d_model): final norm, then the unembedding matrix."""
    weight = _matrix(loaded, "unembedding")
    normed = loaded.part("final_norm")(torch.tensor(vector, dtype=weight.dtype, device=weight.device))
    found: Array = (weight.float() @ normed.float()).cpu().numpy()
    return found


def _matrix(loaded: Loaded, part: str) -> torch.Tensor:
    weight = loaded.part(part).weight
    assert isinstance(weight, torch.Tensor)
    return weight


@torch.no_grad()
def second_run(loaded: Loaded, ids: Sequence[int]) -> Array:
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    found: Array = loaded.model(batch, use_cache=False).logits[0, -1].float().softmax(-1).cpu().numpy()
    return found


def decoded(loaded: Loaded, trace: Trace) -> str:
    """The typed text as the tokenizer's own decoder writes it."""
    return decode(loaded.tokenizer, _typed(trace))


def decoded_code(loaded: Loaded, trace: Trace) -> str:
    """Lines of a script that define `text`, decoded from the ids."""
    return (
        f"runs = {literal_runs(loaded.tokenizer, _typed(trace))}  # ids of the text; those alone are added tokens\n"
        "options = dict(skip_special_tokens=False, clean_up_tokenization_spaces=False)\n"
        'text = "".join(\n'
        "    tokenizer.decode(run, **options) if isinstance(run, list) else tokenizer.convert_ids_to_tokens(run)\n"
        "    for run in runs\n"
        ")\n"
    )


def _typed(trace: Trace) -> list[int]:
    return [token.id for token in trace.tokens if not token.special]


def blocks_code(loaded: Loaded) -> str:
    parts, layer = loaded.adapter.parts, loaded.adapter.layer
    return f"""
blocks = model.get_submodule({parts["blocks"]!r})
residual, attention, mlp = [], [], []

def enters(module, args, kwargs):
    residual.append((args[0] if args else kwargs["hidden_states"])[0, -1])

for block in blocks:
    block.register_forward_pre_hook(enters, with_kwargs=True)
    block.get_submodule({layer["o_proj"]!r}).register_forward_hook(lambda m, a, out: attention.append(out[0, -1]))
    block.get_submodule({layer["mlp"]!r}).register_forward_hook(lambda m, a, out: mlp.append(out[0, -1]))
model.get_submodule({parts["final_norm"]!r}).register_forward_pre_hook(enters, with_kwargs=True)

with torch.no_grad():
    model(ids)
result = {{
    "residual stream": [float(v.float().norm()) for v in residual],
    "attention adds": [float(v.float().norm()) for v in attention],
    "MLP adds": [float(v.float().norm()) for v in mlp],
}}
"""
