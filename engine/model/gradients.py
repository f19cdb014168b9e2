"""Losses and gradients of a loaded model, with its shared weights left alone.

`torch.func.functional_call` puts other tensors into a module while it runs, which no other thread may see. So it runs
on a skeleton: a module tree of its own around the shared weights, which costs no memory.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from engine import ReaderError
from engine.model.loaded import Loaded
from engine.model.precisions import REFERENCE
from engine.ops.sampling import finite, softmax

Weights = dict[str, Tensor]

TOGETHER = 64
"""Tokens that go through the model in one batch while weights are moved one way; as many the other way."""


@dataclass(frozen=True)
class Example:
    """What a loss is taken of: the token `target` after the tokens `ids`."""

    ids: tuple[int, ...]
    target: int


def skeleton(loaded: Loaded) -> nn.Module:
    """A private module tree around the shared weights. Raises ReaderError unless they are fp32."""
    if loaded.precision != REFERENCE:
        raise ReaderError("Gradients are taken in fp32 here; load the checkpoint at that precision.")
    model: nn.Module = loaded.model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def exact_skeleton(loaded: Loaded) -> nn.Module:
    """A skeleton that computes in the dtype of its weights throughout, for float64."""
    module = skeleton(loaded)
    loaded.adapter.exact(module)
    return module


def weights(module: nn.Module, dtype: torch.dtype = torch.float32) -> Weights:
    """Every trained tensor by name, tied ones once. At the dtype they have, they are the shared tensors themselves."""
    return {name: tensor.detach().to(dtype) for name, tensor in module.named_parameters()}


def loss_of(module: nn.Module, at: Mapping[str, Tensor], example: Example, **inputs: Tensor) -> Tensor:
    """-ln p(target) in nats, in the dtype of the weights `at`; a scalar that can be differentiated.

    inputs: `inputs_embeds` (1, seq, d_model) in place of the ids.
    """
    return losses_of(module, at, example, **inputs)[0]


def losses_of(module: nn.Module, at: Mapping[str, Tensor], example: Example, **inputs: Tensor) -> Tensor:
    """The same for a batch of inputs; shape batch."""
    device = next(iter(at.values())).device
    given = inputs or {"input_ids": torch.tensor([example.ids], device=device)}
    logits = functional_call(module, dict(at), kwargs={**given, "use_cache": False}).logits[:, -1]
    targets = torch.full((len(logits),), example.target, device=device)
    return F.cross_entropy(logits, targets, reduction="none")


def gradients(loaded: Loaded, example: Example) -> Weights:
    """The derivative of the loss with respect to every trained tensor, by name, in fp32."""
    module = skeleton(loaded)
    leaves = {name: tensor.requires_grad_() for name, tensor in weights(module).items()}
    found = torch.autograd.grad(loss_of(module, leaves, example), list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def logit_gradient(logits: Any, target: int) -> NDArray[np.float64]:
    """The derivative of -ln softmax(logits)[target] with respect to each logit: p - 1 at the target, p elsewhere.

    logits  vocab. Raises ReaderError when one is not finite.
    """
    gradient: NDArray[np.float64] = softmax(finite(logits))
    gradient[target] -= 1
    return gradient


@dataclass(frozen=True)
class PartGradient:
    """The gradient of one part's weights: its Euclidean length, and how many numbers it has."""

    name: str
    layer: int | None
    norm: float
    count: int

    @property
    def rms(self) -> float:
        """The root mean square of the derivatives."""
        return float(self.norm / self.count**0.5)


def parts_of(loaded: Loaded) -> list[tuple[str, int | None, list[str]]]:
    """(part, layer, names of its weights): embedding, each block's four parts, final norm, untied unembedding.

    A tied matrix is the embedding's.
    """
    names = {id(tensor): name for name, tensor in loaded.model.named_parameters()}
    places: list[tuple[str, int | None]] = [("embedding", None)]
    if loaded.spec.positions == "learned":
        places.append(("positions", None))
    sublayers = ("attn_norm", "attention", "mlp_norm", "mlp")
    places += [(name, layer) for layer in range(loaded.spec.n_layer) for name in sublayers]
    places += [("final_norm", None), ("unembedding", None)]
    found = []
    for part, layer in places:
        own = [names.pop(id(p)) for p in loaded.part(part, layer).parameters() if id(p) in names]
        found += [(part, layer, own)] if own else []
    return found


