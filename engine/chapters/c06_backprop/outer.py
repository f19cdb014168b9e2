"""The gradient of a weight matrix: for each token, its input times the gradient that arrives at its output."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine import ReaderError
from engine.chapters.c06_backprop.loss_example import code, target_name
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.derivatives import product_again
from engine.evidence.rounding import largest
from engine.figures.attention import matrix_product
from engine.model.capturing import display
from engine.model.gradients import Example, loss_of, skeleton, weights
from engine.model.loaded import Loaded
from engine.tokens.text import quoted

Floats = NDArray[np.float64]

SHOWN = 24
"""Inputs and outputs that are drawn, the largest of each."""

RELATIVE = 1e-3
"""fp32 gradients whose sums run in another order, as a part of the largest."""


def outer(loaded: Loaded, asked: Example, layer: int, place: int | None = None) -> Card:
    """One token's part of the gradient of W_O in a block: an outer product, (inputs, outputs).

    place  the token; None is the one with the largest share of the whole gradient
    Raises ReaderError for a token that the example does not have.
    """
    inputs, incoming = sides(loaded, asked, layer)
    whole = inputs.T @ incoming
    parts = shares(inputs, incoming, whole)
    at = int(np.nan_to_num(np.abs(parts)).argmax()) if place is None else place
    if not 0 <= at < len(inputs):
        raise ReaderError(f"The loss is taken after {len(inputs)} tokens, counted from 0.")
    rows, columns = (np.argsort(-np.abs(x[at]), kind="stable")[:SHOWN] for x in (inputs, incoming))
    x, delta, share = inputs[at, rows], incoming[at, columns], float(parts[at])
    product, token = np.outer(x, delta), quoted(display(loaded, asked.ids[at]))
    name = f"{loaded.path('o_proj', layer)}.weight"

    return Card(
        key="outer",
        title=f"{whole.shape[0]} × {whole.shape[1]} derivatives from {whole.shape[0]} + {whole.shape[1]} numbers: "
        f"{token} (position {at}) accounts for {share:.0%} of this gradient",
        alt=f"A column of {len(x)} inputs beside a matrix of products, and below it a row of {len(delta)} incoming "
        f"gradients: each cell of the matrix is the input of its row times the incoming gradient of its column.",
        badge=Badge.LIVE,
        figure=matrix_product(
            x,
            product,
            delta,
            names=("input x", "gradient of W: x times incoming", "incoming gradient"),
            sizes=("inputs, largest first", "outputs, largest first"),
            concepts=("residual", "gradient"),
        ),
        table={
            "input number": [int(i) for i in np.repeat(rows, len(columns))],
            "output number": [int(j) for _ in rows for j in columns],
            "derivative": product.ravel().tolist(),
        },
        shown={"input": x, "incoming": delta, "product": product, "share": share},
        oracle=Oracle(
            "Inputs and incoming gradients by hooks on a private copy's own module; the products by .backward() of the "
            "loss that transformers returns when only this token's output depends on the matrix, and their share by "
            ".backward() with all of them.",
            lambda: product_again(loaded, asked, layer, at, rows.tolist(), columns.tolist()),
            {
                "input": RELATIVE * largest(x),
                "incoming": RELATIVE * largest(delta),
                "product": RELATIVE * largest(product),
                "share": RELATIVE * max(1.0, abs(share)),
            },
        ),
        code=code(
            loaded,
            asked,
            f"""
            module, seen = model.get_submodule({loaded.path("o_proj", layer)!r}), {{}}

            def keep(module, args, output):
                seen["x"], seen["y"] = args[0][0].detach(), output
                output.retain_grad()

            module.register_forward_hook(keep)
            loss().backward()
            gradient = module.weight.grad{"" if loaded.adapter.transposed else ".T  # (inputs, outputs)"}
            x, incoming = seen["x"][{at}], seen["y"].grad[0, {at}]
            rows, columns = {rows.tolist()}, {columns.tolist()}
            product = torch.outer(x, incoming)
            result = {{
                "input": x[rows],
                "incoming": incoming[columns],
                "product": product[rows][:, columns],
                "share": (product * gradient).sum() / gradient.square().sum(),
            }}
            """,
        ),
        note=f"{name}, the attention output matrix, for the loss of {target_name(loaded, asked)}; the {len(rows)} "
        f"largest inputs and {len(columns)} largest outputs. The gradient is the sum of {len(inputs)} such products, "
        f"one for each token; share = product · sum / |sum|², and shares add up to 100 %.",
    )


def sides(loaded: Loaded, asked: Example, layer: int) -> tuple[Floats, Floats]:
    """What enters W_O of a block, (seq, inputs), and the gradient that arrives at its output, (seq, outputs)."""
    module, seen = skeleton(loaded), dict[str, torch.Tensor]()
    at, path = weights(module), loaded.path("o_proj", layer)
    at[f"{path}.weight"].requires_grad_()

    def keep(one: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen["x"], seen["y"] = args[0].detach(), output

    handle = module.get_submodule(path).register_forward_hook(keep)  # on the private tree
    loss = loss_of(module, at, asked)
    handle.remove()
    (incoming,) = torch.autograd.grad(loss, seen["y"])
    x, delta = (tensor[0].double().cpu().numpy() for tensor in (seen["x"], incoming))
    return x, delta


def shares(inputs: Floats, incoming: Floats, whole: Floats) -> Floats:
    """How much of the whole gradient comes from each token: its product · the sum / |the sum|², shape seq."""
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = (
            np.einsum("ti,ij,tj->t", inputs, whole, incoming, optimize=True) / np.square(whole).sum()
        )
    return result
