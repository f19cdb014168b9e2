"""Pairs to prefer from: ``python -m engine.training.preferences --base DIR --sft RUN --out DIR``.

The tuned model answers each request several times; the written rule (engine.training.rule) ranks the answers, and the
best and the worst become a pair where they lie far enough apart. Requests are those that SFT left over. ``--out`` holds
plan.json, samples.jsonl (one line a request; a run that was killed goes on behind the last) and pairs.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from engine.model.lora import merged
from engine.tokens.chat import render
from engine.training.checkpointing import append_log, save_json, write_atomically
from engine.training.evaluate import load_checkpoint
from engine.training.instructions import Example, load_examples
from engine.training.rule import judge
from engine.training.sampling import Answer, sample_answers

MOST_TOKENS = 96
BATCH = 24  # requests
GAP = 0.15


@dataclass(frozen=True)
class Pair:
    """Two answers to one request, as the model drew them: token ids with the end token, if it was drawn."""

    kind: str
    request: str
    chosen: str
    rejected: str
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    chosen_score: float
    rejected_score: float


def load_with_lora(base: Path, lora: Path) -> Any:
    """A base checkpoint with a LoRA merged in, fp32."""
    return merged(load_checkpoint(base), lora, torch.float32)


def answer_batch(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    seeds: Sequence[Sequence[int]],
    temperature: float,
) -> list[list[Answer]]:
    """The answers to each request, one for each of its seeds."""
    prompts = [render(tokenizer, example.request, None).ids for example in examples]
    flat = [(prompt, seed) for prompt, row in zip(prompts, seeds, strict=True) for seed in row]
    stops = frozenset({tokenizer.eos_token_id, tokenizer.bos_token_id})
    drawn = iter(
        sample_answers(model, [p for p, _ in flat], [s for _, s in flat], stops, MOST_TOKENS, temperature)
    )
    return [[next(drawn) for _ in row] for row in seeds]


def sampled_line(tokenizer: Any, example: Example, answers: Sequence[Answer]) -> dict[str, Any]:
    """One request with its answers and their scores, for samples.jsonl."""
    end = tokenizer.eos_token_id
    rows = []
    for answer in answers:
        text = decoded(tokenizer, answer)
        score = round(judge(example.request, text, answer.ended).score, 6)
        rows.append({"text": text, "ids": [*answer.ids, *[end] * answer.ended], "score": score})
    return {"kind": example.kind, "request": example.request, "answers": rows}


def decoded(tokenizer: Any, answer: Answer) -> str:
    """The answer's text; special tokens in the middle, which no reader would see, are left out."""
    text: str = tokenizer.decode(answer.ids, skip_special_tokens=True)
    return text


def pair_of(line: dict[str, Any], gap: float) -> Pair | None:
    """Best and worst answer of a sampled request, the first drawn among equals; None where no gap lies between."""
    answers = [answer for answer in line["answers"] if answer["ids"]]
    if len(answers) < 2:
        return None
    best = max(answers, key=lambda answer: answer["score"])
    worst = min(answers, key=lambda answer: answer["score"])
    if best["score"] - worst["score"] < gap:
        return None
    return Pair(
        line["kind"],
        line["request"],
        best["text"],
        worst["text"],
        tuple(best["ids"]),
        tuple(worst["ids"]),
        best["score"],
        worst["score"],
    )


def save_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """Write one JSON object a line."""
    text = "".join(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)
    write_atomically(path, lambda partial: _write(partial, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def load_pairs(path: Path) -> list[Pair]:
    """What :func:`save_pairs` wrote."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [
        Pair(**{**row, **{name: tuple(row[name]) for name in ("chosen_ids", "rejected_ids")}}) for row in rows
    ]


def sampled(path: Path) -> list[dict[str, Any]]:
    """The complete lines of samples.jsonl; one that a kill cut short is removed from the file."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    kept = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomically(path, lambda partial: _write(partial, kept))
    return lines


def sample(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    path: Path,
    each: int,
    temperature: float,
    seed: int,
) -> list[dict[str, Any]]:
    """``each`` answers to every example, appended to ``path`` as they come, from where it stands."""
    lines = sampled(path)
    while len(lines) < len(examples):
        begin = len(lines)
        group = examples[begin : begin + BATCH]
        seeds = [[seed + (begin + row) * each + n for n in range(each)] for row in range(len(group))]
        for example, answers in zip(
            group, answer_batch(model, tokenizer, group, seeds, temperature), strict=True
        ):
            line = sampled_line(tokenizer, example, answers)
            append_log(path, line)
            lines.append(line)
        mean = sum(a["score"] for line in lines for a in line["answers"]) / (len(lines) * each)
        print(f"{len(lines)}/{len(examples)} requests, mean score {mean:.3f}", flush=True)
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Sample, rank, and write the pairs; every tenth request's pair is held out."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.preferences", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--sft", type=Path, required=True, help="the --out of engine.training.sft")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=1200)
    parser.add_argument("--each", type=int, default=4, help="answers to a request")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    plan = {"requests": args.requests, "each": args.each, "temperature": args.temperature, "seed": args.seed}
    if (args.out / "plan.json").exists() and json.loads((args.out / "plan.json").read_text()) != plan:
        raise ValueError("Other samples were begun here; begin in another --out.")
    save_json(args.out / "plan.json", plan)
    tokenizer = AutoTokenizer.from_pretrained(args.sft / "final")
    model = load_with_lora(args.base, args.sft / "final")
    examples = load_examples(args.sft / "later.jsonl")[: args.requests]
    lines = sample(
        model, tokenizer, examples, args.out / "samples.jsonl", args.each, args.temperature, args.seed
    )
    for name, chosen in (("pairs", False), ("held_out_pairs", True)):
        found = [pair_of(line, GAP) for i, line in enumerate(lines) if (i % 10 == 0) is chosen]
        pairs = [pair for pair in found if pair is not None]
        save_pairs(args.out / f"{name}.jsonl", pairs)
        print(f"{name}: {len(pairs)} of {len(found)} requests")


if __name__ == "__main__":
    main()
