"""Tune on preferences: ``python -m engine.training.dpo --base DIR --sft RUN --pairs DIR --corpus DIR --out DIR``.

Direct preference optimization (Rafailov et al. 2023). The policy begins as the SFT model and goes on training its
LoRA; the reference is that SFT model, frozen: its log-probabilities are computed once, before the first update.
Begin, and after a kill continue, with the same command. ``--out`` as for engine.training.sft.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer

from engine.tokens.chat import Rendered, render
from engine.training.checkpointing import save_json
from engine.training.fine_tuning import (
    BUCKETS,
    Batches,
    FineTuning,
    FineTuningPlan,
    begin,
    open_plan,
    padded,
    token_losses,
    train,
)
from engine.training.lora import load_lora, save_lora
from engine.training.preferences import Pair, load_pairs
from engine.training.pretrain import StopFlag
from engine.training.sft import (
    Prose,
    add_arguments,
    compiled,
    load_base,
    log_session,
    open_prose,
    resumed,
)

LogProbabilities = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Tokens:
    """A pair as the model reads it: the template around the request, then the ids that were drawn."""

    chosen: Rendered
    rejected: Rendered

    @property
    def length(self) -> int:
        return max(len(self.chosen.ids), len(self.rejected.ids))


def tokens_of(tokenizer: Any, pair: Pair) -> Tokens:
    """Both conversations; loss on the answers' ids alone."""
    prompt = render(tokenizer, pair.request, None)
    both = [
        Rendered(prompt.ids + ids, prompt.carries_loss + (True,) * len(ids))
        for ids in (pair.chosen_ids, pair.rejected_ids)
    ]
    return Tokens(*both)


def dpo_loss(policy: Tensor, reference: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Mean loss and margins of pairs; log-probabilities in nats, shape (2, pairs): chosen, rejected.

    −log σ(β (log π/π_ref of the chosen − log π/π_ref of the rejected)): Rafailov et al. 2023, eq. 7.
    """
    rewards = beta * (policy - reference)
    margins = rewards[0] - rewards[1]
    return -F.logsigmoid(margins).mean(), margins


def log_probabilities(precision: str, device: str) -> LogProbabilities:
    """Sum of the log-probabilities (nats) of each row's targets: (batch)."""
    losses = token_losses(precision, device)
    return lambda model, ids, targets: -losses(model, ids, targets).sum(-1)


def both(
    function: LogProbabilities, model: nn.Module, pairs: Sequence[Tokens], length: int, pad: int, device: str
) -> Tensor:
    """Log-probabilities of the pairs' answers in one pass: (2, pairs)."""
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    return function(model, *padded(rows, length, pad, device)).view(2, len(pairs))


@torch.no_grad()
def all_of(function: LogProbabilities, run: FineTuning, pairs: Sequence[Tokens], pad: int) -> Tensor:
    """Log-probabilities of all pairs, in batches of about equal lengths: float32 (2, pairs) on the CPU."""
    result = torch.empty(2, len(pairs))
    order = sorted(range(len(pairs)), key=lambda i: pairs[i].length)
    for i in range(0, len(order), 16):
        members = order[i : i + 16]
        longest = pairs[members[-1]].length
        result[:, members] = both(
            function, run.model, [pairs[k] for k in members], longest, pad, run.device
        ).cpu()
    return result


def reference_of(out: Path, name: str, compute: Callable[[], Tensor]) -> Tensor:
    """The frozen reference's log-probabilities, kept in ``out``: a run that goes on does not compute them anew."""
    path = out / f"reference-{name}.json"
    if not path.exists():
        save_json(path, compute().tolist())
    return torch.tensor(json.loads(path.read_text(encoding="utf-8")))


@torch.no_grad()
def measured(policy: Tensor, reference: Tensor, beta: float) -> dict[str, float]:
    """Loss, margin, how often the chosen answer has the larger reward, and how far log-probabilities have moved."""
    loss, margins = dpo_loss(policy, reference, beta)
    moved = (policy - reference).mean(-1)
    return {
        "held_out_loss": float(loss),
        "margin": float(margins.mean()),
        "accuracy": float((margins > 0).float().mean()),
        "chosen_log_probability": float(policy[0].mean()),
        "rejected_log_probability": float(policy[1].mean()),
        "chosen_moved": float(moved[0]),
        "rejected_moved": float(moved[1]),
    }


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.dpo", description=__doc__.split("\n\n")[0]
    )
    add_arguments(parser)
    parser.add_argument("--sft", type=Path, required=True, help="the --out of engine.training.sft")
    parser.add_argument("--pairs", type=Path, required=True, help="the --out of engine.training.preferences")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1.5e-4)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="fp32")
    return parser.parse_args(arguments)


