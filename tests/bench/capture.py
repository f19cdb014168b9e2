"""What `capture` costs over a bare `transformers` forward that returns hidden states and attentions.

    python -m tests.bench.capture [repeats]

GPT-2 at its real size, random weights, 64 tokens. The baseline is a second model that never had a hook. The two are
run by turns, and the ratio is taken pair by pair; on a busy machine trust the processor time. Promise: at most 1.15.
"""

import gc
import sys
import tempfile
import time

import torch
from transformers import AutoModelForCausalLM

from engine import capture, load
from tests.bench.common import machine, save_gpt2, show

TOKENS = 64


def main(repeats=40):
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        save_gpt2(folder)
        loaded = load(folder, device="cpu")
        bare = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        ).eval()
    ids = torch.randint(1, 8000, (TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()
    batch = torch.tensor([ids])

    def baseline():
        return bare(input_ids=batch, use_cache=False, output_hidden_states=True, output_attentions=True)

    def ours():
        return capture(loaded, ids)

    for _ in range(3):
        baseline(), ours()
    gc.collect()
    pairs = [_pair(baseline, ours, flip=turn % 2) for turn in range(repeats)]
    print(machine(), f"torch {torch.__version__}, {torch.get_num_threads()} threads", sep=", ")
    for kind, what in enumerate(("elapsed", "processor")):
        times = [(a[kind], b[kind]) for a, b in pairs]
        show(f"{what} time, transformers' forward", [1000 * a for a, _ in times])
        show(f"{what} time, engine.capture", [1000 * b for _, b in times])
        show(f"{what} time, ratio pair by pair", [b / a for a, b in times], "x", "at most 1.15")


def _pair(first, second, flip):
    """(elapsed, processor) seconds of both, in alternating order: neither always runs on the warmer cache."""
    if flip:
        later, earlier = _seconds(second), _seconds(first)
        return earlier, later
    return _seconds(first), _seconds(second)


def _seconds(action):
    elapsed, processor = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - elapsed, time.process_time() - processor


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
