"""Quantization: arithmetic against torch and paper, weights against what bitsandbytes executes."""

import contextlib
import copy
import importlib
import io
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from engine import ReaderError, capture, tokenize
from engine.chapters import c15_quantization as cards
from engine.chapters.c15_quantization import clock, large, passage, simulate, weights, writing
from engine.chapters.c15_quantization.formats import BITS, _already, _bits, _super, rounded
from engine.chapters.c15_quantization.number import _origin, _title
from engine.chapters.c15_quantization.pair import Pair
from engine.evidence.oracles import bits, blockwise, by_hand, ggml, llm_int8, storage
from engine.model.precisions import PRECISIONS, precision
from engine.ops import quantization as ops
from engine.ops import timing
from engine.tokens.passages import control_prompts
from engine.tokens.passages import passage as held_out
from tests.conftest import BUNDLED, SMOLLM2, loaded_checkpoint, needs_smollm2
from tests.pages.mutations import mutations
from tests.pages.test_every_page import differences

disk = importlib.import_module("engine.chapters.c15_quantization.disk")  # its card has the same name
PROMPT = "The king and the queen lived in a castle. The king"
bundled = pytest.mark.parametrize("name", BUNDLED)


def ids(loaded, text=PROMPT):
    return tuple(token.id for token in tokenize(loaded, text))


def at(name, precision="fp32"):
    """The way to a checkpoint at a precision, as cards take it."""
    return partial(loaded_checkpoint, name, precision)


def pair_of(name, reference="fp16", other="nf4", text=PROMPT):
    return Pair(at(name, reference), at(name, other), ids(loaded_checkpoint(name, reference), text))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Distributions


def test_flips_total_variation_and_parting_on_paper():
    assert ops.flips([[1, 2], [3, 0]], [[2, 1], [9, 8]]).tolist() == [True, False]
    assert ops.total_variation([0.5, 0.5, 0.0], [0.2, 0.5, 0.3]) == pytest.approx(0.3)
    assert ops.parting([1, 2, 3], [1, 5, 3]) == 1
    assert ops.parting([1, 2], [1, 2]) is None
    assert ops.parting([1, 2], [1, 2, 3]) == 2


def test_drift_is_torchs_norm_and_cosine():
    a, b = normal(2, 3, 16), normal(2, 3, 16, seed=1)
    x, y = torch.tensor(a).double(), torch.tensor(b).double()
    np.testing.assert_allclose(ops.relative_l2(a, b), (y - x).norm(dim=-1) / x.norm(dim=-1), atol=1e-12)
    np.testing.assert_allclose(ops.cosine(a, b), F.cosine_similarity(x, y, dim=-1), atol=1e-12)


# Blocks of weights


def test_each_byte_holds_two_indices_the_high_half_first():
    assert ops.unpack([0x1F, 0xA0]).tolist() == [1, 15, 10, 0]


def test_a_rounded_block_is_absmax_times_the_nearest_level():
    levels = torch.tensor([-1.0, 0.25, 1.0], dtype=torch.float64)
    weights = torch.tensor([-2.0, 0.4, 1.9, 1.0, -8.0], dtype=torch.float64)
    assert blockwise.rounded(weights, levels, 3).tolist() == [-2.0, 0.5, 2.0, 2.0, -8.0]


def test_nearest_level_is_found_in_an_unsorted_code_book():
    code = np.array([0.0, 0.7, -1.0, 0.3, 1.0])
    values = normal(200)
    asked = torch.zeros(200, dtype=torch.long)
    found = blockwise.nearest(torch.tensor(values).double(), torch.tensor(code), asked)
    assert found.tolist() == np.abs(values[:, None] - code).argmin(1).tolist()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("size", [32, 64])
