"""Measure base, SFT and DPO on held-out requests and write what chapter 13 shows:
``python -m engine.training.post_training --corpus DIR --out engine/assets/recordings/post-training.json``.

With ``--sft-run``, ``--pairs`` and ``--dpo-run`` the LoRAs of those runs are first copied to the bundled folders,
their logs are recorded beside ``--out`` (sft-llama, dpo-llama), and both model cards written from what was measured.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from engine.tokens.chat import render
from engine.training import rule
from engine.training.checkpointing import read_log
from engine.training.data import load_tokenizer
from engine.training.evaluate import load_checkpoint
from engine.training.held_out import HeldOutLoss, held_out_loss, held_out_passages, held_out_windows
from engine.training.instructions import Example, instruction_set
from engine.training.model_card import write_card
from engine.training.preferences import GAP, MOST_TOKENS, decoded, load_pairs, load_with_lora
from engine.training.recording import Recording, command_line, provenance, save_recording
from engine.training.sampling import Answer, sample_answers
from engine.training.sft import HELD_OUT

ASSETS = Path("engine/assets")
BASE, SFT, DPO = "base", "SFT", "DPO"
NOTE = (
    "Base reads the bare request: it was never shown a chat template or an end token. It therefore ends an answer only "
    "where it believes that the book is over."
)
PARTS = ("words", "ends", "length", "fresh", "score")
SHOWN = 2  # requests of each kind whose answers are recorded: the first ones, not chosen
OFFERED = 6

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Version:
    """One of the three models, with its tokenizer and what it makes of a request."""

    name: str
    model: Any
    tokenizer: Any

    def prompt(self, request: str) -> tuple[int, ...]:
        """The ids it reads: the template's where it has one, else the bare text."""
        if self.name == BASE:
            return tuple(self.tokenizer(request, add_special_tokens=False)["input_ids"])
        return render(self.tokenizer, request, None).ids

    @property
    def stops(self) -> frozenset[int]:
        return frozenset({self.tokenizer.eos_token_id, self.tokenizer.bos_token_id})


def open_version(name: str, base: Path, lora: Path | None) -> Version:
    """Base with a LoRA merged in, or as it is."""
    if lora is None:
        return Version(name, load_checkpoint(base), AutoTokenizer.from_pretrained(base))
    return Version(name, load_with_lora(base, lora), AutoTokenizer.from_pretrained(lora))


def answer_all(
    version: Version, examples: Sequence[Example], each: int, temperature: float
) -> list[list[Answer]]:
    """``each`` answers to every request; the seed is the request's number times ``each``, and on from there."""
    flat = [(version.prompt(e.request), i * each + n) for i, e in enumerate(examples) for n in range(each)]
    order = sorted(range(len(flat)), key=lambda k: len(flat[k][0]))
    drawn: dict[int, Answer] = {}
    for start in range(0, len(order), 96):
        group = order[start : start + 96]
        prompts, seeds = [flat[k][0] for k in group], [flat[k][1] for k in group]
        answers = sample_answers(version.model, prompts, seeds, version.stops, MOST_TOKENS, temperature)
        drawn |= dict(zip(group, answers, strict=True))
        print(f"{version.name}: {len(drawn)} of {len(flat)} answers", flush=True)
    return [[drawn[i * each + n] for n in range(each)] for i in range(len(examples))]


def judged_rows(version: Version, examples: Sequence[Example], answers: Sequence[Sequence[Answer]]) -> Rows:
    """One row an answer: what was asked and drawn, and every part of the rule."""
    rows = []
    for i, (example, drawn) in enumerate(zip(examples, answers, strict=True)):
        for n, answer in enumerate(drawn):
            text = decoded(version.tokenizer, answer)
            judgement = rule.judge(example.request, text, answer.ended)
            rows.append(
                {
                    "version": version.name,
                    "kind": example.kind,
                    "request": example.request,
                    "seed": i * len(drawn) + n,
                    "answer": text,
                    "ended": answer.ended,
                    "tokens": len(answer.ids),
                    **{part: float(getattr(judgement, part)) for part in PARTS},
                }
            )
    return rows


def measured_rows(rows: Rows, prose: dict[str, HeldOutLoss]) -> Rows:
    """Means by version over all answers (kind "all") and by kind; words only over requests that ask for some.

    ``score_error``: standard error of the mean score over requests.
    """
    table = []
    for version, loss in prose.items():
        for kind in ("all", *rule.KINDS):
            group = [r for r in rows if r["version"] == version and kind in ("all", r["kind"])]
            asked = [r["words"] for r in group if r["kind"] != rule.CONTINUE]
            means = {part: float(np.mean([r[part] for r in group])) for part in (*PARTS, "tokens")}
            requests = sorted({r["request"] for r in group})
            by_request = [np.mean([r["score"] for r in group if r["request"] == q]) for q in requests]
            table.append(
                {
                    "version": version,
                    "kind": kind,
                    "requests": len(requests),
                    "answers": len(group),
                    **means,
                    "words": float(np.mean(asked)) if asked else None,
                    "score_error": float(np.std(by_request, ddof=1) / len(requests) ** 0.5),
                    "bits_per_character": loss.bits_per_character,
                    "prose_loss": loss.loss,
                }
            )
    return table


_UNFIT = re.compile(
    r"\b(negro|nigger|darky|darkie|savage|squaw|gips|gyps|heathen|indian|jew|coolie)", re.IGNORECASE
)
"""How old books call peoples: such a request is measured like any other, and not held up as an example."""