def part_gradients(loaded: Loaded, gradient: Mapping[str, Tensor]) -> list[PartGradient]:
    """The length of the gradient in every part of the model, from the embedding to the unembedding."""
    result = []
    for part, layer, own in parts_of(loaded):
        squares = sum(float(gradient[name].double().square().sum()) for name in own)
        count = sum(gradient[name].numel() for name in own)
        result.append(PartGradient(part, layer, squares**0.5, count))
    return result


def embedding_gradient(loaded: Loaded, example: Example) -> tuple[Tensor, Tensor]:
    """The input embeddings and the derivative of the loss with respect to them, both (seq, d_model)."""
    module = skeleton(loaded)
    at = weights(module)
    rows = loaded.part("embedding").get_parameter("weight").detach()
    vectors = rows[torch.tensor(example.ids, device=rows.device)][None].requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(module, at, example, inputs_embeds=vectors), vectors)
    return vectors.detach()[0], gradient[0]


@torch.no_grad()
def scaled_embedding_slopes(
    loaded: Loaded, example: Example, positions: Sequence[int], step: float = 1e-4
) -> NDArray[np.float64]:
    """dLoss/dα at α = 1 when one token's embedding is multiplied by α, by central differences in float64.

    One number for each of `positions`; all lengthened and shortened inputs run as one batch.
    """
    module = exact_skeleton(loaded)
    at = weights(module, torch.float64)
    rows = loaded.part("embedding").get_parameter("weight").detach().double()
    vectors = rows[torch.tensor(example.ids, device=rows.device)]
    batch = vectors.repeat(2 * len(positions), 1, 1)
    for i, position in enumerate(positions):
        batch[2 * i, position] *= 1 + step
        batch[2 * i + 1, position] *= 1 - step
    losses = losses_of(module, at, example, inputs_embeds=batch).reshape(-1, 2)
    slopes: NDArray[np.float64] = ((losses[:, 0] - losses[:, 1]) / (2 * step)).cpu().numpy()
    return slopes


