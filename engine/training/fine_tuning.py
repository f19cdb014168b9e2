"""What SFT and DPO have in common: plan, padded batches, one update, and a loop that can be killed and continued."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F

from engine.training.checkpointing import append_log, save_json, save_state
from engine.training.lora import trained
from engine.training.pretrain import StopFlag
from engine.training.schedule import learning_rate

LOG_EVERY = 5
BUCKETS = (48, 72, 96, 144)
"""Lengths to which sequences are padded: few, so that torch.compile has few shapes to compile."""


@dataclass(frozen=True)
class FineTuningPlan:
    """Settings of a run; ``beta`` is DPO's, None for SFT. The learning rate falls linearly after ``hold`` updates."""

    steps: int
    lr: float
    rank: int
    alpha: int
    seed: int = 13
    warmup: int = 20
    hold: int = 0
    batch_tokens: int = 4096
    clip: float = 1.0
    precision: str = "bf16"
    beta: float | None = None
    examples: int = 0

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"Unknown precision {self.precision!r}: choose bf16 or fp32.")
        if self.steps < 1 or self.hold >= self.steps:
            raise ValueError("A run has at least one update, and its learning rate falls before the last.")


def open_plan(path: Path, plan: FineTuningPlan) -> FineTuningPlan:
    """Keep ``plan`` in ``path``. Raises ValueError when a run with another plan was begun there."""
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != asdict(plan):
        raise ValueError("A run with another plan was begun here; begin a new one in another --out.")
    save_json(path, asdict(plan))
    return plan


def padded(rows: Sequence[Any], length: int, pad: int, device: str) -> tuple[Tensor, Tensor]:
    """ids and targets of rows that have ``ids`` and ``carries_loss``, padded on the right: int64 (batch, length).

    targets[i] is the token after ids[i] where that one carries loss, else -100. Nothing looks to the right, so the
    padding needs no mask.
    """
    ids = torch.full((len(rows), length), pad)
    targets = torch.full((len(rows), length), -100)
    for i, row in enumerate(rows):
        tokens = torch.tensor(row.ids)
        ids[i, : len(tokens)] = tokens
        kept = torch.where(torch.tensor(row.carries_loss), tokens, -100)
        targets[i, : len(tokens) - 1] = kept[1:]
    return ids.to(device), targets.to(device)


class Batches:
    """Batches of about equal numbers of tokens, each of sequences of about equal length.

    The batch of a step is a pure function of (seed, step). Each epoch is another order; what does not fill a batch is
    left out of that epoch. Raises ValueError when there is no full batch, or a sequence is too long for all buckets.
    """

    def __init__(
        self, lengths: Sequence[int], tokens: int, seed: int, buckets: Sequence[int] = BUCKETS
    ) -> None:
        self.lengths, self.tokens, self.seed, self.buckets = np.asarray(lengths), tokens, seed, buckets
        if self.lengths.max(initial=0) > buckets[-1]:
            raise ValueError(f"A sequence has more than {buckets[-1]} tokens.")
        self.per_epoch = len(self._epoch(0))
        if self.per_epoch == 0:
            raise ValueError("There are too few sequences for one batch.")

    def at(self, step: int) -> tuple[int, np.ndarray]:
        """Padded length and indices of the sequences of update ``step``."""
        epoch, place = divmod(step, self.per_epoch)
        return self._epoch(epoch)[place]

    def _epoch(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        rng = np.random.default_rng([self.seed, epoch])
        batches, shorter = [], 0
        for bucket in self.buckets:
            members = np.flatnonzero((self.lengths > shorter) & (self.lengths <= bucket))
            rng.shuffle(members)
            rows = max(1, self.tokens // bucket)
            batches += [(bucket, members[i : i + rows]) for i in range(0, len(members) - rows + 1, rows)]
            shorter = bucket
        return [batches[i] for i in rng.permutation(len(batches))]


def token_losses(precision: str, device: str) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Cross-entropy in nats of each target (batch, seq), 0 where the target is -100."""

    def losses(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(input_ids=ids, use_cache=False).logits  # (batch, seq, vocab)
        flat = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        return flat.view_as(targets)

    return losses


@dataclass
class FineTuning:
    """A run in memory."""

    plan: FineTuningPlan
    model: PeftModel
    optimizer: torch.optim.Optimizer
    device: str
    step: int = 0
    seconds: float = 0.0


def begin(plan: FineTuningPlan, model: PeftModel, device: str) -> FineTuning:
    """A run at its first update: AdamW without decay on the LoRA."""
    nn.Module.to(model, device).train()
    optimizer = torch.optim.AdamW(trained(model).values(), lr=plan.lr, betas=(0.9, 0.99), weight_decay=0.0)
    return FineTuning(plan, model, optimizer, device)


def update(run: FineTuning, loss: Tensor) -> dict[str, float]:
    """Backward, clipping, one step of the optimizer at the schedule's learning rate. Returns what is logged of it."""
    plan = run.plan
    lr = learning_rate(run.step, plan.lr, plan.warmup, plan.hold, plan.steps - plan.hold)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(trained(run.model).values(), plan.clip)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.step += 1
    return {"lr": lr, "grad_norm": float(norm)}


def state_of(run: FineTuning) -> dict[str, Any]:
    """What the next update depends on besides plan and base."""
    return {
        "step": run.step,
        "seconds": run.seconds,
        "lora": {name: p.detach() for name, p in trained(run.model).items()},
        "optimizer": run.optimizer.state_dict(),
    }


@torch.no_grad()
def restore(run: FineTuning, state: dict[str, Any]) -> None:
    """Put :func:`state_of` back, in place."""
    parameters = trained(run.model)
    if set(parameters) != set(state["lora"]):
        raise ValueError("The saved state belongs to another LoRA.")
    for name, parameter in parameters.items():
        parameter.copy_(state["lora"][name])
    run.optimizer.load_state_dict(state["optimizer"])
    run.step, run.seconds = state["step"], state["seconds"]


def train(
    run: FineTuning,
    out: Path,
    one_step: Callable[[FineTuning], tuple[Tensor, dict[str, float]]],
    measure: Callable[[FineTuning], dict[str, float]],
    *,
    save_every: int,
    measure_every: int,
    flag: StopFlag,
) -> None:
    """Update until the plan's end or until ``flag`` is set; log, measure and save on the way.

    ``one_step`` returns the loss to go down on and further values to log. Only :func:`update` changes weights.
    """
    log, plan = out / "log.jsonl", run.plan
    if run.step == 0:
        append_log(log, {"step": 0} | measure(run))
    while not flag.stop and run.step < plan.steps:
        clock = time.monotonic()
        loss, values = one_step(run)
        values |= {"loss": float(loss.detach())} | update(run, loss)
        run.seconds += time.monotonic() - clock
        if run.step % LOG_EVERY == 0 or run.step == plan.steps:
            append_log(log, {"step": run.step, "seconds": round(run.seconds, 2)} | values)
            left = (plan.steps - run.step) * run.seconds / run.step / 60
            shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name != "grad_norm")
            print(f"step {run.step}/{plan.steps}  {shown}  {left:.1f} min left", flush=True)
        if run.step % measure_every == 0 or run.step == plan.steps:
            append_log(log, {"step": run.step} | measure(run))
        if run.step % save_every == 0:
            save_state(out / "state.pt", state_of(run))
    save_state(out / "state.pt", state_of(run))
