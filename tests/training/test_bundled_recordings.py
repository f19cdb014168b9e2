"""What every recording of a training run and of grokking must hold, and that its tables agree with each other."""

import math

import numpy as np
import pytest

from engine.training.grokking import first_step
from engine.training.recording import load_recording, recording_names

RUNS = [name for name in recording_names() if name.startswith(("pretrain-", "induction-", "further-"))]
COLUMNS = {
    "train": {"step", "tokens", "seconds", "loss", "lr", "grad_norm"},
    "measured": {"step", "tokens", "held_out_loss", "bits_per_character", "induction_score", "previous_token_score",
                 "first_half_loss", "second_half_loss"},
    "snapshots": {"step", "held_out_loss", "perplexity", "bits_per_character", "first_half_loss", "second_half_loss"},
    "heads": {"step", "layer", "head", "induction", "previous_token"},
    "samples": {"step", "prompt", "seed", "temperature", "text"},
    "candidates": {"step", "prompt", "rank", "token", "probability"},
    "passage": {"step", "loss", "bits_per_character"},
    "sessions": {"step", "date", "command"},
    "references": {"name", "loss", "bits_per_character"},
}  # fmt: skip

each_run = pytest.mark.parametrize("name", RUNS)


def test_the_runs_that_the_chapter_tells_are_there():
    assert {"pretrain-llama", "induction-gpt2", "further-gpt2", "further-llama"} <= set(RUNS)


@each_run
def test_a_run_has_every_table_with_its_columns(name):
    recording = load_recording(name)
    assert {table: set(recording.table(table)[0]) for table in COLUMNS} == COLUMNS
    assert {"batch", "shape", "mix", "induction_from", "decay_start", "decay_steps"} <= set(
        recording.settings
    )
    assert ("repeats" in recording.settings) == (recording.settings["induction_from"] is not None)


@each_run
def test_steps_rise_and_every_table_of_snapshots_has_the_same_ones(name):
    recording = load_recording(name)
    for table in ("train", "measured", "snapshots"):
        assert (np.diff(recording.column(table, "step")) > 0).all(), table
    steps = set(recording.column("snapshots", "step"))
    assert 4 <= len(steps) <= 20
    for table in ("heads", "samples", "candidates", "passage"):
        assert set(recording.column(table, "step")) == steps, table
    per_step = recording.settings["batch"] * recording.settings["shape"]["context"]
    for table in ("train", "measured"):
        assert (recording.column(table, "tokens") == per_step * recording.column(table, "step")).all()


@each_run
def test_every_head_of_every_snapshot_has_scores_between_0_and_1(name):
    recording = load_recording(name)
    shape, steps = recording.settings["shape"], len(recording.table("snapshots"))
    rows = recording.table("heads")
    assert len({(row["step"], row["layer"], row["head"]) for row in rows}) == len(rows)
    assert len(rows) == steps * shape["layers"] * shape["heads"]
    for column in ("induction", "previous_token"):
        values = recording.column("heads", column)
        assert 0 <= values.min() <= values.max() <= 1


@each_run
def test_the_log_and_the_snapshots_measured_the_same(name):
    """The log measured the fp32 weights, the recording their fp16 copy."""
    recording = load_recording(name)
    measured = {row["step"]: row for row in recording.table("measured")}
    both = [row for row in recording.table("snapshots") if row["step"] in measured]
    assert len(both) >= 3
    for row in both:
        logged = measured[row["step"]]
        best = recording.column("heads", "induction", {"step": row["step"]}).max()
        assert best == pytest.approx(logged["induction_score"], abs=5e-3)
        assert row["second_half_loss"] == pytest.approx(logged["second_half_loss"], abs=5e-2)
        if logged["held_out_loss"] is not None:
            assert row["held_out_loss"] == pytest.approx(logged["held_out_loss"], abs=5e-3)


@each_run
def test_units_agree(name):
    recording = load_recording(name)
    rows = recording.table("snapshots")
    assert [row["perplexity"] for row in rows] == pytest.approx(
        [math.exp(row["held_out_loss"]) for row in rows], rel=1e-4
    )
    ratio = [row["bits_per_character"] / row["held_out_loss"] for row in rows]
    ratio += [row["bits_per_character"] / row["loss"] for row in recording.table("references")]
    assert ratio == pytest.approx([ratio[0]] * len(ratio), rel=1e-4), (
        "one text, one number of characters per token"
    )