def test_round_to_nearest_is_torchs_fake_quantize(bits, size):
    w = normal(8, 64)
    most = 2 ** (bits - 1) - 1
    rows = torch.tensor(w).view(-1, size)
    step = rows.abs().amax(1) / most
    zero = torch.zeros(len(rows), dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(rows, step, zero, 0, -most, most).view(8, 64)
    rounded = ops.round_to_nearest(w, bits, size)
    np.testing.assert_allclose(rounded.values, expected, atol=1e-6)
    assert len(set(rounded.index.tolist())) == 2 * most + 1 if bits < 8 else rounded.index.max() == most


def test_rounding_keeps_shape_a_short_last_block_and_a_block_of_zeros():
    w = np.concatenate([np.zeros(32), [1.0, -0.5, 0.1]]).reshape(5, 7)
    rounded = ops.round_to_nearest(w, 3, 32)
    assert rounded.values.shape == (5, 7)
    assert rounded.values.ravel()[:32].tolist() == [0.0] * 32
    np.testing.assert_allclose(
        rounded.values.ravel()[32:], [1.0, -2 / 3, 0.0]
    )  # −1.5 steps: half to even is −2


@pytest.mark.parametrize("bits", [1, 9])
def test_rounding_refuses_other_numbers_of_bits(bits):
    with pytest.raises(ValueError, match="bits"):
        ops.round_to_nearest([1.0], bits, 32)


def test_peakiness_and_relative_error_on_paper():
    assert ops.peakiness([3.0, 4.0, 0.0, 0.0, 1.0, 1.0], 2).tolist() == pytest.approx(
        [4 / 12.5**0.5, 0.0, 1.0]
    )
    assert ops.relative_error([3.0, 4.0], [3.0, 5.0]) == pytest.approx(0.2)
    assert ops.relative_error([0.0], [0.0]) == 0


# What bitsandbytes makes of real weights


@bundled
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_tile_is_what_the_executed_model_holds(name, kind):
    """The executed layers' bytes, taken back from the layout of this CPU where they have been laid out anew."""
    plain, executed = loaded_checkpoint(name, "fp16"), loaded_checkpoint(name, kind)
    for part in cards.matrices(plain):
        module = executed.part(part, 2)
        packed = weights.quantize(weights.weight(plain, part, 2), kind, 64)
        assert ops.unpack(stored_bytes(module)).tolist() == packed.index.tolist(), part
        np.testing.assert_array_equal(module.weight.quant_state.code.numpy(), packed.code)


def stored_bytes(module):
    from bitsandbytes import functional

    state = module.weight.quant_state
    if not getattr(state, "packing_format_for_cpu", False):
        return module.weight.data.numpy()
    return functional._convert_weight_packed_for_cpu_inverse(module.weight.data.clone(), copy.copy(state))[
        0
    ].numpy()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("size", weights.SIZES)
def test_bitsandbytes_is_the_nearest_level_times_absmax_at_every_block_size(kind, size):
    """320 inputs are no whole number of blocks of 128: blocks run on into the next row."""
    w = normal(30, 320)
    packed = weights.quantize(w, kind, size)
    levels = blockwise.code_book(kind)
    hand = blockwise.rounded(torch.tensor(w).double(), levels, size, torch.tensor(packed.values))
    np.testing.assert_allclose(packed.values, hand, atol=2e-6)
    assert ops.relative_error(w, packed.values) < 0.25


@bundled
def test_weights_are_read_with_a_row_for_each_output(name):
    loaded = loaded_checkpoint(name)
    x = torch.tensor(normal(3, loaded.spec.d_ff))
    module = loaded.part("down_proj", 1)
    ours = x @ torch.tensor(weights.weight(loaded, "down_proj", 1)).T
    ours = ours if module.bias is None else ours + module.bias
    torch.testing.assert_close(ours, module(x), atol=1e-4, rtol=0)


def test_quantized_weights_are_not_taken_for_plain_ones():
    for at in ("int8", "nf4"):
        with pytest.raises(ReaderError, match="quantized already"):
            weights.weight(loaded_checkpoint("pocket-gpt2", at), "o_proj", 0)


@bundled
@pytest.mark.parametrize("size", [32, 256])
def test_the_outlier_is_the_block_that_stands_out_most(name, size):
    chosen = cards.Matrix(at(name, "fp16"), "down_proj", 0, "nf4")
    found = cards.outlier(chosen, size)
    rows = chosen.values.reshape(-1, size)
    stands = np.abs(rows).max(1) / np.sqrt((rows.astype(np.float64) ** 2).mean(1))
    assert found.shown["block"] == stands.argmax()
    worse, better = (
        np.linalg.norm(found.shown[name] - found.shown["weights"]) for name in ("with", "without")
    )
    assert worse > better
    assert found.prove().passed


@pytest.mark.slow
@bundled
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_cards_on_blocks_prove_themselves_and_their_scripts_run_with_both_code_books(name, kind):
    """At the matrix's last rows and columns too, and in the longest blocks."""
    half = loaded_checkpoint(name, "fp16")
    down, across = cards.steps(half, "down_proj", 1)
    where = cards.Where(at(name, "fp16"), "down_proj", 1, kind, 16 * (down - 1), 64 * (across - 1))
    chosen = cards.Matrix(at(name, "fp16"), "down_proj", 1, kind)
    for card in (
        cards.tile(where),
        cards.code_book(where),
        cards.outlier(chosen, 4096),
        cards.block_sizes(chosen, 64),
    ):
        assert card.prove().passed, card.key
        assert differences(executed(card.code), card.numbers, card.atol) == [], card.key


def test_an_index_that_is_not_nearest_is_put_right():
    levels = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    scaled = torch.tensor([0.2, 0.25, 0.25, -0.9])
    assert blockwise.nearest(scaled, levels, torch.tensor([2, 1, 2, 1])).tolist() == [1, 1, 2, 0]


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_published_levels_are_those_of_bitsandbytes(kind):
    from bitsandbytes.functional import get_4bit_type

    torch.testing.assert_close(
        blockwise.code_book(kind), get_4bit_type(kind, device="cpu").double(), atol=2e-7, rtol=0
    )


@bundled
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_the_bits_of_a_weight_prove_themselves_and_no_altered_ones(name, kind):
    plain = loaded_checkpoint(name)
    for place in (0, 63, cards.middle(plain, "down_proj", 1)):
        card = cards.number(cards.Weight(at(name), "down_proj", 1, kind, place))
        answer = card.oracle.compute()
        fixed = replace(card.oracle, compute=lambda answer=answer: answer)
        assert fixed.judge(card.shown).passed, card.prove()
        survived = [what for what, altered in mutations(card.shown, fixed) if fixed.judge(altered).passed]
        assert survived == []
        assert differences(executed(card.code), card.numbers, card.atol) == []


def test_a_row_that_was_stored_in_16_bits_is_said_to_be():
    plain = torch.tensor(normal(64))
    assert _origin(plain.numpy()) == ""
    assert "stored as fp16" in _origin(plain.half().float().numpy())
    assert "stored as bf16" in _origin(plain.bfloat16().float().numpy())


def test_a_title_tells_what_is_exact_from_what_is_off():
    said = _title(0.5, ["fp32", "bf16", "fp16", "int8", "nf4"], np.array([0, 0, 0, 0.001, 0.05]))
    assert said == "The weight 0.5 is exact in bf16 and fp16, and is off by 0.10% in int8, 5.00% in nf4"


def test_bits_on_paper():
    """1.5 = (1 + 1/2) · 2⁰: the exponent is stored with 127 added to it, or 15 at fp16."""
    assert bits.pattern(torch.tensor(-1.5)) == [1, 0, *[1] * 7, 1, *[0] * 22]
    assert bits.pattern(torch.tensor(1.5).half()) == [0, 0, *[1] * 4, 1, *[0] * 9]
    assert bits._whole(-3, 8) == [1, 1, 1, 1, 1, 1, 0, 1]


# Bytes


def test_published_dimensions_give_the_published_numbers_of_parameters():
    totals = {model.name: large.published_counts(model).total for model in large.LARGE}
    assert totals == {"Llama-3.1-8B": 8_030_261_248, "Llama-3.1-70B": 70_553_706_496}


def test_weight_bytes_on_paper():
    counts = ops.Counts(linear=640, rows=10, matrices=2, embeddings=100, other=20)
    found = {name: ops.weight_bytes(counts, precision(name).storage) for name in PRECISIONS}
    four = 320 + 40 + 128 + 240
    assert found == {"fp32": 3040, "bf16": 1520, "fp16": 1520, "int8": 920, "nf4": four, "fp4": four}


@bundled
@pytest.mark.parametrize("at", PRECISIONS)
def test_bytes_by_kind_sum_to_the_bytes_in_memory_and_to_the_formula(name, at):
    loaded = loaded_checkpoint(name, at)
    kinds = cards.inventory(loaded)
    assert sum(kinds.values()) == loaded.nbytes
    buffers = sum(b.nbytes for b in loaded.model.buffers())
    assert storage.in_memory(loaded) == ops.weight_bytes(large.counts(loaded), precision(at).storage)
    assert storage.in_memory(loaded) >= loaded.nbytes - buffers  # scales of 16 bits are counted as 32
    assert kinds["linear layers"] == large.counts(loaded).linear * precision(at).storage.linear
    assert (kinds["their scales and code books"] > 0) == precision(at).quantized


# Two precisions side by side


@bundled
@pytest.mark.parametrize(("reference", "other"), [("fp32", "int8"), ("bf16", "fp4"), ("nf4", "nf4")])
def test_comparisons_prove_themselves_at_other_precisions(name, reference, other):
    both = pair_of(name, reference, other)
    shown = [
        cards.next_token(both, 3),
        cards.kl(both),
        *(cards.drift(both, m) for m in cards.DRIFTS),
        cards.size(both),
    ]
    for card in shown:
        assert card.prove().passed, card.key
    if reference == other:
        assert (
            max(shown[1].numbers["kl"]) == shown[0].numbers["moved"] == np.max(shown[2].numbers["drift"]) == 0
        )


@pytest.mark.slow
@bundled
@pytest.mark.parametrize("reference", ["fp16", "fp32"])
@pytest.mark.parametrize("other", ["nf4", "fp4", "bf16"])
def test_a_comparison_with_other_weights_than_named_is_no_proof(name, reference, other):
    """As if bitsandbytes, or the cast, had made something else of the checkpoint: what both passes then agree on."""
    if (reference, other) == ("fp16", "bf16"):
        pytest.skip("bf16 is not made of fp16")
    both = pair_of(name, reference, other)
    named = {"nf4": "fp4", "fp4": "nf4", "bf16": "fp16"}[other]
    false = replace(
        both.other, precision=named, half=both.other.half, revision="of this test"
    )  # kept apart in caches
    wrong = replace(both, second=lambda: false)
    if other == "bf16":  # dtype follows from the name
        assert wrong.other.dtype != both.other.dtype
    for card in (
        cards.next_token,
        lambda pair, _: cards.kl(pair),
        lambda pair, _: cards.drift(pair, "cosine"),
    ):
        assert card(both, 3).prove().passed
        assert "by hand" in card(both, 3).oracle.claim
        assert not card(wrong, 3).prove().passed


@pytest.mark.parametrize(
    "name", [*BUNDLED, pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, needs_smollm2])]
)
@pytest.mark.parametrize("other", ["nf4", "bf16"])
def test_the_tokens_drawn_gain_most_and_lose_most_of_the_whole_vocabulary(name, other):
    both = pair_of(name, "fp32", other)
    p, q = (torch.tensor(trace.logits[4]).double().softmax(-1) for trace in both.traces)
    card, change = cards.next_token(both, 4), q - p
    order = change.argsort(descending=True)
    np.testing.assert_allclose(
        card.shown["change"], torch.cat([change[order[:6]], change[order[-6:]]]), atol=1e-6
    )
    assert card.shown["moved"] == pytest.approx(float(change.clamp(min=0).sum()), abs=1e-6)
    first, last = (both.named(int(order[i])) for i in (0, -1))
    assert card.title.endswith(f"most of all to “{first}” and away from “{last}”")
    kept = "is the first choice of both" in card.note
    assert kept is (int(p.argmax()) == int(q.argmax()))


