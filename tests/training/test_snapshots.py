"""Kept snapshots: what is rounded away is bounded, what is broken is refused, and what was recorded comes out again."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import ReaderError, capture, load
from engine.chapters.c12_training.recordings import FURTHER
from engine.checkpoints.catalogue import locate
from engine.training.data import load_tokenizer
from engine.training.evaluate import draw_sample
from engine.training.held_out import held_out_loss
from engine.training.induction import measure_induction
from engine.training.record_run import passage_windows, snapshot_folders
from engine.training.recording import Recording, load_recording, save_recording
from engine.training.snapshots import (
    FOLDER,
    described,
    ends,
    fingerprint,
    keep,
    load_snapshot,
    main,
    packed,
    quantized,
    snapshots,
    unpacked,
    write_snapshot,
)

NAME = "pocket-llama"
WEIGHTS = Path(locate(NAME)) / "model.safetensors"
ABOUT = {"checkpoint": NAME, "run": "a-run", "step": 7, "tokens": 700, "held_out_loss": 3.5}
KEPT = [kept for folder in sorted(FOLDER.glob("*")) for kept in snapshots(folder.name)]
ids = [f"{kept.path.parent.name}-{kept.step}" for kept in KEPT]

# The largest differences measured on seven snapshots of two runs when this was written: 4.2e-4 nats per token on the
# passage, 9.2e-3 on random tokens, and 6e-4 in a score. A wrong scale, row or layer is off by more than these.
LOSS, RANDOM_LOSS, SCORE = 5e-3, 5e-2, 1e-2


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The bundled checkpoint's own weights as a snapshot."""
    path = tmp_path_factory.mktemp("kept") / "a-run" / "000007.safetensors"
    write_snapshot(WEIGHTS, path, ABOUT)
    return path


def test_no_weight_moves_by_more_than_half_a_step_of_its_row():
    matrix = (
        torch.randn(40, 30, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 2, 40)[:, None]
    )
    matrix[5] = 0
    again = unpacked(packed({"w": matrix}))["w"]
    step = matrix.abs().amax(1, keepdim=True) / 127
    assert bool(((again - matrix).abs() <= step / 2 * (1 + 1e-4)).all())
    assert float((again - matrix).abs().max()) > 0
    assert bool((again[5] == 0).all())


def test_the_largest_weight_of_a_row_is_127_steps():
    codes, scale = quantized(torch.tensor([[0.5, -1.0], [0.0, 254.0]]))
    assert codes.tolist() == [[64, -127], [0, 127]]
    assert scale.tolist() == pytest.approx([1 / 127, 2.0])


def test_vectors_keep_their_fp16_values():
    vector = torch.tensor([1.0, -0.333, 1e-3])
    assert torch.equal(unpacked(packed({"norm": vector}))["norm"], vector.half().float())


def test_written_and_read_back(written):
    kept = described(written)
    assert (kept.checkpoint, kept.step, kept.tokens, kept.loss) == (NAME, 7, 700, 3.5)
    original = load_file(WEIGHTS)
    loaded = load_snapshot(kept)
    for name, parameter in loaded.model.named_parameters():
        step = original[name].float().abs().amax(-1, keepdim=True) / 127
        moved = (parameter - original[name].float()).abs()
        assert bool((moved <= step / 2 * (1 + 1e-3)).all()), name


def test_a_snapshot_is_an_ordinary_loaded_checkpoint_that_shares_nothing(written):
    shared = load(NAME)
    loaded = load_snapshot(described(written))
    trace, theirs = (capture(one, "Once upon a time there was a") for one in (loaded, shared))
    with torch.no_grad():
        logits = loaded.model(torch.tensor([trace.ids])).logits[0].numpy()
    assert np.abs(trace.logits - logits).max() < 1e-4
    assert trace.attention.shape == theirs.attention.shape
    assert 1e-4 < np.abs(trace.logits - theirs.logits).max() < 1, (
        "close to the checkpoint it was rounded from"
    )
    assert (loaded.name, loaded.precision) == (f"{NAME} at step 7", "fp32")
    assert loaded.revision != shared.revision


