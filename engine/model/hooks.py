"""Hooks installed once per loaded model; what one call records or changes travels in a ContextVar.

Adding and removing hooks per call on a shared model lets one reader's hooks see another reader's forward pass.
Permanent hooks that look up the current call cannot: a forward pass runs in the thread that called it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from engine.model import interventions as iv
from engine.model.stopping import stop_here

if TYPE_CHECKING:
    from engine.model.loaded import Loaded

_CURRENT: ContextVar["Pass | None"] = ContextVar("engine_pass", default=None)


@dataclass
class Pass:
    """One forward pass under way: the interventions that act on it, and what it leaves if `record`."""

    interventions: tuple[iv.Intervention, ...] = ()
    record: bool = False
    recorded: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)
    streams: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)

    def put(self, name: str, layer: int, tensor: torch.Tensor) -> None:
        if self.record:
            self.recorded[name, layer] = tensor.detach()

    def of(self, kind: type) -> list[Any]:
        return [item for item in self.interventions if isinstance(item, kind)]


@contextmanager
def running(current: Pass) -> Iterator[Pass]:
    """Make `current` the pass that the hooks of this thread serve."""
    token = _CURRENT.set(current)
    try:
        yield current
    finally:
        _CURRENT.reset(token)


def install(loaded: "Loaded") -> None:
    """Register every hook on a freshly loaded model. Call once, before the model is shared."""
    _positions(loaded)
    loaded.model.register_forward_pre_hook(lambda *_: stop_here())
    loaded.part("final_norm").register_forward_pre_hook(_recorder("hidden", loaded.spec.n_layer))
    loaded.part("final_norm").register_forward_hook(_norm_skipper("final", None))
    loaded.part("unembedding").register_forward_hook(_output_recorder("logits", 0))
    for layer in range(loaded.spec.n_layer):
        _block(loaded, layer)


def _block(loaded: "Loaded", layer: int) -> None:
    part = loaded.part
    loaded.block(layer).register_forward_pre_hook(
        _stream("attention", layer, record="hidden"), with_kwargs=True
    )
    for sublayer, norm in (("attention", "attn_norm"), ("mlp", "mlp_norm")):
        part(norm, layer).register_forward_hook(_norm_skipper(sublayer, layer))
    reads, writes = loaded.adapter.reads, loaded.adapter.writes
    part(reads("mlp"), layer).register_forward_pre_hook(_stream("mlp", layer, record=None), with_kwargs=True)
    part("attention", layer).register_forward_pre_hook(_attention_inputs(layer), with_kwargs=True)
    part("attention", layer).register_forward_hook(_weights(layer))
    for name in loaded.adapter.projections:
        part(name, layer).register_forward_hook(_output_recorder(name, layer))
    part("o_proj", layer).register_forward_pre_hook(_head_ablator(layer, loaded.spec.d_head))
    part(writes("attention"), layer).register_forward_hook(_write("attention", layer, iv.SkipAttention))
    part(writes("mlp"), layer).register_forward_hook(_write("mlp", layer, iv.SkipMlp))
    part("down_proj", layer).register_forward_pre_hook(_neurons(layer))


def _recorder(name: str, layer: int) -> Any:
    def hook(module: Any, args: tuple[Any, ...]) -> None:
        if (current := _CURRENT.get()) is not None:
            current.put(name, layer, args[0])

    return hook


def _output_recorder(name: str, layer: int) -> Any:
    def hook(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
        if (current := _CURRENT.get()) is not None:
            current.put(name, layer, output)

    return hook


def _stream(sublayer: str, layer: int, record: str | None) -> Any:
    """Remember the residual stream that enters a sublayer, for `DropResidual`."""

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (current := _CURRENT.get()) is None:
            return
        stream = args[0] if args else kwargs["hidden_states"]
        if record is not None:
            current.put(record, layer, stream)
        if current.interventions:
            current.streams[sublayer, layer] = stream

    return hook


def _norm_skipper(which: str, layer: int | None) -> Any:
    def hook(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        current = _CURRENT.get()
        if current is None or not any(n.which == which and n.layer == layer for n in current.of(iv.SkipNorm)):
            return None
        untouched: torch.Tensor = args[0]
        return untouched

    return hook


def _attention_inputs(layer: int) -> Any:
    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        current = _CURRENT.get()
        if current is None:
            return None
        rotation = kwargs.get("position_embeddings")
        if rotation is not None:
            current.put("cos", layer, rotation[0])
            current.put("sin", layer, rotation[1])
        if current.of(iv.NoCausalMask):
            return args, kwargs | {"attention_mask": None}
        return None

    return hook


def _weights(layer: int) -> Any:
    def hook(module: Any, args: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        if (current := _CURRENT.get()) is not None:
            current.put("attention", layer, output[1])

    return hook


def _write(sublayer: str, layer: int, skip: type) -> Any:
    def hook(module: Any, args: tuple[Any, ...], write: torch.Tensor) -> torch.Tensor | None:
        current = _CURRENT.get()
        if current is None:
            return None
        changed = _changed_write(current, skip, sublayer, layer, write)
        return None if changed is write else changed

    return hook


def _changed_write(current: Pass, skip: type, sublayer: str, layer: int, write: torch.Tensor) -> torch.Tensor:
    """Record a sublayer's write, then return what the block should add to the residual stream instead of it."""
    if any(item.layer == layer for item in current.of(skip)):
        write = torch.zeros_like(write)
    current.put("attn_out" if sublayer == "attention" else "mlp_out", layer, write)
    if any(d.layer == layer and d.around == sublayer for d in current.of(iv.DropResidual)):
        return write - current.streams[sublayer, layer]  # the block adds the stream back: this cancels it
    return write


