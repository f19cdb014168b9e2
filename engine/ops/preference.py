"""Direct preference optimization on plain numbers: log-probabilities in, reward margin, loss and its slope out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.ops.sampling import surprisal


@dataclass(frozen=True)
class Dpo:
    """One chosen/rejected pair under a policy and its frozen reference.

    chosen_reward, rejected_reward  beta · (log π − log π_ref) of each answer, nats
    margin   chosen_reward − rejected_reward
    loss     −log σ(margin), nats
    push     beta · σ(−margin): how much the loss falls per nat by which the chosen answer gains log-probability, and
             rises per nat by which the rejected one does
    """

    chosen_reward: float
    rejected_reward: float
    margin: float
    loss: float
    push: float


def dpo(
    policy_chosen: float,
    policy_rejected: float,
    reference_chosen: float,
    reference_rejected: float,
    beta: float,
) -> Dpo:
    """The DPO loss of one pair; log-probabilities in nats, summed over an answer's tokens.

    Source: Rafailov et al. 2023, Direct Preference Optimization, eq. 7; its gradient, the equation after it.
    """
    chosen = beta * (policy_chosen - reference_chosen)
    rejected = beta * (policy_rejected - reference_rejected)
    margin = chosen - rejected
    loss = float(np.logaddexp(0.0, -margin))
    return Dpo(chosen, rejected, margin, loss, beta * float(np.exp(-np.logaddexp(0.0, margin))))


def sequence_log_probability(logits: Any, ids: Sequence[int], carries_loss: Sequence[bool]) -> float:
    """Log-probability, in nats, of the tokens that carry loss, each given all before it.

    logits (seq, vocab), ids (seq), carries_loss (seq); logits[i - 1] predicts ids[i].
    """
    counted = np.asarray(carries_loss, dtype=bool)[1:]
    return -float(surprisal(np.asarray(logits)[:-1], ids[1:])[counted].sum())
