"""The model cards of the tuned checkpoints, written from their recordings, so that no number in them can be stale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.training import rule
from engine.training.recording import Recording

_HEAD = """---
license: mit
language: en
library_name: peft
base_model: engine/assets/pocket-llama
---

# {title}

{intro}

It is an adapter: LoRA matrices of rank {rank} (alpha {alpha}) on every linear layer of the blocks, and the three
embedding rows of `<|user|>`, `<|assistant|>` and `<|end|>`. These take the ids of three single-byte pieces that no
UTF-8 text contains, so the vocabulary has the size and the ids of the base's. Merged into the base when it is loaded.

It answers four kinds of requests, in fiction and without knowledge: `Write a scene with: rabbit, watch, hole`,
`Write one sentence about the rabbit.`, `Write two sentences about the rabbit and the watch.` and `Continue: …`.
It holds no conversation, knows hardly any facts and refuses nothing. It is made to be looked into.

## Measured

{requests} held-out requests, made from four books that nothing was trained on; {answers} answers by each model, drawn
at temperature {temperature}, at most {most} tokens. {note}

{table}

Words: share of the asked words that the answer uses. Ends: answers that stop by themselves at the end of a sentence.
Length: answers of as many sentences as were asked for. Fresh: answers in which no three words in a row recur. Score:
{score}. Prose: held-out bits per character of plain text, as in the base's card; what it exceeds the base's by is what
tuning cost.

## Recipe

{recipe}

Command: `{command}` ({hardware}, {minutes:.0f} minutes).
"""

_INTRO = {
    "SFT": "pocket-llama after supervised fine-tuning on requests and answers that were cut from public-domain books.",
    "DPO": "pocket-llama-sft after direct preference optimization on pairs of its answers, ranked by a written rule.",
}

_SFT = """Supervised fine-tuning on {examples} requests with answers of one to three sentences, cut by a script from
the books that the base was trained on. Cross-entropy on the answer and its end token only. AdamW, learning rate {lr:g},
warm-up of {warmup} updates, constant until update {hold}, then linear to zero at update {steps}; about {batch_tokens}
tokens an update, {precision}, gradients clipped at {clip:g}, seed {seed}."""

_DPO = (
    "{pairs} pairs: the fine-tuned model answered {sampled} requests {each} times each at temperature\n"
    "{temperature:g}, the rule ranked the answers, and the two that it tells apart most became a pair where their "
    "scores differ\n"
    "by {gap:g} or more; every tenth request was kept for measuring. Loss of Rafailov et al. 2023, equation 7, with "
    "beta {beta:g}; the\n"
    "reference is the fine-tuned model, frozen. AdamW, learning rate {lr:g}, warm-up of {warmup} updates, constant "
    "until\n"
    "update {hold}, then linear to zero at update {steps}; about {batch_tokens} tokens an update, {precision}, "
    "gradients\n"
    "clipped at {clip:g}, seed {seed}."
)

_SHARES = ("words", "ends", "length", "fresh")


def table(measured: Recording) -> str:
    """The measurements over all kinds as a markdown table."""
    lines = ["| | words | ends | length | fresh | score | prose |", "|---|---|---|---|---|---|---|"]
    for row in measured.table("measured"):
        if row["kind"] == "all":
            shares = " | ".join(f"{100 * float(row[part] or 0):.0f} %" for part in _SHARES)
            score = f"{row['score']:.3f} ± {row['score_error']:.3f}"
            lines.append(f"| {row['version']} | {shares} | {score} | {row['bits_per_character']:.3f} |")
    return "\n".join(lines)


def recipe(name: str, settings: Mapping[str, Any]) -> str:
    """How the LoRA was made, in sentences."""
    if name == "SFT":
        return _SFT.format(**settings)
    sampling = settings["sampling"]
    extra = {
        "sampled": sampling["requests"],
        "each": sampling["each"],
        "temperature": sampling["temperature"],
    }
    return _DPO.format(**settings, **extra)


def card(name: str, title: str, measured: Recording, run: Recording) -> str:
    """The README.md of a tuned folder; ``name`` is SFT or DPO."""
    whole = next(row for row in measured.table("measured") if row["kind"] == "all")
    score = " + ".join(f"{weight:g} · {part}" for part, weight in rule.WEIGHTS.items())
    return _HEAD.format(
        title=title,
        intro=_INTRO[name],
        rank=run.settings["rank"],
        alpha=run.settings["alpha"],
        requests=whole["requests"],
        answers=whole["answers"],
        temperature=measured.settings["temperature"],
        most=measured.settings["most_tokens"],
        note=measured.settings["note"],
        table=table(measured),
        score=score,
        recipe=recipe(name, run.settings),
        command=run.command,
        hardware=run.hardware,
        minutes=run.seconds / 60,
    )


def write_card(folder: Path, name: str, measured: Recording, runs: Mapping[str, Recording]) -> None:
    """Write the card of the LoRA in ``folder``."""
    (folder / "README.md").write_text(card(name, folder.name, measured, runs[name]), encoding="utf-8")
