"""One update of a run: batch, loss, gradients, optimizers; and the state that the next update depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from engine.training.architectures import parameter_groups
from engine.training.data import Repeats, batch_at, blend
from engine.training.plan import Plan
from engine.training.schedule import decay_progress, learning_rate

LossFunction = Callable[[nn.Module, Tensor], Tensor]


@dataclass
class Run:
    """A run in memory: what the next update needs."""

    plan: Plan
    model: PreTrainedModel
    optimizers: tuple[torch.optim.Optimizer, ...]
    streams: Mapping[str, np.ndarray]
    device: str
    step: int = 0
    seconds: float = 0.0

    @property
    def repeats(self) -> Repeats | None:
        """The induction mix, if it is on."""
        plan = self.plan
        if plan.induction_from is None or self.step < plan.induction_from:
            return None
        return plan.repeats


def make_optimizers(model: nn.Module, plan: Plan) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices in the blocks, AdamW without decay for embeddings, norms and biases.

    ``match_rms_adamw`` scales Muon's update to the size of AdamW's, so that one learning rate serves both
    (Liu et al. 2025, Muon is Scalable for LLM Training, section 2.2).
    """
    matrices, others = parameter_groups(model)
    muon = torch.optim.Muon(
        matrices, lr=plan.lr, momentum=0.95, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(others, lr=plan.lr, betas=(0.9, 0.95), weight_decay=0.0)
    return muon, adamw


def loss_function(precision: str, device: str) -> LossFunction:
    """Mean cross-entropy (nats) of windows (batch, seq + 1); the forward pass in bf16 autocast or in fp32."""

    def loss(model: nn.Module, windows: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(input_ids=windows[:, :-1], use_cache=False).logits  # (batch, seq, vocab)
        return F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())

    return loss


def compiled(loss: LossFunction, model: nn.Module, windows: Tensor) -> LossFunction:
    """``loss`` through torch.compile, tried once on ``windows``; where that fails, ``loss`` itself and a message."""
    fast: LossFunction = torch.compile(loss, dynamic=False)
    try:
        fast(model, windows).backward()
    except Exception as error:  # whatever a missing compiler or an unsupported operation raises
        print(f"torch.compile does not work here ({type(error).__name__}); going on without it.", flush=True)
        return loss
    finally:
        model.zero_grad(set_to_none=True)
    return fast


def windows_of(run: Run) -> Tensor:
    """The batch of the run's next update on its device: (batch, seq + 1)."""
    plan = run.plan
    progress = decay_progress(run.step, plan.decay_start, plan.decay_steps)
    shares = blend(plan.mix, plan.mix_at_end, progress)
    shape = plan.shape
    batch = batch_at(
        run.step, run.streams, shares, plan.batch, shape.context, plan.seed, run.repeats, shape.vocab
    )
    return torch.from_numpy(batch).to(run.device)


def update(run: Run, loss: LossFunction) -> dict[str, Tensor | float]:
    """One update in place: gradients of the whole batch, clipping, both optimizers. Returns what is logged of it."""
    plan = run.plan
    lr = learning_rate(run.step, plan.lr, plan.warmup, plan.decay_start, plan.decay_steps)
    windows = windows_of(run)
    parts = windows.split(plan.micro_batch)
    total = torch.zeros((), device=run.device)
    for part in parts:
        value = loss(run.model, part) / len(parts)
        value.backward()
        total += value.detach()
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), plan.clip)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    run.step += 1
    return {"loss": total, "lr": lr, "grad_norm": norm}


def state_of(run: Run) -> dict[str, Any]:
    """Everything that the next update depends on and the plan does not hold."""
    return {
        "step": run.step,
        "seconds": run.seconds,
        "model": run.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
    }


def restore(run: Run, state: dict[str, Any]) -> None:
    """Put :func:`state_of` back, in place."""
    run.model.load_state_dict(state["model"])
    for optimizer, saved in zip(run.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    run.step, run.seconds = state["step"], state["seconds"]
