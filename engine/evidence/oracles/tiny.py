"""A tiny training once more, from its settings alone: transformers' GPT-2, torch.optim, and AdamW's formula."""

import math
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.ops.optimizers import DECAY, ByHand
from engine.training.tiny_training import (
    BATCH,
    CONTEXT,
    EARLY,
    EVERY,
    TEMPERATURE,
    WARM_UP,
    WRITTEN,
    Settings,
    empty,
)

BY_HAND = 3
"""Steps that are taken by AdamW's formula in float64 as well; later ones would drift apart by rounding alone."""


class TrainedAgain:
    """One training, as far as it was asked for; it goes on from there when more is asked.

    losses    step: of each batch in nats, by torch's cross_entropy of the logits in float64
    held_out  mark: the same on the part that is never trained on
    written   mark: ids of the sample
    marks     the steps after which both were taken
    """

    def __init__(self, settings: Settings) -> None:
        self.rate, self.seed = settings.rate, settings.seed
        self.chars = sorted(set(settings.text))
        ids = torch.tensor([self.chars.index(char) for char in settings.text])
        cut = len(ids) - max(len(ids) // 10, CONTEXT)
        self.train, self.rows = ids[:cut], ids[cut:].unfold(0, CONTEXT, CONTEXT)
        self.losses: list[float] = []
        self.held_out: list[float] = []
        self.written: list[list[int]] = []
        self.marks: list[int] = []
        self._lock = threading.Lock()
        self._random = torch.Generator().manual_seed(settings.seed)
        self._model = _begun(len(self.chars), settings.layers, self._random)
        self._exact = _copied(self._model, len(self.chars), settings.layers).double()
        self._formula = ByHand("AdamW", 0.0)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), weight_decay=DECAY, fused=True)
        self._mark(0)

    def reach(self, steps: int) -> None:
        """Train until so many steps are taken, or a loss is no number."""
        with self._lock:
            while len(self.losses) < steps and math.isfinite(sum(self.losses[-1:])):
                self._step(len(self.losses) + 1)

    def _step(self, step: int) -> None:
        starts = torch.randint(0, len(self.train) - CONTEXT + 1, (BATCH, 1), generator=self._random)
        batch = torch.stack([self.train[int(start) : int(start) + CONTEXT] for start in starts])
        rate = self.rate * min(step, WARM_UP) / WARM_UP
        if step <= BY_HAND + 1:
            exact = self._by_hand(batch, rate)
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.zero_grad()
        out = self._model(batch, labels=batch, use_cache=False)
        out.loss.backward()
        self._optimizer.step()
        self.losses.append(exact if step <= BY_HAND + 1 else float(_surprisal(out.logits.detach(), batch)))
        if step in EARLY or step % EVERY == 0:
            self._mark(step)

    def _by_hand(self, batch: Tensor, rate: float) -> float:
        """The loss in float64 before a step by the formula."""
        weights = list(self._exact.parameters())
        loss = _surprisal(self._exact(batch, use_cache=False).logits, batch)
        self._formula.rate = rate
        new = self._formula.step([w.detach() for w in weights], list(torch.autograd.grad(loss, weights)))
        with torch.no_grad():
            for weight, value in zip(weights, new, strict=True):
                weight.copy_(value)
        return float(loss.detach())

    @torch.no_grad()
    def _mark(self, step: int) -> None:
        self.marks.append(step)
        self.held_out.append(float(_surprisal(self._model(self.rows, use_cache=False).logits, self.rows)))
        self.written.append(list(self._write()))

    def _write(self) -> Iterator[int]:
        """Ids drawn one after another: as many cumulated probabilities as a draw reaches are left behind."""
        text = [int(self.train[0])]
        generator = torch.Generator().manual_seed(self.seed)
        for u in torch.rand(WRITTEN, generator=generator, dtype=torch.float64):
            logits = self._model(torch.tensor([text[-CONTEXT:]]), use_cache=False).logits[0, -1].double()
            if not bool(logits.isfinite().all()):
                return
            passed = (logits / TEMPERATURE).softmax(-1).cumsum(-1) <= u
            text.append(min(int(passed.sum()), len(self.chars) - 1))
            yield text[-1]


@lru_cache(maxsize=2)
def _known(settings: Settings) -> TrainedAgain:
    """The last trainings: a few MB each, and a proof asked for again while one goes on repeats only what is new."""
    return TrainedAgain(settings)


def trained_again(settings: Settings, steps: int) -> TrainedAgain:
    """A training of at least so many steps."""
    found = _known(settings)
    found.reach(steps)
    return found


def _surprisal(logits: Tensor, rows: Tensor) -> Tensor:
    """Mean surprisal in nats of every id after the first of each row (row, seq), in float64."""
    return cross_entropy(logits[:, :-1].double().flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def _begun(vocab: int, layers: int, generator: torch.Generator) -> Any:
    """GPT-2's initial weights (Radford et al. 2019, section 2.3), drawn matrix by matrix."""
    model = empty(vocab, layers)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            p.normal_(0.0, 0.02 / math.sqrt(2 * layers) if "c_proj" in name else 0.02, generator=generator)
        else:
            torch.nn.init.constant_(p, 1.0 if "ln_" in name and name.endswith("weight") else 0.0)
    return model


@torch.no_grad()
def _copied(model: Any, vocab: int, layers: int) -> Any:
    copy = empty(vocab, layers)
    copy.load_state_dict(model.state_dict())
    copy.tie_weights()
    return copy
