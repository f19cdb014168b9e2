"""RoPE once more: frequencies by the papers' formulas, turns counted along waves, pairs as complex numbers."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import ArrayLike

from engine.model.loaded import Loaded

Tensor = torch.Tensor

BLOCK = 8192
"""Positions that are followed at once."""


@dataclass(frozen=True, eq=False)
class RopeAgain:
    """The rotation of a config: radians per token (pair), and what cosines and sines are multiplied by."""

    frequency: Tensor
    factor: float

    @property
    def pairs(self) -> int:
        return len(self.frequency)

    def angles(self, positions: ArrayLike) -> Tensor:
        """position × frequency in radians, (position, pair)."""
        return torch.as_tensor(positions, dtype=torch.float64)[:, None] * self.frequency

    def points(self, vectors: Tensor) -> Tensor:
        """The pairs of q or k (…, d_head) as complex numbers, (…, pair)."""
        return torch.complex(vectors[..., : self.pairs], vectors[..., self.pairs : 2 * self.pairs])

    def turned(self, vector: Tensor, positions: ArrayLike) -> Tensor:
        """The pairs of one vector (d_head) times factor · e^(i·position·frequency): complex, (position, pair)."""
        angles = self.angles(positions)
        return self.points(vector) * torch.polar(torch.full_like(angles, self.factor), angles)

    def by_distance(self, q: Tensor, k: Tensor, distances: ArrayLike) -> tuple[Tensor, Tensor]:
        """What pairs add to q·k at every distance, (distance, pair), and what the unrotated dimensions add.

        Re(q·k̄·e^(i·distance·frequency)) of each pair; q, k (d_head) before RoPE, distance = position of q - of k.
        """
        waves = torch.polar(torch.ones_like(angles := self.angles(distances)), angles)
        product = self.points(q) * self.points(k).conj() * self.factor**2
        still = 2 * self.pairs
        return (product * waves).real, q[still:] @ k[still:]


def rope_again(loaded: Loaded, *, theta: float | None = None, tokens: int = 0) -> RopeAgain:
    """The rotation that a checkpoint's config asks for, or one that differs in θ alone.

    tokens   how many positions are asked for: beyond the context, the “dynamic” rule slows its pairs down
    """
    config: Any = loaded.model.config
    rule = dict(config.rope_parameters)
    theta = float(rule["rope_theta"]) if theta is None else theta
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = int(width * rule.get("partial_rotary_factor", 1.0)) // 2
    kind, times = rule.get("rope_type", "default"), float(rule.get("factor") or 1.0)
    if kind == "dynamic":  # “NTK-aware”: θ grows with the number of tokens
        context = config.max_position_embeddings
        theta *= (times * max(tokens, context) / context - (times - 1)) ** (pairs / (pairs - 1))
    plain = theta ** -(torch.arange(pairs, dtype=torch.float64) / pairs)  # RoFormer, section 3.2.2
    kept = _kept(kind, rule, plain, theta)
    factor = float(loaded.part("rotary").attention_scaling)  # type: ignore[arg-type]
    return RopeAgain(plain * (kept + (1 - kept) / times), factor)


def _kept(kind: str, rule: dict[str, Any], plain: Tensor, theta: float) -> Tensor:
    """How far each pair keeps its frequency (1) or has it divided by the rule's factor (0), (pair)."""
    if kind == "linear":  # Chen et al. 2023, arXiv:2306.15595
        return torch.zeros_like(plain)
    if kind == "llama3":  # linear in the turns over the old context
        low, high = rule["low_freq_factor"], rule["high_freq_factor"]
        turns = plain * rule["original_max_position_embeddings"] / (2 * math.pi)
        share: Tensor = ((turns - low) / (high - low)).clamp(0, 1)
        return share
    if kind == "yarn":  # Peng et al. 2024, arXiv:2309.00071: linear in the pair's number
        return 1 - _ramp(rule, len(plain), theta)
    return torch.ones_like(plain)


def _ramp(rule: dict[str, Any], pairs: int, theta: float) -> Tensor:
    """From 0 at the pair that turns β_fast times over the old context to 1 at the one that turns β_slow times."""
    old = rule["original_max_position_embeddings"]
    ends = [
        pairs * math.log(old / (turns * 2 * math.pi)) / math.log(theta)
        for turns in (rule.get("beta_fast") or 32, rule.get("beta_slow") or 1)
    ]
    if rule.get("truncate", True):
        ends = [math.floor(ends[0]), math.ceil(ends[1])]
    low, high = max(ends[0], 0), min(ends[1], 2 * pairs - 1)
    return ((torch.arange(pairs, dtype=torch.float64) - low) / max(high - low, 1e-3)).clamp(0, 1)


@torch.no_grad()
def counted_turns(loaded: Loaded, tokens: int) -> Tensor:
    """Full turns of each pair over so many tokens, (pair): counted along the cosines and sines of the model's module.

    Followed from position to position up to the last one; no step is as long as half a turn.
    """
    module: Any = copy.deepcopy(loaded.part("rotary"))
    last, total = tokens - 1, torch.zeros(len(module.inv_freq), dtype=torch.float64)
    for start in range(0, last, BLOCK):
        places = torch.arange(start, min(start + BLOCK, last) + 1, device=module.inv_freq.device)
        cos, sin = (
            x[0, :, : len(total)].to("cpu", torch.float64)
            for x in module(torch.zeros(1, device=places.device), places[None])
        )
        step = torch.atan2(sin[1:] * cos[:-1] - cos[1:] * sin[:-1], cos[1:] * cos[:-1] + sin[1:] * sin[:-1])
        total += step.sum(0)
    return total / (2 * math.pi) * tokens / max(last, 1)
