"""Many readers on one loaded model: no capture sees another one's forward pass."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine import capture
from engine.model import interventions as iv
from tests.conftest import BUNDLED, SMOLLM2, loaded_checkpoint, needs_smollm2

CAPTURES, THREADS = 600, 8
WORDS = "the king and queen walked into a dark wood where an old wolf was asleep".split()
MIX = (
    (),
    (iv.AblateHeads(((0, 0), (2, 3))),),
    (),
    (iv.NoCausalMask(), iv.SkipMlp(1)),
    (iv.ZeroPositions(),),
    (iv.ClampNeuron(1, 7, 4.0), iv.KeepTopNeurons(20, layers=(0,))),
)


def job(number):
    """Prompt and interventions number `number`: every prompt is different, of 4 to 11 words."""
    words = [WORDS[(number + i * (1 + number % 5)) % len(WORDS)] for i in range(3 + number % 8)]
    return f"{' '.join(words)} {number}", MIX[number % len(MIX)]


def fingerprint(trace):
    return trace.logits, trace.attention, trace.hidden, trace.mlp_act, trace.q


@pytest.mark.slow
def test_600_captures_from_8_threads_equal_their_serial_twins(tiny_model):
    loaded = tiny_model("gpt2")
    jobs = [job(number) for number in range(CAPTURES)]
    assert len({prompt for prompt, _ in jobs}) == CAPTURES
    serial = [fingerprint(capture(loaded, *each)) for each in jobs]
    with ThreadPoolExecutor(THREADS) as pool:
        threaded = list(pool.map(lambda each: fingerprint(capture(loaded, *each)), jobs))
    for found, twin in zip(threaded, serial, strict=True):
        for ours, alone in zip(found, twin, strict=True):
            np.testing.assert_allclose(ours, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", [*BUNDLED, pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, needs_smollm2])]
)
def test_captures_of_a_checkpoint_from_threads_equal_their_serial_twins(name):
    loaded = loaded_checkpoint(name)
    jobs = [job(number) for number in range(48 if name in BUNDLED else 24)]
    serial = {each: capture(loaded, *each).logits for each in set(jobs)}
    with ThreadPoolExecutor(THREADS) as pool:
        threaded = list(pool.map(lambda each: capture(loaded, *each).logits, jobs))
    for each, found in zip(jobs, threaded, strict=True):
        np.testing.assert_allclose(found, serial[each], rtol=0, atol=1e-4)
