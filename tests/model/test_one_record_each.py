"""A precision is one record: what everything else says of it follows, and adding one touches nothing else."""

import ast
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import ReaderError, capture, load
from engine.chapters import c02_embeddings, c04_mlp, c08_attention, c11_block, c15_quantization
from engine.chapters.c11_block import ledger
from engine.checkpoints import memory
from engine.evidence import rounding, script
from engine.model import precisions
from engine.model.precisions import PRECISIONS, RECORDS, precision
from tests.conftest import BUNDLED, PROMPT, loaded_checkpoint
from tests.pages.conftest import ROOT
from tests.pages.test_every_page import differences, executed

HOME = "engine/model/precisions.py"
TRAINING = "engine/training"
"""There a precision is how a training pass is computed: a setting that recordings keep, not how weights are stored."""


def compared_or_keyed(file):
    """Names of precisions that a file compares something with, or that a dictionary of it has for keys."""
    tree, found = ast.parse((ROOT / file).read_text("utf-8")), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            found += [leaf for side in (node.left, *node.comparators) for leaf in ast.walk(side)]
        elif isinstance(node, ast.Dict):
            found += [key for key in node.keys if key is not None]
    return {leaf.value for leaf in found if isinstance(leaf, ast.Constant)} & set(PRECISIONS)


FORMATS = {
    "engine/chapters/c15_quantization/formats.py",
    "engine/chapters/c15_quantization/number.py",
    "engine/evidence/oracles/bits.py",
    "engine/evidence/oracles/ggml.py",
}
"""What tells of the formats of numbers themselves, those of GGUF files among them: bits, levels, bytes."""


def test_no_other_file_asks_which_precision_it_is():
    files = [
        path.relative_to(ROOT).as_posix()
        for room in ("engine", "pages")
        for path in (ROOT / room).rglob("*.py")
    ]
    asking = {file for file in (*files, "Home.py") if compared_or_keyed(file)}
    assert {file for file in asking if not file.startswith(TRAINING)} - {HOME} - FORMATS == set()


@pytest.fixture
def seventh(monkeypatch):
    """bf16 once more, under a name that nobody has heard of."""
    record = replace(precision("bf16"), name="fp16b", title="bf16 by another name")
    monkeypatch.setitem(precisions.RECORDS, record.name, record)
    return record.name


def test_a_seventh_precision_loads_and_computes_as_its_record_says(seventh):
    loaded, twin = load("pocket-llama", seventh), loaded_checkpoint("pocket-llama", "bf16")
    assert (loaded.precision, loaded.dtype, loaded.quantized) == (seventh, torch.bfloat16, False)
    assert loaded.nbytes == twin.nbytes
    np.testing.assert_array_equal(capture(loaded, PROMPT).logits, capture(twin, PROMPT).logits)


def test_a_seventh_precision_has_cards_that_prove_themselves_and_scripts_that_run(seventh, monkeypatch):
    monkeypatch.chdir(ROOT)
    loaded = load("pocket-llama", seventh)
    trace, reference = capture(loaded, PROMPT), loaded_checkpoint("pocket-llama")
    cards = [
        c02_embeddings.row(loaded, trace, 3),
        c04_mlp.sparsity(loaded, trace, 0.05),
        c08_attention.values(loaded, trace, 1, 0, 6),
        c11_block.residual_ledger(loaded, trace, 3, 300),
        c15_quantization.size(c15_quantization.Pair(lambda: reference, lambda: loaded, trace.ids)),
        c15_quantization.scale(lambda: loaded),
    ]
    for card in cards:
        assert card.prove().passed, card.key
        assert differences(executed(card.code), card.numbers, card.atol) == [], card.key
    assert "dtype=torch.bfloat16" in script.preamble(loaded)
    assert any(seventh in names for names in cards[-1].table["precision"])


