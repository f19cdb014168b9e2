"""The interventions of this chapter once more, by replacing modules of a private copy: the proof of the live ones."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from engine.model import interventions as iv
from engine.model.loaded import Loaded


class Nothing(nn.Module):
    """A sublayer that writes nothing; attention also returns (absent) weights."""

    def __init__(self, pair: bool) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        zeros = torch.zeros_like(hidden_states)
        return (zeros, None) if self.pair else zeros


def apply_by_hand(loaded: Loaded, interventions: Sequence[iv.Intervention]) -> Any:
    """A private copy of the model, with each intervention made on its modules."""
    model = copy.deepcopy(loaded.model)
    for item in interventions:
        _apply(loaded, model, item)
    return model


def _apply(loaded: Loaded, model: Any, item: iv.Intervention) -> None:
    if isinstance(item, iv.SkipAttention):
        _swap(model, loaded.path("attention", item.layer), Nothing(pair=True))
    elif isinstance(item, iv.SkipMlp):
        _swap(model, loaded.path("mlp", item.layer), Nothing(pair=False))
    elif isinstance(item, iv.SkipNorm):
        name = {"attention": "attn_norm", "mlp": "mlp_norm", "final": "final_norm"}[item.which]
        _swap(model, loaded.path(name, item.layer), nn.Identity())
    elif isinstance(item, iv.NoCausalMask):
        for layer in range(loaded.spec.n_layer):
            _wrap(model.get_submodule(loaded.path("attention", layer)), _unmasked)
    elif isinstance(item, iv.ZeroPositions):
        _no_positions(loaded, model)
    elif isinstance(item, iv.AblateHeads):
        for layer, head in item.heads:
            _silence(model.get_submodule(loaded.path("o_proj", layer)), head, loaded.spec.d_head)
    elif isinstance(item, iv.DropResidual):
        block = loaded.adapter.module(model, "block", item.layer)
        _cut(loaded, block, item.around)
    else:
        raise TypeError(type(item).__name__)


def _swap(model: Any, where: str, module: nn.Module) -> None:
    parent, _, leaf = where.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _wrap(module: Any, change: Any) -> None:
    plain = module.forward
    module.forward = lambda *args, **kwargs: change(plain, *args, **kwargs)


def _unmasked(plain: Any, *args: Any, **kwargs: Any) -> Any:
    return plain(*args, **(kwargs | {"attention_mask": None}))


def _no_positions(loaded: Loaded, model: Any) -> None:
    if loaded.spec.positions == "learned":
        model.get_submodule(loaded.path("positions")).weight.data.zero_()
    else:
        rotary = model.get_submodule(loaded.path("rotary"))
        _wrap(rotary, lambda plain, x, position_ids: plain(x, position_ids=torch.zeros_like(position_ids)))


def _silence(projection: Any, head: int, d_head: int) -> None:
    start, stop = head * d_head, (head + 1) * d_head

    def forward(plain: Any, joined: torch.Tensor) -> Any:
        kept = torch.ones(joined.shape[-1], dtype=joined.dtype, device=joined.device)
        kept[start:stop] = 0
        return plain(joined * kept)

    _wrap(projection, forward)


def _cut(loaded: Loaded, block: Any, around: iv.Sublayer) -> None:
    """Make the block return what the sublayers write, without the stream that went around one of them."""
    seen: dict[str, torch.Tensor] = {}
    adapter = loaded.adapter
    reader, writer = (block.get_submodule(adapter.inside(part)) for part in _ends(loaded, around))
    reader.register_forward_pre_hook(
        lambda module, args, kwargs: seen.__setitem__("stream", args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    _wrap(writer, lambda plain, *args: plain(*args) - seen["stream"])


def _ends(loaded: Loaded, around: iv.Sublayer) -> tuple[str, str]:
    """The part that takes the stream for a sublayer, and the part whose output is added to it."""
    return loaded.adapter.reads(around), loaded.adapter.writes(around)


def script_lines(loaded: Loaded, interventions: Sequence[iv.Intervention]) -> str:
    """Lines of a *Code* script that change `model` by hand, where no gradients are wanted."""
    return "".join(f"    {line}\n" for item in interventions for line in _lines(loaded, item))


def _lines(loaded: Loaded, item: iv.Intervention) -> list[str]:
    """One intervention as forward hooks."""
    module = "model.get_submodule({!r})".format
    if isinstance(item, iv.SkipAttention):
        where = module(loaded.path("attention", item.layer))
        return [f"{where}.register_forward_hook(lambda m, a, out: (torch.zeros_like(out[0]), *out[1:]))"]
    if isinstance(item, iv.SkipMlp):
        where = module(loaded.path("mlp", item.layer))
        return [f"{where}.register_forward_hook(lambda m, a, out: torch.zeros_like(out))"]
    if isinstance(item, iv.SkipNorm):
        name = {"attention": "attn_norm", "mlp": "mlp_norm", "final": "final_norm"}[item.which]
        return [f"{module(loaded.path(name, item.layer))}.register_forward_hook(lambda m, a, out: a[0])"]
    if isinstance(item, iv.NoCausalMask):
        where = f"block.{loaded.adapter.inside('attention')}"
        hook = "lambda m, a, kw: (a, {**kw, 'attention_mask': None}), with_kwargs=True"
        return [
            f"for block in model.{loaded.path('blocks')}:",
            f"    {where}.register_forward_pre_hook({hook})",
        ]
    if isinstance(item, iv.ZeroPositions):
        if loaded.spec.positions == "learned":
            return [f"{module(loaded.path('positions'))}.weight.zero_()"]
        turn = "lambda m, a, out: (torch.full_like(out[0], m.attention_scaling), torch.zeros_like(out[1]))"
        return [f"{module(loaded.path('rotary'))}.register_forward_hook({turn})"]
    if isinstance(item, iv.AblateHeads):
        d = loaded.spec.d_head
        return [
            f"{module(loaded.path('o_proj', layer))}.register_forward_pre_hook("
            f"lambda m, a: (torch.cat([a[0][..., :{head * d}], 0 * a[0][..., {head * d}:{(head + 1) * d}], "
            f"a[0][..., {(head + 1) * d}:]], -1),))"
            for layer, head in item.heads
        ]
    if isinstance(item, iv.DropResidual):
        reader, writer = (module(loaded.path(part, item.layer)) for part in _ends(loaded, item.around))
        keep = 'lambda m, a, kw, seen=seen: seen.insert(0, a[0] if a else kw["hidden_states"])'
        return [
            "seen = []",
            f"{reader}.register_forward_pre_hook({keep}, with_kwargs=True)",
            f"{writer}.register_forward_hook(lambda m, a, out, seen=seen: out - seen[0])",
        ]
    raise TypeError(type(item).__name__)