def test_two_like_precisions_move_nothing():
    card = cards.next_token(pair_of("pocket-llama", "nf4", "nf4"), 4)
    assert card.title == "From nf4 to nf4 again, 0.00% of the probability moved"
    assert len(set(card.shown["tokens"])) == 12


def test_int8_and_pairs_without_floats_are_compared_with_a_second_pass_alone():
    assert "by hand" not in cards.kl(pair_of("pocket-gpt2", "fp16", "int8")).oracle.claim
    assert "by hand" not in cards.kl(pair_of("pocket-gpt2", "nf4", "nf4")).oracle.claim
    assert "rounded to nf4 by hand" in cards.kl(pair_of("pocket-gpt2", "nf4", "fp16")).oracle.claim


def test_what_a_copy_made_by_hand_does_not_bear_out_is_replaced_by_what_it_shows():
    found, hand = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.8, 0.9, 0.1])
    kept = by_hand.witnessed({"a": found}, {"a": hand}, {"a": found})
    assert kept["a"].tolist() == pytest.approx([1.0, 0.9, 0.0])


@bundled
def test_a_copy_is_made_of_floats_and_leaves_them_alone(name):
    base, side = loaded_checkpoint(name, "fp32"), loaded_checkpoint(name, "nf4")
    before = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    assert by_hand.logits(side, (base, side), ids(base)).shape == (len(ids(base)), base.spec.vocab)
    assert all(torch.equal(tensor, before[key]) for key, tensor in base.model.state_dict().items())
    assert next(base.model.parameters()).dtype == torch.float32


