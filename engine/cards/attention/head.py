"""One head of one forward pass, and the weights behind it: what all cards of this chapter start from."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine import ReaderError
from engine.cards.attention.weights import apply, matrix
from engine.model.loading import Loaded
from engine.model.trace import Array, Trace
from engine.ops import attention as ops

Part = Literal["query", "key", "value"]
PARTS: tuple[Part, ...] = ("query", "key", "value")
LETTER = {"query": "q", "key": "k", "value": "v"}


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
        return self.trace.q[self.layer, self.index]

    @property
    def k(self) -> Array:
        return self.trace.k[self.layer, self.kv]

    @property
    def v(self) -> Array:
        return self.trace.v[self.layer, self.kv]

    @property
    def weights(self) -> Array:
        """Softmax weights as the model returned them."""
        return self.trace.attention[self.layer, self.index]

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
        return ops.scores(self.q, self.k)

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
        return before[self.layer, self.index if part == "query" else self.kv]

    def normed(self) -> NDArray[np.float32]:
        """The residual stream behind the norm before attention, (seq, d_model): what all projections read."""
        return apply(self.loaded.part("attn_norm", self.layer), self.trace.hidden[self.layer])

    def output(self, query: int) -> ops.Floats:
        """The head's output vector for a query, d_head: Σ weight·value."""
        return ops.contributions(self.weights[query], self.v).sum(axis=0)

    def write(self, query: int) -> NDArray[np.float64]:
        """What the head adds to the residual stream at a query, d_model: its output times its rows of W_O."""
        weight, _ = self.output_matrix()
        written: NDArray[np.float64] = self.output(query) @ weight.astype(np.float64)
        return written

    def projection(self, part: Part) -> tuple[Array, Array]:
        """(weight, bias) of this head's query, key or value: shapes (d_model, d_head) and d_head."""
        spec, adapter = self.loaded.spec, self.loaded.adapter
        place = PARTS.index(part)
        own = self.index if part == "query" else self.kv
        if adapter.qkv == "separate":
            name, start = f"{LETTER[part]}_proj", own * spec.d_head
        elif adapter.qkv == "split":
            name, start = "qkv", (place * spec.n_head + own) * spec.d_head
        else:
            name, start = "qkv", (own * 3 + place) * spec.d_head
        weight, bias = matrix(self.loaded.part(name, self.layer), self.loaded.half)
        return weight[:, start : start + spec.d_head], bias[start : start + spec.d_head]

    def output_matrix(self) -> tuple[Array, Array]:
        """This head's rows of W_O, (d_head, d_model), and the bias that all heads share, d_model."""
        d_head = self.loaded.spec.d_head
        weight, bias = matrix(self.loaded.part("o_proj", self.layer), self.loaded.half)
        return weight[self.index * d_head : (self.index + 1) * d_head], bias

    def finish(self, projected: ArrayLike, part: Part) -> NDArray[np.float32]:
        """The q/k-norm that some architectures put behind the projection; where there is none, nothing changes."""
        if part == "value" or not self.has_qk_norm:
            return np.asarray(projected, np.float32)
        return apply(self.loaded.part(LETTER[part], self.layer), projected)

    @property
    def has_qk_norm(self) -> bool:
        names = self.loaded.adapter.layer
        return names.get("q") != names.get("q_proj")
