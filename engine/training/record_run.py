"""A training run's log and snapshots as one recording for the chapters.

``python -m engine.training.record_run --run DIR --name pretrain-llama --corpus DIR --tokenizer DIR --cache DIR``

Every number of it but the held-out losses and the references (which need the corpus) can be measured again from a
snapshot alone: the loss on the bundled passage, the head scores, the sample and the candidates.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from engine.tokens.passages import passage
from engine.training.checkpointing import read_log
from engine.training.data import load_tokenizer, token_stream
from engine.training.evaluate import Evaluation, evaluate, load_checkpoint
from engine.training.held_out import HeldOut, HeldOutLoss, held_out_loss, held_out_passages, held_out_windows
from engine.training.plan import Plan, load_plan
from engine.training.recording import Recording, save_recording
from engine.training.references import references

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


def snapshot_folders(run: Path, earlier: Sequence[Path] = ()) -> dict[int, Path]:
    """Step → folder of the complete snapshots, in order.

    ``earlier``: the runs this one was branched from, the latest first; theirs count up to where the branch begins.
    """
    own = {int(path.parent.name): path.parent for path in (run / "snapshots").glob("*/model.safetensors")}
    for parent in earlier:
        first = min(own, default=0)
        own |= {step: folder for step, folder in snapshot_folders(parent).items() if step < first}
    return dict(sorted(own.items()))


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


def passage_windows(tokenizer: Tokenizer, context: int) -> HeldOut:
    """The bundled passage, which no run was trained on, as held-out text."""
    return held_out_windows([passage()], tokenizer, context)


def passage_rows(losses: Iterable[tuple[int, HeldOutLoss]]) -> Rows:
    """Table ``passage``: nats per token and bits per character of the bundled passage at each step."""
    return [
        {"step": step, "loss": loss.loss, "bits_per_character": loss.bits_per_character}
        for step, loss in losses
    ]


def settings_of(plan: Plan) -> dict[str, Any]:
    """The plan, and what the induction mix did to the windows where there was one."""
    if plan.induction_from is None:
        return asdict(plan)
    return asdict(plan) | {"repeats": asdict(plan.repeats)}


def record_run(
    log: Rows, plan: Plan, name: str, tokenizer: Tokenizer, held_out: HeldOut, snapshots: Mapping[int, Path]
) -> Recording:
    """The recording of a run: its log, and an evaluation of ``snapshots`` (step → folder).

    Command, date, versions and hardware are those of the run, as it logged them, not of this evaluation.
    """
    sessions = [line for line in log if "command" in line]
    if not sessions:
        raise ValueError("The log does not say by which command it was written; continue the run once.")
    evaluations, passages = [], []
    text = passage_windows(tokenizer, plan.shape.context)
    for step, folder in snapshots.items():
        model = load_checkpoint(folder)
        evaluations.append((step, evaluate(model, tokenizer, held_out)))
        passages.append((step, held_out_loss(model, text)))
        print(f"evaluated step {step}", flush=True)
    updates = train_rows(log)
    tables = {"train": updates, "measured": measured_rows(log), **evaluation_tables(evaluations)}
    tables["passage"] = passage_rows(passages)
    tables["sessions"] = [{key: line[key] for key in ("step", "date", "command")} for line in sessions]
    return Recording(
        name=name,
        command=sessions[0]["command"],
        date=sessions[-1]["date"],
        versions=sessions[-1]["versions"],
        hardware="; ".join(dict.fromkeys(line["hardware"] for line in sessions)),
        seconds=updates[-1]["seconds"] if updates else 0.0,
        settings=settings_of(plan),
        tables={table: rows for table, rows in tables.items() if rows},
    )


def chosen_steps(
    there: Sequence[int], steps: Sequence[int] | None, most: int, keep: Sequence[int]
) -> list[int]:
    """The steps to evaluate: the given ones, or at most ``most`` spread over the run with ``keep`` among them.

    Raises ValueError when one of them has no snapshot.
    """
    missing = sorted({*(steps or ()), *keep} - set(there))
    if missing:
        raise ValueError(f"There is no snapshot of step {', '.join(map(str, missing))}.")
    if steps:
        return sorted({*steps, *keep})
    others = spread([step for step in there if step not in keep], max(most - len(keep), 2))
    return sorted({*others, *keep})


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.record_run", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument(
        "--run",
        type=Path,
        nargs="+",
        required=True,
        help="the --out of a run, then those it was branched from",
    )
    parser.add_argument("--name", required=True, help="name of the recording, such as pretrain-llama")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder of the tokenized corpus (default: the run)")
    parser.add_argument(
        "--steps", type=int, nargs="+", help="snapshots to evaluate (default: spread over the run)"
    )
    parser.add_argument("--most", type=int, default=16, help="how many snapshots at most, without --steps")
    parser.add_argument("--keep", type=int, nargs="+", default=[], help="snapshots to evaluate in any case")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--out", type=Path, help="file to write (default: among the bundled recordings)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Evaluate a run's snapshots and write the recording."""
    args = parse_arguments(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    run, *earlier = args.run
    tokenizer, plan = load_tokenizer(args.tokenizer), load_plan(run / "run.json")
    held_out = held_out_windows(held_out_passages(args.corpus), tokenizer, plan.shape.context)
    there = snapshot_folders(run, earlier)
    steps = chosen_steps(list(there), args.steps, args.most, args.keep)
    recording = record_run(
        read_log(run / "log.jsonl"),
        plan,
        args.name,
        tokenizer,
        held_out,
        {step: there[step] for step in steps},
    )
    streams = {
        source: token_stream(args.corpus, source, tokenizer, args.cache or run) for source in sorted(plan.mix)
    }
    marks = references(streams, plan.mix, held_out, plan.shape.vocab)
    path = save_recording(replace(recording, tables={**recording.tables, "references": marks}), args.out)
    print(f"wrote {path.name}, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