@bundled
def test_kl_between_precisions_is_in_the_known_order(name):
    def mean(other):
        return float(np.mean(cards.kl(pair_of(name, "fp32", other)).numbers["kl"]))

    assert mean("fp16") < mean("bf16") < mean("nf4") < mean("fp4")


@pytest.mark.parametrize("text", ["a", "😀", "word " * 127])
def test_short_odd_and_long_prompts(text):
    both = pair_of("pocket-llama", "fp32", "nf4", text)
    both = replace(both, ids=both.ids[:128])
    for card in (cards.next_token(both, 0), cards.kl(both), cards.drift(both, "cosine")):
        assert card.figure is not None


def test_logits_that_are_not_numbers(monkeypatch):
    both = pair_of("pocket-gpt2")
    a, b = both.traces
    broken = b.logits.copy()
    broken[4] = np.nan
    monkeypatch.setattr(Pair, "traces", (a, replace(b, logits=broken)))
    with pytest.raises(ReaderError, match="not finite"):
        cards.next_token(both, 4)
    card = cards.kl(both)
    assert np.isnan(card.numbers["kl"]).tolist() == [i == 4 for i in range(len(both.ids))]


# Text


def finish(both, choices):
    return list(cards.write(both, choices))[-1]


@bundled
@pytest.mark.parametrize("choices", [cards.Choices(8), cards.Choices(8, 0.9, seed=3)])
def test_both_texts_are_those_that_transformers_writes(name, choices):
    both = pair_of(name, "fp32", "fp4")
    done = finish(both, choices)
    card = cards.text(both, done, choices)
    assert card.prove().passed
    result = executed(card.code)
    assert (result["text, reference"], result["text, other"]) == (list(done.first), list(done.second))
    assert differences(result, card.numbers, card.atol) == []
    assert cards.written(both, choices) is done


