"""DPO's loss on one pair of answers: four log-probabilities, two rewards, a margin, and the push that follows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from engine import ReaderError
from engine.cards.post_training.common import logits, rendered, script
from engine.cards.post_training.drift import moved, names_of
from engine.cards.post_training.family import COLORS, Version
from engine.cards.sampling.common import returned_logits, tolerance
from engine.evidence.card import Badge, Card, Proof
from engine.figures import grouped_bars
from engine.figures.post_training import columns, preference_loss
from engine.ops.preference import Dpo, dpo, sequence_log_probability
from engine.tokens.chat import Rendered

ANSWERS = ("chosen", "rejected")


@dataclass(frozen=True)
class Pair:
    """Two answers to one request, rendered, read by the version being trained and by its frozen reference."""

    policy: Version
    reference: Version
    chosen: Rendered
    rejected: Rendered
    beta: float

    @property
    def sides(self) -> tuple[Version, Version]:
        return self.policy, self.reference

    @property
    def answers(self) -> tuple[Rendered, Rendered]:
        return self.chosen, self.rejected

    @property
    def names(self) -> tuple[str, str]:
        """The two sides, different even where they are one version."""
        same = self.policy.name == self.reference.name
        return self.policy.label + (" as policy" if same else ""), f"{self.reference.label} as reference"


def pair(
    policy: Version, reference: Version, speaker: Version, request: str, answers: tuple[str, str], beta: float
) -> Pair:
    """The reader's pair. Raises ReaderError where the two answers are the same tokens."""
    chosen, rejected = (rendered(speaker, request, answer) for answer in answers)
    if chosen.ids == rejected.ids:
        raise ReaderError("Both answers are the same, so there is nothing to prefer.")
    return Pair(policy, reference, chosen, rejected, beta)


def log_probabilities(asked: Pair) -> tuple[float, float, float, float]:
    """ln π of chosen and rejected under the policy, then under the reference: nats, summed over the answers."""
    found = [
        sequence_log_probability(logits(side, made.ids), made.ids, made.carries_loss)
        for side in asked.sides
        for made in asked.answers
    ]
    return found[0], found[1], found[2], found[3]


def preference(asked: Pair, by_token: bool = False) -> list[Card]:
    """The four log-probabilities, or the same token by token, and the loss that the margin of the rewards makes."""
    four = log_probabilities(asked)
    result = dpo(*four, asked.beta)
    first = _tokens(asked, result) if by_token else _four(asked, four, result)
    return [first, _loss(asked, four, result)]


def _four(asked: Pair, four: tuple[float, float, float, float], result: Dpo) -> Card:
    names = asked.names
    table = {names[0]: list(four[:2]), names[1]: list(four[2:])}
    rewards = [result.chosen_reward, result.rejected_reward]
    counts = [sum(made.carries_loss) for made in asked.answers]
    return Card(
        key="four",
        title=f"Rewards at β = {asked.beta:g}: chosen {_signed(rewards[0])}, rejected {_signed(rewards[1])}",
        alt=f"Four bars: log-probability of the chosen and the rejected answer under {names[0]} and {names[1]}: "
        + ", ".join(f"{value:.2f}" for value in four),
        badge=Badge.LIVE,
        figure=grouped_bars(
            ANSWERS,
            {name: -np.array(values) for name, values in table.items()},
            colors=dict(zip(names, _paint(asked), strict=True)),
            value_name="−ln π(answer | request), nats",
            label_name="answer",
        ).update_layout(height=210),
        table={
            "answer": list(ANSWERS),
            "tokens with loss": counts,
            **{f"ln π, {name}": values for name, values in table.items()},
            "reward = β·(ln π − ln π_ref)": rewards,
        },
        prove=lambda: _prove_four(asked, four),
        code=_code(asked),
        numbers=_numbers(four, result),
        atol=_tolerance(asked),
        note="The shorter a bar, the more probable the answer. "
        + "; ".join(
            f"{name}: β·({_plain(p)} − ({_plain(r)})) = {_signed(reward)}"
            for name, p, r, reward in zip(ANSWERS, four[:2], four[2:], rewards, strict=True)
        )
        + ".",
    )


def _paint(asked: Pair) -> tuple[str, str]:
    return COLORS[asked.policy.label], "token"


def _tokens(asked: Pair, result: Dpo) -> Card:
    """The same rewards as sums over tokens: β·(ln π − ln π_ref) of each."""
    kept = [_ratios(asked, made) for made in asked.answers]
    tokens = [name for names, _ in kept for name in names]
    values = [asked.beta * ratio for _, ratios in kept for ratio in ratios]
    first = len(kept[0][0])
    where = [ANSWERS[int(i >= first)] for i in range(len(tokens))]
    series = {
        answer: [v if w == answer else float("nan") for v, w in zip(values, where, strict=True)]
        for answer in ANSWERS
    }
    strongest = int(np.abs(values).argmax())
    return Card(
        key="four",
        title=f"Rewards token by token: “{tokens[strongest]}” of the {where[strongest]} answer counts most, "
        f"{_signed(values[strongest])}",
        alt=f"Signed bars for each token of both answers; they add up to the rewards {result.chosen_reward:.3f} and "
        f"{result.rejected_reward:.3f}.",
        badge=Badge.LIVE,
        figure=columns(
            tokens,
            series,
            colors={"chosen": "value", "rejected": "gradient"},
            y_name="β·(ln π − ln π_ref), nats",
            height=360,
        ),
        table={"answer": where, "token": tokens, "part of the reward": values},
        prove=lambda: _prove_four(asked, log_probabilities(asked)),
        code=_code(asked),
        numbers=_numbers(log_probabilities(asked), result),
        atol=_tolerance(asked),
        note=f"The bars of an answer add up to its reward: {_signed(result.chosen_reward)} and "
        f"{_signed(result.rejected_reward)}.",
    )


