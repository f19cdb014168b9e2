"""One word in two sentences: the cosine of its two vectors after every block.

Compared with different tokens of the same two sentences, because vectors of one layer may all point alike
(Ethayarajh 2019, arXiv:1909.00512).
"""

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn import functional as F

from engine import ReaderError
from engine.chapters.c02_embeddings.matrix import quoted, signed
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.ends import streams
from engine.evidence.rounding import same_pass
from engine.evidence.script import script
from engine.figures import lines
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops.embeddings import Float, cosine, unit
from engine.tokens.text import clean_prompt, shorten

OTHERS = "different tokens, mean"


def find(trace: Trace, word: str) -> int:
    """Position of the token that ends the last occurrence of a whole word. Raises ReaderError if there is none."""
    wanted = clean_prompt(word, 60).strip().encode("utf-8")
    if not wanted:
        raise ReaderError("Please give a word that is in both sentences.")
    starts = np.cumsum([0, *(len(token.bytes) for token in trace.tokens)])
    text = b"".join(token.bytes for token in trace.tokens)
    found = list(re.finditer(rb"(?<!\w)" + re.escape(wanted) + rb"(?!\w)", text))
    if not found:
        shown = shorten(word.strip(), 30)
        raise ReaderError(
            f"“{shown}” is not in both sentences (their first {len(trace.tokens)} tokens are read)."
        )
    return int(np.searchsorted(starts, found[-1].end(), side="left")) - 1


def drift(loaded: Loaded, one: Trace, other: Trace, word: str) -> Card:
    """Cosine between the word's two vectors at the entrance of block 0 and after every block."""
    i, j = find(one, word), find(other, word)
    same = cosine(one.hidden[:, i], other.hidden[:, j])
    apart = different(one, other)
    token, again = one.tokens[i], other.tokens[j]
    depths, ids, others = np.arange(len(same)), one.ids, other.ids
    shown = {"cosines": same} | ({} if np.isnan(apart).any() else {"different": apart})
    label = f"{quoted(token.display, 12)} in both"
    return Card(
        key="drift",
        title=f"{quoted(token.display)}: cosine {signed(same[0])} at the entrance, {signed(same[-1])} after "
        f"{depths[-1]} blocks; different tokens {signed(apart[0])} and {signed(apart[-1])}",
        alt="A line of the cosine between the two vectors of the word against the blocks passed, and one of the mean "
        "cosine between different tokens of the two sentences.",
        badge=Badge.LIVE,
        figure=lines(
            depths,
            {label: same, OTHERS: apart},
            colors={label: "residual", OTHERS: "token"},
            x_name="blocks passed",
            y_name="cosine",
            zero=True,
        ),
        table={"blocks passed": depths.tolist(), "the word": same.tolist(), OTHERS: apart.tolist()},
        shown=shown,
        oracle=Oracle(
            "torch’s cosine_similarity of the hidden states that transformers returns, of the word and of every pair "
            "of different tokens; after the last block, which it returns only normalized, of what the final norm reads "
            "in a private copy. (The same model twice: this finds a wrong vector or cosine, not a wrong model.)",
            lambda: _again(loaded, ids, others, i, j),
            same_pass(),
        ),
        code=_code(loaded, one, other, i, j, list(shown)),
        note=_note(one, other, i, j, token.id == again.id),
    )


def different(one: Trace, other: Trace) -> Float:
    """Mean cosine (layer+1) of all pairs of different tokens, one from each text; NaN where there is no pair."""
    unlike = np.array(one.ids)[:, None] != np.array(other.ids)
    if not unlike.any():
        return np.full(len(one.hidden), np.nan)
    return np.array(
        [(a @ b.T)[unlike].mean() for a, b in zip(unit(one.hidden), unit(other.hidden), strict=True)]
    )


def _note(one: Trace, other: Trace, i: int, j: int, same: bool) -> str:
    note = f"Compared: position {i} of the first sentence with position {j} of the second"
    first, second = (quoted(token.display) for token in (one.tokens[i], other.tokens[j]))
    if not same:
        return f"{note}; they are different tokens, {first} and {second}."
    return f"{note}, both token {one.ids[i]}, {first}."


def _again(loaded: Loaded, one: Sequence[int], other: Sequence[int], i: int, j: int) -> dict[str, ArrayLike]:
    first, second = streams(loaded, one), streams(loaded, other)
    found: dict[str, ArrayLike] = {"cosines": F.cosine_similarity(first[:, i], second[:, j], dim=-1).numpy()}
    unlike = torch.tensor(one)[:, None] != torch.tensor(other)
    if unlike.any():
        pairs = zip(first, second, strict=True)
        found["different"] = [
            float(F.cosine_similarity(a[:, None], b[None], dim=-1)[unlike].mean()) for a, b in pairs
        ]
    return found


def _code(loaded: Loaded, one: Trace, other: Trace, i: int, j: int, wanted: Sequence[str]) -> str:
    blocks = loaded.path("blocks")
    return script(
        loaded,
        one.ids,
        f"""
        other_ids = torch.tensor([{list(other.ids)}])
        streams = []
        model.{blocks}[0].register_forward_pre_hook(lambda m, args, kwargs: streams.append(
            args[0] if args else kwargs["hidden_states"]), with_kwargs=True)
        for block in model.{blocks}:
            block.register_forward_hook(lambda m, args, out: streams.append(out[0] if isinstance(out, tuple) else out))
        with torch.no_grad():
            model(ids), model(other_ids)
        units = [torch.nn.functional.normalize(stream[0].double(), dim=-1) for stream in streams]
        half = len(units) // 2
        cosines = torch.stack([a @ b.T for a, b in zip(units[:half], units[half:])])  # layer+1, seq, seq
        unlike = ids[0][:, None] != other_ids[0]
        found = {{"cosines": cosines[:, {i}, {j}], "different": cosines[:, unlike].mean(-1)}}
        result = {{name: found[name] for name in {list(wanted)}}}
        """,
    )