def executed(code):
    names = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, names)
    return names["result"]


def test_one_precision_never_parts_from_itself():
    choices = cards.Choices(6, 1.2, seed=1)
    assert finish(pair_of("pocket-gpt2", "fp32", "fp32"), choices).parted is None


def test_the_deciding_step_is_the_one_at_which_the_texts_part():
    done = parted()[1]
    assert done.step == done.parted
    assert done.logits.argmax(-1).tolist() == [done.first[done.step], done.second[done.step]]


def parted():
    """A pair, and two greedy texts of it that part after some tokens alike."""
    for prompt in control_prompts():
        both = pair_of("pocket-gpt2", "fp32", "fp4", prompt)
        done = finish(both, cards.Choices(24))
        if done.parted:
            return both, done
    raise AssertionError("fp4 wrote what fp32 wrote, whatever the prompt")


def test_segments_join_to_the_texts():
    both, done = parted()
    assert cards.segments(both, done)[0][1]
    first, second = cards.segments(both, done)
    assert first[:2] == second[:2]
    decode = both.reference.tokenizer.decode
    assert "".join(first) == decode([*both.ids, *done.first])
    assert "".join(second) == decode([*both.ids, *done.second])


# Passage


def test_windows_do_not_overlap_and_leave_out_a_lonely_token():
    loaded, size = loaded_checkpoint("pocket-gpt2"), passage.WINDOW
    ids = tuple(token.id for token in tokenize(loaded, "a b" * size))
    lonely = loaded.tokenizer.decode(ids[: size + 1])
    assert passage.cut(loaded, lonely) == (ids[:size],)
    assert passage.cut(loaded, loaded.tokenizer.decode(ids[: size + 2])) == (ids[:size], ids[size : size + 2])


def test_perplexity_is_exp_of_transformers_loss():
    both = pair_of("pocket-gpt2", "fp32", "nf4", "Once upon a time there was a king who had a daughter. " * 4)
    reading = cards.read(both, [both.ids[i : i + 16] for i in range(0, len(both.ids), 16)])
    for side, ours in zip((both.reference, both.other), reading.perplexities, strict=True):
        losses, counts = [], []
        for window in reading.windows:
            given = torch.tensor([window])
            losses.append(float(side.model(input_ids=given, labels=given).loss) * (len(window) - 1))
            counts.append(len(window) - 1)
        assert ours == pytest.approx(np.exp(sum(losses) / sum(counts)), rel=1e-5)
    assert reading.reference.size == sum(counts)


@pytest.mark.slow
@bundled
def test_a_perplexity_says_whether_it_stands_out_from_its_error(name):
    both = pair_of(name)
    windows = cards.cut(both.reference, held_out())
    first, whole = (cards.perplexity(both, cards.read(both, some)) for some in (windows[:1], windows))
    for card in (first, whole):
        change = torch.tensor(card.shown["change"])
        assert card.shown["standard error"] == pytest.approx(float(change.std() / len(change) ** 0.5))
        few = abs(float(change.mean())) < 2 * card.shown["standard error"]
        assert ("too few to tell them apart" in card.title) is few
        assert card.prove().passed
    assert whole.shown["standard error"] < first.shown["standard error"]
    assert "too few" not in whole.title, "the whole passage tells nf4 from 16 bits"


