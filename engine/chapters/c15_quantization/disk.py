"""The blocks of a GGUF file as they lie on disk: a scale, in some formats a minimum, and whole numbers."""

import inspect
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.chapters.c15_quantization.pair import OfModel, code
from engine.chapters.c15_quantization.weights import NAMES, matrices, path, weight
from engine.checkpoints import gguf_tensors
from engine.checkpoints.gguf_tensors import File, Tensor
from engine.checkpoints.packaged import FILES
from engine.evidence import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import on_disk
from engine.evidence.rounding import EXACT
from engine.figures import bars
from engine.figures.quantization import Cells, stored_block
from engine.model.loaded import Loaded

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

WEIGHTS = 32
"""In a block of each of the formats drawn here."""

FIELDS = {
    "Q4_1": (("scale", 2), ("minimum", 2), ("whole numbers", 16)),
    "Q4_0": (("scale", 2), ("whole numbers", 16)),
    "Q8_0": (("scale", 2), ("whole numbers", 32)),
}
"""Format -> what a block holds, with the bytes of each, in their order (llama.cpp, ggml-common.h)."""

KINDS = tuple(FIELDS)

EMBEDDING = "embedding"

_IN_FILE = {
    "qkv": "attn_qkv",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
"""Linear layer -> what GGUF files call it. Queries and keys alone are missing: llama.cpp puts their rows in another
order, for its own form of RoPE, so a row of the file is not the row of that number in the model."""

_CONCEPTS = {"scale": "query", "minimum": "key"}
_LOW, _HIGH = "value", "attention"


def in_file(loaded: Loaded, layer: int) -> tuple[File | None, dict[str, str]]:
    """The GGUF file that a checkpoint was loaded from, and its matrices whose blocks can be drawn.

    They are given as the name here -> a name to read. Without a file, or where none of its matrices is of a type that
    is drawn here, they are the linear layers of the model, and there is no file.
    """
    file = gguf_tensors.behind(loaded.asked or loaded.name, loaded.revision)
    if file is not None:
        names = {part: name for part, name in NAMES.items() if part in _IN_FILE and loaded.adapter.has(part)}
        names[EMBEDDING] = "embedding"
        drawn = {part: name for part, name in names.items() if _drawn(loaded, part, layer, file)}
        if drawn:
            return file, drawn
    return None, matrices(loaded)


def _drawn(loaded: Loaded, part: str, layer: int, file: File) -> bool:
    found = file.named(_name(part, layer))
    return found is not None and found.kind in FIELDS and found.shape == _shape(loaded, part, layer)


def _name(part: str, layer: int) -> str:
    return "token_embd.weight" if part == EMBEDDING else f"blk.{layer}.{_IN_FILE[part]}.weight"


def _shape(loaded: Loaded, part: str, layer: int) -> tuple[int, ...]:
    """Rows and inputs of a matrix of the model."""
    if part == EMBEDDING:
        table: Any = loaded.part(EMBEDDING).weight
        return tuple(table.shape)
    return weight(loaded, part, layer).shape


@dataclass(frozen=True)
class Place(OfModel):
    """A block: `number` counts them along a row of a matrix of `loaded`, which is at 32 bits.

    file  the GGUF file that it is read from; None where the block is written here, in the format `kind`
    """

    part: str
    layer: int
    row: int = 0
    number: int = 0
    file: File | None = None
    kind: str = KINDS[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of the matrix, and blocks in each."""
        rows, inputs = _shape(self.loaded, self.part, self.layer)
        return rows, -(-inputs // WEIGHTS)

    @property
    def tensor(self) -> Tensor | None:
        """Where the matrix lies in the file."""
        return None if self.file is None else self.file.named(_name(self.part, self.layer))

    @property
    def form(self) -> str:
        """The format of the block."""
        return self.tensor.kind if self.tensor is not None else self.kind

    @property
    def nbytes(self) -> int:
        return sum(size for _, size in FIELDS[self.form])

    @property
    def offset(self) -> int:
        """Of the block's first byte in the file."""
        assert self.tensor is not None
        return self.tensor.offset + (self.row * self.shape[1] + self.number) * self.nbytes

    @property
    def name(self) -> str:
        where = "embedding" if self.part == EMBEDDING else f"{NAMES[self.part]}, layer {self.layer}"
        return f"{where}, row {self.row}, block {self.number}"


@dataclass(frozen=True, eq=False)
class Block:
    """The bytes of a block, and what they stand for: weight = scale · whole number (+ minimum)."""

    raw: bytes
    scale: float
    minimum: float | None
    whole: NDArray[np.int64]
    weights: NDArray[np.float32]


def decode(kind: str, raw: bytes) -> Block:
    """Read the bytes of a block of Q4_0, Q4_1 or Q8_0."""
    (scale,) = struct.unpack_from("<e", raw)
    minimum = float(struct.unpack_from("<e", raw, 2)[0]) if kind == "Q4_1" else None
    body = raw[sum(size for _, size in FIELDS[kind][:-1]) :]
    if kind == "Q8_0":
        numbers = list(struct.unpack(f"<{len(body)}b", body))
    else:
        numbers = [byte & 15 for byte in body] + [byte >> 4 for byte in body]
    whole = np.array(numbers, np.int64) - (8 if kind == "Q4_0" else 0)
    weights = np.float32(scale) * whole.astype(np.float32) + np.float32(minimum or 0)
    return Block(raw, float(scale), minimum, whole, weights)


def _before(place: Place) -> NDArray[np.float32]:
    """The model's own weights at a place, filled up with zeros."""
    values = weight(place.loaded, place.part, place.layer)[place.row]
    cut = values[place.number * WEIGHTS : (place.number + 1) * WEIGHTS]
    return np.pad(cut, (0, WEIGHTS - len(cut)))


def _raw(place: Place) -> bytes:
    if place.file is not None:
        with place.file.path.open("rb") as stream:
            stream.seek(place.offset)
            return stream.read(place.nbytes)
    from gguf import GGMLQuantizationType, quants

    return quants.quantize(_before(place)[None], GGMLQuantizationType[place.kind]).tobytes()


def disk(place: Place) -> Card:
    """The bytes of one block, the whole numbers in them, and the weights that they stand for."""
    block = decode(place.form, _raw(place))
    before = None if place.file else _before(place)
    bits = 8 * place.nbytes / WEIGHTS
    fields = [f"a scale of {block.scale:.3g}"]
    fields += [] if block.minimum is None else [f"a minimum of {block.minimum:.3g}"]
    each = 8 if place.form == "Q8_0" else 4
    held = f"{', '.join(fields)} and {WEIGHTS} whole numbers of {each} bits"
    shown: dict[str, Any] = {
        "bytes": list(block.raw),
        "scale": block.scale,
        "whole numbers": block.whole,
        "weights": block.weights,
    }
    shown |= {} if block.minimum is None else {"minimum": block.minimum}
    shown |= {} if before is None else {"before": before}
    return Card(
        key="disk",
        title=f"{place.nbytes} bytes of the file stand for {WEIGHTS} weights, {bits:g} bits each: {held}"
        if place.file
        else f"Laid out as {place.kind} for this page, not read from a file: {place.nbytes} bytes for {WEIGHTS} "
        f"weights, {held}",
        alt=f"The bytes of a block, {block.raw.hex(' ')}; the whole numbers in them, {_listed(block.whole)}; and bars "
        f"of the {WEIGHTS} weights, from {block.weights.min():.3g} to {block.weights.max():.3g}.",
        badge=Badge.LIVE,
        figure=_figure(place, block, before),
        table=_table(place, block, before),
        shown=shown,
        oracle=Oracle(*_proof(place), _tolerances(shown)),
        code=_script(place),
        note=_note(place),
    )


def _listed(numbers: NDArray[np.int64]) -> str:
    return ", ".join(str(number) for number in numbers)


def _proof(place: Place) -> tuple[str, Any]:
    """What a block is compared with."""

    def given() -> tuple[Loaded, str, int, int, int]:
        return place.loaded, place.part, place.layer, place.row, place.number

    if place.file is None or place.tensor is None:
        return (
            "The same 32 weights of the model rounded and packed by torch, without the package gguf.",
            lambda: on_disk.packed(on_disk.model_block(*given()), place.kind),
        )
    file, name = str(place.file.path), place.tensor.name
    return (
        "The bytes at the place that transformers' own reader of GGUF files finds; the weights that the loaded model "
        "has there, which transformers decoded in another process; and the multiple of the scale that each of them is.",
        lambda: on_disk.from_file(*given(), file, name),
    )


def _tolerances(shown: dict[str, Any]) -> dict[str, float]:
    largest = float(np.abs(shown["weights"]).max(initial=0))
    return {name: (1e-6 * largest + EXACT if name == "weights" else 0.0) for name in shown}


def _figure(place: Place, block: Block, before: NDArray[np.float32] | None) -> "Figure":
    half = WEIGHTS // 2
    eight = place.form == "Q8_0"
    body = block.raw[-(WEIGHTS if eight else half) :]
    paints = [_LOW] * half + [_HIGH] * half
    lines: list[list[Cells]] = [list(_head(place, block))]
    for start in range(0, len(body), half):
        octets = body[start : start + half]
        first = len(block.raw) - len(body) + start
        concept = paints[start] if eight else "token"
        cells = [(f"{octet:02x}", f"byte {first + i}: {octet:08b}") for i, octet in enumerate(octets)]
        lines.append([(f"bytes {first} to {first + half - 1}", concept, cells)])
        if eight:
            lines.append([_numbers(block, start, concept, f"weights {start} to {start + half - 1}")])
    if not eight:
        lines.append([_numbers(block, 0, _LOW, "low halves")])
        lines.append([_numbers(block, half, _HIGH, "high halves")])
    steps = np.array([]) if eight else np.arange(16) - (8 if place.form == "Q4_0" else 0)
    levels = block.scale * steps + (block.minimum or 0)
    return stored_block(lines, block.weights, paints, levels=levels, before=before)


def _head(place: Place, block: Block) -> Iterator[Cells]:
    """The cells of the fields before the whole numbers."""
    at = 0
    values = {"scale": block.scale, "minimum": block.minimum}
    names = [name for name, _ in FIELDS[place.form][:-1]]
    for name, size in FIELDS[place.form][:-1]:
        cells = [(f"{o:02x}", f"{name}: {values[name]:.6g}") for o in block.raw[at : at + size]]
        yield ", ".join(names), _CONCEPTS[name], cells
        at += size


def _numbers(block: Block, start: int, concept: str, name: str) -> Cells:
    behind = "" if block.minimum is None else f" + {block.minimum:.4g}"
    cells = [
        (str(whole), f"weight {start + i}: {whole} · {block.scale:.4g}{behind} = {value:.5g}")
        for i, (whole, value) in enumerate(
            zip(block.whole[start : start + 16], block.weights[start : start + 16], strict=True)
        )
    ]
    return name, concept, cells


def _table(place: Place, block: Block, before: NDArray[np.float32] | None) -> dict[str, list[Any]]:
    """A row for each weight: the byte it is in, its whole number, and the weight."""
    body = len(block.raw) - (WEIGHTS if place.form == "Q8_0" else WEIGHTS // 2)
    place_of = [body + (i if place.form == "Q8_0" else i % 16) for i in range(WEIGHTS)]
    columns: dict[str, list[Any]] = {
        "weight": list(range(WEIGHTS)),
        "byte of the block": place_of,
        "its value": [f"{block.raw[at]:02x}" for at in place_of],
        "whole number": [int(x) for x in block.whole],
        "scale": [block.scale] * WEIGHTS,
    }
    columns |= {} if block.minimum is None else {"minimum": [block.minimum] * WEIGHTS}
    columns["stands for"] = [float(x) for x in block.weights]
    return columns | ({} if before is None else {"before rounding": [float(x) for x in before]})


def _note(place: Place) -> str:
    rows, blocks = place.shape
    if place.tensor is None or place.file is None:
        return (
            f"{place.name}, of {rows:,} rows with {blocks} blocks each. This checkpoint was not loaded from a GGUF "
            "file with blocks that can be drawn here: its own weights are rounded and packed as such a file keeps them."
        )
    return (
        f"{place.name}: the file calls the matrix {place.tensor.name} and keeps it as {place.form}, {rows:,} rows with "
        f"{blocks} blocks each. This block begins at byte {place.offset:,} of {place.file.size:,}. Queries and keys "
        "are not offered: files keep their rows in another order than the model does."
    )


def _script(place: Place) -> str:
    if place.file is None:
        start = script.preamble(place.loaded, precision=place.loaded.precision)
        start += "WEIGHTS = 32\nTensor = torch.Tensor\n\n\n"
        start += "\n\n".join(inspect.getsource(part) for part in (on_disk._inverse, on_disk.packed))
        module = path(place.loaded, place.part, place.layer)
        return code(start, _PACK, module=module, row=place.row, number=place.number, kind=place.kind)
    head = FIELDS[place.form][:-1]
    names = ", ".join(name for name, _ in head)
    eight = place.form == "Q8_0"
    return code(
        "\n".join(_file_lines(place.file.path)) + "\n",
        _READ,
        offset=place.offset,
        size=place.nbytes,
        names=names + ("," if len(head) == 1 else ""),
        form="<" + "e" * len(head),
        head=2 * len(head),
        whole='struct.unpack("<32b", body)'
        if eight
        else "[b & 15 for b in body] + [b >> 4 for b in body]  # low halves, then high ones",
        minus=8 if place.form == "Q4_0" else 0,
        plus=" + minimum" if len(head) == 2 else "",
        more=', "minimum": minimum' if len(head) == 2 else "",
    )


def _file_lines(file: Path) -> list[str]:
    """Lines that leave the file's place in `file`: found through its package, or from the home folder on."""
    start = ["import os", "import struct", "", "import torch", ""]
    for packaged in FILES.values():
        if file.name == packaged.file and file.parent.name == packaged.module:
            return [
                "import importlib.util",
                *start,
                f'folder = importlib.util.find_spec("{packaged.module}").submodule_search_locations[0]',
                f'file = os.path.join(folder, "{packaged.file}")',
            ]
    return [*start, f"file = os.path.expanduser({_from_home(file)!r})"]


def _from_home(file: Path) -> str:
    """A path as a script names it: from the home folder on, where it lies there."""
    whole, home = file.expanduser().resolve(), Path.home().resolve()
    return f"~/{whole.relative_to(home).as_posix()}" if whole.is_relative_to(home) else str(whole)


_READ = """
    with open(file, "rb") as stream:
        stream.seek({offset})
        raw = stream.read({size})
    {names} = struct.unpack("{form}", raw[:{head}])
    body = raw[{head}:]
    whole = {whole}
    whole = torch.tensor(whole) - {minus}
    weights = scale * whole.float(){plus}
    result = {{"bytes": list(raw), "scale": scale, "whole numbers": whole, "weights": weights{more}}}
    print(weights)
"""

_PACK = """
    module = model.get_submodule("{module}")
    weight = module.weight.detach()
    if type(module).__name__ == "Conv1D":  # GPT-2 stores (input, output)
        weight = weight.T
    start = {number} * WEIGHTS
    block = weight[{row}, start : start + WEIGHTS]
    block = torch.nn.functional.pad(block, (0, WEIGHTS - len(block)))
    result = packed(block, "{kind}")
    print(bytes(result["bytes"].tolist()).hex(" "))
"""


def fullest(place: Place) -> int:
    """The block of a row whose whole numbers take the most different values; of several, the first."""
    blocks = (_raw(replace(place, number=number)) for number in range(place.shape[1]))
    return int(np.argmax([len({*decode(place.form, raw).whole.tolist()}) for raw in blocks]))


def types(file: File) -> Card:
    """Which tensors of a file have which type, and what that comes to in bytes."""
    kinds: dict[str, list[Tensor]] = {}
    for tensor in file.tensors:
        kinds.setdefault(tensor.kind, []).append(tensor)
    order = sorted(kinds, key=lambda kind: -sum(tensor.nbytes for tensor in kinds[kind]))
    nbytes = [sum(tensor.nbytes for tensor in kinds[kind]) for kind in order]
    tensors = [len(kinds[kind]) for kind in order]
    share = nbytes[0] / sum(nbytes)
    labels = [f"{count} × {kind}" for kind, count in zip(order, tensors, strict=True)]
    bits = [
        8 * size / sum(prod(tensor.shape) for tensor in kinds[kind])
        for kind, size in zip(order, nbytes, strict=True)
    ]
    return Card(
        key="types",
        title=f"{tensors[0]} of {sum(tensors)} tensors are {order[0]} and take {share:.0%} of the tensors' bytes",
        alt="Bars of megabytes by type: "
        + "; ".join(f"{name}, {size / 1e6:.3g} MB" for name, size in zip(labels, nbytes, strict=True)),
        badge=Badge.LIVE,
        figure=bars(
            labels,
            [size / 1e6 for size in nbytes],
            concept="quantization_error",
            value_name="megabytes (10⁶ bytes) in the file",
            label_name="tensors × type",
        ),
        table={
            "type": order,
            "tensors": tensors,
            "bytes": nbytes,
            "bits a weight": bits,
            "which": [", ".join(dict.fromkeys(_short(t.name) for t in kinds[kind])) for kind in order],
        },
        shown={"tensors": tensors, "bytes": nbytes},
        oracle=Oracle(
            "Types, shapes and bytes of all tensors by transformers' own reader of GGUF files.",
            lambda: on_disk.kinds(str(file.path)),
        ),
        code=code("\n".join(_file_lines(file.path)) + "\n", _TYPES),
        note=f"The other {(file.size - sum(nbytes)) / 1e6:.2f} MB of the file are its header: settings, vocabulary, "
        "where each tensor begins, and the gaps between them.",
    )


def _short(name: str) -> str:
    """A tensor's name without the number of its block."""
    return ".".join(part for part in name.split(".") if part not in ("blk", "weight") and not part.isdigit())


_TYPES = """
    from gguf import GGMLQuantizationType
    from transformers.integrations.gguf.reader import GgufHeader

    nbytes, tensors = {}, {}
    for info in GgufHeader.from_file(file).tensors:
        kind = GGMLQuantizationType(info.ggml_type).name
        tensors[kind] = tensors.get(kind, 0) + 1
        nbytes[kind] = nbytes.get(kind, 0) + info.nbytes
    order = sorted(nbytes, key=lambda kind: -nbytes[kind])
    result = {"tensors": [tensors[kind] for kind in order], "bytes": [nbytes[kind] for kind in order]}
    print(order, result)
"""
