"""Teach a bundled checkpoint to answer: ``python -m engine.training.sft --base DIR --corpus DIR --out DIR``.

LoRA on all linear layers of the blocks and on three special tokens, loss on the assistant's tokens only. Begin, and
after a kill continue, with the same command. ``--out`` holds plan.json, the instruction set, log.jsonl, state.pt (to
resume) and, at the end, final: the LoRA as the app loads it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from engine.tokens.chat import Rendered, render
from engine.training.checkpointing import append_log, cut_log, load_state
from engine.training.data import load_tokenizer
from engine.training.fine_tuning import (
    BUCKETS,
    Batches,
    FineTuning,
    FineTuningPlan,
    begin,
    open_plan,
    padded,
    restore,
    token_losses,
    train,
)
from engine.training.held_out import held_out_loss, held_out_passages, held_out_windows
from engine.training.instructions import Example, instruction_set, load_examples, save_examples
from engine.training.lora import save_lora, with_lora, write_tokenizer
from engine.training.pretrain import StopFlag
from engine.training.recording import command_line, provenance

Prose = Callable[[FineTuning], dict[str, float]]
HELD_OUT = 400
LATER = 4000
"""Requests of the set that SFT leaves to preference tuning."""


def load_base(folder: Path, attention: str = "eager") -> PreTrainedModel:
    """The checkpoint to adapt, fp32; plain attention, which inductor fuses best on a CPU."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation=attention,
        use_safetensors=True,
        local_files_only=True,
    )
    return model


def open_set(
    corpus: Path, out: Path, count: int, seed: int
) -> tuple[list[Example], list[Example], list[Example]]:
    """The instruction set of a run: for SFT, for preference tuning, held out; made once and kept in ``out``."""
    paths = [out / f"{name}.jsonl" for name in ("train", "later", "held_out")]
    if not all(path.exists() for path in paths):
        made, held_out = instruction_set(corpus, count + LATER, HELD_OUT, seed)
        for path, rows in zip(paths, (made[:count], made[count:], held_out), strict=True):
            save_examples(path, rows)
    first, later, held_out = (load_examples(path) for path in paths)
    return first, later, held_out


def rendered(tokenizer: Any, examples: Sequence[Example]) -> list[Rendered]:
    """The examples through the chat template; those too long for the longest bucket are left out."""
    rows = (render(tokenizer, example.request, example.answer) for example in examples)
    return [row for row in rows if len(row.ids) <= BUCKETS[-1]]


@torch.no_grad()
def answer_loss(model: Any, rows: Sequence[Rendered], pad: int, device: str, batch: int = 32) -> float:
    """Mean cross-entropy, in nats per token that carries loss, fp32."""
    losses, total, count = token_losses("fp32", device), 0.0, 0
    order = sorted(rows, key=lambda row: len(row.ids))
    for i in range(0, len(order), batch):
        group = order[i : i + batch]
        ids, targets = padded(group, len(group[-1].ids), pad, device)
        total += float(losses(model, ids, targets).sum())
        count += int((targets != -100).sum())
    return total / count