def test_the_title_of_two_texts_names_what_the_reference_gave_both_tokens():
    both, done = parted()
    p = torch.tensor(done.logits[0]).softmax(-1)
    mine, theirs = (float(p[text[done.step]]) for text in (done.first, done.second))
    assert f"gave them {mine:.0%} and {theirs:.0%}" in cards.text(both, done, cards.Choices(24)).title
    drawn = cards.text(both, done, cards.Choices(24, 0.8)).title
    assert "gave them" not in drawn


@pytest.mark.parametrize(("kind", "levels"), [("nf4", 16), ("fp4", 15)])
def test_levels_that_are_the_same_number_count_once(kind, levels):
    where = cards.Where(at("pocket-gpt2", "fp16"), "o_proj", 0, kind)
    assert cards.code_book(where).title.startswith(f"The {levels} levels of {kind}")


@pytest.mark.exhaustive
@pytest.mark.slow
@bundled
def test_an_overview_proves_itself_and_no_altered_one(name):
    def get(at):
        return loaded_checkpoint(name, at)

    windows = cards.cut(get("fp32"), held_out())[:2]
    found = cards.points(get, PRECISIONS, windows)
    card = cards.overview(get, found, windows)
    answer = card.oracle.compute()
    fixed = replace(card.oracle, compute=lambda: answer)
    assert fixed.judge(card.shown).passed, fixed.judge(card.shown)
    assert [what for what, altered in mutations(card.shown, fixed) if fixed.judge(altered).passed] == []
    assert differences(executed(card.code), card.numbers, card.atol) == []
    assert card.table["bytes"][0] > card.table["bytes"][-1]
    assert card.table[f"standard error against {card.table['precision'][0]}"][0] == 0


# Formats


