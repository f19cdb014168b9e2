"""DPO's loss on one pair of answers: four log-probabilities, two rewards, a margin, and the push that follows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from engine import ReaderError
from engine.chapters.c13_post_training.drift import moved, names_of
from engine.chapters.c13_post_training.family import COLORS, Version
from engine.chapters.c13_post_training.logits import logits
from engine.chapters.c13_post_training.requests import rendered
from engine.chapters.c13_post_training.scripts import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.chat import ConversationAgain, conversation_again
from engine.evidence.passes import returned_logits
from engine.evidence.rounding import EXACT, logit_tolerance
from engine.figures import grouped_bars
from engine.figures.post_training import columns, preference_loss
from engine.ops.preference import Dpo, dpo, sequence_log_probability
from engine.tokens.chat import Rendered

ANSWERS = ("chosen", "rejected")


@dataclass(frozen=True)
class Pair:
    """Two answers to one request, rendered, read by the version being trained and by its frozen reference.

    speaker, request, typed  what they were rendered from: the version with the template, and the texts
    """

    policy: Version
    reference: Version
    chosen: Rendered
    rejected: Rendered
    beta: float
    speaker: Version
    request: str
    typed: tuple[str, str]

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
    return Pair(policy, reference, chosen, rejected, beta, speaker, request, answers)


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
    return [first, _loss(asked, result)]


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
        shown={"tokens with loss": counts, "log_probabilities": four, "rewards": rewards},
        oracle=Oracle(
            "Log-probabilities against torch.nn.functional.cross_entropy, summed with ignore_index −100, of the logits "
            "of a second pass through the same models, and the rewards from these; the tokens against the template's "
            "text, cut at its marks and encoded by tokenizers.",
            lambda: _four_again(asked),
            {
                "tokens with loss": 0,
                "log_probabilities": _tolerance(asked),
                "rewards": 2 * asked.beta * _tolerance(asked),
            },
        ),
        code=_code(asked, "tokens with loss", "log_probabilities", "rewards"),
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
    parts = dict(zip(ANSWERS, (values[:first], values[first:]), strict=True))
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
        shown={answer: parts[answer] for answer in ANSWERS},
        oracle=Oracle(
            "Every bar against the difference of two cross entropies by torch, of the logits of a second pass through "
            "the same models.",
            lambda: {answer: _parts_again(asked, i) for i, answer in enumerate(ANSWERS)},
            2 * asked.beta * max(logit_tolerance(side.get()) for side in asked.sides),
        ),
        code=_code(asked, *ANSWERS),
        note=f"The bars of an answer add up to its reward: {_signed(result.chosen_reward)} and "
        f"{_signed(result.rejected_reward)}.",
    )


def _ratios(asked: Pair, made: Rendered) -> tuple[list[str], list[float]]:
    policy, reference = (logits(side, made.ids) for side in asked.sides)
    values, names = moved(policy, reference, made.ids), names_of(asked.policy, made.ids)
    kept = [i for i, counted in enumerate(made.carries_loss) if counted]
    return [names[i] for i in kept], [float(values[i - 1]) for i in kept]


def _loss(asked: Pair, result: Dpo) -> Card:
    end = float(max(3.0, 1.3 * abs(result.margin)))
    better = "prefers the chosen answer" if result.margin > 0 else "prefers the rejected answer"
    if result.margin == 0:
        better = "is indifferent"
    figure = preference_loss(result.margin, result.loss, -result.push / asked.beta, end)
    curve = np.asarray(figure.data[0].y, np.float64)
    return Card(
        key="dpo-loss",
        title=f"Margin {_signed(result.margin)}, loss {result.loss:.4f}: measured against its reference, "
        f"{asked.policy.label} {better}",
        alt=f"The falling curve −log σ(margin) with this pair at {result.margin:.3f} and an arrow downhill.",
        badge=Badge.LIVE,
        figure=figure,
        table={
            "quantity": ["margin", "loss", "∂loss/∂ln π(chosen)", "∂loss/∂ln π(rejected)"],
            "value": [result.margin, result.loss, -result.push, result.push],
        },
        shown={
            "margin": result.margin,
            "loss": result.loss,
            "gradient": [-result.push, result.push],
            "curve": curve,
        },
        oracle=Oracle(
            "The margin from the logits of a second pass through the same models; the loss and the curve by torch's "
            "logsigmoid, the first derivative by a finite difference, the second by autograd.",
            lambda: _loss_again(asked, end, len(curve)),
            _loss_tolerances(asked, result),
        ),
        code=_code(asked, "margin", "loss", "gradient"),
        numbers={"margin": result.margin, "loss": result.loss, "gradient": [-result.push, result.push]},
        atol=_tolerance(asked),
        note=f"The gradient pushes ln π(chosen) up and ln π(rejected) down, both with β·σ(−margin) = {result.push:.4g} "
        f"per nat: a step along it moves this pair to the right. At a margin of 0 the loss is ln 2 = {np.log(2):.4f}.",
    )


def _tolerance(asked: Pair) -> float:
    """A sum over an answer's tokens: each of them may differ by the tolerance of one."""
    longest = max(sum(made.carries_loss) for made in asked.answers)
    return max(logit_tolerance(side.get()) for side in asked.sides) * max(1.0, longest / 10)


