"""What an adapter says about an architecture: its data, the answers that follow from them, and what it refuses.

Nothing outside this folder asks for a `model_type`, compares the name of a norm or spells out a module's path.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import getsource
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engine import ReaderError

Projected = Literal["query", "key", "value"]
PROJECTED: tuple[Projected, ...] = ("query", "key", "value")
LETTER: Mapping[Projected, str] = {"query": "q", "key": "k", "value": "v"}

ROPE_TYPES = frozenset({"default", "linear", "dynamic", "llama3", "yarn"})

_NEUTRAL = frozenset(
    """_name_or_path architectures chunk_size_feed_forward dtype torch_dtype id2label is_encoder_decoder label2id
    model_type output_attentions output_hidden_states problem_type return_dict transformers_version _num_labels
    use_cache initializer_range bos_token_id eos_token_id pad_token_id tie_word_embeddings vocab_size""".split()
)
"""Attributes of any config that say nothing about the arithmetic of the forward pass, or that `Spec` reads."""


@dataclass(frozen=True)
class Spec:
    """The sizes and choices of one loaded model, in the words of `engine.model.trace`'s glossary."""

    model_type: str
    n_layer: int
    n_head: int
    n_kv_head: int
    d_model: int
    d_head: int
    d_ff: int
    vocab: int
    context: int
    norm: Literal["LayerNorm", "RMSNorm"]
    norm_eps: float
    activation: str
    gated: bool
    positions: Literal["learned", "rotary"]
    parallel: bool
    tied: bool
    norms: Literal["before", "behind", "shared"] = "before"
    scaled: bool = True
    window: int | None = None
    own_mask: bool = False

    @property
    def centred(self) -> bool:
        """Whether the norm subtracts the mean before it divides (LayerNorm does, RMSNorm does not)."""
        return self.norm == "LayerNorm"

    @property
    def score_scale(self) -> float:
        """What q·k is multiplied by before the softmax: 1/√d_head, or 1 where scores are not scaled."""
        return self.d_head**-0.5 if self.scaled else 1.0

    @property
    def longest(self) -> int:
        """Tokens that a prompt may have here: the context, or the window that some layers' attention is cut to."""
        return min(self.context, self.window or self.context)


def exact(model: "Any") -> None:  # quoted, because scripts print this function
    """Let a private copy of a model compute in the dtype of its weights throughout.

    The eager softmax of transformers and its RMSNorms go through float32 whatever they are given; torch’s do not.
    """
    model.set_attn_implementation("sdpa")
    for norm in [part for part in model.modules() if type(part).__name__.endswith("RMSNorm")]:
        norm.forward = lambda x, m=norm: torch.nn.functional.rms_norm(
            x, m.weight.shape, m.weight, m.variance_epsilon
        )


def no_window(config: Any) -> int | None:
    """The window of an architecture whose attention always sees every earlier token."""
    return None