@pytest.mark.parametrize("name", BITS)
def test_a_format_rounds_as_torch_does_it_by_hand(name):
    values = np.concatenate([normal(7, 320), np.zeros((1, 320), np.float32)])
    ours, theirs = rounded(name, values), ggml.rounded(name, torch.tensor(values)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert _bits(name) == BITS[name]


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_weights_that_a_format_has_rounded_before_are_said_to_be(kind):
    plain = normal(8, 320)
    once = rounded(kind, plain)
    errors = [{name: ops.relative_error(w, rounded(name, w)) for name in BITS} for w in (plain, once)]
    assert _already(errors[0]) == ""
    assert f"rounded as {kind} when" in _already(errors[1])
    assert ("and Q4_K, which has the same blocks" in _already(errors[1])) == (kind == "Q4_1")


@pytest.mark.smollm2
@needs_smollm2
def test_the_formats_of_a_checkpoint_from_a_gguf_file_prove_themselves():
    card = cards.one_matrix(cards.Matrix(at(SMOLLM2), "q_proj", 0, "nf4"))
    assert card.prove().passed, card.prove()
    assert "rounded as Q4_1" in card.note
    assert "which was Q4_1 before" in card.title
    assert differences(executed(card.code), card.numbers, card.atol) == []


def test_a_super_block_is_144_bytes_that_gguf_reads_back():
    """Block i steps by 1 + i from −(1 + i), so scales and minima take all sizes, the upper bits of 6 too."""
    from gguf import GGMLQuantizationType, quants

    steps = np.arange(32) % 16
    values = np.concatenate([(9 * i + 0.0) * (steps - 1.0) for i in range(8)])  # 63 units at most: all exact
    packed = ops.q4_k(values)
    assert packed.shape == (1, 144)
    assert quants.dequantize(packed, GGMLQuantizationType.Q4_K)[0].tolist() == values.tolist()
    assert ggml.with_six_bit_scales(torch.tensor(values)[None])[0].tolist() == values.tolist()


def test_tiny_floats_on_paper():
    """The largest, 7, is beyond 6 times its power of two, 1; half-way goes to the smaller."""
    row = torch.tensor([[7.0, -5.5, 2.4, -0.3, 0.25, *[0.0] * 27]])
    assert ggml.tiny_floats(row)[0, :5].tolist() == [6.0, -6.0, 2.0, -0.5, 0.0]
    assert ggml.tiny_floats(row / 8)[0, 0] == 0.75


def test_rows_that_are_no_whole_number_of_super_blocks_are_said_to_run_on():
    assert "Rows of 320 and 896 weights" in _super([320, 512, 896])
    assert "Rows of" not in _super([512, 256])


def test_blocks_of_gguf_on_paper():
    """Q4_0: the largest magnitude, 8, is −8 steps of −1; Q4_1: 15 steps of 1 from −7 to 8."""
    row = torch.tensor([[8.0, -7.0, 0.4, 0.6, *[0.0] * 28]])
    assert ggml.signed(row, 4)[0, :4].tolist() == [8.0, -7.0, 0.0, 1.0]
    assert ggml.with_minimum(row)[0, :4].tolist() == [8.0, -7.0, 0.0, 1.0]
    assert ggml.eight(torch.tensor([[127.0, -1.5, 0.4, *[0.0] * 29]]))[0, :3].tolist() == [127.0, -2.0, 0.0]


@pytest.mark.slow
@bundled
def test_formats_prove_themselves_and_no_altered_ones(name):
    plain = loaded_checkpoint(name)
    tried = cards.try_all(plain, ids(plain))
    kls = {one.name: one.kl for one in tried}
    assert kls["Q8_0"] < kls["Q5_0"] < kls["Q4_1"] < kls["fp4"]
    for card in (
        cards.formats(at(name), ids(plain), tried),
        cards.one_matrix(cards.Matrix(at(name), "down_proj", 2, "nf4")),
    ):
        answer = card.oracle.compute()
        fixed = replace(card.oracle, compute=lambda answer=answer: answer)
        assert fixed.judge(card.shown).passed, fixed.judge(card.shown)
        assert [what for what, altered in mutations(card.shown, fixed) if fixed.judge(altered).passed] == []
        assert differences(executed(card.code), card.numbers, card.atol) == []


# Blocks on disk


@bundled
@pytest.mark.parametrize("kind", cards.KINDS)
def test_a_block_laid_out_here_proves_itself_and_no_altered_one(name, kind):
    card = cards.disk(cards.Place(at(name), "down_proj", 1, row=3, number=2, kind=kind))
    assert f"Laid out as {kind} for this page, not read from a file" in card.title
    answer = card.oracle.compute()
    fixed = replace(card.oracle, compute=lambda: answer)
    assert fixed.judge(card.shown).passed, fixed.judge(card.shown)
    assert [what for what, altered in mutations(card.shown, fixed) if fixed.judge(altered).passed] == []
    assert differences(executed(card.code), card.numbers, card.atol) == []


def test_bytes_of_blocks_on_paper():
    """1.0 is 3c00 in 16 bits, the low byte first; the low half of a byte is the weight that comes first."""
    head = bytes([0x00, 0x3C])
    assert disk.decode("Q4_0", head + bytes([0xF0] * 16)).weights.tolist() == [-8.0] * 16 + [7.0] * 16
    found = disk.decode("Q4_1", head + bytes([0x00, 0xC0]) + bytes([0x21] * 16))  # the minimum is −2
    assert found.weights.tolist() == [-1.0] * 16 + [0.0] * 16
    assert disk.decode("Q8_0", head + bytes([0xFF, 0x7F] * 16)).weights.tolist() == [-1.0, 127.0] * 16


def test_a_row_opens_on_the_block_whose_numbers_differ_most():
    place = cards.Place(at("pocket-llama"), "o_proj", 0)
    counts = [
        len(set(cards.disk(replace(place, number=number)).shown["whole numbers"].tolist()))
        for number in range(place.shape[1])
    ]
    assert counts[cards.fullest(place)] == max(counts)


@pytest.mark.smollm2
@needs_smollm2
def test_a_block_of_the_published_file_is_what_its_bytes_say():
    loaded = loaded_checkpoint(SMOLLM2)
    file, _ = cards.in_file(loaded, 0)
    card = cards.disk(cards.Place(at(SMOLLM2), "embedding", 0, row=100, number=7, file=file))
    assert card.title.startswith("34 bytes of the file stand for 32 weights, 8.5 bits each")
    assert card.prove().passed
    for found in (card, cards.types(file)):
        assert differences(executed(found.code), found.numbers, found.atol) == []
        assert str(file.path.parent) not in found.code


# Simulation


@bundled
def test_a_simulation_leaves_the_shared_model_alone(name):
    loaded = loaded_checkpoint(name)
    before = {key: tensor.clone() for key, tensor in loaded.model.state_dict().items()}
    coarse, fine = (simulate.simulate(loaded, ids(loaded), bits, 64) for bits in (2, 8))
    assert all(torch.equal(tensor, before[key]) for key, tensor in loaded.model.state_dict().items())
    assert coarse.error > 0.2 > 0.01 > fine.error
    assert coarse.kl.mean() > 100 * fine.kl.mean() > 0


@bundled
def test_more_bits_lose_less(name):
    loaded = loaded_checkpoint(name)
    runs = cards.sweep(loaded, ids(loaded), 128, lambda share, what: None)
    assert all(a.error > b.error for a, b in pairwise(runs))
    card = cards.curve(pair_of(name, "fp32"), runs)
    assert card.prove().passed
    assert differences(executed(card.code), card.numbers, card.atol) == []


@bundled
def test_no_altered_curve_and_no_altered_drawn_text_proves_itself(name):
    """Pages show them once a button is pressed."""
    both = pair_of(name, "fp32", "nf4")
    runs = cards.sweep(both.reference, both.ids, 64, lambda share, what: None)
    choices = cards.Choices(8, 0.9, seed=3)
    for card in (
        cards.curve(both, runs),
        cards.text(both, finish(both, choices), choices),
    ):
        answers = card.oracle.compute()
        fixed = replace(card.oracle, compute=lambda answers=answers: answers)
        assert fixed.judge(card.shown).passed, card.key
        survived = [what for what, altered in mutations(card.shown, fixed) if fixed.judge(altered).passed]
        assert survived == [], card.key


# Time


def test_the_two_precisions_take_turns(monkeypatch):
    order = []
    monkeypatch.setattr(
        "engine.chapters.c15_quantization.clock.returned_logits",
        lambda loaded, ids: order.append((loaded, len(ids))),
    )
    both = pair_of("pocket-gpt2")
    few, many = cards.measure(both, rounds=3)
    turns = [[(side, n) for side in both.sides] * 4 for n in (1, clock.MANY)]  # the first turn warms up
    assert order == turns[0] + turns[1]
    assert [len(t.milliseconds) for turn in (few, many) for t in turn.both] == [3] * 4


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((1, 1.1, 1.2), (2, 2.2, 2.4), "2 times as long"),
        ((2, 2.2, 2.4), (1, 1.1, 1.2), "0.5 times as long"),
        ((1, 2, 3), (2, 2.2, 2.4), "about as long"),
    ],
)
def test_times_that_overlap_are_about_as_long(first, second, said):
    turns = clock.Turns((1,), timing.Timing(first), timing.Timing(second))
    assert clock._compared(turns) == said


