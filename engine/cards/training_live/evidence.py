"""A training's numbers found once more, by other ways than the training's own, through fresh models."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.ops.optimizers import ByHand
from engine.ops.tiny_training import CONTEXT, TEMPERATURE, Snapshot, Weights, draws, holding, rate_at


def fresh(snapshot: Snapshot, weights: Weights) -> Any:
    """transformers' model with copies of kept weights."""
    return holding(weights, len(snapshot.corpus.chars), snapshot.settings.layers)


def batch_loss(model: Any, rows: Tensor) -> Tensor:
    """The mean surprisal in nats of every id after the first of each row (row, seq), from the model's logits."""
    logits = model(rows, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def held_out(snapshot: Snapshot) -> float:
    """The loss on the unseen part with the weights of the last mark, in nats."""
    return float(batch_loss(fresh(snapshot, snapshot.marked), snapshot.corpus.windows()))


def last_step(snapshot: Snapshot) -> tuple[float, Weights]:
    """The last step taken once more: its loss (nats), and the weights after AdamW's formula in float64.

    Raises ValueError before the first step.
    """
    before, batch = snapshot.before, snapshot.batch
    if before is None or batch is None:
        raise ValueError("no step was taken yet")
    model = fresh(snapshot, before.weights)
    loss = batch_loss(model, batch)
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()))
    rule = ByHand("AdamW", rate_at(snapshot.settings.rate, snapshot.steps))
    rule.t = snapshot.steps - 1
    if before.first:
        rule.first = {i: before.first[name].double() for i, name in enumerate(named)}
        rule.second = {i: before.second[name].double() for i, name in enumerate(named)}
    new = rule.step([p.detach().double() for p in named.values()], [g.double() for g in gradients])
    return float(loss.detach()), dict(zip(named, new, strict=True))


def step_error(snapshot: Snapshot, formula: Weights) -> float:
    """The length of (weights after the last step - those of a formula), as a share of the step's own length."""
    before = snapshot.before
    assert before is not None
    wrong, moved = 0.0, 0.0
    for name, after in snapshot.after.items():
        wrong += float((after.double() - formula[name]).square().sum())
        moved += float((after.double() - before.weights[name].double()).square().sum())
    return float((wrong / moved) ** 0.5)


@torch.no_grad()
def cumulated(snapshot: Snapshot) -> Tensor:
    """Cumulated probabilities before each character of the last sample, (written, vocab), from one batched pass."""
    written = snapshot.marks[-1].written
    ids = torch.tensor([int(snapshot.corpus.train[0]), *written[:-1]])
    model = fresh(snapshot, snapshot.marked)
    logits = model(ids[None, :CONTEXT], use_cache=False).logits[0]
    if len(ids) > CONTEXT:
        later = model(ids.unfold(0, CONTEXT, 1)[1:], use_cache=False).logits[:, -1]
        logits = torch.cat([logits, later])
    return (logits.double() / TEMPERATURE).softmax(-1).cumsum(-1)


def outside(snapshot: Snapshot) -> float:
    """How far any draw of the last sample lies outside the stretch of cumulated probability of its character."""
    written = torch.tensor(snapshot.marks[-1].written)
    if not len(written):
        return 0.0
    ends = F.pad(cumulated(snapshot), (1, 0))
    below, above = ends.gather(1, written[:, None])[:, 0], ends.gather(1, written[:, None] + 1)[:, 0]
    u = draws(snapshot.settings.seed)[: len(written)]
    return float(torch.maximum(below - u, u - above).clamp(min=0).max())
