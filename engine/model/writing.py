"""Texts that a checkpoint writes, remembered token by token, so that a rerun or a stopped reader repeats nothing."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from engine.model.cache import ByteLRU
from engine.model.generation import Step, generate
from engine.model.loaded import Loaded
from engine.ops.sampling import Filters, surprisal
from engine.tokens.encoder import decode


@dataclass(frozen=True)
class Request:
    """A text to write: up to `n` tokens after `ids`; greedy, and then without filters, where there is no seed."""

    ids: tuple[int, ...]
    n: int
    seed: int | None = None
    filters: Filters = field(default_factory=Filters)

    def __post_init__(self) -> None:
        if self.seed is None and self.filters != Filters():
            raise ValueError("a greedy text has no filters")


@dataclass(frozen=True)
class Choice:
    """One written token: `Step` without its logits.

    probability  in the distribution it was drawn from       surprisal  in the model's own, in nats
    """

    id: int
    probability: float
    surprisal: float
    alternatives: tuple[tuple[int, float], ...]
    end: bool
    nbytes: int = 1600  # about what the Python objects take


_written: "ByteLRU[Choice]" = ByteLRU(limit=8 * 1024 * 1024)


def so_far(loaded: Loaded, request: Request) -> tuple[Choice, ...]:
    """What has been written of a text already, by whoever asked for it."""
    known: list[Choice] = []
    for i in range(_room(loaded, request)):
        key = _key(loaded, request, i)
        if key not in _written:
            break
        choice = _written.get(key, _gone)
        known.append(choice)
        if choice.end:
            break
    return tuple(known)


def complete(loaded: Loaded, request: Request) -> bool:
    """Whether the whole text is there, so that `write` costs nothing."""
    known = so_far(loaded, request)
    return len(known) == _room(loaded, request) or (bool(known) and known[-1].end)


def write(loaded: Loaded, request: Request) -> Iterator[Choice]:
    """The text of a request, token by token; what is known comes at once. Raises what `generate` raises."""
    if complete(loaded, request):
        yield from so_far(loaded, request)
        return
    f = request.filters
    steps = generate(
        loaded,
        request.ids,
        request.n,
        seed=request.seed,
        temperature=f.temperature,
        top_k=f.top_k,
        top_p=f.top_p,
        min_p=f.min_p,
        repetition_penalty=f.repetition_penalty,
    )
    for i, step in enumerate(steps):
        choice = _choice(step)
        yield _written.get(_key(loaded, request, i), lambda choice=choice: choice)  # type: ignore[misc]


def written(loaded: Loaded, request: Request) -> tuple[Choice, ...]:
    """The whole text of a request."""
    return tuple(write(loaded, request))


def text(loaded: Loaded, choices: Sequence[Choice]) -> str:
    """Written tokens as plain text, for a page to show while they come; it still needs an escaper."""
    return decode(loaded.tokenizer, [choice.id for choice in choices])


def _choice(step: Step) -> Choice:
    nats = float(surprisal(step.logits[None], [step.id])[0])
    return Choice(step.id, step.probability, nats, step.alternatives, step.end)


def _room(loaded: Loaded, request: Request) -> int:
    return max(0, min(request.n, loaded.spec.context - len(request.ids) + 1))


def _key(loaded: Loaded, request: Request, i: int) -> Hashable:
    # greedy tokens do not depend on n, nor do seeded ones: a longer text begins with the shorter one
    asked = (request.ids, request.seed, request.filters)
    return (loaded.name, loaded.revision, loaded.precision, loaded.device, asked, i)


def _gone() -> Choice:
    raise LookupError("a remembered token was dropped while it was being read")
