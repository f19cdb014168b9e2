"""The reader's prompt through published steps of Pythia's training, where they are on this machine."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from engine import ReaderError
from engine.checkpoints.catalogue import is_cached, public
from engine.evidence import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.reading import nats
from engine.evidence.rounding import logit_tolerance
from engine.figures import heatmap
from engine.model.cache import traced
from engine.model.capturing import token
from engine.model.loaded import Loaded
from engine.ops.sampling import surprisal
from engine.tokens.text import shorten

MODELS = ("EleutherAI/pythia-14m", "EleutherAI/pythia-70m", "EleutherAI/pythia-160m")

STEPS = (0, *(2**i for i in range(10)), *range(1000, 143_001, 1000))
"""The steps at which Pythia's models were published (Biderman et al. 2023): each is a revision of its repository."""

TOKENS = 2_097_152
"""That a step reads (Biderman et al. 2023): 1,024 sequences of 2,048."""

FIRST = 512
"""The step that is offered first."""

Get = Callable[[int], Loaded]
"""Gives the model as it was at a step, at fp32: a card that is kept holds no model."""


def name_of(model: str, step: int) -> str:
    """What the Hub calls a step of a model."""
    return f"{model}@step{step}"


def here(model: str) -> list[int]:
    """The steps of a model that are on this machine, in order. No network; none on a public copy."""
    return [] if public() else [step for step in STEPS if is_cached(name_of(model, step))]


def fetchable() -> bool:
    """Whether steps may be fetched from the Hub: not on a public copy, nor where HF_HUB_OFFLINE forbids it."""
    from huggingface_hub import constants

    return not (public() or constants.HF_HUB_OFFLINE)


def about_steps(biderman: str) -> str:
    """What there is of Pythia, and whether it can be read here; `biderman` is a link. Markdown, one sentence."""
    published = f"Pythia's models are published at {len(STEPS)} steps of their training each ({biderman})"
    if fetchable():
        return (
            f"{published}: under *Read by*, those on this machine read your prompt, and the page asks before it "
            "downloads another."
        )
    if any(here(model) for model in MODELS):
        return f"{published}: under *Read by*, those on this machine read your prompt."
    return f"{published}; where they can be fetched from the Hub, they would read your prompt here as well."


def by_step(model: str, get: Get, steps: Sequence[int], ids: Sequence[int]) -> Card:
    """Surprisal of every token of the prompt at some steps of a model. Raises ReaderError without steps or tokens."""
    if not steps:
        raise ReaderError(f"No step of {model} is on this machine yet; open one.")
    if len(ids) < 2:
        raise ReaderError("Surprisal needs at least two tokens: nothing stands before the first one.")
    rows = np.stack([surprisal(traced(get(step), ids).logits[:-1], ids[1:]) for step in steps])  # step, seq-1
    last = get(steps[-1])
    texts = [token(last, id).display for id in ids[1:]]
    names = [f"step {step:,}" for step in steps]
    means = " → ".join(f"{mean:.2f} (step {step:,})" for mean, step in zip(rows.mean(1), steps, strict=True))
    short = shorten(model.partition("/")[2], 40)
    return Card(
        key="by-step",
        title=f"{short}, mean surprisal of your prompt in nats: {_some(means, rows, steps)}",
        alt=f"A heat map of the prompt's tokens across and {len(steps)} of the steps of {short} down; darker cells are "
        "tokens that surprised the model more.",
        badge=Badge.LIVE,
        figure=heatmap(
            rows,
            names,
            texts,
            concept="logits",
            column_name="token",
            row_name="step",
            value_name="surprisal (nats)",
            print_values=".1f" if len(texts) <= 14 else "",
            height=190 + 30 * len(names),
        ),
        table={"token": texts} | {name: row.tolist() for name, row in zip(names, rows, strict=True)},
        shown={"nats": rows},
        oracle=Oracle(
            "Every surprisal by torch's cross_entropy of the logits that transformers returns, step by step.",
            lambda: _again(get, steps, ids),
            logit_tolerance(last),
        ),
        code=_script([get(step) for step in steps], ids),
        note=f"A step reads {TOKENS:,} tokens (Biderman et al. 2023). The first token of the prompt has no surprisal: "
        "nothing stands before it.",
    )


def _some(means: str, rows: np.ndarray, steps: Sequence[int]) -> str:
    """All means where they are few, else the first and the last."""
    if len(steps) <= 3:
        return means
    return f"{rows[0].mean():.2f} (step {steps[0]:,}) → … → {rows[-1].mean():.2f} (step {steps[-1]:,})"


def _again(get: Get, steps: Sequence[int], ids: Sequence[int]) -> dict[str, Any]:
    return {"nats": torch.stack([nats(get(step), ids) for step in steps])}


def _script(models: Sequence[Loaded], ids: Sequence[int]) -> str:
    places = ", ".join(script.place(loaded.source) for loaded in models)
    return script.preamble(models[0], ids) + _CODE.format(places=places)


_CODE = """\
rows = []
for place in [{places}]:
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = model(ids).logits[0, :-1].float()
    rows.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
result = {{"nats": torch.stack(rows)}}
"""
