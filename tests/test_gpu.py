"""The engine on a CUDA device: `pytest -m gpu`."""

import numpy as np
import pytest
import torch

from engine import capture, load
from engine.model.generation import generate
from tests.conftest import BUNDLED, PROMPT, loaded_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-2), ("fp16", 0.1), ("bf16", 0.6)])
def test_a_capture_on_the_gpu_is_the_capture_on_the_cpu(name, precision, atol):
    """A GPU adds in another order, and its exponentials differ in the last bits."""
    ours, theirs = load(name, precision, device="cuda"), loaded_checkpoint(name)
    assert ours.device == "cuda"
    trace, reference = capture(ours, PROMPT), capture(theirs, PROMPT)
    np.testing.assert_allclose(trace.logits, reference.logits, rtol=0, atol=atol)
    np.testing.assert_allclose(trace.attention.sum(-1), 1, rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("precision", ["int8", "nf4", "fp4"])
def test_bitsandbytes_on_the_gpu_stays_near_fp32(name, precision):
    ours, theirs = load(name, precision, device="cuda"), loaded_checkpoint(name)
    p = torch.tensor(capture(theirs, PROMPT).logits).log_softmax(-1)
    q = torch.tensor(capture(ours, PROMPT).logits).log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).mean()
    assert 0 < kl < 0.3
    assert ours.nbytes < theirs.nbytes / 2


def test_generation_on_the_gpu_writes_what_the_cpu_writes():
    ours, theirs = load("pocket-llama", device="cuda"), loaded_checkpoint("pocket-llama")
    ids = capture(theirs, PROMPT).ids
    assert [s.id for s in generate(ours, ids, 8)] == [s.id for s in generate(theirs, ids, 8)]