def spoilt(path: Path, how: str, tmp_path: Path) -> Path:
    raw, target = path.read_bytes(), tmp_path / "spoilt.safetensors"
    tensors, about = load_file(path), {key: str(value) for key, value in ABOUT.items()}
    first = next(name for name in tensors if name.endswith(".scale"))
    if how == "cut":
        target.write_bytes(raw[: len(raw) // 2])
    elif how == "noise":
        target.write_bytes(b"\xff" * 4096)
    elif how == "empty":
        target.write_bytes(b"")
    elif how == "not described":
        save_file(tensors, target)
    elif how == "no number":
        save_file(tensors, target, metadata=about | {"step": "seven"})
    elif how == "loss is not finite":
        save_file(tensors, target, metadata=about | {"held_out_loss": "nan"})
    elif how == "not finite":
        save_file(tensors | {first: tensors[first] * math.nan}, target, metadata=about)
    elif how == "scales of another length":
        save_file(tensors | {first: tensors[first][:-1].clone()}, target, metadata=about)
    elif how == "a tensor missing":
        rest = {name: t for name, t in tensors.items() if name not in (first, first.removesuffix(".scale"))}
        save_file(rest, target, metadata=about)
    return target


@pytest.mark.parametrize(
    "how",
    [
        "cut",
        "noise",
        "empty",
        "not there",
        "not described",
        "no number",
        "loss is not finite",
        "not finite",
        "scales of another length",
        "a tensor missing",
    ],
)
def test_a_broken_file_is_refused_in_one_sentence(written, how, tmp_path):
    with pytest.raises(ReaderError) as caught:
        load_snapshot(described(spoilt(written, how, tmp_path)))
    sentence = str(caught.value)
    assert "spoilt.safetensors" in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_a_fingerprint_is_of_names_and_numbers_not_of_metadata(tmp_path):
    def saved(name, tensors, about):
        save_file(tensors, tmp_path / name, metadata=about)
        return fingerprint(tmp_path / name)

    weights = {"a": torch.ones(2, 3), "b": torch.zeros(4)}
    one = saved("one", weights, {"format": "pt"})
    assert saved("same", dict(reversed(weights.items())), {"format": "pt", "more": "x"}) == one
    assert saved("other", weights | {"b": torch.full((4,), 1e-3)}, {"format": "pt"}) != one
    assert saved("renamed", {"a": weights["a"], "c": weights["b"]}, {"format": "pt"}) != one


def test_snapshots_come_by_step_and_a_run_without_any_has_none(tmp_path):
    for step in (30, 4, 200):
        write_snapshot(tiny(tmp_path), tmp_path / "a-run" / f"{step:06d}.safetensors", ABOUT | {"step": step})
    assert [kept.step for kept in snapshots("a-run", tmp_path)] == [4, 30, 200]
    assert snapshots("another", tmp_path) == ()


def tiny(folder: Path, value: float = 1) -> Path:
    path = folder / "model.safetensors"
    save_file({"w": value * torch.eye(3), "b": torch.ones(3)}, path)
    return path


def a_recording() -> Recording:
    return Recording(
        name="a-run",
        command="x",
        date="2025-01-31",
        versions={"torch": "2"},
        hardware="cpu",
        seconds=1.0,
        settings={"arch": "llama", "batch": 2, "shape": {"context": 50}},
        tables={"snapshots": [{"step": 4, "held_out_loss": 2.5}]},
    )


def test_a_run_that_went_on_is_known_by_where_it_began(tmp_path):
    def run(name: str, first: float, last: float) -> Path:
        for where, value in (("snapshots/000000", first), ("snapshots/000004", 0.5), ("final", last)):
            (tmp_path / name / where).mkdir(parents=True)
            tiny(tmp_path / name / where, value)
        return tmp_path / name

    one, two, other = run("one", 1, 2), run("two", 2, 3), run("other", 4, 5)
    (tmp_path / "recordings").mkdir()
    save_recording(a_recording(), tmp_path / "recordings" / "a-run.json")
    arguments = ["--run", str(one), "--steps", "4", "--out", str(tmp_path / "a-run")]
    arguments += ["--recordings", str(tmp_path / "recordings"), "--then"]
    main([*arguments, str(two)])
    (kept,) = snapshots("a-run", tmp_path)
    assert (kept.begun, kept.finished) == ends(one, snapshot_folders(one))
    assert kept.continued == fingerprint(two / "final" / "model.safetensors")
    with pytest.raises(ValueError, match="did not begin"):
        main([*arguments, str(other)])


def test_a_step_that_was_not_recorded_is_not_kept(tmp_path):
    tiny(tmp_path)
    recording = a_recording()
    folders = {4: tmp_path, 5: tmp_path}
    (path,) = keep(folders, [4], tmp_path / "a-run", recording, "abc", "def", "ghi")
    kept = described(path)
    assert (kept.step, kept.tokens, kept.loss, kept.checkpoint) == (4, 400, 2.5, "pocket-llama")
    assert (kept.begun, kept.finished, kept.continued) == ("abc", "def", "ghi")
    for step in (5, 6):
        with pytest.raises(ValueError, match=str(step)):
            keep(folders, [step], tmp_path / "a-run", recording)


def test_at_most_four_are_bundled_and_each_is_small():
    assert 1 <= len(KEPT) <= 4
    assert max(kept.path.stat().st_size for kept in KEPT) < 10.6e6


def compare(model, recording: Recording, step: int, folder: Path, *, factor: float) -> None:
    """Passage loss, both halves of random tokens and every head's scores against the recording; `factor` tightens."""
    (row,) = [row for row in recording.table("snapshots") if row["step"] == step]
    tokenizer = load_tokenizer(folder)
    passage = held_out_loss(model, passage_windows(tokenizer, recording.settings["shape"]["context"]))
    where = {"step": step}
    assert passage.loss == pytest.approx(recording.column("passage", "loss", where)[0], abs=LOSS * factor)
    heads = measure_induction(model)
    assert heads.first_half_loss == pytest.approx(row["first_half_loss"], abs=RANDOM_LOSS * factor)
    assert heads.second_half_loss == pytest.approx(row["second_half_loss"], abs=RANDOM_LOSS * factor)
    for name, scores in (("induction", heads.induction), ("previous_token", heads.previous_token)):
        recorded = recording.column("heads", name, where).reshape(scores.shape)
        assert np.abs(scores.numpy() - recorded).max() < SCORE * factor


@pytest.mark.parametrize("kept", KEPT, ids=ids)
def test_what_was_recorded_of_a_kept_snapshot_comes_out_of_its_file(kept):
    recording = load_recording(kept.path.parent.name)
    (row,) = [row for row in recording.table("snapshots") if row["step"] == kept.step]
    assert kept.loss == row["held_out_loss"]
    folder = Path(locate(kept.checkpoint))
    compare(load_snapshot(kept).model, recording, kept.step, folder, factor=1)


@pytest.mark.parametrize(("checkpoint", "run"), FURTHER.items())
def test_a_bundled_checkpoint_is_what_its_last_recorded_stage_ended_with(checkpoint, run):
    recording = load_recording(run)
    last = int(recording.column("snapshots", "step")[-1])
    assert last == recording.settings["decay_start"] + recording.settings["decay_steps"]
    compare(load(checkpoint).model, recording, last, Path(locate(checkpoint)), factor=0.02)


def test_the_bundled_gpt2_came_of_the_kept_snapshot():
    weights = Path(locate("pocket-gpt2")) / "model.safetensors"
    assert snapshots("induction-gpt2")[-1].continued == fingerprint(weights)


@pytest.mark.parametrize("kept", KEPT[-1:], ids=ids[-1:])
def test_neighbouring_snapshots_are_told_apart_by_these_tolerances(kept):
    recording = load_recording(kept.path.parent.name)
    losses = recording.column("passage", "loss")
    assert np.abs(np.diff(losses)).max() > 10 * LOSS
    assert draw_sample(load_snapshot(kept).model, load_tokenizer(Path(locate(kept.checkpoint))), count=3).text
