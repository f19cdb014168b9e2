"""What does not fit is refused before it is read, with the bytes it needs and the bytes that are free."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine import ReaderError
from engine.checkpoints import memory
from engine.model.precisions import precision

BASE = memory.needed([], 4, 4)


def needed(files, name):
    """What loading them at a precision takes."""
    at = precision(name)
    return memory.needed(files, at.peak, at.storage.other)


@pytest.fixture
def stored(tmp_path):
    """A file with 1 000 embedding numbers, 600 of a linear layer and 20 of its bias."""
    tensors = {
        "model.embed_tokens.weight": torch.zeros(50, 20, dtype=torch.bfloat16),
        "model.layers.0.mlp.up_proj.weight": torch.zeros(20, 30, dtype=torch.bfloat16),
        "model.layers.0.mlp.up_proj.bias": torch.zeros(20, dtype=torch.bfloat16),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize(
    ("at", "count"),
    [
        ("fp32", 1620 * 4),
        ("bf16", 1620 * 2),
        ("int8", 1020 * 2 + 600 * 3),
        ("nf4", 1020 * 2 + 600),
    ],
)
def test_the_bytes_needed_follow_the_precision_and_not_the_file(stored, at, count):
    assert needed([stored], at) - BASE == count


def test_all_files_of_a_checkpoint_count(stored):
    assert needed([stored, stored], "fp32") - BASE == 2 * 1620 * 4


@pytest.mark.parametrize("entry", ['{"data_offsets":[0,0]}', '{"data_offsets":[0,0],"shape":["x",null]}'])
def test_a_header_without_a_sound_shape_is_no_error_here(tmp_path, entry):
    header = ('{"t":' + entry + "}").encode()
    (tmp_path / "odd.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert needed([tmp_path / "odd.safetensors"], "nf4") == BASE


@pytest.mark.slow
@pytest.mark.parametrize("at", ["fp32", "fp16", "int8", "nf4"])
def test_loading_takes_no_more_than_was_foretold(at):
    script = (
        "import sys, threading, time, psutil\n"
        "from engine import load\n"
        "from engine.checkpoints import memory\n"
        "from engine.model.precisions import precision\n"
        "load('pocket-gpt2', sys.argv[1])\n"  # once, for what libraries take when they are first used
        "process, most, over = psutil.Process(), [0], threading.Event()\n"
        "before = process.memory_info().rss\n"
        "def watch():\n"
        "    while not over.wait(0.001): most[0] = max(most[0], process.memory_info().rss)\n"
        "thread = threading.Thread(target=watch); thread.start()\n"
        "load('pocket-llama', sys.argv[1]); over.set(); thread.join()\n"
        "at = precision(sys.argv[1])\n"
        "foretold = memory.needed(memory.files('pocket-llama'), at.peak, at.storage.other)\n"
        "print(most[0] - before, foretold)\n"
    )
    command = [sys.executable, "-c", script, at]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    taken, foretold = map(int, told.split())
    assert 0 < taken <= foretold


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda on: 700_000_000)
    with pytest.raises(
        ReaderError, match=r"^“big” at fp32 needs 2\.5 GB of memory, and 700 MB are free on this machine\.$"
    ):
        memory.check("big", 2_500_000_000, "fp32", "cpu")


def test_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(memory, "free", lambda on: 0)
    with pytest.raises(memory.NoRoom, match="free on the GPU"):
        memory.check("big", 1, "fp16", "cuda")


@pytest.mark.parametrize("free", [100, None])
def test_what_fits_or_cannot_be_told_passes(monkeypatch, free):
    monkeypatch.setattr(memory, "free", lambda on: free)
    memory.check("small", 100, "fp32", "cpu")


def test_the_files_of_a_tuned_checkpoint_are_those_of_its_base():
    assert memory.files("pocket-llama-sft") == memory.files("pocket-llama") != []


def test_a_checkpoint_that_is_not_here_has_no_files():
    assert memory.files("someone/never-published") == []


def group(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / f"memory.{name}").write_text(f"{value}\n")


@pytest.fixture
def control_groups(tmp_path, monkeypatch):
    """A function that says what /proc/self/cgroup reads, for control groups below a folder."""

    def at(line):
        (tmp_path / "cgroup").write_text(line + "\n")
        found = memory.control_groups(tmp_path / "cgroup", tmp_path)
        monkeypatch.setattr(memory, "control_groups", lambda *given: found)
        monkeypatch.setattr(memory, "_available", lambda: 9_000)
        return memory.free("cpu")

    return at


def test_the_tightest_group_above_the_process_counts(tmp_path, control_groups):
    group(tmp_path / "pod", max=1_000, current=400, stat="anon 1\ninactive_file 50")
    group(tmp_path / "pod/app", max="max", current=300, stat="inactive_file 20")
    assert control_groups("0::/pod/app") == 650


def test_version_one_of_control_groups_counts_too(tmp_path, control_groups):
    group(tmp_path / "memory/app", limit_in_bytes=2_000, usage_in_bytes=500, stat="total_inactive_file 100")
    assert control_groups("4:memory:/app") == 1_600


def test_in_a_container_the_root_is_its_own_group(tmp_path, control_groups):
    group(tmp_path, max=3_000, current=1_000, stat="")
    assert control_groups("0::/docker/not-here") == 2_000


def test_without_a_limit_the_system_decides(tmp_path, control_groups):
    group(tmp_path, max="max", current=400, stat="")
    assert control_groups("0::/") == 9_000


def test_no_control_groups_at_all_are_no_error(tmp_path):
    assert memory.control_groups(tmp_path / "missing", Path("/sys/fs/cgroup")) == []


def test_this_machine_has_some_memory_free():
    assert memory.free("cpu") > 0