def test_what_was_written_is_bounded_by_bytes():
    assert writing._kept.nbytes <= writing._kept.limit


# LLM.int8


def entering(name, layer=None):
    rounded = loaded_checkpoint(name, "int8")
    trace = capture(rounded, PROMPT)
    found = cards.most(rounded, trace)[0] if layer is None else layer
    return cards.Entering(at(name, "int8"), at(name, "fp16"), trace, found)


def test_a_product_in_eight_bits_on_paper():
    inputs = torch.tensor([[127.0, -12.6], [1.0, 0.0]], dtype=torch.float64)
    weight = torch.tensor([[127.0, 0.0], [0.0, 254.0]], dtype=torch.float64)
    exact = inputs @ weight.T
    together = llm_int8.product(inputs, weight, float("inf"))
    assert together.tolist() == [[127.0 * 127, -13 * 254.0], [127.0, 0.0]], "−12.6 of 127 steps become −13"
    apart = llm_int8.product(inputs, weight, 100.0)
    assert torch.allclose(apart, exact), (
        "with the large column apart, −12.6 is the largest of its row, and exact"
    )


@bundled
def test_large_columns_apart_make_the_output_more_exact(name):
    given = entering(name)
    columns, decomposed = cards.outlier_columns(given), cards.decomposed(given)
    assert len(columns.shown["apart"]) == cards.most(given.loaded, given.trace)[1] > 0
    apart, together = (np.mean(values) for values in decomposed.shown.values())
    assert apart < together
    for card in (columns, decomposed):
        assert card.oracle.judge(card.shown).passed
        left = {}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(card.code, left)
        for key, values in left["result"].items():
            np.testing.assert_allclose(np.asarray(values, float), card.shown[key], rtol=1e-6, atol=1e-9)


def test_a_layer_without_large_columns_says_so():
    given = entering("pocket-gpt2", 1)
    assert cards.outlier_columns(given).title.startswith("None of 1,280 inputs reaches 6 in layer 1")
    card = cards.decomposed(given)
    apart, together = card.shown.values()
    assert np.array_equal(apart, together)
    assert card.title.startswith("Nothing is taken apart")
