"""The whole model as one drawing: what the last token reads in each block, what blocks add, how the guess settles."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine.chapters.home.recomputed import machine_code, read_off, read_off_again
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import ends
from engine.evidence.oracles.attentions import returned_attention
from engine.evidence.oracles.order import at_ranks
from engine.evidence.rounding import pass_tolerance, probability_tolerance, same_pass
from engine.model.capturing import tokens_of
from engine.model.ledger import affine
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops.sampling import softmax
from engine.tokens.text import plural

CANDIDATES = 5
TOKENS_DRAWN = 12
"""The last tokens of the prompt that the drawing has room for; the numbers are of all."""


def machine(loaded: Loaded, trace: Trace) -> Card:
    """What is drawn of the model for the prompt's last token; the scene draws it from `shown` and the table.

    `reads` (layer, key): attention of the last token, the mean over a block's heads. `attention adds` and `MLP adds`
    (layer): what each sublayer adds to the logit of the final favourite, directly. `guess`, `guessed` (layer+1): the
    likeliest token and its probability, read off the stream after each block. `next`, `chances`: the next token.
    """
    chances = softmax(trace.logits[-1])
    best = [int(i) for i in np.argsort(-chances, kind="stable")[:CANDIDATES]]
    direction, _ = affine(loaded, trace.hidden[-1, -1], best[0])
    lens = softmax(read_off(loaded, trace.hidden[:, -1]))
    guess = lens.argmax(-1)
    shown = {
        "reads": trace.attention[:, :, -1].mean(1),
        "attention adds": trace.attn_out[:, -1].astype(np.float64) @ direction,
        "MLP adds": trace.mlp_out[:, -1].astype(np.float64) @ direction,
        "guess": guess,
        "guessed": lens.max(-1),
        "next": best,
        "chances": chances[best],
    }
    names = [token.display for token in tokens_of(loaded, best)]
    n_layer, ids = loaded.spec.n_layer, trace.ids
    adds = pass_tolerance(loaded, shown["attention adds"], shown["MLP adds"], steps=4)
    probable = probability_tolerance(loaded)
    return Card(
        key="machine",
        title=f"{plural(len(ids), 'token')}, {plural(n_layer, 'block')}, and “{names[0]}” with "
        f"{chances[best[0]]:.0%} to come next",
        alt=f"The model as a column: {len(ids)} tokens at the foot, {n_layer} blocks above them, each with what its "
        f"attention reads and how much attention and MLP add to the logit of “{names[0]}”, and the next token at "
        "the top.",
        badge=Badge.LIVE,
        figure=None,
        table={
            "blocks passed": list(range(n_layer + 1)),
            "favourite": [token.display for token in tokens_of(loaded, guess.tolist())],
            "probability": shown["guessed"].tolist(),
            "attention adds": [float("nan"), *shown["attention adds"].tolist()],
            "MLP adds": [float("nan"), *shown["MLP adds"].tolist()],
            "reads most at": [float("nan"), *map(float, shown["reads"].argmax(-1))],
        },
        shown=shown,
        oracle=Oracle(
            "Attention as transformers returns it; hidden states that it returns and writes that torch's hooks catch "
            "in a private copy, put through the final norm and the unembedding written out with torch.",
            lambda: _again(loaded, ids, best, guess.tolist(), probable),
            {
                "reads": probable,
                "attention adds": adds,
                "MLP adds": adds,
                "guess": 0.0,
                "guessed": probable,
                "next": 0.0,
                "chances": same_pass(),
            },
        ),
        code=machine_code(loaded, ids, CANDIDATES),
        note="Attention is the mean over the heads of a block. “Adds” is the direct effect on the logit of the final "
        "favourite, at the final norm's scale. The guesses between the blocks are the logit lens.",
    )


@torch.no_grad()
def _again(
    loaded: Loaded, ids: Sequence[int], best: Sequence[int], guess: Sequence[int], allowed: float
) -> dict[str, Any]:
    streams, (attention, mlp) = ends.streams(loaded, ids)[:, -1], ends.writes(loaded, ids)
    norm: Any = loaded.part("final_norm")
    gain = norm.weight.double().cpu()
    head: Any = loaded.model.get_output_embeddings()
    eps = loaded.spec.norm_eps
    if loaded.spec.centred:
        scale = (streams[-1].var(unbiased=False) + eps).sqrt()
        still = [part[:, -1] - part[:, -1].mean(-1, keepdim=True) for part in (attention, mlp)]
    else:
        scale = (streams[-1].square().mean() + eps).sqrt()
        still = [attention[:, -1], mlp[:, -1]]
    p = read_off_again(loaded, streams)
    final = ends.last_probabilities(loaded, ids)
    top = at_ranks(best, final, same_pass())
    row = head.weight[int(top[0])].double().cpu()
    adds = [(part / scale * gain) @ row for part in still]
    favourites = [int(at_ranks([given], row, allowed)[0]) for given, row in zip(guess, p, strict=True)]
    return {
        "reads": returned_attention(loaded, ids)[:, :, -1].double().mean(1).numpy(),
        "attention adds": adds[0].numpy(),
        "MLP adds": adds[1].numpy(),
        "guess": favourites,
        "guessed": p.max(-1).values.numpy(),
        "next": top,
        "chances": final[top].numpy(),
    }
