"""Training on one short text: a plane in the last block's weights, and private copies that really learn."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn, optim
from torch.func import functional_call
from torch.nn import functional as F

from engine import ReaderError
from engine.model.gradients import Weights, skeleton, weights
from engine.model.loaded import Loaded
from engine.ops.optimizers import MAKERS

Report = Callable[[float, str], None]
Floats = NDArray[np.float64]

RATES = {
    "SGD": 3e-3, "Momentum": 1e-3, "Nesterov": 1e-3, "RMSProp": 3e-5, "Adam": 1e-4, "AdamW": 1e-4, "Muon": 4e-3,
}  # fmt: skip
"""Learning rates at which a small language model learns one sentence; the reader multiplies them all."""


def text_loss(module: nn.Module, at: Weights | None, ids: Sequence[int]) -> Tensor:
    """The mean surprisal of a text's tokens after the first, in nats; `at` None takes the module's own weights.

    Raises ReaderError for a text of one token.
    """
    if len(ids) < 2:
        raise ReaderError(
            "Training on a text needs at least two tokens: nothing stands before the first one."
        )
    given: dict[str, Any] = {
        "input_ids": torch.tensor([list(ids)], device=next(module.parameters()).device),
        "use_cache": False,
    }
    output = module(**given) if at is None else functional_call(module, dict(at), kwargs=given)
    return F.cross_entropy(output.logits[0, :-1], given["input_ids"][0, 1:])


class Plane:
    """The loss of a text over two seeded directions in the last block's weights, everything else held.

    Each tensor of a direction has the length of the tensor it moves (after Li et al. 2018, arXiv:1712.09913, section
    4, by tensor instead of by filter), so 1 is a step as long as the weights themselves.
    """

    def __init__(self, loaded: Loaded, ids: Sequence[int], seed: int) -> None:
        self.module, self.ids = skeleton(loaded), tuple(ids)
        self.at = weights(self.module)
        prefix = f"{loaded.path('block', loaded.spec.n_layer - 1)}."
        generator = torch.Generator().manual_seed(seed)
        self.directions: list[Weights] = []
        for _ in range(2):
            drawn = {
                name: torch.randn(tensor.shape, generator=generator).to(tensor.device)
                for name, tensor in self.at.items() if name.startswith(prefix)
            }  # fmt: skip
            self.directions.append({name: d * (self.at[name].norm() / d.norm()) for name, d in drawn.items()})

    def moved(self, point: Tensor) -> Weights:
        """The last block's weights at a point (2) of the plane."""
        first, second = self.directions
        a, b = point.float()
        return {name: self.at[name] + a * first[name] + b * second[name] for name in first}

    def loss(self, point: Tensor) -> Tensor:
        """The loss at a point (2) of the plane, differentiable with respect to it."""
        return text_loss(self.module, self.at | self.moved(point), self.ids)

    @torch.no_grad()
    def losses(self, points: Floats, report: Report = lambda share, text: None) -> Floats:
        """The loss at each of points (n, 2); shape n."""
        found = []
        for i, point in enumerate(points):
            report(i / len(points), f"Loss {i + 1} of {len(points)}")
            found.append(float(self.loss(torch.tensor(point))))
        return np.array(found)


@dataclass(frozen=True, eq=False)
class Trained:
    """A private copy after training on a text.

    losses   step+1: before each step and after the last one
    nats     seq-1: the surprisal of each token of the text after training
    text     ids that the copy writes after the beginning of the text, greedily
    """

    optimizer: str
    rate: float
    losses: Floats
    nats: Floats
    text: tuple[int, ...]


def optimizers_for(model: nn.Module, name: str, rate: float) -> list[optim.Optimizer]:
    """torch.optim's optimizer over all weights. Muon takes the blocks' matrices; AdamW the rest, at a twentieth.

    Embeddings, norms and biases are no linear maps between layers, so Muon's authors leave them to AdamW.
    """
    if name != "Muon":
        return [MAKERS[name](list(model.parameters()), rate)]
    matrices, rest = split_for_muon(model)
    return [MAKERS["Muon"](matrices, rate), MAKERS["AdamW"](rest, rate / 20)]


def split_for_muon(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices inside linear layers of blocks, and all other weights."""
    ends = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    ends |= {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in ends]
    chosen = {id(p) for p in matrices}
    return matrices, [p for p in model.parameters() if id(p) not in chosen]


def train(
    loaded: Loaded,
    ids: Sequence[int],
    name: str,
    rate: float,
    steps: int,
    opening: int,
    length: int,
    report: Report,
) -> Trained:
    """Train a private copy on one text for some steps, then let it write after the text's first `opening` tokens."""
    skeleton(loaded)  # refuses rounded weights
    model: Any = copy.deepcopy(loaded.model).requires_grad_(True)
    chosen = optimizers_for(model, name, rate)
    losses = []
    for step in range(steps + 1):
        report(step / (steps + 1), f"{name}: step {step} of {steps}")
        loss = text_loss(model, None, ids)
        losses.append(float(loss.detach()))
        if step == steps or not np.isfinite(losses[-1]):
            break
        model.zero_grad()
        loss.backward()
        for optimizer in chosen:
            optimizer.step()
    model.requires_grad_(False)
    padded = np.array(losses + [np.nan] * (steps + 1 - len(losses)))
    return Trained(name, rate, padded, surprisals(model, ids), greedy(model, ids[:opening], length))


@torch.no_grad()
def surprisals(model: Any, ids: Sequence[int]) -> Floats:
    """The surprisal of each token after the first, in nats; shape seq-1."""
    batch = torch.tensor([list(ids)], device=model.device)
    logits = model(input_ids=batch, use_cache=False).logits[0, :-1].double()
    found: Floats = F.cross_entropy(logits, batch[0, 1:], reduction="none").cpu().numpy()
    return found


@torch.no_grad()
def greedy(model: Any, ids: Sequence[int], length: int) -> tuple[int, ...]:
    """The most probable token after `ids`, again and again; NaN logits end it."""
    written = list(ids)
    for _ in range(length):
        logits = model(input_ids=torch.tensor([written], device=model.device), use_cache=False).logits[0, -1]
        if not bool(torch.isfinite(logits).all()):
            break
        written.append(int(logits.argmax()))
    return tuple(written[len(ids) :])
