"""Requests that begin with the same tokens: their first keys and values are the same, so one copy serves all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import sharing as again
from engine.evidence.rounding import pass_tolerance
from engine.evidence.script import preamble
from engine.figures.paging import Slot, pages
from engine.model import kv_cache
from engine.model.capturing import display
from engine.model.generation import end_of_text
from engine.model.loaded import Loaded
from engine.model.writing import Request, write
from engine.tokens.text import plural

SIZES = (2, 4, 8, 16, 32)
"""Positions in a page."""

USUAL = 16
"""A usual size: vLLM's documentation names 16 or 32 tokens for what it calls a block."""


@dataclass(frozen=True)
class Shared:
    """A prompt, and what each of several requests writes after it."""

    prompt: tuple[int, ...]
    texts: tuple[tuple[int, ...], ...]

    @property
    def whole(self) -> list[tuple[int, ...]]:
        """The tokens whose keys and values each request keeps."""
        return [(*self.prompt, *text) for text in self.texts]


def usual_size(tokens: int) -> int:
    """The largest page, up to the usual one, of which a prompt of so many tokens fills at least two."""
    return max((size for size in SIZES if 2 * size <= tokens and size <= USUAL), default=SIZES[0])


def usual_length(tokens: int) -> int:
    """How many tokens to write after a prompt of so many, so that the last page of the usual size is not full."""
    return next(length for length in (10, 11) if (tokens + length) % usual_size(tokens))


def begin(loaded: Loaded, ids: Sequence[int], count: int, length: int) -> Iterator[Shared]:
    """Requests as they are written, one after another: the i-th takes the i-th most probable next token first.

    What follows is greedy, up to `length` new tokens. A prompt that leaves no room for them loses its last tokens.
    """
    prompt = tuple(ids)[: loaded.spec.longest - length]
    with torch.no_grad():
        batch = torch.tensor([prompt], device=loaded.model.device)
        logits = loaded.model(batch, use_cache=False).logits[0, -1]
    texts: list[tuple[int, ...]] = [(first,) for first in logits.float().topk(count).indices.tolist()]
    yield Shared(prompt, tuple(texts))
    for i, (first,) in enumerate(texts[:count]):
        if first in end_of_text(loaded):
            continue
        for choice in write(loaded, Request((*prompt, first), length - 1)):
            texts[i] = (*texts[i], choice.id)
            yield Shared(prompt, tuple(texts))


