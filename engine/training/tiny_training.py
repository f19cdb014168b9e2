"""A tiny GPT-2 over characters, trained from scratch on a short text, one step at a time.

The same settings give the same numbers, however often the work was interrupted between two steps: every random number
comes from a generator of its own, and measuring draws from another one.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from engine import ReaderError
from engine.ops.optimizers import DECAY
from engine.tokens.text import clean_prompt

D_MODEL, HEADS, CONTEXT, BATCH, WARM_UP = 96, 4, 64, 16, 50
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
LAYERS = (1, 2, 3)
LEAST, MOST, MOST_DIFFERENT = 400, 20_000, 2_000
"""Characters of a text that is accepted, and how many different ones."""

WRITTEN, TEMPERATURE = 76, 0.7
"""Characters of a sample after its first one, and how its logits are divided."""

MOST_STEPS = 6_000
EARLY, EVERY = (10, 25, 50, 150), 100
"""Steps after which the unseen part is measured and a sample written: these, and every multiple."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """Everything that a training depends on. Raises ReaderError for a text or a number that it cannot work with."""

    text: str
    layers: int = 2
    rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", clean_prompt(self.text, MOST))
        if len(self.text) < LEAST:
            raise ReaderError(
                f"This text has {len(self.text)} characters; to learn from, there should be at least {LEAST}."
            )
        different = len(set(self.text))
        if different < 2:
            raise ReaderError("This text repeats one single character, so there is nothing to predict.")
        if different > MOST_DIFFERENT:
            raise ReaderError(
                f"This text has {different:,} different characters; {MOST_DIFFERENT:,} are the limit."
            )
        if self.layers not in LAYERS or self.rate not in RATES:
            raise ReaderError(
                "These settings are not on offer; choose the layers and the rate from the controls."
            )


class Corpus:
    """A text as ids of its characters, cut into a part to train on and a last tenth that training never sees.

    train, held_out  ids        chars  the vocabulary, sorted
    """

    def __init__(self, text: str) -> None:
        self.chars = tuple(sorted(set(text)))
        places = {char: i for i, char in enumerate(self.chars)}
        ids = torch.tensor([places[char] for char in text])
        self.cut = len(ids) - max(len(ids) // 10, CONTEXT)
        self.train, self.held_out = ids[: self.cut], ids[self.cut :]

    @property
    def uniform(self) -> float:
        """ln(vocab) in nats: the loss of guessing all characters alike."""
        return math.log(len(self.chars))

    @property
    def unigram(self) -> float:
        """The entropy of the character frequencies of `train` in nats: the best loss without looking at any context."""
        share = torch.bincount(self.train).double() / len(self.train)
        return float(-torch.special.xlogy(share, share).sum())

    def windows(self) -> Tensor:
        """The held-out ids in rows of CONTEXT, (row, seq); a rest shorter than a row is left out."""
        return self.held_out[: len(self.held_out) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)

    def decode(self, ids: Any) -> str:
        return "".join(self.chars[int(id)] for id in ids)


def empty(vocab: int, layers: int) -> Any:
    """transformers' GPT-2 in this shape, its weights not yet set; no random number is drawn."""
    config = GPT2Config(
        vocab_size=vocab, n_positions=CONTEXT, n_embd=D_MODEL, n_layer=layers, n_head=HEADS,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):  # for this thread only
        model: Any = GPT2LMHeadModel(config)
    model.to_empty(device="cpu").tie_weights()
    model.loss_type = "ForCausalLM"  # what transformers would take anyway, with a warning
    return model


def untrained(vocab: int, layers: int, generator: torch.Generator) -> Any:
    """The same with GPT-2's initial weights: N(0, 0.02²), smaller before the residual stream; norms 1, biases 0."""
    model = empty(vocab, layers)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                p.normal_(0.0, spread(name, layers), generator=generator)
            else:
                p.fill_(float(".ln_" in name and name.endswith("weight")))
    return model


def spread(name: str, layers: int) -> float:
    """Standard deviation of a matrix's initial weights (Radford et al. 2019, section 2.3)."""
    return 0.02 / math.sqrt(2 * layers) if name.endswith("c_proj.weight") else 0.02


