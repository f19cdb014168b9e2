"""A kept snapshot as the start of another run, and what is noted of that run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine import load
from engine.checkpoints.catalogue import locate
from engine.training.restore import main, restored
from engine.training.snapshots import described, fingerprint, load_snapshot, write_snapshot

NAME = "pocket-llama"
ABOUT = {
    "checkpoint": NAME,
    "run": "a-run",
    "step": 7,
    "tokens": 700,
    "held_out_loss": 3.5,
    "finished": "abc",
}


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "000007.safetensors"
    write_snapshot(Path(locate(NAME)) / "model.safetensors", path, ABOUT)
    return path


@pytest.fixture
def folder(kept, tmp_path):
    main(["--snapshot", str(kept), "--out", str(tmp_path / "start")])
    return tmp_path / "start"


def a_run(tmp_path: Path, start: Path, scale: float = 1) -> Path:
    """The --out of a finished run that began with `scale` times the weights of `start`."""
    weights = load_file(start / "model.safetensors")
    for where, factor in (("snapshots/000000", scale), ("final", 2)):
        (tmp_path / "run" / where).mkdir(parents=True)
        save_file(
            {name: w * factor for name, w in weights.items()}, tmp_path / "run" / where / "model.safetensors"
        )
    return tmp_path / "run"


def test_a_restored_folder_is_an_ordinary_checkpoint_with_the_snapshots_weights(kept, folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    theirs = dict(load_snapshot(described(kept)).model.named_parameters())
    own = dict(model.named_parameters())
    assert own.keys() == theirs.keys()
    for name, parameter in own.items():
        assert torch.equal(parameter, theirs[name].half().float()), name
    text = "Once upon a time"
    assert AutoTokenizer.from_pretrained(folder)(text).input_ids == load(NAME).tokenizer(text).input_ids


def test_a_run_that_began_with_the_snapshot_is_noted_and_nothing_else_changes(kept, folder, tmp_path):
    before, run = load_file(kept), a_run(tmp_path, folder)
    main(["--snapshot", str(kept), "--then", str(run)])
    noted, after = described(kept), load_file(kept)
    assert noted.continued == fingerprint(run / "final" / "model.safetensors")
    assert (noted.step, noted.tokens, noted.loss, noted.finished) == (7, 700, 3.5, "abc")
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert after.keys() == before.keys()


def test_a_run_after_the_one_noted_takes_its_place(kept, folder, tmp_path):
    first = a_run(tmp_path / "first", folder)
    second = a_run(tmp_path / "second", first / "final")
    with pytest.raises(ValueError, match="did not begin"):
        main(["--snapshot", str(kept), "--then", str(second)])
    for run in (first, second):
        main(["--snapshot", str(kept), "--then", str(run)])
    assert described(kept).continued == fingerprint(second / "final" / "model.safetensors")


def test_a_run_that_began_elsewhere_or_is_not_finished_is_refused(kept, folder, tmp_path):
    run = a_run(tmp_path, folder, scale=1.5)
    with pytest.raises(ValueError, match="did not begin"):
        main(["--snapshot", str(kept), "--then", str(run)])
    (run / "final" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="not finished"):
        main(["--snapshot", str(kept), "--then", str(run)])
    assert described(kept).continued == ""


def test_the_weights_are_those_of_the_file_in_fp16(kept):
    original = load_file(Path(locate(NAME)) / "model.safetensors")
    for name, weight in restored(kept).items():
        assert weight.dtype == torch.float16
        was = original[name].float()
        half_a_step = was.abs().amax(-1, keepdim=True) / 127 / 2
        moved, rounding = (weight.float() - was).abs(), 2**-11 * weight.float().abs()
        assert bool((moved <= 1.01 * (half_a_step + rounding)).all()), name