class ExactLoss:
    """The loss as a function of the weights in float64, on a private copy of them."""

    def __init__(self, loaded: Loaded, example: Example) -> None:
        self.module, self.example = exact_skeleton(loaded), example
        self.at = weights(self.module, torch.float64)

    @torch.no_grad()
    def moved(self, directions: Mapping[str, Tensor], amount: float) -> float:
        """The loss after adding `amount` times a direction to some of the weights."""
        moved = {name: self.at[name] + amount * d.double() for name, d in directions.items()}
        return float(loss_of(self.module, self.at | moved, self.example))

    def slope(self, directions: Mapping[str, Tensor], step: float) -> float:
        """The central difference (L(+step) - L(-step)) / 2 step along a direction."""
        return (self.moved(directions, step) - self.moved(directions, -step)) / (2 * step)

    def slopes(
        self, directions: Sequence[Mapping[str, Tensor]], step: float, blocks: Sequence[str]
    ) -> list[float]:
        """`slope` along each of some directions. Those that move linear layers alone share their passes.

        Such a direction D adds ± step · D x to what its layer makes of an input x, in two rows of the batch.

        blocks  the name of the block in which each direction moves weights, in the order of the model
        """
        alike = [i for i, one in enumerate(directions) if self._linear(one)]
        found = {i: self.slope(one, step) for i, one in enumerate(directions) if i not in alike}
        together = max(1, TOGETHER // len(self.example.ids))
        for begin in range(0, len(alike), together):
            some = alike[begin : begin + together]
            slopes = self._batched([directions[i] for i in some], step, blocks[some[0]])
            found |= zip(some, slopes, strict=True)
        return [found[i] for i in range(len(directions))]

    def _linear(self, direction: Mapping[str, Tensor]) -> bool:
        modules = [self.module.get_submodule(name.rpartition(".")[0]) for name in direction]
        return all(isinstance(one, nn.Linear | Conv1D) for one in modules)

    @torch.no_grad()
    def _batched(self, directions: Sequence[Mapping[str, Tensor]], step: float, first: str) -> list[float]:
        """The text goes through the blocks before `first` in one row, and from there in two for each direction."""
        block = self.module.get_submodule(first)
        handles = [block.register_forward_pre_hook(_repeat(2 * len(directions)), with_kwargs=True)]
        handles += [
            self.module.get_submodule(name.rpartition(".")[0]).register_forward_hook(  # on the private tree
                _nudge(i, name.endswith(".bias"), tensor.double(), step)
            )
            for i, direction in enumerate(directions)
            for name, tensor in direction.items()
        ]
        losses = losses_of(self.module, self.at, self.example).reshape(-1, 2)
        for handle in handles:
            handle.remove()
        slopes: list[float] = ((losses[:, 0] - losses[:, 1]) / (2 * step)).tolist()
        return slopes

    def derivative(self, name: str, index: tuple[int, ...]) -> float:
        """The derivative with respect to one weight, by autograd."""
        leaf = self.at[name].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(self.module, self.at | {name: leaf}, self.example), leaf)
        return float(gradient[index])

    @torch.no_grad()
    def curve(self, name: str, index: tuple[int, int], offsets: Sequence[float]) -> NDArray[np.float64]:
        """The losses after adding each offset to one weight of a linear layer, all in one batched pass.

        An offset d of the weight from input i to output o adds d · input[i] to output[o], in its row of the batch.
        """
        layer = self.module.get_submodule(name.removesuffix(".weight"))
        source, sink = index if isinstance(layer, Conv1D) else index[::-1]
        device = self.at[name].device
        amounts = torch.tensor(offsets, dtype=torch.float64, device=device)[:, None]

        def nudge(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            output[..., sink] += amounts * args[0][..., source]

        handle = layer.register_forward_hook(nudge)  # on the private tree
        ids = torch.tensor([self.example.ids] * len(offsets), device=device)
        losses = losses_of(self.module, self.at, self.example, input_ids=ids)
        handle.remove()
        result: NDArray[np.float64] = losses.cpu().numpy()
        return result

    def unit(self, name: str, index: tuple[int, ...]) -> dict[str, Tensor]:
        """The direction that moves one weight alone."""
        direction = torch.zeros_like(self.at[name])
        direction[index] = 1.0
        return {name: direction}


def _repeat(rows: int) -> Callable[..., Any]:
    """A hook that gives a block its one row of hidden states several times."""

    def repeat(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (args[0].repeat(rows, 1, 1), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": kwargs["hidden_states"].repeat(rows, 1, 1)}

    return repeat


def _nudge(row: int, bias: bool, direction: Tensor, step: float) -> Callable[..., None]:
    """A hook that adds what a linear layer's moved weights would to one row of a pair, and minus it to the other."""

    def nudge(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        pair = slice(2 * row, 2 * row + 2)
        turned = direction if isinstance(module, Conv1D) else direction.T
        added = direction if bias else args[0][pair] @ turned
        output[pair] += (
            torch.tensor([step, -step], dtype=added.dtype, device=added.device)[:, None, None] * added
        )

    return nudge


def descended(module: nn.Module, gradient: Mapping[str, Tensor], rate: float) -> Weights:
    """New weights after one step of gradient descent, w - rate · dL/dw; the old ones stay as they are."""
    return {name: tensor - rate * gradient[name] for name, tensor in weights(module).items()}


@torch.no_grad()
def next_log_probabilities(
    module: nn.Module, at: Mapping[str, Tensor], prompts: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """ln p of every token after each prompt, shape (prompt, vocab). NaN where the model's logits are not finite."""
    device = next(iter(at.values())).device
    rows = []
    for ids in prompts:
        given = {"input_ids": torch.tensor([list(ids)], device=device), "use_cache": False}
        logits = functional_call(module, dict(at), kwargs=given).logits[0, -1]
        rows.append(logits.double().log_softmax(-1).cpu().numpy())
    return np.stack(rows)