def plan_of(args: argparse.Namespace, pairs: int) -> FineTuningPlan:
    """The run's plan; rank and scale are those of the LoRA it begins with."""
    sft = json.loads((args.sft / "plan.json").read_text(encoding="utf-8"))
    return FineTuningPlan(
        steps=args.steps,
        lr=args.lr,
        rank=sft["rank"],
        alpha=sft["alpha"],
        seed=args.seed,
        warmup=args.warmup,
        hold=args.steps // 3,
        batch_tokens=args.batch_tokens,
        precision=args.precision,
        beta=args.beta,
        examples=pairs,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run, or continue, the tuning that the command line describes."""
    args = parse_arguments(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.sft / "final")
    pairs, held_out = (
        [
            t
            for t in (tokens_of(tokenizer, p) for p in load_pairs(args.pairs / name))
            if t.length <= BUCKETS[-1]
        ]
        for name in ("pairs.jsonl", "held_out_pairs.jsonl")
    )
    if not held_out:
        raise ValueError("There are no held-out pairs to measure on: sample more requests.")
    plan = open_plan(args.out / "plan.json", plan_of(args, len(pairs)))
    run = begin(plan, load_lora(load_base(args.base), args.sft / "final"), args.device)
    pad = tokenizer.pad_token_id
    exact = log_probabilities(plan.precision, args.device)
    references = [
        reference_of(args.out, name, lambda rows=rows: all_of(exact, run, rows, pad))  # type: ignore[misc]
        for name, rows in (("pairs", pairs), ("held-out", held_out))
    ]
    resumed(run, args.out)
    flag = StopFlag()
    flag.install()
    log_session(args, "engine.training.dpo", arguments, run.step)
    train_from(run, args, pairs, held_out, references, open_prose(args), pad, flag)
    if run.step == plan.steps:
        base = f"engine/assets/{args.base.name}"
        save_lora(run.model, args.sft / "tokenizer", base, args.out / "final")


def train_from(
    run: FineTuning,
    args: argparse.Namespace,
    pairs: Sequence[Tokens],
    held_out: Sequence[Tokens],
    references: Sequence[Tensor],
    prose: Prose,
    pad: int,
    flag: StopFlag,
) -> None:
    """The loop of DPO over ``pairs``; ``references``: log-probabilities of the pairs and the held-out pairs."""
    beta = run.plan.beta
    assert beta is not None
    # A batch's tokens count the chosen and the rejected answers.
    batches = Batches([pair.length for pair in pairs], run.plan.batch_tokens // 2, run.plan.seed)
    exact = log_probabilities(run.plan.precision, run.device)
    function = exact

    def one_step(run: FineTuning) -> tuple[Tensor, dict[str, float]]:
        length, members = batches.at(run.step)
        policy = both(function, run.model, [pairs[i] for i in members], length, pad, run.device)
        loss, margins = dpo_loss(policy, references[0][:, members].to(run.device), beta)
        values = {
            "train_margin": float(margins.detach().mean()),
            "train_accuracy": float((margins > 0).float().mean()),
        }
        return loss, values

    def measure(run: FineTuning) -> dict[str, float]:
        return measured(all_of(exact, run, held_out, pad), references[1], beta) | prose(run)

    if args.compile:
        length, members = batches.at(run.step)
        some = [pairs[i] for i in members]
        function = compiled(
            exact, lambda fast: both(fast, run.model, some, length, pad, run.device).sum().backward()
        )
        run.optimizer.zero_grad(set_to_none=True)
    print(f"{len(pairs)} pairs, {batches.per_epoch} batches an epoch, from step {run.step}", flush=True)
    train(
        run, args.out, one_step, measure,
        save_every=args.save_every, measure_every=args.measure_every, flag=flag,
    )  # fmt: skip


if __name__ == "__main__":
    main()
