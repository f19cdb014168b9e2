"""What an adapter says about an architecture. Data and its validation, no forward-pass logic."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine import ReaderError

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


@dataclass(frozen=True)
class Adapter:
    """One architecture.

    parts     name -> module path from the model: embedding, positions (a learned table) or rotary, blocks,
              final_norm, unembedding
    layer     name -> module path from a block: attn_norm, attention, o_proj, mlp_norm, mlp, up_proj, down_proj,
              gate_proj in a gated MLP; and the modules that `qkv` reads
    qkv       how queries, keys and values leave their projections: "split" (one fused matrix, q then k then v),
              "interleaved" (one fused matrix, head by head), "separate" (three matrices, `q`, `k` and `v`
              naming the modules whose outputs are used)
    config    Spec field -> config attribute
    neutral   further config attributes that do not change the forward pass in evaluation mode
    fixed     config attribute -> the only values this adapter stands for
    partial   whether RoPE may turn only a part of each head (`partial_rotary_factor`)
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
    neutral: frozenset[str] = frozenset()
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

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
            parallel=bool(read.get("parallel", False)),
            tied=bool(values["tie_word_embeddings"]),
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
