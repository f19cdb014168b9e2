"""Where a GGUF file keeps its tensors, read from its header with `struct`; and the file behind a loaded checkpoint.

The layout is that of gguf.md in the ggml repository: a magic word, the version, two counts, the metadata, a table of
the tensors, and from the next multiple of the alignment on the tensors themselves.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path

from engine import ReaderError
from engine.checkpoints import catalogue, gguf, packaged

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32  # where the metadata names no other


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file.

    kind    the name of its GGML type      shape   as torch has it, the inputs last
    offset  of its first byte in the file  nbytes  how many bytes it takes
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class File:
    """A GGUF file: where it lies, its size in bytes, and its tensors in the order of its table."""

    path: Path
    size: int
    tensors: tuple[Tensor, ...]

    def named(self, name: str) -> Tensor | None:
        """The tensor of a name."""
        return next((tensor for tensor in self.tensors if tensor.name == name), None)


def behind(asked: str, revision: str) -> File | None:
    """The GGUF file that a loaded checkpoint was made of (see `Loaded`), recognised by its SHA-256; None without one.

    Raises ReaderError when it cannot be read any more.
    """
    if not revision.endswith(f"-{gguf.LAYOUT}"):
        return None
    for path in (catalogue.folder(asked), packaged.find(asked), catalogue.snapshot(asked)):
        if path is not None and path.suffix == ".gguf" and revision == f"{gguf.sha256(path)}-{gguf.LAYOUT}":
            return read(path)
    return None


def read(path: Path) -> File:
    """The tensors of a file. Raises ReaderError for a header that cannot be read."""
    try:
        state = path.stat()
        return _read(path, state.st_size, state.st_mtime_ns)
    except (OSError, ValueError, struct.error) as error:
        raise ReaderError(f"The header of {path.name} cannot be read.") from error


@lru_cache(maxsize=8)
def _read(path: Path, size: int, _changed: int) -> File:
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return File(path, size, tuple(_tensors(_Cursor(data))))


@dataclass
class _Cursor:
    """A place in the file's bytes that moves on with every number and string that is read."""

    data: mmap.mmap
    place: int = 0

    def number(self, form: str) -> int:
        """The next number; it is stored with its lowest byte first."""
        (value,) = struct.unpack_from(f"<{form}", self.data, self.place)
        self.place += struct.calcsize(f"<{form}")
        return int(value)

    def text(self) -> str:
        """The next string: its length, then its bytes."""
        length = self.number("Q")
        self.place += length
        return self.data[self.place - length : self.place].decode("utf-8")

    def skip(self, kind: int) -> None:
        """Pass over a value of the metadata."""
        if kind == _STRING:
            length = self.number("Q")
            self.place += length
        elif kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if inner in _NUMBERS:
                self.place += count * struct.calcsize(_NUMBERS[inner])
                return
            for _ in range(count):
                self.skip(inner)
        elif kind in _NUMBERS:
            self.place += struct.calcsize(_NUMBERS[kind])
        else:
            raise ValueError(f"metadata of type {kind}")


def _tensors(at: _Cursor) -> Iterator[Tensor]:
    if at.data[:4] != b"GGUF":
        raise ValueError("no GGUF file")
    at.place = 8  # behind the magic word and the version
    count, metadata, align = at.number("Q"), at.number("Q"), _ALIGNMENT
    for _ in range(metadata):
        key, kind = at.text(), at.number("I")
        if key == "general.alignment":
            align = at.number(_NUMBERS[kind])
        else:
            at.skip(kind)
    table = [_entry(at) for _ in range(count)]
    begin = -(-at.place // align) * align
    for name, kind, shape, offset in table:
        label, nbytes = _stored(kind, prod(shape))
        yield Tensor(name, label, shape, begin + offset, nbytes)


def _entry(at: _Cursor) -> tuple[str, int, tuple[int, ...], int]:
    """A line of the table: name, type, shape with the inputs last, offset among the tensors."""
    name = at.text()
    inputs_first = [at.number("Q") for _ in range(at.number("I"))]
    return name, at.number("I"), tuple(reversed(inputs_first)), at.number("Q")


def _stored(kind: int, count: int) -> tuple[str, int]:
    """The name of a GGML type, and the bytes that so many weights take in it."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    known = GGMLQuantizationType(kind)
    weights, nbytes = GGML_QUANT_SIZES[known]
    return known.name, count // weights * nbytes