def test_a_seventh_precision_that_is_quantized_is_loaded_and_written_down_by_its_arguments(monkeypatch):
    monkeypatch.setitem(RECORDS, "four", replace(precision("nf4"), name="four"))
    loaded = load("pocket-gpt2", "four")
    assert loaded.part("up_proj", 0).weight.quant_state.quant_type == "nf4"
    assert "bnb_4bit_quant_type='nf4', bnb_4bit_compute_dtype=torch.float16" in script.preamble(loaded)
    assert memory.needed(memory.files("pocket-gpt2"), precision("four").peak, 2) < loaded.nbytes + 100_000_000


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_precision_is_either_floats_of_one_type_or_quantized(name):
    record = precision(name)
    assert record.quantized == (record.dtype == "") == (record.bits < 16)
    assert bool(record.code_book) == (name in precisions.CODE_BOOKS)
    if record.dtype:
        assert torch.finfo(getattr(torch, record.dtype)).bits == record.bits == 8 * record.storage.other


def test_an_unknown_precision_is_refused_with_those_that_exist():
    with pytest.raises(ReaderError, match="“int3” is unknown; choose one of fp32, bf16"):
        precision("int3")


# Tolerances


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("at", PRECISIONS)
def test_no_share_may_be_off_by_more_than_a_tenth(name, at):
    loaded = loaded_checkpoint(name, at)
    assert rounding.probability_tolerance(loaded) <= 0.1
    assert rounding.counted(loaded.spec.d_ff) < 1e-3


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("at", PRECISIONS)
def test_probabilities_that_are_all_small_may_be_off_by_a_part_of_the_largest_one(name, at):
    loaded = loaded_checkpoint(name, at)
    assert 0 < rounding.chance_tolerance(loaded, [1e-4, 0.01]) <= 0.005
    assert rounding.chance_tolerance(loaded, 1.0) <= rounding.probability_tolerance(loaded)


def test_tolerances_grow_with_the_numbers_and_with_the_coarseness_of_the_precision():
    fp32, bf16, int8 = (loaded_checkpoint("pocket-gpt2", at) for at in ("fp32", "bf16", "int8"))
    assert rounding.tolerance(fp32, 5.0) == rounding.FLOOR
    assert rounding.tolerance(bf16, [5.0, -10.0], steps=4) == 4 * 10 / 256
    assert rounding.tolerance(int8, 10.0, steps=4) == 4 * 10 / 128  # what enters a layer is rounded to 8 bits
    assert rounding.float_tolerance(int8, 10.0, steps=4) == 4 * 10 / 2048  # all else is float16
    assert rounding.pass_tolerance(bf16, 10.0, steps=4) >= rounding.tolerance(bf16, 10.0, steps=4)


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("at", ["fp32", "bf16", "int8", "nf4"])
def test_a_line_of_zeros_is_no_sparsity(name, at, monkeypatch):
    loaded = loaded_checkpoint(name, at)
    trace = capture(loaded, PROMPT)
    assert c04_mlp.sparsity(loaded, trace, 0.05).prove().passed
    for line, zeros in (
        ("near_zero", lambda acts, mark: 0.0 * acts),
        ("carriers", lambda acts, share: 0 * acts[..., 0]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(c04_mlp.sparse.ops, line, zeros)
            assert not c04_mlp.sparsity(loaded, trace, 0.05).prove().passed, line


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("at", ["fp32", "bf16", "int8", "nf4"])
def test_a_ledger_whose_largest_entry_is_cut_by_a_fifth_does_not_hold(name, at, monkeypatch):
    loaded = loaded_checkpoint(name, at)
    trace = capture(loaded, PROMPT)
    best = int(trace.logits[3].argmax())
    assert c11_block.residual_ledger(loaded, trace, 3, best).prove().passed
    book = ledger.ledger(loaded, trace, 3, best)
    amounts = book.amounts.copy()
    amounts[np.abs(amounts).argmax()] *= 0.8
    monkeypatch.setattr(ledger, "ledger", lambda *asked: replace(book, amounts=amounts))
    assert not c11_block.residual_ledger(loaded, trace, 3, best).prove().passed
