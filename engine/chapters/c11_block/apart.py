"""Take a part out and look at what is left: the next token, and a short text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine import figures
from engine.chapters.c11_block.by_hand import apply_by_hand, script_lines
from engine.evidence.card import Badge, Card, Proof
from engine.evidence.comparing import max_difference
from engine.evidence.passes import logits_of
from engine.evidence.rounding import pass_tolerance, probability_tolerance
from engine.evidence.script import preamble
from engine.figures.sampling import texts as drawn_texts
from engine.model.cache import ByteLRU
from engine.model.capturing import token
from engine.model.generation import generate
from engine.model.interventions import Intervention
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops.sampling import kl_divergence, softmax, top
from engine.tokens.text import shorten

SHOWN = 6


def apart(
    loaded: Loaded, intact: Trace, changed: Trace, removed: str, interventions: Sequence[Intervention]
) -> Card:
    """The next-token distribution of the intact and of the changed model, and the KL divergence between them."""
    before, after = softmax(intact.logits[-1]), softmax(changed.logits[-1])
    ids = list(dict.fromkeys([*top(intact.logits[-1], SHOWN), *top(changed.logits[-1], SHOWN)]))
    names = [shorten(token(loaded, int(i)).display, 14) for i in ids]
    kl = float(kl_divergence(intact.logits[-1], changed.logits[-1]))
    numbers = {"before": before[ids], "after": after[ids]}
    allowed = pass_tolerance(loaded, changed.logits, steps=4)
    best = token(loaded, int(after.argmax())).display
    return Card(
        key="apart",
        title=f"Without {removed} the favourite is “{best}”, at {after.max():.1%}; KL {kl:.3g} nats"
        if interventions
        else f"The intact model's favourite is “{best}”, at {after.max():.1%}: take something out",
        alt="Probabilities of the favourite next tokens, intact and changed.",
        badge=Badge.LIVE,
        figure=figures.grouped_bars(
            names,
            {"intact": before[ids], "changed": after[ids]},
            colors={"intact": "logits", "changed": "gradient"},
            probability=True,
            value_name="probability",
        ),
        table={
            "token": [token(loaded, int(i)).display for i in ids],
            "id": [int(i) for i in ids],
            "intact": before[ids].tolist(),
            "changed": after[ids].tolist(),
        },
        prove=lambda: _proof(loaded, changed, interventions, allowed),
        code=preamble(loaded, intact.ids) + script_lines(loaded, interventions, [int(i) for i in ids]),
        numbers=numbers,
        atol=probability_tolerance(loaded),
    )


def _proof(loaded: Loaded, changed: Trace, interventions: Sequence[Intervention], allowed: float) -> Proof:
    """The same change made by hand on a private copy of the model."""
    model = apply_by_hand(loaded, interventions)
    return Proof(
        "Logits of a private copy of the model with its modules replaced by hand.",
        max_difference(logits_of(model, changed.ids), changed.logits),
        allowed,
    )


@dataclass(frozen=True)
class Word:
    """One written token and the probability it had."""

    id: int
    probability: float


class Text(tuple[Word, ...]):
    """Written tokens, as `ByteLRU` keeps them."""

    @property
    def nbytes(self) -> int:
        return 64 * len(self)


_texts: ByteLRU[Text] = ByteLRU(limit=1_000_000)


def _written(
    loaded: Loaded, ids: tuple[int, ...], length: int, interventions: tuple[Intervention, ...]
) -> Text:
    """A greedy continuation, written once for all readers who ask for it."""
    key = (loaded.name, loaded.revision, loaded.precision, ids, length, interventions)

    def write() -> Text:
        steps = generate(loaded, ids, length, interventions=interventions)
        return Text(Word(step.id, step.probability) for step in steps)

    return _texts.get(key, write)


def told(
    loaded: Loaded, trace: Trace, removed: str, interventions: Sequence[Intervention], length: int = 24
) -> Card:
    """A short greedy continuation by the intact and by the changed model."""
    plain = _written(loaded, trace.ids, length, ())
    changed = _written(loaded, trace.ids, length, tuple(interventions))
    shorter = min(len(plain), len(changed))
    same = next((i for i in range(shorter) if plain[i].id != changed[i].id), shorter)
    rows = {"intact": plain, f"without {removed}" if interventions else "intact again": changed}
    words = {name: [token(loaded, step.id).display for step in steps] for name, steps in rows.items()}
    return Card(
        key="told",
        title=f"What both write from here: the same for {same} tokens",
        alt="; ".join(f"{name}: {''.join(tokens)}" for name, tokens in words.items()),
        badge=Badge.LIVE,
        figure=drawn_texts(
            [
                (name, [(text, step.probability) for text, step in zip(words[name], steps, strict=True)])
                for name, steps in rows.items()
            ]
        ),
        table={
            "model": [name for name, steps in rows.items() for _ in steps],
            "token": [text for tokens in words.values() for text in tokens],
            "id": [step.id for steps in rows.values() for step in steps],
            "probability": [step.probability for steps in rows.values() for step in steps],
        },
        prove=lambda: _told_proof(loaded, trace, interventions, [step.id for step in changed]),
        code=preamble(loaded, trace.ids)
        + f"""
with torch.no_grad():
    out = model.generate(ids, max_new_tokens={length}, do_sample=False, attention_mask=torch.ones_like(ids),
                         pad_token_id=tokenizer.eos_token_id)
result = {{"intact": out[0, ids.shape[1]:]}}
""",
        numbers={"intact": [step.id for step in plain]},
        atol=0,
        note="Greedy: the most probable token at every step, on a colour as strong as its probability. The script "
        "writes the intact model's text.",
    )


def _told_proof(
    loaded: Loaded, trace: Trace, interventions: Sequence[Intervention], changed: list[int]
) -> Proof:
    """Each written token against the most probable one of the copy that was changed by hand."""
    model = apply_by_hand(loaded, interventions)
    wrong, ids = 0.0, list(trace.ids)
    with torch.no_grad():
        for chosen in changed[:8]:
            row = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1].float()
            wrong = max(wrong, float(row.max() - row[chosen]))
            ids.append(chosen)
    return Proof(
        "The first eight tokens, against a private copy changed by hand: how far each is from its best logit.",
        wrong,
        pass_tolerance(loaded, trace.logits, steps=4),
    )
