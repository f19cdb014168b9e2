"""What one forward pass leaves behind.

Axis glossary, used in every docstring and shape comment of this project:

    layer     transformer block, 0 is the first
    head      query head          kv_head   key/value head (fewer than heads under grouped-query attention)
    query     position that attends          key       position attended to
    seq       position in the prompt
    d_model   width of the residual stream   d_head    width of one head
    d_ff      width of the MLP               vocab     number of logits
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import ReaderError
from engine.tokens.token import Token

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Trace:
    """One forward pass over one prompt: read-only float32 arrays on the CPU.

    tokens     seq
    hidden     layer+1, seq, d_model      entering block 0 … and leaving the last block, before the final norm
    attention  layer, head, query, key    softmax weights
    q          layer, head, seq, d_head   as used in the dot product, so after RoPE where there is RoPE
    k, v       layer, kv_head, seq, d_head
    q_pre, k_pre  as q and k, before RoPE; None where positions are learned
    attn_out, mlp_out  layer, seq, d_model    what each sublayer adds to the residual stream
    mlp_act    layer, seq, d_ff           after the non-linearity; act(gate)·up in a gated MLP
    logits     seq, vocab

    `checkpoint`, `revision`, `precision`, `interventions` say what was run.
    """

    tokens: tuple[Token, ...]
    hidden: Array
    attention: Array
    q: Array
    k: Array
    v: Array
    q_pre: Array | None
    k_pre: Array | None
    attn_out: Array
    mlp_out: Array
    mlp_act: Array
    logits: Array
    checkpoint: str
    revision: str
    precision: str
    interventions: tuple[Any, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))


def inside(trace: Trace, position: int) -> int:
    """A position of the prompt. Raises ReaderError for one it does not have."""
    if not 0 <= position < len(trace.tokens):
        raise ReaderError(f"This prompt has no token {position}; its last one is {len(trace.tokens) - 1}.")
    return position
