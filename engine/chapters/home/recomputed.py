"""What the figures of the landing page are compared with, and lines of their scripts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from engine.evidence.script import preamble
from engine.model.loaded import Loaded
from engine.tokens.encoder import decode, literal_runs


@torch.no_grad()
def read_off(loaded: Loaded, stream: NDArray[Any]) -> NDArray[np.float32]:
    """Logits (…, vocab) of the model's own final norm and unembedding on vectors of the residual stream."""
    norm: Any = loaded.part("final_norm")
    head: Any = loaded.part("unembedding")
    vectors = torch.tensor(stream).to(loaded.model.device, loaded.dtype)
    logits: NDArray[np.float32] = head(norm(vectors)).float().cpu().numpy()
    return logits


@torch.no_grad()
def read_off_again(loaded: Loaded, streams: torch.Tensor) -> torch.Tensor:
    """Probabilities (layer+1, vocab) from vectors (layer+1, d_model): norm and product written out with torch."""
    norm: Any = loaded.part("final_norm")
    head: Any = loaded.model.get_output_embeddings()
    gain, bias = norm.weight.double().cpu(), getattr(norm, "bias", None)
    shift = torch.zeros_like(gain) if bias is None else bias.double().cpu()
    if loaded.spec.centred:
        normed = F.layer_norm(streams, gain.shape, gain, shift, loaded.spec.norm_eps)
    else:
        normed = F.rms_norm(streams, gain.shape, gain, loaded.spec.norm_eps) + shift
    logits = torch.cat([F.linear(normed, rows.double().cpu()) for rows in head.weight.split(4096)], -1)
    if getattr(head, "bias", None) is not None:
        logits = logits + head.bias.double().cpu()
    return logits.softmax(-1)


def decoded(loaded: Loaded, typed: Sequence[int]) -> str:
    """A text as the tokenizer's own decoder writes it."""
    return decode(loaded.tokenizer, typed)


def decoded_code(loaded: Loaded, typed: Sequence[int]) -> str:
    """Lines of a script that define `text`, decoded from the ids."""
    return (
        f"runs = {literal_runs(loaded.tokenizer, typed)}  # ids of the text; those alone are added tokens\n"
        "options = dict(skip_special_tokens=False, clean_up_tokenization_spaces=False)\n"
        'text = "".join(\n'
        "    tokenizer.decode(run, **options) if isinstance(run, list) else tokenizer.convert_ids_to_tokens(run)\n"
        "    for run in runs\n"
        ")\n"
    )


def blocks_code(loaded: Loaded) -> str:
    """Lines of a script that read the last token's vector off before the first block and after every block."""
    return f"""
norm = model.get_submodule({loaded.path("final_norm")!r})
head = model.get_submodule({loaded.path("unembedding")!r})
stream = []

def enters(module, args, kwargs):
    stream.append((args[0] if args else kwargs["hidden_states"])[0, -1])

hooks = [block.register_forward_pre_hook(enters, with_kwargs=True)
         for block in (*model.get_submodule({loaded.path("blocks")!r}), norm)]
with torch.no_grad():
    model(ids)
    for hook in hooks:
        hook.remove()
    p = head(norm(torch.stack(stream))).double().softmax(-1).max(-1)  # the logit lens
result = {{"guess": p.indices, "guessed": p.values}}
"""


def machine_code(loaded: Loaded, ids: Sequence[int], candidates: int) -> str:
    """A script for the drawing of the whole model."""
    attention, mlp = (loaded.adapter.inside(loaded.adapter.writes(part)) for part in ("attention", "mlp"))
    spec = loaded.spec
    centre = " - v.mean(-1, keepdim=True)" if spec.centred else ""
    return (
        preamble(loaded, ids)
        + f"""
blocks = model.get_submodule({loaded.path("blocks")!r})
norm = model.get_submodule({loaded.path("final_norm")!r})
head = model.get_submodule({loaded.path("unembedding")!r})
stream, attention, mlp = [], [], []

def enters(module, args, kwargs):
    stream.append((args[0] if args else kwargs["hidden_states"])[0, -1])

hooks = [block.register_forward_pre_hook(enters, with_kwargs=True) for block in blocks]
hooks.append(norm.register_forward_pre_hook(enters, with_kwargs=True))
for block in blocks:
    block.get_submodule({attention!r}).register_forward_hook(lambda m, a, out: attention.append(out[0, -1]))
    block.get_submodule({mlp!r}).register_forward_hook(lambda m, a, out: mlp.append(out[0, -1]))

with torch.no_grad():
    out = model(ids, output_attentions=True)
    for hook in hooks:
        hook.remove()
    stream = torch.stack(stream)  # layer+1, d_model
    lens = head(norm(stream)).double().softmax(-1)  # the logit lens
    chances = out.logits[0, -1].double().softmax(-1)
    best = chances.sort(descending=True, stable=True).indices[:{candidates}]
    end = stream[-1].double()
    still = lambda v: v.double(){centre.replace("v.mean", "v.double().mean")}
    scale = (still(end).square().mean() + {spec.norm_eps}).sqrt()  # of the final norm, held
    direction = norm.weight.double() * head.weight[best[0]].double() / scale
    adds = [still(torch.stack(part)) @ direction for part in (attention, mlp)]
result = {{
    "reads": torch.stack([weights[0, :, -1].float().mean(0) for weights in out.attentions]),
    "attention adds": adds[0],
    "MLP adds": adds[1],
    "guess": lens.argmax(-1),
    "guessed": lens.max(-1).values,
    "next": best,
    "chances": chances[best],
}}
"""
    )