@dataclass(frozen=True)
class Adapter:
    """One architecture.

    parts       name -> module path from the model: embedding, positions (a learned table) or rotary, blocks,
                final_norm, unembedding
    layer       name -> module path from a block: attn_norm, attention, o_proj, mlp_norm, mlp, up_proj, down_proj,
                gate_proj in a gated MLP; and the modules that `qkv` reads
    qkv         how queries, keys and values leave their projections: "split" (one fused matrix, q then k then v),
                "interleaved" (one fused matrix, head by head), "separate" (three matrices, `q`, `k` and `v`
                naming the modules whose outputs are used)
    config      Spec field -> config attribute
    leftovers   patterns of tensor names that older versions of transformers saved and that mean nothing
    neutral     further config attributes that do not change the forward pass in evaluation mode
    fixed       config attribute -> the only values this adapter stands for
    partial     whether RoPE may turn only a part of each head (`partial_rotary_factor`)
    norms       where the norms of a block stand: one "before" each sublayer, one "behind" each (before its write is
                added), or one "shared" by both sublayers of a parallel block
    qk_norm     what a norm of q and k behind the projection goes over: each "head", or the "width" of all heads
    scaled      whether q·k is divided by √d_head before the softmax
    transposed  whether linear layers store W as (inputs, outputs): `transformers`' Conv1D
    own_mask    whether each attention module applies a causal mask of its own, whatever mask it is given
    window      reads from a config how many tokens, its own included, the attention of some layers is cut to
    exact       changes a private copy of the model so that it computes in the dtype of its weights throughout
    """

    model_type: str
    parts: Mapping[str, str]
    layer: Mapping[str, str]
    qkv: Literal["split", "interleaved", "separate"]
    config: Mapping[str, str]
    norm: Literal["LayerNorm", "RMSNorm"]
    positions: Literal["learned", "rotary"]
    gated: bool = False
    partial: bool = False
    norms: Literal["before", "behind", "shared"] = "before"
    qk_norm: Literal["head", "width"] | None = None
    scaled: bool = True
    transposed: bool = False
    own_mask: bool = False
    window: Callable[[Any], int | None] = no_window
    exact: Callable[[Any], None] = exact
    leftovers: tuple[str, ...] = ()
    neutral: frozenset[str] = frozenset()
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether the architecture has a part of this name, in a block or outside of the blocks."""
        return name in self.parts or name in self.layer

    def in_block(self, name: str) -> bool:
        """Whether a part is one of every block."""
        return name in self.layer

    def inside(self, name: str) -> str:
        """Where a part of a block is, from the block."""
        return self.layer[name]

    def path(self, name: str, layer: int | str | None = None) -> str:
        """Where a part is in the module tree: one of `parts`, or with `layer` one of a block. KeyError for no part.

        `layer` may be a text that stands for the number, as in a format string; "block" is the whole block.
        """
        if layer is None:
            return self.parts[name]
        block = f"{self.parts['blocks']}.{layer}"
        return block if name == "block" else f"{block}.{self.layer[name]}"

    def module(self, model: nn.Module, name: str, layer: int | None = None) -> nn.Module:
        """The module of a part in a model of this architecture."""
        return model.get_submodule(self.path(name, layer))

    def reads(self, sublayer: Literal["attention", "mlp"]) -> str:
        """The part that takes the residual stream for a sublayer: the norm before it, or the sublayer itself."""
        norm = "attn_norm" if sublayer == "attention" else "mlp_norm"
        return sublayer if self.norms == "behind" else norm

    def writes(self, sublayer: Literal["attention", "mlp"]) -> str:
        """The part whose output, one tensor, is what a sublayer adds to the residual stream."""
        plain, norm = ("o_proj", "attn_norm") if sublayer == "attention" else ("mlp", "mlp_norm")
        return norm if self.norms == "behind" else plain

    @property
    def projections(self) -> tuple[str, ...]:
        """The parts of a block whose outputs `heads` turns into q, k and v."""
        return ("q", "k", "v") if self.qkv == "separate" else ("qkv",)

    def heads(self, outputs: Mapping[str, Tensor], d_head: int) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v as they leave the projections, (batch, head or kv_head, seq, d_head).

        outputs  by the names in `projections`, each (batch, seq, …)
        """
        if self.qkv == "interleaved":  # each head's q, k and v lie side by side
            q, k, v = _by_head(outputs["qkv"], 3 * d_head).chunk(3, dim=-1)
            return q, k, v
        parts = outputs["qkv"].chunk(3, dim=-1) if self.qkv == "split" else [outputs[n] for n in "qkv"]
        q, k, v = (_by_head(part, d_head) for part in parts)
        return q, k, v

    @property
    def heads_lines(self) -> str:
        """The same as lines of a script: from `gave`, `seq` and `d_head` to q, k, v (head or kv_head, seq, d_head)."""
        if self.qkv == "interleaved":
            return 'q, k, v = gave["qkv"][0].reshape(seq, -1, 3 * d_head).transpose(0, 1).chunk(3, dim=-1)'
        parts = (
            'gave["qkv"][0].chunk(3, dim=-1)' if self.qkv == "split" else '(gave[name][0] for name in "qkv")'
        )
        return f"q, k, v = (x.reshape(seq, -1, d_head).transpose(0, 1) for x in {parts})"

    def columns(self, part: Projected, spec: Spec, head: int, kv_head: int) -> tuple[str, int]:
        """Where a head's query, key or value is made: the part of the block with the matrix, and its first column.

        d_head columns of x·W + b from there on are the head's.
        """
        place, own = PROJECTED.index(part), head if part == "query" else kv_head
        if self.qkv == "separate":
            return f"{LETTER[part]}_proj", own * spec.d_head
        if self.qkv == "split":
            return "qkv", (place * spec.n_head + own) * spec.d_head
        return "qkv", (own * 3 + place) * spec.d_head

    def weight_lines(self, module: str) -> str:
        """The expression for W of x·W + b, (inputs, outputs), of a linear layer that is not quantized."""
        return f"{module}.weight.detach().float(){'' if self.transposed else '.T'}"

    def rotation_lines(self, attention: nn.Module) -> str:
        """Lines of a script that define `apply_rotary_pos_emb(q, k, cos, sin)` as this architecture turns q and k."""
        module = type(attention).__module__
        if not self.partial:
            return f"from {module} import apply_rotary_pos_emb"
        return f"""
from {module} import apply_rotary_pos_emb as turn

def apply_rotary_pos_emb(q, k, cos, sin):  # RoPE turns the first dimensions of each head, the others stay
    first = cos.shape[-1]
    turned = turn(q[..., :first], k[..., :first], cos, sin)
    return tuple(torch.cat([new, old[..., first:]], dim=-1) for new, old in zip(turned, (q, k)))
""".strip("\n")

    @property
    def exact_lines(self) -> str:
        """Lines of a script that let its `model` compute in the dtype of its weights throughout."""
        return f"{getsource(self.exact)}\n\n{self.exact.__name__}(model)"

    def spec(self, config: Any) -> Spec:
        """Read a `transformers` config. Raises ReaderError for an attribute or value it does not know."""
        values = config.to_dict()
        self._refuse_unknown(values)
        read = {name: values.get(attribute) for name, attribute in self.config.items()}
        d_head = read.get("d_head") or read["d_model"] // read["n_head"]
        return Spec(
            model_type=self.model_type,
            n_layer=read["n_layer"],
            n_head=read["n_head"],
            n_kv_head=read.get("n_kv_head") or read["n_head"],
            d_model=read["d_model"],
            d_head=d_head,
            d_ff=read["d_ff"] or 4 * read["d_model"],
            vocab=values["vocab_size"],
            context=read["context"],
            norm=self.norm,
            norm_eps=read["norm_eps"],
            activation=read["activation"],
            gated=self.gated,
            positions=self.positions,
            parallel=self.norms == "shared" or bool(read.get("parallel", False)),
            tied=bool(values["tie_word_embeddings"]),
            norms=self.norms,
            scaled=self.scaled,
            window=self.window(config),
            own_mask=self.own_mask,
        )

    def _refuse_unknown(self, values: Mapping[str, Any]) -> None:
        known = _NEUTRAL | self.neutral | set(self.config.values()) | set(self.fixed) | {"rope_parameters"}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ReaderError(
                f"This {self.model_type} checkpoint has config attributes that are not understood here "
                f"({', '.join(unknown)}), so it is refused rather than guessed at."
            )
        for attribute, allowed in self.fixed.items():
            if attribute in values and values[attribute] not in allowed:
                raise ReaderError(
                    f"This {self.model_type} checkpoint sets {attribute} = {values[attribute]!r}, "
                    f"which is not supported here."
                )
        if set(values.get("layer_types") or ["full_attention"]) != {"full_attention"}:
            raise ReaderError("Layers with sliding-window attention are not supported here.")
        rope = values.get("rope_parameters") or {}
        rope_type = rope.get("rope_type", "default")
        if rope_type not in ROPE_TYPES:
            raise ReaderError(f"The RoPE variant “{rope_type}” is not supported here.")
        share = rope.get("partial_rotary_factor", 1.0)
        if share != 1.0 and not self.partial:
            raise ReaderError(
                f"This {self.model_type} checkpoint sets partial_rotary_factor = {share!r}, "
                "which is not supported here."
            )


def _by_head(joined: Tensor, width: int) -> Tensor:
    """(batch, seq, head·width) as (batch, head, seq, width)."""
    return joined.reshape(*joined.shape[:2], -1, width).transpose(1, 2)
