"""The head of every Code script loads what the engine loaded."""

import numpy as np
import pytest
import torch

from engine import capture
from engine.evidence.script import preamble
from tests.conftest import BUNDLED, PROMPT, loaded_checkpoint


@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "nf4"])
def test_the_preamble_rebuilds_model_and_prompt(name, precision):
    loaded = loaded_checkpoint(name, precision)
    trace = capture(loaded, PROMPT)
    names = {}
    exec(preamble(loaded, trace.ids), names)
    assert names["tokenizer"].decode(names["ids"][0]) == PROMPT
    with torch.no_grad():
        logits = names["model"](names["ids"]).logits[0].float().numpy()
    np.testing.assert_allclose(logits, trace.logits, rtol=0, atol=1e-4 if precision == "fp32" else 0.05)
