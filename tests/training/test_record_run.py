"""A run's folder becomes a recording: which snapshots are taken, and what the command writes."""

from pathlib import Path

import pytest

from engine.training.architectures import Shape, build
from engine.training.checkpointing import append_log, save_snapshot
from engine.training.plan import Plan, save_plan
from engine.training.record_run import chosen_steps, main, settings_of, snapshot_folders
from engine.training.recording import load_recording
from engine.training.snapshots import main as keep_snapshots
from engine.training.snapshots import snapshots
from engine.training.tokenizer import save_tokenizer, train_tokenizer

TEXT = "once upon a time a fox met a hen and the hen was not at home " * 20
SHAPE = Shape(vocab=300, layers=2, d_model=64, heads=2, kv_heads=1, d_ff=64, context=32)
SESSION = {
    "step": 0, "command": "python -m engine.training.pretrain --arch llama", "date": "2025-01-31",
    "versions": {"torch": "2.13.0"}, "hardware": "2-core CPU",
}  # fmt: skip
UPDATE = {"tokens": 512, "seconds": 1.0, "loss": 5.0, "lr": 1e-3, "grad_norm": 1.0}


def touch(run: Path, *steps: int) -> Path:
    for step in steps:
        folder = run / "snapshots" / f"{step:06d}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
    return run


def test_a_branch_has_its_own_snapshots_and_those_before_it(tmp_path):
    parent = touch(tmp_path / "parent", 0, 100, 200, 300, 400)
    branch = touch(tmp_path / "branch", 300, 350)
    there = snapshot_folders(branch, [parent])
    assert list(there) == [0, 100, 200, 300, 350]
    assert there[300].parents[1] == branch, "the branch's own weights, where both have the step"
    assert there[200].parents[1] == parent


def test_a_snapshot_that_was_cut_short_does_not_count(tmp_path):
    run = touch(tmp_path / "run", 0, 8)
    (run / "snapshots" / "000016").mkdir()
    assert list(snapshot_folders(run)) == [0, 8]


def test_kept_steps_are_among_those_evaluated_and_take_no_extra_place():
    there = list(range(0, 1000, 10))
    steps = chosen_steps(there, None, 8, [330, 340])
    assert {0, 330, 340, 990} <= set(steps)
    assert len(steps) == 8
    assert chosen_steps(there, [20, 10], 8, [990]) == [10, 20, 990]
    with pytest.raises(ValueError, match="15"):
        chosen_steps(there, None, 8, [15])


def test_the_repeats_are_stated_where_they_were_mixed_in():
    assert "repeats" not in settings_of(Plan())
    stated = settings_of(Plan(induction_from=100))["repeats"]
    assert (stated["recur_share"], stated["tile_share"]) == (0.15, 0.20)
    fewer = settings_of(Plan(induction_from=100, recur_share=0.05, tile_share=0.03))["repeats"]
    assert (fewer["recur_share"], fewer["tile_share"]) == (0.05, 0.03)


@pytest.fixture
def run(tmp_path):
    """A corpus, a tokenizer and the folder of a run of two snapshots."""
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    corpus.mkdir()
    for source in ("adventure", "children"):
        (corpus / f"{source}.txt").write_text(TEXT, encoding="utf-8")
    (corpus / "held_out.txt").write_text("x" * 20_000 + TEXT, encoding="utf-8")
    save_tokenizer(train_tokenizer([TEXT], 300), tmp_path / "tokenizer", 32)
    run.mkdir()
    save_plan(run / "run.json", Plan(shape=SHAPE, induction_from=0))
    append_log(run / "log.jsonl", SESSION)
    for step in (0, 8):
        save_snapshot(build("llama", SHAPE, seed=step), run / "snapshots" / f"{step:06d}")
        append_log(run / "log.jsonl", {"step": step, **UPDATE})
    return run


def arguments(run: Path, *more: str) -> list[str]:
    folder = run.parent
    return [
        "--run", str(run), "--name", "a-run", "--corpus", str(folder / "corpus"), "--tokenizer",
        str(folder / "tokenizer"), "--cache", str(folder / "cache"), "--out", str(folder / "a-run.json"), *more,
    ]  # fmt: skip


def test_the_command_writes_a_recording_and_a_snapshot_that_name_each_other(run, tmp_path):
    main(arguments(run))
    recording = load_recording("a-run", tmp_path)
    assert recording.column("snapshots", "step").tolist() == [0, 8]
    assert recording.column("passage", "step").tolist() == [0, 8]
    assert [row["name"] for row in recording.table("references")] == ["uniform", "unigram", "bigram"]
    assert recording.command == SESSION["command"]
    keep_snapshots(
        [
            "--run",
            str(run),
            "--steps",
            "8",
            "--out",
            str(tmp_path / "kept" / "a-run"),
            "--recordings",
            str(tmp_path),
        ]
    )
    (kept,) = snapshots("a-run", tmp_path / "kept")
    assert (kept.step, kept.tokens) == (8, 8 * 16 * 32)
    assert kept.loss == recording.column("snapshots", "held_out_loss", {"step": 8})[0]


def test_a_log_without_its_command_is_refused(run):
    (run / "log.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="command"):
        main(arguments(run))
