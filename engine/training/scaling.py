"""How the loss falls with the size of a model and with the amount of text: a small family, trained alike.

``python -m engine.training.scaling --corpus FOLDER --out FILE`` trains every width on every amount of text and writes
the recording. The models are transformers' GPT-2 over bytes, two blocks each; everything but width and text is the
same. Each run counts with the lowest loss on held-out books that it reached.

Source of the idea: Kaplan et al. 2020, Scaling Laws for Neural Language Models (sizes without embeddings; training on a
small text is stopped in time).
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from engine.training.data import read_books
from engine.training.held_out import held_out_passages
from engine.training.recording import Recording, command_line, provenance, save_recording

BYTES = 256
PIECE = 4_000
"""Bytes that are taken from one place of the corpus: a small text then comes from many books too."""


@dataclass(frozen=True)
class ScalingConfig:
    """The family and how each of it is trained; ``texts`` in bytes.

    Matrices begin as N(0, ``spread``² / width). A run ends early once ``patience`` measurements in a row were no better
    than the best one.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    texts: tuple[int, ...] = (16_000, 64_000, 256_000)
    layers: int = 2
    d_head: int = 16
    context: int = 64
    batch: int = 8
    spread: float = 0.6
    lr: float = 5e-3
    warm_up: int = 50
    steps: int = 2_400
    measure_every: int = 100
    patience: int = 4
    held_out_windows: int = 512
    seed: int = 0


def spread_text(books: list[str], size: int) -> Tensor:
    """``size`` bytes in pieces from evenly spaced places of all books, as ids in 0…255, shape (size,)."""
    whole = b"\n\n".join(book.encode() for book in books)
    pieces = max(1, size // PIECE)
    if size > len(whole):
        raise ValueError(f"the corpus has {len(whole):,} bytes, fewer than {size:,}")
    starts = [round(i * (len(whole) - PIECE) / pieces) for i in range(pieces)]
    cut = b"".join(whole[start : start + PIECE] for start in starts)[:size]
    return torch.tensor(list(cut))


def held_out(passages: list[str], context: int, count: int) -> Tensor:
    """``count`` windows, evenly spaced among all of the passages, shape (count, context)."""
    ids = torch.tensor([byte for passage in passages for byte in passage.encode()])
    windows = ids[: len(ids) // context * context].reshape(-1, context)
    places = torch.linspace(0, len(windows) - 1, min(count, len(windows))).round().long()
    return windows[places]


def make(config: ScalingConfig, width: int, generator: torch.Generator) -> Any:
    """A GPT-2 of this width; what writes to the residual stream begins smaller, as in GPT-2."""
    model: Any = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=BYTES, n_positions=config.context, n_embd=width, n_layer=config.layers,
            n_head=max(1, width // config.d_head), resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    model.loss_type = "ForCausalLM"  # what transformers would take anyway, with a warning
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                small = math.sqrt(2 * config.layers) if name.endswith("c_proj.weight") else 1
                p.normal_(0.0, config.spread / math.sqrt(width) / small, generator=generator)
    return model


def parameters(model: Any) -> tuple[int, int]:
    """Of the blocks and the final norm, and of the two embeddings."""
    embeddings = sum(
        p.numel() for name, p in model.named_parameters() if name.split(".")[1] in ("wte", "wpe")
    )
    return sum(p.numel() for p in model.parameters()) - embeddings, embeddings


def rate_at(config: ScalingConfig, step: int) -> float:
    """Of step 1, 2, …: a rise over ``warm_up`` steps, then a straight fall that would reach zero after the last one."""
    return config.lr * min(step / config.warm_up, 1 - (step - 1) / config.steps)


@torch.no_grad()
def measure(model: Any, windows: Tensor) -> float:
    """Mean cross-entropy in nats per byte."""
    parts = [model(rows, labels=rows, use_cache=False).loss * len(rows) for rows in windows.split(128)]
    return float(sum(parts)) / len(windows)


def train_one(
    config: ScalingConfig, width: int, text: Tensor, windows: Tensor
) -> tuple[Any, list[dict[str, float]]]:
    """One run: the model as it ended, and a row at step 0 and at every measurement."""
    generator = torch.Generator().manual_seed(config.seed)
    model = make(config, width, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.1, fused=True)
    rows: list[dict[str, float]] = [{"step": 0, "held_out": measure(model, windows)}]
    rows[0]["train"] = rows[0]["held_out"]
    recent: list[float] = []
    for step in range(1, config.steps + 1):
        starts = torch.randint(0, len(text) - config.context + 1, (config.batch, 1), generator=generator)
        batch = text[starts + torch.arange(config.context)]
        for group in optimizer.param_groups:
            group["lr"] = rate_at(config, step)
        loss = model(batch, labels=batch, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recent.append(float(loss.detach()))
        if step % config.measure_every == 0 or step == config.steps:
            rows.append(
                {"step": step, "held_out": measure(model, windows), "train": sum(recent) / len(recent)}
            )
            recent.clear()
            if out_of_patience([row["held_out"] for row in rows], config.patience):
                break
    return model, rows


def out_of_patience(losses: list[float], patience: int) -> bool:
    """Whether the best loss is ``patience`` measurements old."""
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def scaling_recording(config: ScalingConfig, corpus: Path, command: str, *, verbose: bool) -> Recording:
    """All runs as one recording: table ``runs`` (a row per run and measurement), ``summary`` (a row per run)."""
    start = time.monotonic()
    books = read_books(corpus / "children.txt") + read_books(corpus / "adventure.txt")
    windows = held_out(held_out_passages(corpus), config.context, config.held_out_windows)
    runs, summary = [], []
    for size in config.texts:
        text = spread_text(books, size)
        for width in config.widths:
            began = time.monotonic()
            model, rows = train_one(config, width, text, windows)
            best = min(rows, key=lambda row: row["held_out"])
            inside, embeddings = parameters(model)
            which = {"width": width, "text": size}
            runs += [which | row for row in rows]
            summary.append(
                which
                | {
                    "parameters": inside,
                    "embeddings": embeddings,
                    "lowest": best["held_out"],
                    "at_step": best["step"],
                    "train_then": best["train"],
                    "steps": rows[-1]["step"],
                    "seconds": round(time.monotonic() - began, 1),
                }
            )
            if verbose:
                print(summary[-1], flush=True)
    return Recording(
        name="scaling",
        **provenance(command, seconds=time.monotonic() - start),
        settings={name: list(v) if isinstance(v, tuple) else v for name, v in asdict(config).items()},
        tables={"runs": runs, "summary": summary},
    )


def main(arguments: list[str] | None = None) -> None:
    """Train the family and write the recording."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.scaling", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder with the books")
    parser.add_argument("--out", type=Path, required=True, help="the recording to write, a .json file")
    parser.add_argument("--widths", type=int, nargs="+", default=ScalingConfig.widths)
    parser.add_argument("--texts", type=int, nargs="+", default=ScalingConfig.texts, help="bytes")
    parser.add_argument("--steps", type=int, default=ScalingConfig.steps)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    config = ScalingConfig(widths=tuple(args.widths), texts=tuple(args.texts), steps=args.steps)
    command = command_line("engine.training.scaling", arguments, paths=(args.corpus, args.out))
    save_recording(scaling_recording(config, args.corpus, command, verbose=True), args.out)


if __name__ == "__main__":
    main()
