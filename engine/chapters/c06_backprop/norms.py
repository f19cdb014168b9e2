"""How large the gradient is in every part of the model."""

from typing import Any

from engine.chapters.c06_backprop.loss_example import code, target_name
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.derivatives import parts_again
from engine.figures import lines
from engine.model.gradients import Example, PartGradient, gradients, part_gradients, parts_of
from engine.model.loaded import Loaded

MEASURES = {"length": "length of the gradient", "per weight": "root mean square of the derivatives"}
_SHORT = {"length": "length", "per weight": "root mean square"}
_NAMES = {
    "before": {
        "attn_norm": "norm before attention",
        "mlp_norm": "norm before the MLP",
        "final_norm": "final norm",
    },
    "behind": {
        "attn_norm": "norm after attention",
        "mlp_norm": "norm after the MLP",
        "final_norm": "final norm",
    },
    "shared": {"attn_norm": "norm before attention and MLP", "final_norm": "final norm"},
}
RELATIVE = 1e-4
"""fp32 sums over a hundred thousand products, and central differences, agree to a part of this share."""


def norms(loaded: Loaded, asked: Example, measure: str = "length") -> Card:
    """The length of the gradient of each block's attention and MLP weights; all other parts in the table."""
    parts = part_gradients(loaded, gradients(loaded, asked))
    layers = list(range(loaded.spec.n_layer))
    sublayers = {kind: [part for part in parts if part.name == kind] for kind in ("attention", "mlp")}
    series = {
        "attention": [_measured(part, measure) for part in sublayers["attention"]],
        "MLP": [_measured(part, measure) for part in sublayers["mlp"]],
    }
    top = max((part for kind in sublayers.values() for part in kind), key=lambda p: _measured(p, measure))
    whole = sum(part.norm**2 for part in parts) ** 0.5
    shown = {
        "weights": [part.count for part in parts],
        "length of the gradient": [part.norm for part in parts],
        "root mean square": [part.rms for part in parts],
        "whole": whole,
    }

    return Card(
        key="norms",
        title=f"{_title(loaded, top)} has the largest gradient: its {_SHORT[measure]} is {_measured(top, measure):.3g}",
        alt=f"Two lines over {len(layers)} blocks: the {MEASURES[measure]} in attention and in the MLP.",
        badge=Badge.LIVE,
        figure=lines(
            layers, series, colors={"attention": "attention", "MLP": "mlp"}, x_name="block",
            y_name=f"{MEASURES[measure]} (nats per unit)", zero=True,
        ),
        table={
            "part": [_title(loaded, part) for part in parts],
            **{name: column for name, column in shown.items() if isinstance(column, list)},
        },
        shown=shown,
        oracle=Oracle(
            "The length of every sublayer's gradient against the rate at which the loss changes when that sublayer's "
            "weights move along it: a central difference in float64, without a backward pass. The embeddings' and "
            "norms' by .backward() of transformers' own loss on a private copy; weights counted there.",
            lambda: _again(loaded, asked),
            {
                "weights": 0.0,
                "length of the gradient": RELATIVE * max(part.norm for part in parts),
                "root mean square": RELATIVE * max(part.rms for part in parts),
                "whole": RELATIVE * whole,
            },
        ),
        code=code(loaded, asked, _script(loaded)),
        note=f"Loss of {target_name(loaded, asked)}. All {sum(part.count for part in parts):,} weights together: "
        f"length {whole:.4g}. A tied embedding gets a gradient from both of its uses.",
    )  # fmt: skip


def _measured(part: PartGradient, measure: str) -> float:
    return part.norm if measure == "length" else part.rms


def _title(loaded: Loaded, part: PartGradient) -> str:
    name = _NAMES[loaded.spec.norms].get(part.name, "MLP" if part.name == "mlp" else part.name)
    text = name if part.layer is None else f"{name} of block {part.layer}"
    return text[0].upper() + text[1:]


def _again(loaded: Loaded, asked: Example) -> dict[str, Any]:
    again = parts_again(loaded, asked, ("attention", "mlp"))
    return {
        "weights": again.counts,
        "length of the gradient": again.lengths,
        "root mean square": [
            length / count**0.5 for length, count in zip(again.lengths, again.counts, strict=True)
        ],
        "whole": sum(length**2 for length in again.lengths) ** 0.5,
    }


def _script(loaded: Loaded) -> str:
    places = [loaded.path(part, layer) for part, layer, _ in parts_of(loaded)]
    return f"""
            loss().backward()
            places = {places}  # a matrix that is tied to the embedding is the embedding's
            weights, length = [], []
            for place in places:
                own = list(model.get_submodule(place).parameters())
                weights.append(sum(p.numel() for p in own))
                length.append(float(sum(p.grad.double().square().sum() for p in own) ** 0.5))
            result = {{
                "weights": weights,
                "length of the gradient": length,
                "root mean square": [one / count**0.5 for one, count in zip(length, weights)],
                "whole": sum(one**2 for one in length) ** 0.5,
            }}
            """