def shared(loaded: Loaded, found: Shared, length: int, size: int) -> Card:
    """Pages of `size` positions that each request keeps, those that all share in one colour."""
    held = [_columns(loaded, ids) for ids in found.whole]
    allowed = pass_tolerance(loaded, *held)
    equal = [_equal(held[0], other, allowed) for other in held[1:]]
    slots = _slots([len(ids) for ids in found.whole], len(found.prompt), size)
    each = kv_cache.nbytes(kv_cache.prefill(loaded, found.prompt[:1]))
    numbers = [int(n) for n in (slots != Slot.NONE).sum(axis=1) // size]
    common = len(found.prompt) // size
    kept, alone = sum(numbers) - common * (len(numbers) - 1), sum(numbers)
    empty = [int(n) for n in (slots == Slot.EMPTY).sum(axis=1)]
    names = [f"{i + 1} {display(loaded, text[0])}" for i, text in enumerate(found.texts)]
    ids = np.full((len(found.texts), length), -1)
    for row, text in enumerate(found.texts):
        ids[row, : len(text)] = text
    sizes = [alone * size * each, kept * size * each]
    return Card(
        key="shared",
        title=_title(len(names), len(found.prompt), size, (alone, kept), sizes),
        alt=f"{len(names)} rows of pages of {size} positions; the first {common} of each row are shared, and the last "
        f"ones have {', '.join(map(str, empty))} empty places.",
        badge=Badge.LIVE,
        figure=pages(slots, size, names, [[display(loaded, id) for id in text] for text in found.whole]),
        table={
            "request": names,
            "tokens": [len(text) for text in found.whole],
            "pages": numbers,
            "shared pages": [common] * len(names),
            "empty places": empty,
            "positions equal to request 1": [len(held[0]), *equal],
        },
        shown={"ids": ids, "equal": equal, "slots": slots, "bytes": sizes},
        oracle=Oracle(
            "Every token of every text chosen again by transformers without a cache; then each text fed token by token "
            "into a cache of its own. Positions with the same keys and values in all caches are counted there, and the "
            "pages and bytes follow from them, not from the prompt's length.",
            lambda: _again(loaded, found, length, size, allowed),
            0,
        ),
        code=preamble(loaded, found.prompt)
        + _CODE.format(
            count=len(names), length=length, size=size, ends=sorted(end_of_text(loaded)), allowed=allowed
        ),
        numbers={"equal": equal, "bytes": sizes},
        atol=0,
        note=_note(found, equal, held, size, empty),
    )


def _title(count: int, prompt: int, size: int, numbers: Sequence[int], sizes: Sequence[int]) -> str:
    common = prompt // size
    if not common:
        return f"What {count} requests begin with, {plural(prompt, 'token')}, fills no page of {size}: none is shared"
    first = f"{common} page{'s' * (common != 1)}"
    return (
        f"{count} requests share the first {first}: {numbers[1]} are kept instead of {numbers[0]}, {sizes[1]:,} bytes "
        f"instead of {sizes[0]:,}"
    )


def _left(empty: Sequence[int]) -> str:
    """How many places stay empty on the last pages, as a sentence."""
    if len(set(empty)) > 1:
        return f"The last pages of the requests leave {', '.join(map(str, empty))} places empty."
    places = f"{empty[0]} place{'s' * (empty[0] != 1)}" if empty[0] else "no place"
    return f"The last page of each request leaves {places} empty."


def _note(
    found: Shared, equal: Sequence[int], held: Sequence[NDArray[np.float64]], size: int, empty: Sequence[int]
) -> str:
    """What was measured between the caches, and what the pages cost."""
    agreed, over = min(equal), len(found.prompt) % size
    apart = max(float(np.abs(other[:agreed] - held[0][:agreed]).max(initial=0)) for other in held[1:])
    said = "bit for bit" if apart == 0 else f"except for rounding, at most {apart:.1g}"
    copies = (
        f" The last {over} token{'s' * (over != 1)} of the prompt stand{'s' * (over == 1)} on a page with "
        "a request's own tokens, so each request has a copy."
        if over
        else ""
    )
    return (
        f"The first {agreed} positions, of a prompt of {len(found.prompt)} tokens, have the same keys and values in "
        f"{len(held)} caches that were computed separately, {said}.{copies} {_left(empty)}"
    )


def _columns(loaded: Loaded, ids: Sequence[int]) -> NDArray[np.float64]:
    """All keys and values of a text read in one pass; shape seq, numbers of a token."""
    pairs = kv_cache.tensors(kv_cache.prefill(loaded, ids))
    flat = torch.cat([t[0].transpose(0, 1).flatten(1) for pair in pairs for t in pair], dim=1)
    found: NDArray[np.float64] = flat.cpu().double().numpy()
    return found


def _equal(first: NDArray[np.float64], other: NDArray[np.float64], allowed: float) -> int:
    """How many positions from the beginning lie within `allowed` of each other."""
    both = min(len(first), len(other))
    same = np.abs(first[:both] - other[:both]).max(axis=1) <= allowed
    return both if same.all() else int(same.argmin())


def _slots(held: Sequence[int], prompt: int, size: int) -> NDArray[np.int64]:
    """(request, place): what each place of each page holds when requests of `held` tokens begin with a prompt."""
    places = np.arange(-(-max(held) // size) * size)
    tokens = np.array(held)[:, None]
    reserved = -(-tokens // size) * size
    grid = np.where(places < tokens, Slot.OWN, np.where(places < reserved, Slot.EMPTY, Slot.NONE))
    grid[:, : prompt // size * size] = Slot.SHARED
    return grid.astype(np.int64)


def _again(loaded: Loaded, found: Shared, length: int, size: int, allowed: float) -> dict[str, Any]:
    """All that is shown, from texts that were chosen again and from caches that were fed token by token."""
    texts = again.texts_again(loaded, found.prompt, found.texts, length)
    held = [again.columns(loaded, [*found.prompt, *text]) for text in texts]
    equal = [again.alike(held[0], other, allowed) for other in held[1:]]
    slots = again.paged([len(one) for one in held], min(equal), size)
    each = held[0][0].nbytes
    total = int((slots > 0).sum())
    once = total - (len(held) - 1) * int((slots[0] == 3).sum())
    return {
        "ids": [text + [-1] * (length - len(text)) for text in texts],
        "equal": equal,
        "slots": slots,
        "bytes": [total * each, once * each],
    }


_CODE = """
from transformers import DynamicCache

count, length, size, ends, allowed = {count}, {length}, {size}, {ends}, {allowed}
prompt = ids[0].tolist()


def following(text):
    with torch.no_grad():
        return model(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1].float()


def columns(text):  # one row for each token: its keys and values in all layers
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.tensor([text]), cache=cache, use_cache=True)
    pairs = [t for layer in cache.layers for t in (layer.keys, layer.values)]
    return torch.cat([t[0].transpose(0, 1).flatten(1) for t in pairs], dim=1)


texts = []
for first in following(prompt).topk(count).indices.tolist():
    text = [*prompt, first]
    while len(text) < len(prompt) + length and text[-1] not in ends:
        text.append(int(following(text).argmax()))
    texts.append(text)

held = [columns(text) for text in texts]
equal = []
for other in held[1:]:
    both = min(len(held[0]), len(other))
    apart = (held[0][:both].double() - other[:both].double()).abs().amax(dim=1) > allowed
    equal.append(int(apart.int().argmax()) if apart.any() else both)

blocks = [-(-len(text) // size) for text in texts]
shared = min(equal) // size
block = size * held[0][0].nbytes
result = {{
    "equal": equal,
    "bytes": [sum(blocks) * block, (sum(blocks) - (count - 1) * shared) * block],
}}
"""
