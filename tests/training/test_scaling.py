"""The family of chapter 12, tiny: sizes, texts, and when a run ends."""

import math

import pytest
import torch

from engine.training import scaling
from engine.training.recording import load_recording
from engine.training.scaling import (
    ScalingConfig,
    held_out,
    make,
    measure,
    out_of_patience,
    parameters,
    rate_at,
)

TINY = ScalingConfig(
    widths=(16, 32), texts=(4_000, 8_000), context=16, batch=4, steps=6, measure_every=2, held_out_windows=8
)
BOOK = "Once there was a king who had a garden, and in the garden stood a tree. "


def test_parameters_are_those_of_the_shape():
    width, layers, context = 32, 2, 16
    inside, embeddings = parameters(make(TINY, width, torch.Generator().manual_seed(0)))
    block = 12 * width**2 + 13 * width  # GPT-2: four matrices with biases, two norms
    assert inside == layers * block + 2 * width
    assert embeddings == (256 + context) * width


def test_a_text_comes_from_all_over_the_books():
    books = [letter * 30_000 for letter in "abcd"]
    text = scaling.spread_text(books, 16_000)
    assert text.shape == (16_000,)
    assert len(set(text.tolist()) & {ord(letter) for letter in "abcd"}) == 4
    with pytest.raises(ValueError, match="fewer than"):
        scaling.spread_text(books, 200_000)


def test_held_out_windows_are_evenly_spaced():
    windows = held_out(["".join(chr(97 + i) * 16 for i in range(21))], 16, 5)
    assert [chr(row[0]) for row in windows.tolist()] == ["a", "f", "k", "p", "u"]


def test_the_loss_is_the_mean_over_all_bytes_but_the_first_of_a_window():
    model = make(TINY, 16, torch.Generator().manual_seed(0))
    windows = torch.randint(0, 256, (70, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(windows).logits[:, :-1]
    mine = -logits.log_softmax(-1).gather(-1, windows[:, 1:, None]).mean()
    assert measure(model, windows) == pytest.approx(float(mine), abs=1e-5)
    assert measure(model, windows) == pytest.approx(math.log(256), abs=0.3), "untrained"


def test_the_rate_rises_and_falls():
    config = ScalingConfig(steps=1_000, warm_up=50, lr=1.0)
    assert rate_at(config, 1) == pytest.approx(0.02)
    assert rate_at(config, 1_000) == pytest.approx(0.001)
    assert max(rate_at(config, step) for step in range(1, 1_001)) <= 1


def test_a_run_ends_when_nothing_better_has_come_for_a_while():
    assert not out_of_patience([3, 2, 2.1, 2.2], 3)
    assert out_of_patience([3, 2, 2.1, 2.2, 2.0], 3)


def test_the_whole_recording(tmp_path):
    for name in ("children", "adventure", "held_out"):
        (tmp_path / f"{name}.txt").write_text(BOOK * 1_200, encoding="utf-8")
    command = ["--corpus", str(tmp_path), "--out", str(tmp_path / "scaling.json"), "--steps", "2"]
    scaling.main([*command, "--widths", "16", "--texts", "4000", "8000"])
    made = load_recording("scaling", tmp_path)
    assert (
        made.command
        == f"python -m engine.training.scaling --corpus {tmp_path.name} --out scaling.json "
        + ("--steps 2 --widths 16 --texts 4000 8000")
    )
    assert made.column("summary", "text").tolist() == [4000, 8000]
    for row in made.table("summary"):
        mine = made.column("runs", "held_out", {"text": row["text"]})
        assert row["lowest"] == min(mine)
        assert len(mine) == 2
    again = scaling.scaling_recording(
        ScalingConfig(widths=(16,), texts=(4_000,), steps=2), tmp_path, "again", verbose=False
    )
    assert again.table("summary")[0]["lowest"] == pytest.approx(made.table("summary")[0]["lowest"], rel=1e-5)