def holding(weights: Mapping[str, Tensor], vocab: int, layers: int) -> Any:
    """A model of its own with copies of the given weights."""
    model = empty(vocab, layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model


def rate_at(rate: float, step: int) -> float:
    """The learning rate of step 1, 2, …: it rises for WARM_UP steps and stays."""
    return rate * min(1.0, step / WARM_UP)


def measured(step: int) -> bool:
    """Whether the unseen part is measured and a sample written after this many steps."""
    return step in EARLY or step % EVERY == 0


def draws(seed: int) -> Tensor:
    """The random numbers in [0, 1) behind each sampled character: the same ones for every sample of a seed."""
    return torch.rand(WRITTEN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def write(model: Any, first: int, seed: int) -> tuple[int, ...]:
    """WRITTEN ids sampled after the id `first` at TEMPERATURE, or fewer when a logit is not finite.

    A draw u picks the first character at which the cumulated probability exceeds u.
    """
    ids = [first]
    for u in draws(seed):
        logits = model(torch.tensor([ids[-CONTEXT:]]), use_cache=False).logits[0, -1].double()
        if not bool(torch.isfinite(logits).all()):
            break
        reached = (logits / TEMPERATURE).softmax(-1).cumsum(-1)
        ids.append(min(int(torch.searchsorted(reached, u, right=True)), len(reached) - 1))
    return tuple(ids[1:])


@dataclass(frozen=True)
class Mark:
    """What was measured after some steps: the loss on the unseen part (nats), and the ids of a sample."""

    step: int
    held_out: float
    written: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Moment:
    """Weights with AdamW's two moving averages, by name; the averages are empty before the first step."""

    weights: Weights
    first: Weights = field(default_factory=dict)
    second: Weights = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A training as it stood between two steps; nothing in it changes any more.

    losses   step: of each batch in nats, before the step on it
    marks    what was measured on the way, the untrained model first
    marked   the weights at the last mark
    seconds  spent on steps
    batch    (row, seq) of the last step, with the moment `before` it and the weights `after` it; None before any step
             (a moment is not kept when the loss turned out to be no number)
    """

    settings: Settings
    corpus: Corpus
    losses: NDArray[np.float64]
    marks: tuple[Mark, ...]
    marked: Weights
    seconds: float
    parameters: int
    batch: Tensor | None
    before: Moment | None
    after: Weights

    @property
    def steps(self) -> int:
        return len(self.losses)

    @property
    def diverged(self) -> bool:
        """Whether the last loss is no number any more."""
        return bool(self.steps) and not math.isfinite(self.losses[-1])


class Training:
    """A training under way. One thread at a time may call `advance`; `snapshot` may be read by any."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.corpus = settings, Corpus(settings.text)
        self._random = torch.Generator().manual_seed(settings.seed)
        self._model = untrained(len(self.corpus.chars), settings.layers, self._random)
        self._names = dict(self._model.named_parameters())
        self._optimizer = torch.optim.AdamW(
            self._names.values(), lr=settings.rate, weight_decay=DECAY, fused=True
        )
        self._losses: list[float] = []
        self._marks: list[Mark] = []
        self._seconds = 0.0
        self._mark()
        self._publish()

    def advance(self, publish: bool = True) -> bool:
        """Take one step, and make what was reached the `snapshot` if asked to; whether there is another step."""
        step, start = len(self._losses) + 1, time.perf_counter()
        before = self._moment() if publish or step == MOST_STEPS else None
        batch = self._next_batch()
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(self.settings.rate, step)
        loss = self._model(batch, labels=batch, use_cache=False).loss
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._losses.append(float(loss.detach()))
        self._seconds += time.perf_counter() - start
        if measured(step):
            self._mark()
        more = step < MOST_STEPS and math.isfinite(self._losses[-1])
        if publish or not more:
            self._publish(batch, before)
        return more

    def _publish(self, batch: Tensor | None = None, before: Moment | None = None) -> None:
        self.snapshot = Snapshot(
            self.settings, self.corpus, np.array(self._losses), tuple(self._marks), self._marked, self._seconds,
            sum(p.numel() for p in self._names.values()), batch, before, self._copies(),
        )  # fmt: skip

    def _next_batch(self) -> Tensor:
        starts = torch.randint(0, len(self.corpus.train) - CONTEXT + 1, (BATCH, 1), generator=self._random)
        return self.corpus.train[starts + torch.arange(CONTEXT)]

    def _copies(self) -> Weights:
        return {name: p.detach().clone() for name, p in self._names.items()}

    def _moment(self) -> Moment:
        if not self._losses:
            return Moment(self._copies())
        state = self._optimizer.state
        averages = [
            {name: state[p][key].clone() for name, p in self._names.items()}
            for key in ("exp_avg", "exp_avg_sq")
        ]
        return Moment(self._copies(), *averages)

    @torch.no_grad()
    def _mark(self) -> None:
        rows = self.corpus.windows()
        held_out = float(self._model(rows, labels=rows, use_cache=False).loss)
        written = write(self._model, int(self.corpus.train[0]), self.settings.seed)
        self._marks.append(Mark(len(self._losses), held_out, written))
        self._marked = self._copies()
