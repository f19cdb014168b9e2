"""Losses and derivatives of a private copy of a model: by .backward(), and by moving its weights literally."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from transformers.pytorch_utils import Conv1D

from engine.model.gradients import ExactLoss, Example, parts_of, scaled_embedding_slopes
from engine.model.loaded import Loaded

Floats = NDArray[np.float64]

DIRECTION = 1e-4
"""How far weights are moved along their gradient, whose direction has the length 1."""

FINE = 1e-5
"""How far one weight is moved: neither curvature nor rounding shows in float64."""


def trained_copy(loaded: Loaded, asked: Example) -> tuple[torch.nn.Module, torch.Tensor]:
    """A full private copy of the model and the loss that transformers itself returns for the example, in nats.

    Backward passes through that loss change nothing but the copy.
    """
    model = copy.deepcopy(loaded.model).requires_grad_(True)
    ids = torch.tensor([[*asked.ids, asked.target]], device=model.device)
    labels = torch.full_like(ids, -100)  # transformers leaves these out of its mean
    labels[0, -1] = asked.target
    return model, model(input_ids=ids, labels=labels, use_cache=False).loss


def returned_loss(loaded: Loaded, asked: Example) -> tuple[float, Floats]:
    """The loss (nats) by PyTorch's cross-entropy of the logits that transformers returns, and d loss / d logits."""
    with torch.no_grad():
        ids = torch.tensor([asked.ids], device=loaded.model.device)
        logits = loaded.model(input_ids=ids, use_cache=False).logits[0, -1].cpu().double()
    logits.requires_grad_()
    loss = cross_entropy(logits[None], torch.tensor([asked.target]))
    (gradient,) = torch.autograd.grad(loss, logits)
    return float(loss.detach()), gradient.numpy()


@dataclass(frozen=True, eq=False)
class PartsAgain:
    """How many weights each part of a model has, and the length of its gradient; in the order of `parts_of`."""

    counts: list[int]
    lengths: list[float]


def parts_again(loaded: Loaded, asked: Example, moved: Sequence[str]) -> PartsAgain:
    """Gradients of transformers' own loss by .backward() on a private copy.

    For the parts named in `moved` the length is not that gradient's but the rate at which the loss changes while their
    weights move along it: a central difference in float64, without a backward pass.
    """
    model, loss = trained_copy(loaded, asked)
    loss.backward()
    counts, lengths, directions, blocks = [], [], {}, []
    for i, (name, layer, own) in enumerate(parts_of(loaded)):
        gradient = {one: _gradient(model.get_parameter(one)) for one in own}
        length = torch.cat([g.double().flatten() for g in gradient.values()]).norm()
        counts.append(sum(g.numel() for g in gradient.values()))
        lengths.append(float(length))
        if name in moved and length > 0:
            directions[i] = {one: (g / length).float() for one, g in gradient.items()}
            blocks.append(loaded.path("block", layer or 0))
    slopes = ExactLoss(loaded, asked).slopes(list(directions.values()), DIRECTION, blocks)
    for i, slope in zip(directions, slopes, strict=True):
        lengths[i] = slope
    return PartsAgain(counts, lengths)


def embeddings_again(loaded: Loaded, asked: Example, moved: Sequence[int]) -> tuple[Floats, Floats]:
    """Gradient · embedding of every token, and the gradient's length: by .backward() of PyTorch's cross-entropy.

    For the positions in `moved` the first is the rate at which the loss changes while their embeddings are made longer:
    a central difference in float64, without a backward pass.
    """
    ids = torch.tensor([asked.ids], device=loaded.model.device)
    vectors = loaded.model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = loaded.model(inputs_embeds=vectors, use_cache=False).logits[:, -1]
    loss = cross_entropy(logits, torch.tensor([asked.target], device=logits.device))
    (gradient,) = torch.autograd.grad(loss, vectors)
    scores: Floats = torch.linalg.vecdot(gradient[0].double(), vectors[0].detach().double()).cpu().numpy()
    lengths: Floats = torch.linalg.vector_norm(gradient[0].double(), dim=-1).cpu().numpy()
    for position in moved:
        scores[position] = scaled_embedding_slopes(loaded, asked, [position])[0]
    return scores, lengths