@each_run
def test_counting_more_costs_less_and_training_beats_counting(name):
    recording = load_recording(name)
    cost = {row["name"]: row["loss"] for row in recording.table("references")}
    assert cost["uniform"] == pytest.approx(math.log(recording.settings["shape"]["vocab"]), rel=1e-5)
    assert cost["bigram"] < cost["unigram"] < cost["uniform"]
    assert recording.column("snapshots", "held_out_loss")[-1] < cost["bigram"]


@each_run
def test_candidates_are_ranked_by_probability(name):
    rows = load_recording(name).table("candidates")
    groups: dict[tuple[object, object], list[float]] = {}
    for row in rows:
        groups.setdefault((row["step"], row["prompt"]), []).append(row["probability"])
    for values in groups.values():
        assert values == sorted(values, reverse=True)
        assert 0 <= min(values) <= max(values) <= sum(values) <= 1 + 1e-5


def test_grokking_rows_are_in_range_and_its_summary_follows_from_them():
    recording = load_recording("grokking")
    seeds = [int(seed) for seed in recording.column("summary", "seed")]
    assert seeds == recording.settings["seeds"]
    last = recording.settings["steps"]
    for seed in seeds:
        rows = [dict(row) for row in recording.table("runs") if row["seed"] == seed]
        assert rows[0]["step"] == 0
        assert rows[-1]["step"] == last
        accuracies = [row[f"{part}_accuracy"] for row in rows for part in ("train", "validation")]
        assert 0 <= min(accuracies) <= max(accuracies) <= 1
        assert min(row["weight_norm"] for row in rows) > 0
        (summary,) = [row for row in recording.table("summary") if row["seed"] == seed]
        assert summary["train_perfect_step"] == first_step(rows, "train_accuracy", 1.0)
        assert summary["validation_99_step"] == first_step(rows, "validation_accuracy", 0.99)


def test_grokking_is_late_where_it_comes_at_all():
    rows = load_recording("grokking").table("summary")
    came = [row for row in rows if row["validation_99_step"] is not None]
    assert came
    assert all(row["validation_99_step"] > 5 * row["train_perfect_step"] for row in came)


def test_the_summary_of_the_family_follows_from_its_runs():
    recording = load_recording("scaling")
    plan, rows = recording.settings, recording.table("summary")
    pairs = {(row["width"], row["text"]) for row in rows}
    assert pairs == {(width, text) for width in plan["widths"] for text in plan["texts"]}
    for row in rows:
        which = {"width": row["width"], "text": row["text"]}
        steps, losses = (recording.column("runs", name, which) for name in ("step", "held_out"))
        assert (np.diff(steps) > 0).all()
        assert row["lowest"] == losses.min()
        assert row["at_step"] == steps[losses.argmin()]
        assert row["steps"] == steps[-1] <= plan["steps"]
        width, layers = row["width"], plan["layers"]
        assert row["parameters"] == layers * (12 * width**2 + 13 * width) + 2 * width
        assert losses[0] == pytest.approx(math.log(256), abs=0.5), "nothing is known before training"
    assert len(rows) == len(pairs)


def test_the_family_learns_more_with_more_text():
    recording = load_recording("scaling")
    for width in recording.settings["widths"]:
        rows = sorted(
            (row for row in recording.table("summary") if row["width"] == width), key=lambda row: row["text"]
        )
        assert rows[-1]["lowest"] < rows[0]["lowest"]


def test_size_helps_more_where_there_is_more_text():
    """What the beat is called."""
    recording = load_recording("scaling")
    widths, texts = recording.settings["widths"], recording.settings["texts"]
    gains = []
    for text in (texts[0], texts[-1]):
        small, large = (
            recording.column("summary", "lowest", {"width": width, "text": text})[0]
            for width in (widths[0], widths[-1])
        )
        gains.append(small - large)
    assert gains[1] > 0.1 + max(0.0, gains[0])
