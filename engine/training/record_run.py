"""A training run's log and snapshots as one recording for the chapters.

``python -m engine.training.record_run --run DIR --name pretrain-llama --corpus DIR --tokenizer DIR``
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from engine.training.checkpointing import read_log
from engine.training.data import load_tokenizer
from engine.training.evaluate import Evaluation, evaluate, load_checkpoint
from engine.training.held_out import HeldOut, held_out_passages, held_out_windows
from engine.training.plan import load_plan
from engine.training.recording import Recording, save_recording

Rows = list[dict[str, Any]]
MOST_TRAIN_ROWS = 600
TRAIN = ("step", "tokens", "seconds", "loss", "lr", "grad_norm")
MEASURED = (
    "step",
    "tokens",
    "held_out_loss",
    "bits_per_character",
    "induction_score",
    "previous_token_score",
    "first_half_loss",
    "second_half_loss",
)


def train_rows(log: Rows, most: int = MOST_TRAIN_ROWS) -> Rows:
    """The logged updates, thinned to about ``most`` rows by keeping every n-th (the last one always)."""
    rows = [{name: line[name] for name in TRAIN} for line in log if "grad_norm" in line]
    every = -(-len(rows) // most) if rows else 1
    return rows[:-1][::every] + rows[-1:]


def measured_rows(log: Rows) -> Rows:
    """The measurements made during the run; what was not measured at a step is None."""
    return [{name: line.get(name) for name in MEASURED} for line in log if "first_half_loss" in line]


def snapshot_steps(run: Path) -> list[int]:
    """Steps at which the run left a complete snapshot."""
    return sorted(int(path.parent.name) for path in (run / "snapshots").glob("*/model.safetensors"))


def spread(steps: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of ``steps``, evenly spread in their order, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def evaluation_tables(evaluations: Iterable[tuple[int, Evaluation]]) -> dict[str, Rows]:
    """Tables ``snapshots``, ``heads``, ``samples`` and ``candidates``, each row with the step it belongs to."""
    tables: dict[str, Rows] = {"snapshots": [], "heads": [], "samples": [], "candidates": []}
    for step, result in evaluations:
        tables["snapshots"].append(
            {
                "step": step,
                "held_out_loss": result.held_out.loss,
                "perplexity": result.held_out.perplexity,
                "bits_per_character": result.held_out.bits_per_character,
                "first_half_loss": result.heads.first_half_loss,
                "second_half_loss": result.heads.second_half_loss,
            }
        )
        layers, heads = result.heads.induction.shape
        tables["heads"] += [
            {
                "step": step,
                "layer": layer,
                "head": head,
                "induction": float(result.heads.induction[layer, head]),
                "previous_token": float(result.heads.previous_token[layer, head]),
            }
            for layer in range(layers)
            for head in range(heads)
        ]
        tables["samples"] += [{"step": step, **vars(sample)} for sample in result.samples]
        tables["candidates"] += [{"step": step, **vars(candidate)} for candidate in result.candidates]
    return tables


def record_run(
    run: Path, name: str, tokenizer: Tokenizer, held_out: HeldOut, steps: Sequence[int]
) -> Recording:
    """The recording of a run: its log, and an evaluation of its snapshots at ``steps``.

    Command, date, versions and hardware are those of the run, as it logged them, not of this evaluation.
    """
    log = read_log(run / "log.jsonl")
    sessions = [line for line in log if "command" in line]
    if not sessions:
        raise ValueError("The log does not say by which command it was written; continue the run once.")
    evaluations = []
    for step in steps:
        evaluations.append(
            (step, evaluate(load_checkpoint(run / "snapshots" / f"{step:06d}"), tokenizer, held_out))
        )
        print(f"evaluated step {step}", flush=True)
    updates = train_rows(log)
    tables = {"train": updates, "measured": measured_rows(log), **evaluation_tables(evaluations)}
    tables["sessions"] = [{key: line[key] for key in ("step", "date", "command")} for line in sessions]
    return Recording(
        name=name,
        command=sessions[0]["command"],
        date=sessions[-1]["date"],
        versions=sessions[-1]["versions"],
        hardware="; ".join(dict.fromkeys(line["hardware"] for line in sessions)),
        seconds=updates[-1]["seconds"] if updates else 0.0,
        settings=asdict(load_plan(run / "run.json")),
        tables={table: rows for table, rows in tables.items() if rows},
    )


def main(arguments: list[str] | None = None) -> None:
    """Evaluate a run's snapshots and write the recording."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.record_run", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--run", type=Path, required=True, help="the --out of a training run")
    parser.add_argument("--name", required=True, help="name of the recording, such as pretrain-llama")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument(
        "--steps", type=int, nargs="+", help="snapshots to evaluate (default: spread over the run)"
    )
    parser.add_argument("--most", type=int, default=20, help="how many snapshots at most, without --steps")
    parser.add_argument("--out", type=Path, help="file to write (default: among the bundled recordings)")
    args = parser.parse_args(arguments)
    tokenizer = load_tokenizer(args.tokenizer)
    context = load_plan(args.run / "run.json").shape.context
    held_out = held_out_windows(held_out_passages(args.corpus), tokenizer, context)
    steps = args.steps or spread(snapshot_steps(args.run), args.most)
    path = save_recording(record_run(args.run, args.name, tokenizer, held_out, steps), args.out)
    print(f"wrote {path.name}, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
