"""Optimizers' paths once more: each step by its paper's formula from the point before it, not by torch.optim."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from engine.model.loaded import Loaded
from engine.ops.optimizers import MAKERS, ByHand

Floats = NDArray[np.float64]
Gradient = Callable[[Floats], ArrayLike]


def next_points(
    name: str, start: ArrayLike, rates: Sequence[float], points: ArrayLike, gradient: Gradient
) -> Floats:
    """The start, and where a step from each of `points` but the last leads; the shape of `points`.

    A step is told by all the points before it, so an error does not grow from step to step, however steep the ground.
    """
    rule, places, found = ByHand(name, 0.0), np.asarray(points, np.float64), [np.asarray(start, np.float64)]
    for rate, place in zip(rates, places[:-1], strict=True):
        rule.rate = rate
        weights, slope = (torch.tensor(np.asarray(x), dtype=torch.float64) for x in (place, gradient(place)))
        found.append(rule.step([weights], [slope])[0].numpy())
    return np.array(found)


def ends_of(
    name: str,
    starts: ArrayLike,
    rates: Sequence[float],
    shares: Sequence[float],
    slope: Callable[[Any, Any], list[Any]],
) -> Floats:
    """Where torch.optim leads from starts (…, 2) with each of some learning rates, side by side; (rate, …, 2).

    shares  the share of the rate at each step
    """
    leaves = [torch.tensor(starts, dtype=torch.float64, requires_grad=True) for _ in rates]
    optimizer = MAKERS[name]([{"params": [leaf]} for leaf in leaves], rates[0])
    for share in shares:
        for group, leaf, rate in zip(optimizer.param_groups, leaves, rates, strict=True):
            group["lr"] = rate * share
            with np.errstate(over="ignore", invalid="ignore"):  # one that diverges may overflow
                places = np.moveaxis(leaf.detach().numpy(), -1, 0)
                leaf.grad = torch.tensor(np.stack(slope(*places), -1))
        optimizer.step()
    return torch.stack(leaves).detach().numpy()


class BlockMoved:
    """The loss of a text on a private copy whose last block's weights are overwritten, in a plane of two directions.

    Each tensor of a direction is drawn from the seed, in the order of the model's own parameters, and is as long as the
    tensor that it moves.
    """

    def __init__(self, loaded: Loaded, ids: Sequence[int], seed: int) -> None:
        self.model: Any = copy.deepcopy(loaded.model)
        block = self.model.get_submodule(loaded.path("block", loaded.spec.n_layer - 1)).requires_grad_(True)
        self.named = list(block.parameters())
        self.trained = [p.detach().clone() for p in self.named]
        self.ids = torch.tensor([list(ids)], device=self.model.device)
        generator = torch.Generator().manual_seed(seed)
        self.directions = [
            [self._direction(torch.randn(w.shape, generator=generator), w) for w in self.trained]
            for _ in range(2)
        ]

    @staticmethod
    def _direction(drawn: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        direction: torch.Tensor = drawn.to(weight.device) * (weight.norm() / drawn.norm())
        return direction

    def _returned_loss(self, point: Floats) -> torch.Tensor:
        """The loss that transformers returns at a point (2)."""
        with torch.no_grad():
            for p, w, first, second in zip(self.named, self.trained, *self.directions, strict=True):
                p.copy_(w + float(point[0]) * first + float(point[1]) * second)
        loss: torch.Tensor = self.model(input_ids=self.ids, labels=self.ids, use_cache=False).loss
        return loss

    @torch.no_grad()
    def losses(self, points: Floats) -> Floats:
        """Nats at each of points (n, 2); shape n."""
        return np.array([float(self._returned_loss(point)) for point in points])

    def slope(self, point: Floats) -> list[float]:
        """The gradient of all weights by .backward(), along each of the two directions."""
        self.model.zero_grad()
        self._returned_loss(point).backward()
        return [
            sum(float((p.grad.double() * d).sum()) for p, d in zip(self.named, way, strict=True))
            for way in self.directions
        ]