def _head_ablator(layer: int, d_head: int) -> Any:
    def hook(module: Any, args: tuple[Any, ...]) -> Any:
        current = _CURRENT.get()
        if current is None:
            return None
        heads = {head for item in current.of(iv.AblateHeads) for at, head in item.heads if at == layer}
        if not heads:
            return None
        joined = args[0].clone()  # batch, seq, head·d_head
        for head in heads:
            joined[..., head * d_head : (head + 1) * d_head] = 0
        return (joined, *args[1:])

    return hook


def _neurons(layer: int) -> Any:
    def hook(module: Any, args: tuple[Any, ...]) -> Any:
        current = _CURRENT.get()
        if current is None:
            return None
        activations = changed = args[0]
        for item in current.of(iv.KeepTopNeurons):
            if item.layers is None or layer in item.layers:
                changed = keep_top(changed, item.k)
        for item in current.of(iv.ClampNeuron):
            if item.layer == layer:
                changed = changed.clone()
                changed[..., item.neuron] = item.value
        current.put("mlp_act", layer, changed)
        return None if changed is activations else (changed, *args[1:])

    return hook


def keep_top(activations: torch.Tensor, k: int) -> torch.Tensor:
    """The k entries of largest magnitude along the last axis; the others zero."""
    kept = activations.abs().topk(min(k, activations.shape[-1]), dim=-1).indices
    return torch.zeros_like(activations).scatter(-1, kept, activations.gather(-1, kept))


def _positions(loaded: "Loaded") -> None:
    if loaded.spec.positions == "learned":
        loaded.part("positions").register_forward_hook(_learned_positions)
    else:
        loaded.part("rotary").register_forward_hook(_rotation)


def _learned_positions(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
    current = _CURRENT.get()
    if current is None:
        return None
    for shuffle in current.of(iv.ShufflePositions):
        output = output[:, shuffle.order(output.shape[1]).to(output.device)]
    return torch.zeros_like(output) if current.of(iv.ZeroPositions) else output


def _rotation(module: Any, args: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> Any:
    current = _CURRENT.get()
    if current is None:
        return None
    cos, sin = output  # batch, seq, rotated dimensions
    for shuffle in current.of(iv.ShufflePositions):
        order = shuffle.order(cos.shape[1]).to(cos.device)
        cos, sin = cos[:, order], sin[:, order]
    if current.of(iv.ZeroPositions):
        scale = getattr(
            module, "attention_scaling", 1.0
        )  # yarn scales cos and sin; keep that, drop the angle
        return torch.full_like(cos, scale), torch.zeros_like(sin)
    return cos, sin


def rotate(
    attention: Any, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply RoPE to q and k with the function of the model's own `transformers` module.

    Partial RoPE turns as many dimensions of each head as `cos` and `sin` have, the first ones.
    """
    turn = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    first = cos.shape[-1]
    turned_q, turned_k = turn(q[..., :first], k[..., :first], cos, sin)
    return torch.cat([turned_q, q[..., first:]], dim=-1), torch.cat([turned_k, k[..., first:]], dim=-1)
