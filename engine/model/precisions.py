"""The precisions that a checkpoint can run at: one record each, with everything that differs between them.

Imports nothing heavy: data types stand here by the names that torch gives them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine import ReaderError
from engine.ops.quantization import Storage

REFERENCE = "fp32"
"""What others are compared with, and what gradients are taken in."""

SIXTEEN_BIT = "fp16"
"""What a page compares with where nothing else was chosen: the weights that bitsandbytes starts from."""

EIGHT_BIT = "int8"
"""The precision that rounds what enters a layer too."""

FOUR_BIT = "nf4"
"""The 4-bit precision where nothing else was chosen."""


@dataclass(frozen=True)
class Precision:
    """How the weights of a checkpoint are stored, and what they are computed with.

    title       a few words on it for people
    storage     bytes of a model's parts: see `Storage`
    peak        bytes of an entry of a linear layer inside a block at the moment of loading when most is held
    dtype       torch's name of the type of every weight that is a float; empty for the checkpoint's own 16-bit type
    step        how far one rounding moves a number, as a part of it; the coarsest rounding of a forward pass
    loading     arguments of transformers' BitsAndBytesConfig; empty where no layer is quantized
    compute_as  the argument of it that takes the type to compute with, if any
    code_book   bitsandbytes' name of the levels that blocks of weights are rounded to; empty without
    multiples   of what numbers its CPU kernels need a layer's inputs and outputs to be multiples
    together    whether a token's numbers depend on which others are read in the same pass
    """

    name: str
    title: str
    storage: Storage
    peak: float
    step: float
    dtype: str = ""
    loading: Mapping[str, Any] = field(default_factory=dict)
    compute_as: str = ""
    code_book: str = ""
    multiples: tuple[int, int] = (1, 1)
    together: bool = False

    @property
    def quantized(self) -> bool:
        """Whether bitsandbytes executes the linear layers."""
        return bool(self.loading)

    @property
    def bits(self) -> float:
        """Bits of an entry of a linear layer, its scales aside."""
        return 8 * self.storage.linear

    def options(self, compute: Any) -> dict[str, Any]:
        """The arguments of BitsAndBytesConfig, with `compute` as the type to compute with where one is taken."""
        return {**self.loading, **({self.compute_as: compute} if self.compute_as else {})}


def _float(name: str, title: str, dtype: str, size: int, step: float) -> Precision:
    """All weights are floats of `size` bytes. Loading converts tensor by tensor: never a second copy of the whole."""
    return Precision(name, title, Storage(linear=size, other=size), peak=size, step=step, dtype=dtype)


def _four_bit(name: str, title: str) -> Precision:
    """A 4-bit code book of bitsandbytes (Dettmers et al. 2023, "QLoRA", §3), with a scale for each 64 weights.

    Its kernels for CPUs multiply in bfloat16, whatever the type asked for; they read weights in runs of 64 inputs and
    pack them by 32 outputs.
    """
    return Precision(
        name,
        title,
        Storage(linear=0.5, other=2, block=64, code_book=64),
        peak=1.0,  # the buffers of packing, measured with transformers 5.24 on a CPU
        step=2.0**-8,
        loading={"load_in_4bit": True, "bnb_4bit_quant_type": name},
        compute_as="bnb_4bit_compute_dtype",
        code_book=name,
        multiples=(64, 32),
    )


RECORDS = {
    record.name: record
    for record in (
        _float("fp32", "32-bit floats, the reference", "float32", 4, 2.0**-23),
        _float("bf16", "16 bits, the range of fp32", "bfloat16", 2, 2.0**-8),
        _float("fp16", "16 bits, finer and narrower", "float16", 2, 2.0**-11),
        Precision(  # LLM.int8 (Dettmers et al. 2022): the inputs of each layer are rounded to 8 bits too, sign included
            "int8",
            "8-bit integers (bitsandbytes)",
            Storage(linear=1, other=2, row=4),
            peak=3.0,  # the 16-bit weight is still there, measured with transformers 5.24 on a CPU
            step=2.0**-7,
            loading={"load_in_8bit": True},
            together=True,  # a number past llm_int8_threshold in one token keeps its column in 16 bits for all
        ),
        _four_bit("nf4", "4-bit NormalFloat (bitsandbytes)"),
        _four_bit("fp4", "4-bit floats (bitsandbytes)"),
    )
}

"""All there are, by name. To add one is to add it here, and nothing else."""

PRECISIONS = tuple(RECORDS)
"""The names, in the order in which they are offered: those that bitsandbytes executes come last."""

CODE_BOOKS = tuple(name for name, record in RECORDS.items() if record.code_book)
"""Those that round blocks of weights to the levels of a code book."""


def precision(name: str) -> Precision:
    """The record of a precision. Raises ReaderError for an unknown name."""
    if name not in RECORDS:
        raise ReaderError(f"The precision “{name}” is unknown; choose one of {', '.join(RECORDS)}.")
    return RECORDS[name]