def open_prose(args: argparse.Namespace) -> Prose:
    """What a run forgets: a function that measures its loss on the held-out books' plain prose."""
    context = json.loads((args.base / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    windows = held_out_windows(held_out_passages(args.corpus), load_tokenizer(args.base), context)

    def measure(run: FineTuning) -> dict[str, float]:
        result = held_out_loss(run.model, windows)
        return {"prose_loss": result.loss, "bits_per_character": result.bits_per_character}

    return measure


def compiled(function: Any, probe: Any) -> Any:
    """``function`` through torch.compile, tried once by ``probe``; where that fails, itself and a message."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * len(BUCKETS) + 2)
    fast = torch.compile(function, dynamic=False)
    try:
        probe(fast)
    except Exception as error:  # whatever a missing compiler or an unsupported operation raises
        print(f"torch.compile does not work here ({type(error).__name__}); going on without it.", flush=True)
        return function
    return fast


def open_run(args: argparse.Namespace, plan: FineTuningPlan, tokenizer: Any) -> FineTuning:
    """The run in ``--out`` where it stands, or a new one."""
    model = with_lora(load_base(args.base), tokenizer, plan.rank, plan.alpha, plan.seed)
    run = begin(plan, model, args.device)
    return resumed(run, args.out)


def resumed(run: FineTuning, out: Path) -> FineTuning:
    """``run`` with the state saved in ``out``, if any; the log is cut back to it."""
    if (out / "state.pt").exists():
        restore(run, load_state(out / "state.pt", run.device))
    cut_log(out / "log.jsonl", run.step if run.step else -1)
    return run


def log_session(args: argparse.Namespace, module: str, arguments: list[str] | None, step: int) -> None:
    """What the log says of each start: command, date, versions, hardware class."""
    folders = tuple(value for value in vars(args).values() if isinstance(value, Path))
    accelerator = torch.cuda.get_device_name() if args.device.startswith("cuda") else None
    line = {"step": step, **provenance(command_line(module, arguments, folders), 0.0, accelerator)}
    del line["seconds"]
    append_log(args.out / "log.jsonl", line)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that SFT and DPO share."""
    parser.add_argument("--base", type=Path, required=True, help="checkpoint folder to adapt")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--compile", action="store_true", help="use torch.compile where it works")
    parser.add_argument("--save-every", type=int, default=25)
    parser.add_argument("--measure-every", type=int, default=50)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--warmup", type=int, default=20)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.sft", description=__doc__.split("\n\n")[0]
    )
    add_arguments(parser)
    parser.add_argument("--examples", type=int, default=22_000)
    parser.add_argument("--steps", type=int, default=380)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run, or continue, the tuning that the command line describes."""
    args = parse_arguments(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    plan = FineTuningPlan(
        steps=args.steps,
        lr=args.lr,
        rank=args.rank,
        alpha=2 * args.rank,
        seed=args.seed,
        warmup=args.warmup,
        hold=args.steps // 3,
        batch_tokens=args.batch_tokens,
        precision=args.precision,
        examples=args.examples,
    )
    open_plan(args.out / "plan.json", plan)
    write_tokenizer(args.base, args.out / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(args.out / "tokenizer")
    first, _, held_out = open_set(args.corpus, args.out, plan.examples, plan.seed)
    rows, kept = rendered(tokenizer, first), rendered(tokenizer, held_out)
    run = open_run(args, plan, tokenizer)
    flag = StopFlag()
    flag.install()
    log_session(args, "engine.training.sft", arguments, run.step)
    train_from(run, args, rows, kept, open_prose(args), tokenizer.pad_token_id, flag)
    if run.step == plan.steps:
        save_lora(run.model, args.out / "tokenizer", f"engine/assets/{args.base.name}", args.out / "final")


def train_from(
    run: FineTuning,
    args: argparse.Namespace,
    rows: Sequence[Rendered],
    held_out: Sequence[Rendered],
    prose: Prose,
    pad: int,
    flag: StopFlag,
) -> None:
    """The loop of SFT over ``rows``."""
    batches = Batches([len(row.ids) for row in rows], run.plan.batch_tokens, run.plan.seed)
    losses = token_losses(run.plan.precision, run.device)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        length, members = batches.at(step)
        return padded([rows[i] for i in members], length, pad, run.device)

    def one_step(run: FineTuning) -> tuple[Tensor, dict[str, float]]:
        ids, targets = batch(run.step)
        counted = int((targets != -100).sum())
        return losses(run.model, ids, targets).sum() / counted, {
            "tokens": ids.numel(),
            "loss_tokens": counted,
        }

    def measure(run: FineTuning) -> dict[str, float]:
        return {"held_out_loss": answer_loss(run.model, held_out, pad, run.device)} | prose(run)

    if args.compile:
        losses = compiled(losses, lambda fast: fast(run.model, *batch(run.step)).sum().backward())
        run.optimizer.zero_grad(set_to_none=True)
    print(f"{len(rows)} examples, {batches.per_epoch} batches an epoch, from step {run.step}", flush=True)
    train(
        run, args.out, one_step, measure,
        save_every=args.save_every, measure_every=args.measure_every, flag=flag,
    )  # fmt: skip


if __name__ == "__main__":
    main()