@torch.no_grad()
def silenced(loaded: Loaded, asked: Example, positions: Sequence[int]) -> list[float]:
    """The change of the loss (nats) when transformers gets an embedding of zeros at each of these positions."""
    ids = torch.tensor([asked.ids], device=loaded.model.device)
    target = torch.tensor([asked.target], device=loaded.model.device)
    vectors = loaded.model.get_input_embeddings()(ids)

    def loss(given: torch.Tensor) -> float:
        return float(cross_entropy(loaded.model(inputs_embeds=given, use_cache=False).logits[:, -1], target))

    kept = 1.0 - torch.nn.functional.one_hot(torch.tensor(positions), len(asked.ids)).to(vectors)
    return [loss(vectors * mask[:, None]) - loss(vectors) for mask in kept]


def product_again(
    loaded: Loaded, asked: Example, layer: int, place: int, rows: Sequence[int], columns: Sequence[int]
) -> dict[str, Any]:
    """Some entries of one token's part of the gradient of a block's W_O, and the part's share of the whole.

    The part is the gradient of the matrix when the outputs of all other tokens are taken for constants.
    """
    seen: dict[str, torch.Tensor] = {}

    def keep(module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        output.retain_grad()
        seen["input"], seen["output"] = args[0][0].detach(), output

    def alone(module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        chosen = torch.arange(output.shape[1], device=output.device) == place
        return torch.where(chosen[None, :, None], output, output.detach())

    whole, part = (_output_gradient(loaded, asked, layer, hook) for hook in (keep, alone))
    arrived = seen["output"].grad
    assert arrived is not None
    return {
        "input": seen["input"][place, rows].cpu(),
        "incoming": arrived[0, place, columns].cpu(),
        "product": part[rows][:, columns],
        "share": float((part * whole).sum() / whole.square().sum()),
    }


def _output_gradient(loaded: Loaded, asked: Example, layer: int, hook: Any) -> torch.Tensor:
    """The gradient of a private copy's W_O, (inputs, outputs), while a hook watches its module."""
    model: Any = copy.deepcopy(loaded.model).requires_grad_(True)
    module = model.get_submodule(loaded.path("o_proj", layer))
    module.register_forward_hook(hook)
    ids = torch.tensor([asked.ids], device=model.device)
    target = torch.tensor([asked.target], device=model.device)
    cross_entropy(model(ids, use_cache=False).logits[:, -1], target).backward()
    gradient: torch.Tensor = module.weight.grad.double().cpu()
    return gradient if isinstance(module, Conv1D) else gradient.T


class WeightMoved:
    """One weight of a private float64 copy, overwritten to read the loss there."""

    def __init__(self, loaded: Loaded, asked: Example, name: str, index: tuple[int, int]) -> None:
        self.model: Any = copy.deepcopy(loaded.model).double()
        loaded.adapter.exact(self.model)
        self.asked, self.index = asked, index
        self.matrix = self.model.get_parameter(name)
        self.value = float(self.matrix[index])
        self.typical = float(torch.linalg.vector_norm(self.matrix)) / self.matrix.numel() ** 0.5

    @torch.no_grad()
    def losses(self, offsets: Sequence[float]) -> list[float]:
        """The loss (nats) with each offset added to the weight, one pass for each."""
        ids = torch.tensor([self.asked.ids], device=self.model.device)
        target = torch.tensor([self.asked.target], device=self.model.device)
        found = []
        for offset in offsets:
            self.matrix[self.index] = self.value + offset
            found.append(float(cross_entropy(self.model(ids, use_cache=False).logits[:, -1], target)))
        self.matrix[self.index] = self.value
        return found

    def slope(self, step: float = FINE) -> float:
        """The central difference of the loss."""
        low, high = self.losses([-step, step])
        return (high - low) / (2 * step)


def stepped(loaded: Loaded, asked: Example, rate: float, prompts: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """ln p (prompt, vocab) of a private copy before and after torch.optim.SGD moves it once.

    The step is down the loss that transformers returns for the example.
    """
    model, loss = trained_copy(loaded, asked)
    loss.backward()
    before = _next_log_probabilities(model, prompts)
    torch.optim.SGD(model.parameters(), lr=rate).step()
    return before, _next_log_probabilities(model, prompts)


@torch.no_grad()
def _next_log_probabilities(model: Any, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    batches = [torch.tensor([list(ids)], device=model.device) for ids in prompts]
    rows = [model(input_ids=batch, use_cache=False).logits[0, -1].double().cpu() for batch in batches]
    return torch.stack(rows).log_softmax(-1)


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
