"""Loading at every precision: what is in memory, what is refused, and that the numbers stay close."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config
from transformers.pytorch_utils import Conv1D

from engine import ReaderError, capture, load
from engine.model.precisions import PRECISIONS
from tests.conftest import BUNDLED, PROMPT, loaded_checkpoint

QUANTIZED = ("int8", "nf4", "fp4")
every = pytest.mark.parametrize("precision", PRECISIONS)
bundled = pytest.mark.parametrize("name", BUNDLED)


def tiny_llama_bytes(precision, scale_bytes):
    """tests.conftest's llama-gqa on paper: d_model 64, 3 layers, 4 heads and 2 kv heads of 16, d_ff 128, tied."""
    embedding, norms = 8192 * 64, (2 * 3 + 1) * 64
    rows = 64 + 32 + 32 + 64 + 128 + 128 + 64  # q, k, v, o, gate, up, down
    linear = 3 * (64 * (64 + 32 + 32 + 64 + 128 + 128) + 128 * 64)
    rotary = 2 * 8 * 4  # inv_freq and its original, float32
    rest = embedding + norms
    if precision == "int8":
        return linear + 3 * rows * 4 + 2 * rest + rotary
    if precision in ("nf4", "fp4"):
        return linear // 2 + linear // 64 * scale_bytes + 3 * 7 * 16 * 4 + 2 * rest + rotary
    return (4 if precision == "fp32" else 2) * (linear + rest) + rotary


@every
def test_bytes_summed_from_tensors_are_those_on_paper(precision, tiny_folder):
    loaded = load(str(tiny_folder("llama-gqa")), precision)
    state = getattr(loaded.part("q_proj", 0).weight, "quant_state", None)
    scale_bytes = state.absmax.element_size() if state is not None else 0
    assert scale_bytes in (0, 2, 4)  # 2 where bitsandbytes lays the weights out for bfloat16 instructions
    assert loaded.nbytes == tiny_llama_bytes(precision, scale_bytes)


@bundled
def test_fewer_bits_take_fewer_bytes(name):
    sizes = {precision: loaded_checkpoint(name, precision).nbytes for precision in PRECISIONS}
    assert sizes["fp32"] > sizes["fp16"] == sizes["bf16"] > sizes["int8"] > sizes["nf4"] == sizes["fp4"]
    assert sizes["nf4"] > sizes["fp32"] / 8  # the embeddings stay at 16 bits


@bundled
@pytest.mark.parametrize("precision", QUANTIZED)
def test_bitsandbytes_executes_the_linear_layers_and_only_those(name, precision):
    loaded = loaded_checkpoint(name, precision)
    kind = "Linear8bitLt" if precision == "int8" else "Linear4bit"
    inside = [m for m in loaded.part("blocks").modules() if isinstance(m, torch.nn.Linear | Conv1D)]
    assert len(inside) == loaded.spec.n_layer * (7 if loaded.spec.gated else 4)
    assert {type(m).__name__ for m in inside} == {kind}
    assert type(loaded.part("unembedding")).__name__ == "Linear"
    assert loaded.part("embedding").weight.dtype == torch.float16


@bundled
@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [
        ("fp16", 0, 1e-3),
        ("bf16", 1e-7, 1e-2),
        ("int8", 1e-7, 2e-2),
        ("nf4", 1e-3, 0.15),
        ("fp4", 1e-3, 0.4),
    ],
)
def test_predictions_stay_close_to_fp32(name, precision, least, most):
    reference, other = (
        torch.tensor(capture(loaded_checkpoint(name, p), PROMPT).logits).log_softmax(-1)
        for p in ("fp32", precision)
    )
    kl = torch.nn.functional.kl_div(other, reference, log_target=True, reduction="none").sum(-1).mean()
    assert least <= float(kl) < most


def test_nf4_and_fp4_are_two_code_books():
    nf4, fp4 = (
        loaded_checkpoint("pocket-gpt2", p).part("up_proj", 0).weight.quant_state.code for p in ("nf4", "fp4")
    )
    assert nf4.shape == fp4.shape == (16,)
    assert len(set(nf4.tolist())) == 16
    assert len(set(fp4.tolist())) == 15  # a float has two zeros


@bundled
def test_threads_share_one_4_bit_model(name):
    loaded = loaded_checkpoint(name, "nf4")
    prompts = [f"{PROMPT} Then number {i} came." for i in range(8)]
    serial = [capture(loaded, prompt).logits for prompt in prompts]
    before = loaded.part("up_proj", 0).weight.data.clone()
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda prompt: capture(loaded, prompt).logits, prompts * 2))
    for ours, theirs in zip(shared, serial * 2, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert torch.equal(loaded.part("up_proj", 0).weight.data, before)


def test_the_first_pass_after_loading_changes_no_weight():
    """What a CPU with bfloat16 instructions repacks, it repacks before the model is handed out."""
    loaded = load("pocket-llama", "fp4")
    before = [(m.weight.data.clone(), m.weight.quant_state.absmax.clone()) for m in layers(loaded)]
    capture(loaded, PROMPT)
    for module, (weight, absmax) in zip(layers(loaded), before, strict=True):
        assert torch.equal(module.weight.data, weight)
        assert torch.equal(module.weight.quant_state.absmax, absmax)


def layers(loaded):
    return [m for m in loaded.part("blocks").modules() if type(m).__name__ == "Linear4bit"]


def saved(folder, config):
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained("engine/assets/pocket-gpt2").save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("precision", ["nf4", "fp4"])
def test_4_bit_refuses_widths_that_are_not_multiples_of_64(precision, tmp_path):
    folder = saved(tmp_path, GPT2Config(n_embd=96, n_layer=1, n_head=2, n_positions=64, vocab_size=8192))
    with pytest.raises(ReaderError, match=r"multiple of 64 .* d_model is 96"):
        load(folder, precision, device="cpu")
    assert load(folder, "fp16").precision == "fp16"


def test_4_bit_is_refused_for_too_few_output_rows(tiny_folder):
    """llama-mqa: one kv head of 16, so k and v have 16 output rows."""
    with pytest.raises(ReaderError, match="multiple of 32"):
        load(str(tiny_folder("llama-mqa")), "nf4")


def test_an_unknown_precision_is_refused():
    with pytest.raises(ReaderError, match="int3"):
        load("pocket-gpt2", "int3")
