"""The embedding matrix of a checkpoint, read where it lies: a copy of a large one would not fit twice."""

import threading
from collections.abc import Iterator, Sequence
from textwrap import dedent
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import ArrayLike

from engine.evidence.script import preamble
from engine.model.capturing import token, typed
from engine.model.loaded import Loaded
from engine.ops.embeddings import Float, norms
from engine.tokens.text import clean_prompt, shorten
from engine.tokens.token import Token

_CHUNK = 4096
"""Rows that are turned into float64 at a time."""


class Table:
    """The rows (vocab, d_model) that the tokenizer can ask for; rows of padding beyond them are left out.

    norms  vocab   lengths of the rows
    """

    def __init__(self, loaded: Loaded) -> None:
        self.weight = weight(loaded, "embedding")[: len(loaded.tokenizer)]
        self.count, self.d_model = self.weight.shape
        self.norms = np.concatenate([norms(chunk.numpy()) for chunk in self._chunks()])

    def rows(self, ids: Sequence[int]) -> Float:
        """Rows (id, d_model) in float64."""
        found: Float = self.weight[list(ids)].to("cpu", torch.float64).numpy()
        return found

    def cosines(self, vectors: ArrayLike) -> Float:
        """Cosines (vector, vocab) of vectors (vector, d_model) with every row; 0 where either is all zeros."""
        given = np.atleast_2d(np.asarray(vectors, np.float64))
        columns = torch.tensor(given.T)
        products = torch.cat([chunk @ columns for chunk in self._chunks()]).numpy().T
        lengths = norms(given)[:, None] * self.norms
        result: Float = np.divide(products, lengths, out=np.zeros_like(products), where=lengths != 0)
        return result

    def _chunks(self) -> Iterator[torch.Tensor]:
        for chunk in self.weight.split(_CHUNK):
            yield chunk.to("cpu", torch.float64)


_tables: "WeakKeyDictionary[Loaded, Table]" = WeakKeyDictionary()
_lock = threading.Lock()


def table(loaded: Loaded) -> Table:
    """The table of a checkpoint, with its statistics; made once for as long as the checkpoint is in memory."""
    with _lock:
        if loaded not in _tables:
            _tables[loaded] = Table(loaded)
        return _tables[loaded]


def weight(loaded: Loaded, part: str) -> torch.Tensor:
    """The weight of a part of the model, as it lies in memory."""
    found = loaded.part(part).weight
    assert isinstance(found, torch.Tensor)
    return found.detach()


def pieces(loaded: Loaded, text: str) -> tuple[Token, ...]:
    """The tokens of a text alone, with none that the tokenizer puts in front of a prompt."""
    return typed(loaded, clean_prompt(text))


def name(loaded: Loaded, id: int) -> str:
    """A vocabulary entry as plain text."""
    return token(loaded, int(id)).display


def quoted(text: str, width: int = 18) -> str:
    return f"“{shorten(text, width)}”"


def signed(value: float) -> str:
    """Two decimals with a true minus sign, for a title."""
    return f"{value:.2f}".replace("-", "−")


def code(loaded: Loaded, body: str, ids: Sequence[int] | None = None) -> str:
    """A *Code* script: the model, the embedding matrix `W` (vocab, d_model) in float64, and the given lines."""
    count = table(loaded).count
    rows = f"W = model.get_input_embeddings().weight.detach().double()[:{count}]  # vocab, d_model\n"
    return preamble(loaded, ids) + rows + dedent(body).strip("\n") + "\n"
