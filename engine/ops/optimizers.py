"""torch.optim's optimizers under the names that people use, on small surfaces; and the same formulas written out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, optim
from torch.optim import lr_scheduler as schedulers

Floats = NDArray[np.float64]

MOMENTUM, SQUARES, DECAY = 0.9, 0.99, 0.1

MAKERS: dict[str, Callable[..., optim.Optimizer]] = {
    "SGD": lambda params, rate: optim.SGD(params, lr=rate),
    "Momentum": lambda params, rate: optim.SGD(params, lr=rate, momentum=MOMENTUM),
    "Nesterov": lambda params, rate: optim.SGD(params, lr=rate, momentum=MOMENTUM, nesterov=True),
    "RMSProp": lambda params, rate: optim.RMSprop(params, lr=rate, alpha=SQUARES),
    "Adam": lambda params, rate: optim.Adam(params, lr=rate),
    "AdamW": lambda params, rate: optim.AdamW(params, lr=rate, weight_decay=DECAY),
    "Muon": lambda params, rate: optim.Muon(params, lr=rate, weight_decay=0.0),
}
"""Name -> a function of (parameters, learning rate). Muon takes matrices only."""

CALLS = {
    "SGD": "torch.optim.SGD({params}, lr={rate})",
    "Momentum": f"torch.optim.SGD({{params}}, lr={{rate}}, momentum={MOMENTUM})",
    "Nesterov": f"torch.optim.SGD({{params}}, lr={{rate}}, momentum={MOMENTUM}, nesterov=True)",
    "RMSProp": f"torch.optim.RMSprop({{params}}, lr={{rate}}, alpha={SQUARES})",
    "Adam": "torch.optim.Adam({params}, lr={rate})",
    "AdamW": f"torch.optim.AdamW({{params}}, lr={{rate}}, weight_decay={DECAY})",
    "Muon": "torch.optim.Muon({params}, lr={rate}, weight_decay=0.0)",
}
"""The same as lines of a script, with {params} and {rate} to fill in."""

VECTOR = tuple(name for name in MAKERS if name != "Muon")
"""The optimizers that can move a point."""

SCHEDULES: dict[str, Callable[[Any, int], Any]] = {
    "constant": lambda o, n: schedulers.ConstantLR(o, factor=1.0),
    "linear to zero": lambda o, n: schedulers.LinearLR(o, 1.0, 0.0, total_iters=n),
    "cosine": lambda o, n: schedulers.CosineAnnealingLR(o, T_max=n),
    "halved four times": lambda o, n: schedulers.StepLR(o, step_size=max(1, n // 5), gamma=0.5),
    "warm-up, then cosine": lambda o, n: schedulers.SequentialLR(
        o,
        [
            schedulers.LinearLR(o, 0.1, 1.0, total_iters=max(1, n // 5)),
            schedulers.CosineAnnealingLR(o, T_max=max(1, n - n // 5)),
        ],
        milestones=[max(1, n // 5)],
    ),
}
"""Name -> a function of (optimizer, number of steps)."""


@dataclass(frozen=True)
class Surface:
    """A function of a point (…, 2) -> (…), the window it is drawn in, its formula and its lowest point, if any."""

    name: str
    formula: str
    function: Callable[[Tensor], Tensor]
    window: tuple[float, float, float, float]
    lowest: tuple[float, float] | None
    start: tuple[float, float]
    log: bool = True


SURFACES = {
    surface.name: surface
    for surface in (
        Surface(
            "ravine", "f = (x² + 25 y²) / 2",
            lambda z: (z[..., 0] ** 2 + 25 * z[..., 1] ** 2) / 2, (-4, 4, -2, 2), (0, 0), (-3.5, 1.0),
        ),
        Surface(
            "Rosenbrock", "f = (1 − x)² + 10 (y − x²)²",
            lambda z: (1 - z[..., 0]) ** 2 + 10 * (z[..., 1] - z[..., 0] ** 2) ** 2,
            (-2, 2, -1, 3), (1, 1), (-1.5, 2.0),
        ),
        Surface(
            "saddle", "f = x² / 2 − y² / 2 + y⁴ / 8",
            lambda z: z[..., 0] ** 2 / 2 - z[..., 1] ** 2 / 2 + z[..., 1] ** 4 / 8,
            (-3, 3, -3, 3), None, (-2.5, 0.01), log=False,
        ),
    )
}  # fmt: skip
"""Rosenbrock's valley has 10 where the original (1960) has 100, so that the paths can be seen."""


def turned(surface: Surface, degrees: float) -> Surface:
    """The same surface, its start and its lowest point turned about the origin, counterclockwise.

    The window is made tall enough for any angle up to 45°, and is the same for all.
    """
    c, s = float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))

    def function(z: Tensor) -> Tensor:
        x, y = z[..., 0], z[..., 1]
        return surface.function(torch.stack([c * x + s * y, c * y - s * x], -1))

    def moved(point: tuple[float, float]) -> tuple[float, float]:
        return c * point[0] - s * point[1], s * point[0] + c * point[1]

    lowest = moved(surface.lowest) if surface.lowest else None
    formula = f"{surface.formula}, turned by {degrees:g}°" if degrees else surface.formula
    left, right, bottom, top = surface.window
    window = (left, right, min(bottom, 0.75 * left), max(top, 0.75 * right))
    return replace(
        surface, formula=formula, function=function, window=window, lowest=lowest, start=moved(surface.start)
    )


FAR = 1e6
"""A path that gets this far away has diverged."""


@dataclass(frozen=True, eq=False)
class Path:
    """Where an optimizer went: points (step+1, …), losses (step+1), rates (step); and at which step it was lost."""

    points: Floats
    losses: Floats
    rates: Floats
    diverged: int | None


