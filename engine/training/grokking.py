"""Grokking: modular addition learned by heart first and understood late.

``python -m engine.training.grokking --out FILE`` trains a one-layer transformer on a part of the table
a + b mod p, several seeds, and writes the recording. With weight decay the training accuracy is perfect long
before the validation accuracy is.

Source: Power et al. 2022, Grokking; the set-up follows Nanda et al. 2023, Progress measures for grokking, section 3.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.training.recording import Recording, command_line, provenance, save_recording


@dataclass(frozen=True)
class GrokkingConfig:
    """Sizes and settings; ``train_share`` of the p² sums is shown, the rest is validation."""

    prime: int = 67
    d_model: int = 64
    heads: int = 4
    d_ff: int = 256
    train_share: float = 0.35
    lr: float = 1e-3
    weight_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    steps: int = 8_000
    log_every: int = 40


class OneLayerTransformer(nn.Module):
    """Reads ``a b =`` and predicts a + b mod p at ``=``; no norm, no biases in the attention, ReLU."""

    def __init__(self, config: GrokkingConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = config.heads
        vocab = config.prime + 1  # the numbers and "="
        self.embed = _matrix(vocab, config.d_model, 1 / math.sqrt(config.d_model), generator)
        self.position = _matrix(3, config.d_model, 1 / math.sqrt(config.d_model), generator)
        scale = 1 / math.sqrt(config.d_model)
        self.w_q = _matrix(config.d_model, config.d_model, scale, generator)
        self.w_k = _matrix(config.d_model, config.d_model, scale, generator)
        self.w_v = _matrix(config.d_model, config.d_model, scale, generator)
        self.w_o = _matrix(config.d_model, config.d_model, scale, generator)
        self.w_in = _matrix(config.d_model, config.d_ff, scale, generator)
        self.w_out = _matrix(config.d_ff, config.d_model, scale, generator)
        self.unembed = _matrix(config.d_model, config.prime, scale, generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """``tokens`` (batch, 3) to logits at the last position, (batch, p)."""
        residual = self.embed[tokens] + self.position  # (batch, seq, d_model)
        # Only "=" is read out, so only its query is needed.
        q = self._split(residual[:, -1:] @ self.w_q)  # (batch, head, 1, d_head)
        k, v = (
            self._split(residual @ self.w_k),
            self._split(residual @ self.w_v),
        )  # (batch, head, key, d_head)
        attention = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        mixed = (attention @ v).transpose(1, 2).flatten(2).squeeze(1)  # (batch, d_model)
        last = residual[:, -1] + mixed @ self.w_o
        last = last + torch.relu(last @ self.w_in) @ self.w_out
        return last @ self.unembed

    def _split(self, x: Tensor) -> Tensor:
        result: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return result


def _matrix(rows: int, columns: int, scale: float, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns, generator=generator) * scale)


def addition_table(prime: int) -> tuple[Tensor, Tensor]:
    """All sums: tokens ``a b =`` (p², 3), where ``=`` is token p, and answers a + b mod p (p²,)."""
    a = torch.arange(prime).repeat_interleave(prime)
    b = torch.arange(prime).repeat(prime)
    return torch.stack([a, b, torch.full_like(a, prime)], dim=1), (a + b) % prime


def split_indices(count: int, train_share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random division of 0…count-1 into training and validation indices."""
    order = torch.randperm(count, generator=generator)
    cut = round(count * train_share)
    return order[:cut], order[cut:]


def weight_norm(model: nn.Module) -> float:
    """Euclidean norm of all the weights together."""
    return math.sqrt(sum(float(p.detach().double().square().sum()) for p in model.parameters()))


def cross_entropy(logits: Tensor, answers: Tensor) -> Tensor:
    """Mean cross-entropy in nats, in float64.

    In float32 a loss below 1e-7 rounds to zero, its gradient with it, and training turns rough (Prieto et al.
    2025, Grokking at the Edge of Numerical Stability).
    """
    return F.cross_entropy(logits.double(), answers)


@torch.no_grad()
def loss_and_accuracy(model: nn.Module, tokens: Tensor, answers: Tensor) -> tuple[float, float]:
    """Mean cross-entropy in nats and the share of right answers in 0…1."""
    logits = model(tokens)
    return float(cross_entropy(logits, answers)), float((logits.argmax(-1) == answers).float().mean())


def log_row(
    model: nn.Module, seed: int, step: int, parts: dict[str, tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """One row of the recording: both losses and accuracies and the weight norm."""
    row: dict[str, float] = {"seed": seed, "step": step}
    for name, (tokens, answers) in parts.items():
        loss, accuracy = loss_and_accuracy(model, tokens, answers)
        row |= {f"{name}_loss": loss, f"{name}_accuracy": accuracy}
    return row | {"weight_norm": weight_norm(model)}


def train_one(config: GrokkingConfig, seed: int, *, verbose: bool = False) -> list[dict[str, float]]:
    """One run on the full training set at every step (no batches); rows at step 0, every ``log_every`` and the end."""
    generator = torch.Generator().manual_seed(seed)
    tokens, answers = addition_table(config.prime)
    train, validation = split_indices(len(tokens), config.train_share, generator)
    parts = {
        "train": (tokens[train], answers[train]),
        "validation": (tokens[validation], answers[validation]),
    }
    model = OneLayerTransformer(config, generator)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
    )
    rows = [log_row(model, seed, 0, parts)]
    for step in range(1, config.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, step / 10)
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(model(parts["train"][0]), parts["train"][1]).backward()
        optimizer.step()
        if step % config.log_every == 0 or step == config.steps:
            rows.append(log_row(model, seed, step, parts))
            if verbose and step % (20 * config.log_every) == 0:
                print({name: round(value, 4) for name, value in rows[-1].items()}, flush=True)
    return rows


def first_step(rows: list[dict[str, float]], column: str, level: float) -> int | None:
    """The first logged step at which ``column`` reaches ``level``; None if it never does."""
    return next((int(row["step"]) for row in rows if row[column] >= level), None)


def grokking_recording(config: GrokkingConfig, seeds: list[int], command: str, *, verbose: bool) -> Recording:
    """Runs of all ``seeds`` as one recording: table ``runs`` (a row per seed and step), ``summary`` (per seed)."""
    start = time.monotonic()
    runs = {seed: train_one(config, seed, verbose=verbose) for seed in seeds}
    summary = [
        {
            "seed": seed,
            "train_perfect_step": first_step(rows, "train_accuracy", 1.0),
            "validation_99_step": first_step(rows, "validation_accuracy", 0.99),
        }
        for seed, rows in runs.items()
    ]
    return Recording(
        name="grokking",
        **provenance(command, seconds=time.monotonic() - start),
        settings=asdict(config) | {"seeds": seeds, "betas": list(config.betas)},
        tables={"runs": [row for rows in runs.values() for row in rows], "summary": summary},
    )


def main(arguments: list[str] | None = None) -> None:
    """Train all seeds and write the recording."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.grokking", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="the recording to write, a .json file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--threads", type=int)
    for name in ("prime", "steps", "log_every", "d_model", "d_ff", "heads"):
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=getattr(GrokkingConfig, name))
    for name in ("train_share", "lr", "weight_decay"):
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=getattr(GrokkingConfig, name))
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "seeds", "threads")}
    command = command_line("engine.training.grokking", arguments, paths=(args.out,))
    save_recording(
        grokking_recording(GrokkingConfig(**settings), args.seeds, command, verbose=True), args.out
    )


if __name__ == "__main__":
    main()