def first_of_each_kind(examples: Sequence[Example], count: int) -> list[Example]:
    """The first ``count`` examples of every kind, kind by kind, that a page may offer to a class."""
    fit = [example for example in examples if not _UNFIT.search(example.request)]
    return [e for kind in rule.KINDS for e in [x for x in fit if x.kind == kind][:count]]


def log_rows(log: Rows, having: str) -> Rows:
    """The log lines that have the column ``having``, all with the first one's columns."""
    rows = [line for line in log if having in line]
    return [{name: row[name] for name in rows[0]} for row in rows] if rows else []


def record_log(run: Path, name: str, extra: dict[str, Any], tables: dict[str, Rows]) -> Recording:
    """A run's log as a recording: tables ``train`` and ``log`` (the measurements), and the sessions."""
    log = read_log(run / "log.jsonl")
    sessions = [line for line in log if "command" in line]
    train = log_rows(log, "grad_norm")
    return Recording(
        name=name,
        command=sessions[0]["command"],
        date=sessions[-1]["date"],
        versions=sessions[-1]["versions"],
        hardware="; ".join(dict.fromkeys(line["hardware"] for line in sessions)),
        seconds=train[-1]["seconds"],
        settings={**json.loads((run / "plan.json").read_text(encoding="utf-8")), **extra},
        tables={"train": train, "log": log_rows(log, "held_out_loss"), **tables},
    )


def install(run: Path, folder: Path) -> None:
    """Put the LoRA of a finished run in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((run / "final").iterdir()):
        shutil.copyfile(file, folder / file.name)


def record_runs(args: argparse.Namespace) -> dict[str, Recording]:
    """The recordings of both runs, saved beside ``--out``; none where the runs were not named."""
    if args.sft_run is None:
        return {}
    pairs = load_pairs(args.pairs / "pairs.jsonl")
    held_out = load_pairs(args.pairs / "held_out_pairs.jsonl")
    sampling = json.loads((args.pairs / "plan.json").read_text(encoding="utf-8"))
    columns = ("kind", "request", "chosen", "rejected", "chosen_score", "rejected_score")
    shown = [{name: getattr(pair, name) for name in columns} for pair in held_out[:OFFERED]]
    counts = {"pairs": len(pairs), "held_out_pairs": len(held_out), "gap": GAP, "sampling": sampling}
    found = {
        SFT: record_log(args.sft_run, "sft-llama", {"rule": rule.WEIGHTS}, {}),
        DPO: record_log(args.dpo_run, "dpo-llama", {"rule": rule.WEIGHTS, **counts}, {"pairs": shown}),
    }
    for recording in found.values():
        save_recording(recording, args.out.parent / f"{recording.name}.json")
    return found


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.post_training", description="Measure base, SFT and DPO."
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the recording to write")
    parser.add_argument("--base", type=Path, default=ASSETS / "pocket-llama")
    parser.add_argument("--sft", type=Path, default=ASSETS / "pocket-llama-sft")
    parser.add_argument("--dpo", type=Path, default=ASSETS / "pocket-llama-dpo")
    parser.add_argument("--sft-run", type=Path, help="the --out of engine.training.sft")
    parser.add_argument("--pairs", type=Path, help="the --out of engine.training.preferences")
    parser.add_argument("--dpo-run", type=Path, help="the --out of engine.training.dpo")
    parser.add_argument("--requests", type=int, default=HELD_OUT)
    parser.add_argument("--each", type=int, default=2, help="answers to a request")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=13, help="of the instruction set")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args(arguments)
    if len({args.sft_run is None, args.pairs is None, args.dpo_run is None}) == 2:
        parser.error("--sft-run, --pairs and --dpo-run go together")
    return args


def main(arguments: list[str] | None = None) -> None:
    """Install, measure, record, and write the cards."""
    args = parse_arguments(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.sft_run is not None:
        install(args.sft_run, args.sft)
        install(args.dpo_run, args.dpo)
    begin = time.monotonic()
    _, held_out = instruction_set(args.corpus, 0, HELD_OUT, args.seed)
    examples = held_out[: args.requests]
    rows: Rows = []
    prose: dict[str, HeldOutLoss] = {}
    passages = held_out_passages(args.corpus)
    for name, lora in ((BASE, None), (SFT, args.sft), (DPO, args.dpo)):
        version = open_version(name, args.base, lora)
        rows += judged_rows(version, examples, answer_all(version, examples, args.each, args.temperature))
        windows = held_out_windows(
            passages, load_tokenizer(args.base), version.model.config.max_position_embeddings
        )
        prose[name] = held_out_loss(version.model, windows)
    shown = {example.request for example in first_of_each_kind(examples, SHOWN)}
    first = [row for row in rows if row["request"] in shown and row["seed"] % args.each == 0]
    folders = [path for path in vars(args).values() if isinstance(path, Path) and path.is_absolute()]
    recording = Recording(
        name=args.out.stem,
        **provenance(
            command_line("engine.training.post_training", arguments, folders), time.monotonic() - begin
        ),
        settings={
            "temperature": args.temperature,
            "most_tokens": MOST_TOKENS,
            "each": args.each,
            "rule": rule.WEIGHTS,
            "note": NOTE,
        },
        tables={
            "measured": measured_rows(rows, prose),
            "answers": first,
            "requests": [
                {"kind": e.kind, "request": e.request} for e in first_of_each_kind(examples, OFFERED)
            ],
        },
    )
    save_recording(recording, args.out)
    runs = record_runs(args)
    for name, folder in ((SFT, args.sft), (DPO, args.dpo)):
        if runs:
            write_card(folder, name, recording, runs)
    for row in recording.tables["measured"]:
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()))


if __name__ == "__main__":
    main()