def _ratios(asked: Pair, made: Rendered) -> tuple[list[str], list[float]]:
    policy, reference = (logits(side, made.ids) for side in asked.sides)
    values, names = moved(policy, reference, made.ids), names_of(asked.policy, made.ids)
    kept = [i for i, counted in enumerate(made.carries_loss) if counted]
    return [names[i] for i in kept], [float(values[i - 1]) for i in kept]


def _loss(asked: Pair, four: tuple[float, float, float, float], result: Dpo) -> Card:
    end = float(max(3.0, 1.3 * abs(result.margin)))
    better = "prefers the chosen answer" if result.margin > 0 else "prefers the rejected answer"
    if result.margin == 0:
        better = "is indifferent"
    return Card(
        key="dpo-loss",
        title=f"Margin {_signed(result.margin)}, loss {result.loss:.4f}: measured against its reference, "
        f"{asked.policy.label} {better}",
        alt=f"The falling curve −log σ(margin) with this pair at {result.margin:.3f} and an arrow downhill.",
        badge=Badge.LIVE,
        figure=preference_loss(result.margin, result.loss, -result.push / asked.beta, end),
        table={
            "quantity": ["margin", "loss", "∂loss/∂ln π(chosen)", "∂loss/∂ln π(rejected)"],
            "value": [result.margin, result.loss, -result.push, result.push],
        },
        prove=lambda: _prove_loss(asked, four, result),
        code=_code(asked),
        numbers=_numbers(four, result),
        atol=_tolerance(asked),
        note=f"The gradient pushes ln π(chosen) up and ln π(rejected) down, both with β·σ(−margin) = {result.push:.4g} "
        f"per nat: a step along it moves this pair to the right. At a margin of 0 the loss is ln 2 = {np.log(2):.4f}.",
    )


def _numbers(four: Sequence[float], result: Dpo) -> dict[str, object]:
    return {
        "log_probabilities": list(four),
        "rewards": [result.chosen_reward, result.rejected_reward],
        "margin": result.margin,
        "loss": result.loss,
        "gradient": [-result.push, result.push],
    }


def _tolerance(asked: Pair) -> float:
    """A sum over an answer's tokens: each of them may differ by the tolerance of one."""
    longest = max(sum(made.carries_loss) for made in asked.answers)
    return max(tolerance(side.get()) for side in asked.sides) * max(1.0, longest / 10)


def _prove_four(asked: Pair, four: tuple[float, float, float, float]) -> Proof:
    again = [_summed(side, made) for side in asked.sides for made in asked.answers]
    return Proof(
        "All four against torch.nn.functional.cross_entropy, summed with ignore_index −100, of the logits that "
        "transformers returns.",
        max(abs(a - b) for a, b in zip(four, again, strict=True)),
        _tolerance(asked),
    )


def _summed(side: Version, made: Rendered) -> float:
    labels = [id if counted else -100 for id, counted in zip(made.ids, made.carries_loss, strict=True)]
    rows = torch.tensor(returned_logits(side.get(), made.ids)[:-1]).double()
    return -float(F.cross_entropy(rows, torch.tensor(labels[1:]), ignore_index=-100, reduction="sum"))


def _prove_loss(asked: Pair, four: tuple[float, float, float, float], result: Dpo) -> Proof:
    held = torch.tensor(four, dtype=torch.float64, requires_grad=True)
    rewards = asked.beta * (held[:2] - held[2:])
    loss = -F.logsigmoid(rewards[0] - rewards[1])
    loss.backward()
    assert held.grad is not None
    step = 1e-4
    moved_by = [dpo(four[0] + d, *four[1:], asked.beta).loss for d in (step, -step)]
    slope = (moved_by[0] - moved_by[1]) / (2 * step)
    return Proof(
        "The loss against torch's logsigmoid, both derivatives against autograd, and the first against a finite "
        "difference of the loss.",
        max(
            abs(float(loss.detach()) - result.loss),
            abs(float(held.grad[0]) + result.push),
            abs(float(held.grad[1]) - result.push),
            abs(slope + result.push),
        ),
        1e-6,
    )


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _plain(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _code(asked: Pair) -> str:
    versions = list({side.label: side for side in asked.sides}.values())
    given = [
        (list(made.ids), [id if c else -100 for id, c in zip(made.ids, made.carries_loss, strict=True)])
        for made in asked.answers
    ]
    return script(
        versions, _CODE.format(given=given, sides=[side.label for side in asked.sides], beta=asked.beta)
    )


_CODE = """
    answers = {given}  # ids and labels of the chosen and of the rejected answer
    beta = {beta!r}


    def log_probability(label, ids, labels):
        with torch.no_grad():
            rows = models[label](torch.tensor([ids])).logits[0, :-1].double()
        return -torch.nn.functional.cross_entropy(rows, torch.tensor(labels[1:]), reduction="sum")


    policy, reference = (
        torch.stack([log_probability(label, *answer) for answer in answers]) for label in {sides}
    )
    policy.requires_grad_()
    rewards = beta * (policy - reference)
    loss = -torch.nn.functional.logsigmoid(rewards[0] - rewards[1])
    loss.backward()
    result = {{
        "log_probabilities": torch.cat([policy, reference]),
        "rewards": rewards,
        "margin": rewards[0] - rewards[1],
        "loss": loss,
        "gradient": policy.grad,
    }}
    print(result)
"""
