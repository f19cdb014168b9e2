"""Train one of the bundled checkpoints: ``python -m engine.training.pretrain --arch llama --corpus DIR --out DIR``.

Begin, and after a kill continue, with the same command. The constant phase has no planned end; to get a finished
checkpoint, branch off and decay: ``--branch-from RUN --out BRANCH --decay-from-now 800``.

On Linux, ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000`` in the environment keeps freed buffers in the
process; without it a fifth of a CPU run's time goes into mapping the same pages again.

``--out`` holds run.json (the plan), log.jsonl, state.pt (to resume), snapshots/NNNNNN and, at the end, final.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from engine.training.architectures import build
from engine.training.attention import BLOCKED
from engine.training.checkpointing import append_log, cut_log, load_state, save_snapshot, save_state
from engine.training.data import load_tokenizer, token_stream
from engine.training.held_out import HeldOut, held_out_loss, held_out_passages, held_out_windows
from engine.training.induction import eager_copy, measure_induction
from engine.training.plan import Plan, add_plan_arguments, load_plan, save_plan, with_arguments
from engine.training.recording import command_line, provenance
from engine.training.schedule import is_snapshot_step
from engine.training.updates import (
    LossFunction,
    Run,
    compiled,
    loss_function,
    make_optimizers,
    restore,
    state_of,
    update,
    windows_of,
)

LOG_EVERY = 10


def measure(run: Run, held_out: HeldOut, *, induction: bool, loss: bool) -> dict[str, Any]:
    """The measurements due at this step, as log fields; losses in nats per token."""
    line: dict[str, Any] = {}
    copy = eager_copy(run.model)
    if loss:
        result = held_out_loss(copy, held_out)
        line |= {"held_out_loss": result.loss, "bits_per_character": result.bits_per_character}
    if induction:
        report = measure_induction(copy, length=min(128, (run.plan.shape.context - 1) // 2))
        line |= {
            "induction_score": float(report.induction.max()),
            "previous_token_score": float(report.previous_token.max()),
            "first_half_loss": report.first_half_loss,
            "second_half_loss": report.second_half_loss,
        }
    return line


def progress_line(run: Run, loss: float, rate: float) -> str:
    """Step, loss, tokens per second and, where an end is set, the time left."""
    last = run.plan.last_step
    tokens = run.step * run.plan.tokens_per_step
    text = f"step {run.step}  {tokens / 1e6:.2f} M tokens  loss {loss:.4f}  {rate:.0f} tokens/s"
    if last is None:
        return text + "  no end set"
    minutes = (last - run.step) * run.plan.tokens_per_step / max(rate, 1e-9) / 60
    return f"{text}  {minutes:.0f} min left"


class StopFlag:
    """Set by SIGTERM or Ctrl-C: the run then saves its state after the update in hand and ends."""

    def __init__(self) -> None:
        self.stop = False

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.stop = True


def train(
    run: Run,
    out: Path,
    held_out: HeldOut,
    loss: LossFunction,
    *,
    save_every: int,
    held_out_every: int,
    flag: StopFlag,
) -> None:
    """Update until the plan's last step or until ``flag`` is set; log, measure, snapshot and save on the way.

    Nothing here but :func:`update` changes the weights, so no measurement can change the run.
    """
    log, plan = out / "log.jsonl", run.plan
    if run.step == 0:
        record(run, out, held_out, held_out_every)
    clock, since_log, last_logged = time.monotonic(), time.monotonic(), run.step
    while not flag.stop and (plan.last_step is None or run.step < plan.last_step):
        values = {name: float(value) for name, value in update(run, loss).items()}
        now = time.monotonic()
        run.seconds += now - clock
        if run.step % LOG_EVERY == 0 or run.step <= LOG_EVERY:
            rate = (run.step - last_logged) * plan.tokens_per_step / (now - since_log)
            line = {
                "step": run.step,
                "tokens": run.step * plan.tokens_per_step,
                "seconds": round(run.seconds, 2),
            }
            append_log(log, line | values)
            print(progress_line(run, values["loss"], rate), flush=True)
            since_log, last_logged = now, run.step
        record(run, out, held_out, held_out_every)
        if run.step % save_every == 0:
            save_state(out / "state.pt", state_of(run))
        clock = time.monotonic()
    save_state(out / "state.pt", state_of(run))


def record(run: Run, out: Path, held_out: HeldOut, held_out_every: int) -> None:
    """Log the measurements and write the snapshot that are due at this step, if any."""
    plan, step = run.plan, run.step
    at_end = step == plan.last_step
    snapshot = at_end or is_snapshot_step(step, plan.snapshot_every)
    begin = plan.induction_from
    dense = begin is not None and step >= begin and (step - begin) % plan.induction_every == 0
    loss_due = at_end or step % held_out_every == 0 or is_snapshot_step(step) or step == begin
    if dense or loss_due:
        line = {"step": step, "tokens": step * plan.tokens_per_step}
        append_log(out / "log.jsonl", line | measure(run, held_out, induction=True, loss=loss_due))
    if snapshot:
        save_snapshot(run.model, out / "snapshots" / f"{step:06d}")


def finish(run: Run, out: Path, tokenizer: Path) -> None:
    """Write ``out/final``: an ordinary Hugging Face folder with fp16 weights, tokenizer and generation config."""
    final = out / "final"
    save_snapshot(run.model, final)
    run.model.generation_config.save_pretrained(final)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, final / name)


def initial_model(plan: Plan, weights: Path | None) -> PreTrainedModel:
    """The fp32 model that a run begins with: the checkpoint folder ``weights``, or one built from the plan's seed.

    Raises ValueError when the checkpoint's architecture or sizes are not the plan's.
    """
    if weights is None:
        return build(plan.arch, plan.shape, plan.seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        weights, dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True, local_files_only=True
    )
    config = model.config
    got = (config.model_type, config.vocab_size, config.num_hidden_layers, config.hidden_size)
    planned = (plan.arch, plan.shape.vocab, plan.shape.layers, plan.shape.d_model)
    if got != planned:
        raise ValueError(
            f"The checkpoint is {got}, the plan says {planned} (architecture, vocab, layers, d_model)."
        )
    return model


def open_run(args: argparse.Namespace, device: str) -> Run:
    """Continue the run in ``--out``, or branch one off, or begin one: from given weights or from scratch."""
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    if args.branch_from is not None and not (out / "state.pt").exists():
        shutil.copyfile(args.branch_from / "run.json", out / "run.json")
        shutil.copyfile(args.branch_from / "log.jsonl", out / "log.jsonl")
        save_state(out / "state.pt", load_state(args.branch_from / "state.pt", "cpu"))
    # A run that died before its first state was saved begins again, under the plan it had.
    state = load_state(out / "state.pt", device) if (out / "state.pt").exists() else None
    begun = (out / "run.json").exists()
    step = 0 if state is None else int(state["step"])
    plan = with_arguments(load_plan(out / "run.json") if begun else Plan(), args, step, new=not begun)
    save_plan(out / "run.json", plan)
    cut_log(out / "log.jsonl", step if state is not None else -1)
    model = initial_model(plan, args.init_from)
    if args.compile and device == "cpu":
        # Fused by inductor, plain attention beats torch's CPU flash kernel; in blocks it skips 3/8 of the scores.
        model.set_attn_implementation(BLOCKED)
    nn.Module.to(model, device).train()
    tokenizer = load_tokenizer(args.tokenizer)
    sources = sorted(
        {name for mix in (plan.mix, plan.mix_at_end) for name, share in mix.items() if share > 0}
    )
    streams = {name: token_stream(args.corpus, name, tokenizer, args.cache or out) for name in sources}
    run = Run(plan, model, make_optimizers(model, plan), streams, device)
    if state is not None:
        restore(run, state)
    return run


def session_line(step: int, args: argparse.Namespace, arguments: list[str] | None) -> dict[str, Any]:
    """What the log says of each start: command, date, versions, hardware class."""
    folders = (args.corpus, args.out, args.tokenizer, args.cache, args.init_from, args.branch_from)
    command = command_line("engine.training.pretrain", arguments, folders)
    accelerator = torch.cuda.get_device_name() if args.device.startswith("cuda") else None
    line = {"step": step, **provenance(command, 0.0, accelerator)}
    del line["seconds"]
    return line


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.pretrain", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder with children.txt[.xz], held_out.txt[.xz] …"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--cache", type=Path, help="folder for the tokenized corpus (default: --out)")
    parser.add_argument("--init-from", type=Path, help="begin with the weights of this checkpoint folder")
    parser.add_argument("--branch-from", type=Path, help="begin with the whole state of this run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--compile", action="store_true", help="use torch.compile where it works")
    parser.add_argument("--save-every", type=int, default=100, help="steps between resume states")
    parser.add_argument("--held-out-every", type=int, default=250, help="steps between held-out losses")
    add_plan_arguments(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run, or continue, the training that the command line describes."""
    args = parse_arguments(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    run = open_run(args, args.device)
    held_out = held_out_windows(
        held_out_passages(args.corpus), load_tokenizer(args.tokenizer), run.plan.shape.context
    )
    loss = loss_function(run.plan.precision, args.device)
    if args.compile:
        loss = compiled(loss, run.model, windows_of(run)[: run.plan.micro_batch])
    flag = StopFlag()
    flag.install()
    append_log(args.out / "log.jsonl", session_line(run.step, args, arguments))
    parameters = sum(p.numel() for p in run.model.parameters())
    print(f"{run.plan.arch}, {parameters:,} parameters, from step {run.step}", flush=True)
    train(
        run,
        args.out,
        held_out,
        loss,
        save_every=args.save_every,
        held_out_every=args.held_out_every,
        flag=flag,
    )
    if run.step == run.plan.last_step:
        finish(run, args.out, args.tokenizer)


if __name__ == "__main__":
    main()
