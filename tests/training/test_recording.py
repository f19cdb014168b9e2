"""Recordings: what is written is read back, and what is not one is refused with a reason."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from engine.training.recording import (
    FOLDER,
    Recording,
    command_line,
    hardware_class,
    load_recording,
    provenance,
    recording_names,
    save_recording,
)

GOOD = {
    "name": "a-run",
    "command": "python -m engine.training.pretrain",
    "date": "2025-01-31",
    "versions": {"torch": "2.13.0"},
    "hardware": "2-core x86-64 CPU",
    "seconds": 1.5,
    "settings": {"lr": 0.002, "shape": {"layers": 6}},
    "tables": {"train": [{"step": 0, "loss": 9.0, "note": None}, {"step": 1, "loss": 8.5, "note": "x"}]},
}


def test_written_and_read_back(tmp_path):
    recording = Recording(**GOOD)
    save_recording(recording, tmp_path / "a-run.json")
    assert load_recording("a-run", tmp_path) == recording
    assert recording_names(tmp_path) == ["a-run"]


def test_a_column_is_numbers_with_nan_for_none_and_can_be_filtered():
    rows = [{"seed": 0, "x": 1.0}, {"seed": 1, "x": None}, {"seed": 0, "x": 3}]
    recording = Recording(**{**GOOD, "tables": {"t": rows}})
    assert recording.column("t", "x", where={"seed": 0}).tolist() == [1, 3]
    assert math.isnan(recording.column("t", "x")[1])


def test_a_recording_cannot_be_changed():
    recording = Recording(**GOOD)
    with pytest.raises(TypeError):
        recording.table("train")[0]["loss"] = 0
    with pytest.raises(TypeError):
        recording.tables["train"] = ()


def test_a_missing_table_is_answered_with_those_there_are():
    with pytest.raises(KeyError, match="train"):
        Recording(**GOOD).table("loss")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "../etc"}, "name"),
        ({"command": " "}, "command"),
        ({"hardware": ""}, "hardware"),
        ({"date": "31.1.2025"}, "date"),
        ({"versions": {}}, "versions"),
        ({"seconds": math.nan}, "seconds"),
        ({"tables": {"t": []}}, "empty"),
        ({"tables": {"t": [{"a": 1}, {"b": 1}]}}, "other columns"),
        ({"tables": {"t": [{"a": math.inf}]}}, "finite"),
        ({"tables": {"t": [{"a": [1]}]}}, "neither number nor text"),
    ],
)
def test_what_is_not_a_recording_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        Recording(**{**GOOD, **change})


def write(folder: Path, value: object) -> None:
    (folder / "a-run.json").write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value.pop("schema"),
        lambda value: value.update(schema=99),
        lambda value: value.pop("date"),
        lambda value: value.update(surprise=1),
        lambda value: value["tables"]["train"]["loss"].pop(),
        lambda value: value.update(tables=[1]),
        lambda value: value.update(name="another"),
    ],
)
def test_a_spoilt_file_is_refused_by_name(tmp_path, spoil):
    save_recording(Recording(**GOOD), tmp_path / "a-run.json")
    value = json.loads((tmp_path / "a-run.json").read_text())
    spoil(value)
    write(tmp_path, value)
    with pytest.raises(ValueError, match=r"a-run\.json is not a valid recording"):
        load_recording("a-run", tmp_path)


@pytest.mark.parametrize("name", ["none", "../a-run", "a-run.json", ""])
def test_an_unknown_name_is_answered_with_those_there_are(tmp_path, name):
    save_recording(Recording(**GOOD), tmp_path / "a-run.json")
    with pytest.raises(FileNotFoundError, match="a-run"):
        load_recording(name, tmp_path)


@pytest.mark.parametrize("name", recording_names())
def test_bundled_recordings_are_valid_small_and_tell_no_machines_layout(name):
    recording = load_recording(name)
    sessions = recording.table("sessions") if "sessions" in recording.tables else ()
    commands = [recording.command, *(row["command"] for row in sessions)]
    assert recording.name == name
    assert (FOLDER / f"{name}.json").stat().st_size < 1_000_000
    assert not [word for command in commands for word in command.split() if word.startswith(("/", "~"))]


def test_provenance_fills_a_recording():
    fields = provenance("python -m engine.training.x", seconds=2.0)
    recording = Recording(name="x", **fields)
    assert recording.versions["torch"]
    assert "core" in recording.hardware
    assert hardware_class("NVIDIA H100") == "NVIDIA H100"


def test_command_keeps_last_names_of_folders_only(tmp_path):
    out = tmp_path / "deep" / "runs"
    got = command_line("engine.training.x", ["--out", str(out), "--lr", "0.1"], (out, None))
    assert got == "python -m engine.training.x --out runs --lr 0.1"


def test_reading_needs_neither_torch_nor_transformers():
    code = (
        "import sys, engine.training.recording; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
