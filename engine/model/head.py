"""One head of one forward pass, and the weights behind it: what all cards of this chapter start from."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine import ReaderError
from engine.model.adapters.base import LETTER, PROJECTED, Projected
from engine.model.loaded import Loaded
from engine.model.matrices import apply, matrix
from engine.model.trace import Array, Trace
from engine.ops import attention as ops

Part = Projected
PARTS = PROJECTED
__all__ = ["LETTER", "PARTS", "Head", "Part"]


@dataclass(frozen=True, eq=False)
class Head:
    """The query head `index` of block `layer`. Its arrays: q, k, v (seq, d_head) and weights (query, key)."""

    loaded: Loaded
    trace: Trace
    layer: int
    index: int

    def __post_init__(self) -> None:
        spec = self.loaded.spec
        for name, value, count in (("layer", self.layer, spec.n_layer), ("head", self.index, spec.n_head)):
            if not 0 <= value < count:
                raise ReaderError(f"This model has no {name} {value}; its last one is {count - 1}.")

    @property
    def kv(self) -> int:
        """The key/value head that this query head reads."""
        spec = self.loaded.spec
        return ops.kv_head(self.index, spec.n_head, spec.n_kv_head)

    @property
    def q(self) -> Array:
        result: Array = self.trace.q[self.layer, self.index]
        return result

    @property
    def k(self) -> Array:
        result: Array = self.trace.k[self.layer, self.kv]
        return result

    @property
    def v(self) -> Array:
        result: Array = self.trace.v[self.layer, self.kv]
        return result

    @property
    def weights(self) -> Array:
        """Softmax weights as the model returned them."""
        result: Array = self.trace.attention[self.layer, self.index]
        return result

    @property
    def rotary(self) -> bool:
        return self.loaded.spec.positions == "rotary"

    @property
    def seq(self) -> int:
        return len(self.trace.tokens)

    @property
    def tokens(self) -> list[str]:
        """Display texts; they still need the escaper of their sink."""
        return [token.display for token in self.trace.tokens]

    @property
    def name(self) -> str:
        return f"layer {self.layer}, head {self.index}"

    @cached_property
    def scores(self) -> ops.Floats:
        """Scaled scores before the mask, (query, key)."""
        return ops.scores(self.q, self.k, self.scale)

    @property
    def scale(self) -> float:
        """What q·k is multiplied by: 1/√d_head, or 1 in an architecture that does not scale its scores."""
        return self.loaded.spec.score_scale

    def position(self, query: int, what: str = "token") -> int:
        """`query` if the prompt has that many tokens; else ReaderError."""
        if not 0 <= query < self.seq:
            raise ReaderError(
                f"The prompt has no {what} at position {query}; its last one is at {self.seq - 1}."
            )
        return query

    def quoted(self, position: int) -> str:
        """A token in quotation marks, for titles."""
        return f"“{self.tokens[position]}”"

    def unrotated(self, part: Part) -> Array:
        """q, k or v as it leaves its projection (and q/k-norm, in a model that has one): before RoPE."""
        if part == "value":
            return self.v
        before = self.trace.q_pre if part == "query" else self.trace.k_pre
        if before is None:
            return self.q if part == "query" else self.k
        result: Array = before[self.layer, self.index if part == "query" else self.kv]
        return result

    def normed(self) -> NDArray[np.float32]:
        """What all projections read, (seq, d_model): the residual stream, behind the norm if one stands there."""
        if self.loaded.spec.norms == "behind":
            result: NDArray[np.float32] = self.trace.hidden[self.layer]
            return result
        return apply(self.loaded.part("attn_norm", self.layer), self.trace.hidden[self.layer])

    def output(self, query: int) -> ops.Floats:
        """The head's output vector for a query, d_head: Σ weight·value."""
        result: ops.Floats = ops.contributions(self.weights[query], self.v).sum(axis=0)
        return result

    def write(self, query: int) -> NDArray[np.float64]:
        """What the head adds to the residual stream at a query, d_model: its output times its rows of W_O.

        Raises ReaderError where a norm stands between W_O and the stream: it acts on all heads together.
        """
        if self.loaded.spec.norms == "behind":
            raise ReaderError(
                f"{self.loaded.name} normalises what all heads of a layer write together before it is added to the "
                "residual stream, so there is no write of one head to show."
            )
        weight, _ = self.output_matrix()
        written: NDArray[np.float64] = self.output(query) @ weight.astype(np.float64)
        return written

    def projection(self, part: Part) -> tuple[Array, Array]:
        """(weight, bias) of this head's query, key or value: shapes (d_model, d_head) and d_head."""
        spec = self.loaded.spec
        name, start = self.loaded.adapter.columns(part, spec, self.index, self.kv)
        weight, bias = matrix(self.loaded.part(name, self.layer), self.loaded.half)
        return weight[:, start : start + spec.d_head], bias[start : start + spec.d_head]

    def output_matrix(self) -> tuple[Array, Array]:
        """This head's rows of W_O, (d_head, d_model), and the bias that all heads share, d_model."""
        d_head = self.loaded.spec.d_head
        weight, bias = matrix(self.loaded.part("o_proj", self.layer), self.loaded.half)
        return weight[self.index * d_head : (self.index + 1) * d_head], bias

    def finish(self, projected: ArrayLike, part: Part, at: int | slice = slice(None)) -> NDArray[np.float32]:
        """The q/k-norm that some architectures put behind the projection; where there is none, nothing changes.

        `projected` (…, d_head) belongs to the tokens `at`. A norm over the width of all heads sees the other heads too.
        """
        values = np.asarray(projected, np.float32)
        if part == "value" or not self.has_qk_norm:
            return values
        norm, spec = self.loaded.part(LETTER[part], self.layer), self.loaded.spec
        if self.loaded.adapter.qk_norm == "head":
            return apply(norm, values)
        name, start = self.loaded.adapter.columns(part, spec, self.index, self.kv)
        weight, bias = matrix(self.loaded.part(name, self.layer), self.loaded.half)
        every = self.normed()[at].astype(np.float64) @ weight + bias
        every[..., start : start + spec.d_head] = values
        return apply(norm, every)[..., start : start + spec.d_head]

    @property
    def has_qk_norm(self) -> bool:
        return self.loaded.adapter.qk_norm is not None
