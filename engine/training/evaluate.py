"""What a checkpoint can do: held-out loss, samples, head scores, and what it expects next.

``python -m engine.training.evaluate --checkpoint DIR --corpus DIR`` prints it; ``--json FILE`` writes it.
Bits per character: four held-out books, 30 000 characters of each from character 20 000 on, windows of 512 tokens
without overlap, nats summed over the predicted tokens, divided by the characters and by ln 2.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from engine.training.data import load_tokenizer
from engine.training.held_out import HeldOut, HeldOutLoss, held_out_loss, held_out_passages, held_out_windows
from engine.training.induction import InductionReport, measure_induction

PROMPTS = (
    "Once upon a time there was a",
    "Dorothy and the Scarecrow walked along the road of yellow",
    '"I am very hungry," said the',
    "The ship sailed away from the island, and the captain",
    "The Queen was angry. The King was afraid of the",
    "Tom met Hannibal Grubb. Tom said to Hannibal",
)
SAMPLE_PROMPT = PROMPTS[0]
SAMPLE_TOKENS = 60
SAMPLE_SEED = 0
TEMPERATURE = 0.8


@dataclass(frozen=True)
class Sample:
    """A continuation drawn with ``seed`` at ``temperature`` from the whole distribution."""

    prompt: str
    seed: int
    temperature: float
    text: str


@dataclass(frozen=True)
class Candidate:
    """A next token that the model thinks likely; ``rank`` from 1, ``probability`` in 0…1."""

    prompt: str
    rank: int
    token: str
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """Everything measured of one checkpoint."""

    held_out: HeldOutLoss
    heads: InductionReport
    samples: tuple[Sample, ...]
    candidates: tuple[Candidate, ...]


def load_checkpoint(folder: Path) -> PreTrainedModel:
    """A checkpoint folder in fp32 with attention weights, on the CPU; safetensors only, no code from the folder."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", use_safetensors=True, local_files_only=True
    )
    result: PreTrainedModel = model.eval()
    return result


@torch.no_grad()
def sample_ids(model: PreTrainedModel, prompt: Tensor, count: int, temperature: float, seed: int) -> Tensor:
    """``count`` token ids after ``prompt`` (seq,), drawn from softmax(logits / temperature); greedy at 0.

    The window slides once the model's context is full.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = prompt.clone()
    for _ in range(count):
        window = ids[-model.config.max_position_embeddings :]
        logits = model(input_ids=window[None], use_cache=False).logits[0, -1].float()
        if temperature == 0:
            drawn = logits.argmax().view(1)
        else:
            drawn = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        ids = torch.cat([ids, drawn])
    return ids[len(prompt) :]


def draw_sample(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompt: str = SAMPLE_PROMPT,
    seed: int = SAMPLE_SEED,
    count: int = SAMPLE_TOKENS,
    temperature: float = TEMPERATURE,
) -> Sample:
    """A continuation of ``prompt`` as text."""
    ids = sample_ids(model, _encode(tokenizer, prompt), count, temperature, seed)
    return Sample(prompt, seed, temperature, tokenizer.decode(ids.tolist(), skip_special_tokens=False))


@torch.no_grad()
def next_token_candidates(
    model: PreTrainedModel, tokenizer: Tokenizer, prompt: str, count: int = 5
) -> tuple[Candidate, ...]:
    """The ``count`` most probable next tokens after ``prompt``."""
    logits = model(input_ids=_encode(tokenizer, prompt)[None], use_cache=False).logits[0, -1].float()
    top = logits.softmax(-1).topk(count)
    return tuple(
        Candidate(prompt, rank, tokenizer.decode([int(token)], skip_special_tokens=False), float(probability))
        for rank, (probability, token) in enumerate(zip(top.values, top.indices, strict=True), start=1)
    )


def evaluate(
    model: PreTrainedModel, tokenizer: Tokenizer, held_out: HeldOut, prompts: Sequence[str] = PROMPTS
) -> Evaluation:
    """Measure ``model`` (see :func:`load_checkpoint`)."""
    length = min(128, (model.config.max_position_embeddings - 1) // 2)
    return Evaluation(
        held_out=held_out_loss(model, held_out),
        heads=measure_induction(model, length=length),
        samples=(draw_sample(model, tokenizer),),
        candidates=tuple(c for prompt in prompts for c in next_token_candidates(model, tokenizer, prompt)),
    )


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as plain values, for JSON and for the terminal."""
    heads = evaluation.heads
    return {
        "held_out_loss_nats_per_token": evaluation.held_out.loss,
        "held_out_perplexity": evaluation.held_out.perplexity,
        "held_out_bits_per_character": evaluation.held_out.bits_per_character,
        "predicted_tokens": evaluation.held_out.predicted,
        "characters": evaluation.held_out.characters,
        "best_induction_head": best_head(heads.induction),
        "best_previous_token_head": best_head(heads.previous_token),
        "repeated_random_first_half_nats": heads.first_half_loss,
        "repeated_random_second_half_nats": heads.second_half_loss,
        "samples": [vars(sample) for sample in evaluation.samples],
        "candidates": [vars(candidate) for candidate in evaluation.candidates],
    }


def best_head(scores: Tensor) -> dict[str, float]:
    """Layer, head and score of the largest entry of ``scores`` (layer, head)."""
    layer, head = divmod(int(scores.argmax()), scores.shape[1])
    return {"layer": layer, "head": head, "score": float(scores[layer, head])}


def _encode(tokenizer: Tokenizer, text: str) -> Tensor:
    return torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)


def main(arguments: list[str] | None = None) -> None:
    """Evaluate one checkpoint folder and print the result."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.training.evaluate", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with held_out.txt[.xz]")
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json (default: the checkpoint)")
    parser.add_argument("--json", type=Path, help="write the result here too")
    args = parser.parse_args(arguments)
    model = load_checkpoint(args.checkpoint)
    tokenizer = load_tokenizer(args.tokenizer or args.checkpoint)
    held_out = held_out_windows(
        held_out_passages(args.corpus), tokenizer, min(512, model.config.max_position_embeddings)
    )
    text = json.dumps(summary(evaluate(model, tokenizer, held_out)), indent=1, ensure_ascii=False)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