def descend(
    function: Callable[[Tensor], Tensor],
    start: ArrayLike,
    name: str,
    rate: float,
    steps: int,
    schedule: str = "constant",
    noise: float = 0.0,
    seed: int = 0,
    report: Callable[[int], None] = lambda step: None,
    momentum: float = MOMENTUM,
) -> Path:
    """torch.optim walking down a function of one tensor, in float64, with gradients by autograd.

    noise     standard deviation of what is added to every derivative, as a small batch of data would; seeded
    momentum  the share of the last step that Momentum and Nesterov keep
    Ends early where the point is further than FAR or the loss is not finite.
    """
    z = torch.tensor(np.asarray(start), dtype=torch.float64, requires_grad=True)
    optimizer = MAKERS[name]([z], rate)
    if name in ("Momentum", "Nesterov"):
        optimizer.param_groups[0]["momentum"] = momentum
    plan = SCHEDULES[schedule](optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    points, losses, rates = [z.detach().numpy().copy()], [], []
    for step in range(steps + 1):
        report(step)
        optimizer.zero_grad()
        loss = function(z)
        losses.append(float(loss.detach()))
        lost = not np.isfinite(losses[-1]) or not bool((z.detach().abs() < FAR).all())
        if lost or step == steps:
            break
        loss.backward()
        assert z.grad is not None
        z.grad += noise * torch.randn(z.shape, generator=generator, dtype=torch.float64)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
        points.append(z.detach().numpy().copy())
    return Path(np.array(points), np.array(losses), np.array(rates), len(losses) - 1 if lost else None)


def rates_of(schedule: str, rate: float, steps: int) -> Floats:
    """The learning rate of each step under a schedule; shape step."""
    return descend(lambda z: z.sum() * 0, [0.0], "SGD", rate, steps, schedule).rates


def grid(surface: Surface, count: int = 61) -> tuple[Floats, Floats, Floats]:
    """x (count), y (count) and the surface's heights (y, x) over its window."""
    left, right, bottom, top = surface.window
    x, y = np.linspace(left, right, count), np.linspace(bottom, top, count)
    places = torch.tensor(np.stack(np.meshgrid(x, y), axis=-1))
    heights: Floats = surface.function(places).numpy()
    return x, y, heights


class ByHand:
    """One optimizer with its formula written out, for one list of tensors.

    Momentum: Polyak 1964; Nesterov: Sutskever et al. 2013; RMSProp: Tieleman & Hinton 2012; Adam: Kingma & Ba 2015,
    algorithm 1; AdamW: Loshchilov & Hutter 2019, algorithm 2; Muon: Jordan et al.
    2024, kellerjordan.github.io/posts/muon.

    rounded  what Muon does to every product, where it is to be told from torch.optim's by nothing: that one computes
             them in bfloat16
    """

    def __init__(self, name: str, rate: float, rounded: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        self.name, self.rate, self.t, self.rounded = name, rate, 0, rounded
        self.first: dict[int, Tensor] = {}
        self.second: dict[int, Tensor] = {}

    def step(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """New weights; the old ones stay as they are."""
        self.t += 1
        pairs = zip(weights, gradients, strict=True)
        return [self._moved(i, w, g) for i, (w, g) in enumerate(pairs)]

    def _moved(self, i: int, w: Tensor, g: Tensor) -> Tensor:
        if self.name == "SGD":
            return w - self.rate * g
        m = self.first.get(i, torch.zeros_like(g))
        v = self.second.get(i, torch.zeros_like(g))
        if self.name in ("Momentum", "Nesterov"):
            self.first[i] = m = MOMENTUM * m + g
            return w - self.rate * (g + MOMENTUM * m if self.name == "Nesterov" else m)
        if self.name == "RMSProp":
            self.second[i] = v = SQUARES * v + (1 - SQUARES) * g**2
            return w - self.rate * g / (v.sqrt() + 1e-8)
        if self.name == "Muon":
            self.first[i] = m = 0.95 * m + 0.05 * g
            shape = max(1.0, w.shape[0] / w.shape[1]) ** 0.5
            result: Tensor = w - self.rate * shape * orthogonalized(0.05 * g + 0.95 * m, self.rounded)
            return result
        self.first[i] = m = 0.9 * m + 0.1 * g
        self.second[i] = v = 0.999 * v + 0.001 * g**2
        kept = w * (1 - self.rate * DECAY) if self.name == "AdamW" else w
        m, v = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
        return kept - self.rate * m / (v.sqrt() + 1e-8)


def orthogonalized(matrix: Tensor, rounded: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Five Newton–Schulz steps towards U Vᵀ of the singular value decomposition; all singular values near 1."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = rounded(matrix.T if tall else matrix)
    x = rounded(x / rounded(x.norm()).clamp(min=1e-7))
    for _ in range(5):
        a = rounded(x @ x.T)
        x = rounded(3.4445 * x + rounded(-4.7750 * a + 2.0315 * a @ a) @ x)
    result: Tensor = x.T if tall else x
    return result


def matrix_problem(n: int, condition: float, seed: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A start (n, n) of zeros and the loss ½ mean‖(W − W*) x‖² with inputs whose directions differ in strength.

    The strongest input direction has `condition` times the variance of the weakest.
    """
    generator = torch.Generator().manual_seed(seed)
    target, other = (torch.randn(n, n, generator=generator, dtype=torch.float64) for _ in range(2))
    turned, _ = torch.linalg.qr(other)
    strengths = torch.logspace(0, -float(np.log10(condition)) / 2, n, dtype=torch.float64)
    inputs = turned * strengths
    return torch.zeros(n, n, dtype=torch.float64), lambda w: 0.5 * ((w - target) @ inputs).square().sum() / n
