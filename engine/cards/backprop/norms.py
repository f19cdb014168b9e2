"""How large the gradient is in every part of the model."""

import torch

from engine.cards.backprop.common import code, target_name
from engine.evidence.card import Badge, Card, Proof
from engine.figures import lines
from engine.model.loading import Loaded
from engine.ops.gradients import ExactLoss, Example, PartGradient, gradients, part_gradients, parts_of

MEASURES = {"length": "length of the gradient", "per weight": "root mean square of the derivatives"}
_SHORT = {"length": "length", "per weight": "root mean square"}
_NAMES = {"attn_norm": "norm before attention", "mlp_norm": "norm before the MLP", "final_norm": "final norm"}
RELATIVE = 1e-3
"""fp32 sums over a hundred thousand products, and central differences, agree to about this share."""


def norms(loaded: Loaded, asked: Example, measure: str = "length") -> Card:
    """The length of the gradient of each block's attention and MLP weights; all other parts in the table."""
    gradient = gradients(loaded, asked)
    parts = part_gradients(loaded, gradient)
    layers = list(range(loaded.spec.n_layer))
    sublayers = {kind: [part for part in parts if part.name == kind] for kind in ("attention", "mlp")}
    series = {
        "attention": [_measured(part, measure) for part in sublayers["attention"]],
        "MLP": [_measured(part, measure) for part in sublayers["mlp"]],
    }
    top = max((part for kind in sublayers.values() for part in kind), key=lambda p: _measured(p, measure))
    whole = sum(part.norm**2 for part in parts) ** 0.5
    shown = {"attention": series["attention"], "mlp": series["MLP"], "whole": whole}
    tolerance = RELATIVE * whole

    return Card(
        key="norms",
        title=f"{_title(top)} has the largest gradient: its {_SHORT[measure]} is {_measured(top, measure):.3g}",
        alt=f"Two lines over {len(layers)} blocks: the {MEASURES[measure]} in attention and in the MLP.",
        badge=Badge.LIVE,
        figure=lines(
            layers, series, colors={"attention": "attention", "MLP": "mlp"}, x_name="block",
            y_name=f"{MEASURES[measure]} (nats per unit)", zero=True,
        ),
        table={
            "part": [_title(part) for part in parts],
            "weights": [part.count for part in parts],
            "length of the gradient": [part.norm for part in parts],
            "root mean square": [part.rms for part in parts],
        },
        prove=lambda: _proof(loaded, asked, gradient, parts, tolerance),
        code=code(loaded, asked, _script(loaded, measure)),
        numbers=shown,
        atol=tolerance,
        note=f"Loss of {target_name(loaded, asked)}. All {sum(part.count for part in parts):,} weights together: "
        f"length {whole:.4g}. A tied embedding gets a gradient from both of its uses.",
    )  # fmt: skip


def _measured(part: PartGradient, measure: str) -> float:
    return part.norm if measure == "length" else part.rms


def _title(part: PartGradient) -> str:
    name = _NAMES.get(part.name, "MLP" if part.name == "mlp" else part.name)
    text = name if part.layer is None else f"{name} of block {part.layer}"
    return text[0].upper() + text[1:]


def _proof(
    loaded: Loaded,
    asked: Example,
    gradient: dict[str, torch.Tensor],
    parts: list[PartGradient],
    tolerance: float,
) -> Proof:
    """Moved along its own gradient, a part changes the loss at the rate of the gradient's length."""
    exact = ExactLoss(loaded, asked)
    worst = 0.0
    for part, (_, _, own) in zip(parts, parts_of(loaded), strict=True):
        if part.name in ("attention", "mlp") and part.norm > 0:
            direction = {name: gradient[name] / part.norm for name in own}
            worst = max(worst, abs(exact.slope(direction, 1e-4) - part.norm))
    return Proof(
        "The length of every sublayer's gradient against the rate at which the loss changes when that sublayer's "
        "weights move along it: a central difference in float64, without a backward pass.",
        worst,
        tolerance,
    )


def _script(loaded: Loaded, measure: str) -> str:
    layer, blocks = loaded.adapter.layer, loaded.adapter.parts["blocks"]
    divided = "" if measure == "length" else " / sum(p.numel() for p in module.parameters()) ** 0.5"
    return f"""
            loss().backward()

            def length(module):
                return sum(p.grad.double().square().sum() for p in module.parameters()).sqrt()

            def shown(module):
                return float(length(module){divided})

            blocks = model.{blocks}
            result = {{
                "attention": [shown(block.{layer["attention"]}) for block in blocks],
                "mlp": [shown(block.{layer["mlp"]}) for block in blocks],
                "whole": length(model),
            }}
            """
