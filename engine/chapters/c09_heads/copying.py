"""What a head does with a token that it looks at: whether it raises the logit of that very token."""

import numpy as np
import torch

from engine import Loaded
from engine.chapters.c09_heads.naming import name
from engine.chapters.c09_heads.repeats import repeated
from engine.evidence import head_script as code
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.copying import effects_again
from engine.evidence.rounding import tolerance
from engine.figures import heatmap
from engine.model.head import Head
from engine.model.trace import Trace
from engine.ops import attention as ops
from engine.ops.heads import Floats


def copies(loaded: Loaded, seed: int, layer: int, head: int) -> Card:
    """For each of the random tokens that a head may look at: by how much that raises the logit of each of them.

    Raises ReaderError where a norm stands between the heads' outputs and the residual stream.
    """
    trace = repeated(loaded, seed)
    effects, one = direct_effects(loaded, trace, layer, head), Head(loaded, trace, layer, head)
    places = first_half(trace)
    tokens = [trace.tokens[i].display for i in places]
    return Card(
        key="copies",
        title=f"For {own_first(effects)} of {len(tokens)} tokens, the logit that {name(layer, head)} raises most is "
        f"that of the token it looks at",
        alt=f"A square of {len(tokens)} tokens that {name(layer, head)} may look at by the same tokens, with the "
        "effect of the one on the logit of the other. Where the head copies, the diagonal is dark.",
        badge=Badge.LIVE,
        figure=heatmap(
            effects,
            tokens,
            tokens,
            kind="diverging",
            row_name="token looked at",
            column_name="token whose logit moves",
            value_name="effect on the logit",
            height=480,
        ),
        table={
            "token": tokens,
            "effect on its own logit": np.diag(effects).tolist(),
            "largest effect on another": _others(effects).max(axis=1).tolist(),
        },
        shown={"effects": effects},
        oracle=Oracle(
            "Values projected again from the stream that transformers returns, through the output projection's own "
            "module; PyTorch's norm on the residual stream with and without that write, at the scale it has without, "
            "and the difference of the two sets of logits.",
            lambda: {"effects": effects_again(one, places)},
            tolerance(loaded, effects, steps=8),
        ),
        code=code.script(one, code.output_matrix(one), _lines(one, places)),
        note=f"By the direct path: value · W_O, the final norm with the scale that it has at the last position, and "
        f"the unembedding, relative to the mean of all {loaded.spec.vocab:,} tokens. Later layers read this write too. "
        f"Seed {seed}.",
    )


def first_half(trace: Trace) -> list[int]:
    """The positions of the random tokens at their first reading."""
    return list(range(1, (len(trace.tokens) - 1) // 2 + 1))


def direct_effects(loaded: Loaded, trace: Trace, layer: int, head: int) -> Floats:
    """The effect of each token's value, were it all that the head looks at, on the logits of all of them."""
    one, places = Head(loaded, trace, layer, head), first_half(trace)
    one.write(0)  # refuses a head that has no write of its own
    weight, _ = one.output_matrix()
    writes = one.v[places].astype(np.float64) @ weight.astype(np.float64)
    table = loaded.part("unembedding").get_parameter("weight").detach()
    gain = loaded.part("final_norm").get_parameter("weight").detach().float().cpu().numpy()
    rows = table[[trace.ids[i] for i in places]].float() - table.mean(0, dtype=torch.float32)
    held = [
        ops.through_final_norm(write, trace.hidden[-1, -1], gain, loaded.spec.norm_eps, loaded.spec.centred)
        for write in writes
    ]
    result: Floats = np.stack(held) @ rows.cpu().double().numpy().T
    return result


def own_first(effects: Floats) -> int:
    """For how many tokens the effect on their own logit is the largest."""
    return int((np.nan_to_num(effects).argmax(axis=1) == np.arange(len(effects))).sum())


def best_copier(loaded: Loaded, seed: int) -> tuple[tuple[int, int], int]:
    """The head that raises a token's own logit most for the most tokens, and for how many."""
    trace = repeated(loaded, seed)
    counts = np.array(
        [
            [own_first(direct_effects(loaded, trace, layer, head)) for head in range(loaded.spec.n_head)]
            for layer in range(loaded.spec.n_layer)
        ]
    )
    layer, head = (int(i) for i in np.unravel_index(int(counts.argmax()), counts.shape))
    return (layer, head), int(counts[layer, head])


def _others(effects: Floats) -> Floats:
    others = effects.copy()
    np.fill_diagonal(others, -np.inf)
    return others


def _lines(one: Head, places: list[int]) -> str:
    centre = "part, whole = part - part.mean(-1, keepdim=True), whole - whole.mean()\n"
    return f"""
norm = model.get_submodule(watched["final_norm"])
table = model.get_submodule({code.path(one, "unembedding")!r}).weight.detach().float()
places = {places}
part, whole = v[places] @ W_O, took["final_norm"][0, -1].float()
{centre if one.loaded.spec.centred else ""}held = part / (whole.square().mean() + {one.loaded.spec.norm_eps}).sqrt() \
* norm.weight.detach().float()
result = {{"effects": held @ (table[ids[0, places]] - table.mean(0)).T}}
"""