def _loss_tolerances(asked: Pair, result: Dpo) -> dict[str, float]:
    """What an error of the margin does to the loss and its slope, to first order and a tenth more.

    |d loss| ≤ σ(−margin)·|d margin| and |d push| ≤ push·|d margin|.
    """
    margin = 4 * asked.beta * _tolerance(asked)
    push = abs(result.push)
    return {
        "margin": margin,
        "loss": 1.1 * push / asked.beta * margin + EXACT,
        "gradient": 1.1 * push * margin + EXACT,
        "curve": EXACT,
    }


def _conversation(asked: Pair, answer: int) -> ConversationAgain:
    return conversation_again(asked.speaker.get().tokenizer, asked.request, asked.typed[answer])


def _nats(side: Version, again: ConversationAgain) -> torch.Tensor:
    """The surprisals of a text's tokens that carry loss; the others have none."""
    labels = [id if counted else -100 for id, counted in zip(again.ids, again.carries_loss, strict=True)]
    rows = torch.tensor(returned_logits(side.get(), again.ids)[:-1]).double()
    return F.cross_entropy(rows, torch.tensor(labels[1:]), ignore_index=-100, reduction="none")


def _logs_again(asked: Pair) -> torch.Tensor:
    """ln π(answer | request), (side, answer)."""
    answers = [_conversation(asked, i) for i in range(len(ANSWERS))]
    return torch.stack(
        [torch.stack([-_nats(side, again).sum() for again in answers]) for side in asked.sides]
    )


def _four_again(asked: Pair) -> dict[str, Any]:
    logs = _logs_again(asked)
    return {
        "tokens with loss": [sum(_conversation(asked, i).carries_loss) for i in range(len(ANSWERS))],
        "log_probabilities": logs.flatten(),
        "rewards": asked.beta * (logs[0] - logs[1]),
    }


def _parts_again(asked: Pair, answer: int) -> torch.Tensor:
    again = _conversation(asked, answer)
    policy, reference = (_nats(side, again) for side in asked.sides)
    return asked.beta * (reference - policy)[torch.tensor(again.carries_loss[1:])]


def _loss_again(asked: Pair, end: float, places: int) -> dict[str, Any]:
    def margin(logs: torch.Tensor) -> torch.Tensor:
        rewards = asked.beta * (logs[0] - logs[1])
        return rewards[0] - rewards[1]

    logs, step = _logs_again(asked).requires_grad_(), torch.tensor([[1e-4, 0.0], [0.0, 0.0]])
    loss = -F.logsigmoid(margin(logs))
    [slopes] = torch.autograd.grad(loss, logs)
    ends = [-float(F.logsigmoid(margin(logs.detach() + way * step))) for way in (1, -1)]
    return {
        "margin": margin(logs.detach()),
        "loss": loss.detach(),
        "gradient": [(ends[0] - ends[1]) / 2e-4, float(slopes[0, 1])],
        "curve": -F.logsigmoid(torch.linspace(-end, end, places, dtype=torch.float64)),
    }


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _plain(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _code(asked: Pair, *wanted: str) -> str:
    versions = list({side.label: side for side in asked.sides}.values())
    given = [
        (list(made.ids), [id if c else -100 for id, c in zip(made.ids, made.carries_loss, strict=True)])
        for made in asked.answers
    ]
    sides = [side.label for side in asked.sides]
    return script(versions, _CODE.format(given=given, sides=sides, beta=asked.beta, wanted=list(wanted)))


_CODE = """
    answers = {given}  # ids and labels of the chosen and of the rejected answer
    beta = {beta!r}


    def log_probabilities(label, ids, labels):
        with torch.no_grad():
            rows = models[label](torch.tensor([ids])).logits[0, :-1].double()
        each = -torch.nn.functional.cross_entropy(rows, torch.tensor(labels[1:]), reduction="none")
        return each[torch.tensor(labels[1:]) != -100]


    by_token = [[log_probabilities(label, *answer) for answer in answers] for label in {sides}]
    policy, reference = (torch.stack([each.sum() for each in side]) for side in by_token)
    policy.requires_grad_()
    rewards = beta * (policy - reference)
    loss = -torch.nn.functional.logsigmoid(rewards[0] - rewards[1])
    loss.backward()
    parts = [beta * (ours - theirs) for ours, theirs in zip(*by_token)]
    found = {{
        "tokens with loss": [len(each) for each in parts],
        "chosen": parts[0],
        "rejected": parts[1],
        "log_probabilities": torch.cat([policy, reference]),
        "rewards": rewards,
        "margin": rewards[0] - rewards[1],
        "loss": loss,
        "gradient": policy.grad,
    }}
    result = {{name: found[name] for name in {wanted}}}
    print(result)
"""
