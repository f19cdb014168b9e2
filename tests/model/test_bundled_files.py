"""A bundled file that is missing, empty, cut short or overwritten is one sentence where it is read."""

import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engine import ReaderError, load
from engine.checkpoints import catalogue
from engine.tokens import ASSETS, encodings, passages

CHECKPOINTS = [
    (checkpoint.name, file.name)
    for checkpoint in (*catalogue.BUNDLED, catalogue.TUNED[0])
    for file in sorted(Path(checkpoint.location).iterdir())
    if file.suffix != ".md"
]
DAMAGES = {
    "missing": lambda path, raw: path.unlink(),
    "empty": lambda path, raw: path.write_bytes(b""),
    "cut": lambda path, raw: path.write_bytes(raw[: len(raw) * 2 // 3]),
    "garbage": lambda path, raw: path.write_bytes(random.Random(0).randbytes(len(raw))),
}


def damaged(path, how):
    """Damage a copy that may be a link to the real file."""
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(raw)
    DAMAGES[how](path, raw)


def sentence(action):
    with pytest.raises(ReaderError) as caught:
        action()
    said = str(caught.value)
    assert "\n" not in said
    assert str(ASSETS) not in said
    return said


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize(("name", "file"), CHECKPOINTS)
def test_a_damaged_checkpoint_is_refused(name, file, how, tmp_path, monkeypatch):
    known = catalogue.entry(name)
    copy = shutil.copytree(known.location, tmp_path / name, copy_function=os.symlink)
    damaged(copy / file, how)
    monkeypatch.setitem(catalogue._NAMED, name, replace(known, location=str(copy)))
    sentence(lambda: load(name))


READERS = {
    "texts/passage.txt": passages.passage,
    "texts/sample.txt": passages.sample,
    "texts/control_prompts.json": passages.control_prompts,
    "texts/sentences.json": passages.sentences,
}


@pytest.mark.parametrize("how", ["missing", "empty", "garbage", "cut"])
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_text_is_refused(name, how, tmp_path, monkeypatch):
    if how == "cut" and name.endswith(".txt"):
        pytest.skip("the beginning of a tale is a tale")
    shutil.copytree(ASSETS / "texts", tmp_path / "texts")
    damaged(tmp_path / name, how)
    monkeypatch.setattr(passages, "_FOLDER", tmp_path / "texts")
    sentence(READERS[name].__wrapped__)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", encodings.ENCODINGS[:1])
def test_a_damaged_rank_file_is_refused(name, how, tmp_path, monkeypatch):
    shutil.copytree(ASSETS / "tokenizers", tmp_path / "tokenizers")
    damaged(tmp_path / "tokenizers" / f"{name}.tiktoken", how)
    monkeypatch.setattr(encodings, "ASSETS", tmp_path)
    sentence(lambda: encodings.definition.__wrapped__(name))


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["grokking", "pretrain-llama", "post-training"])
def test_a_damaged_recording_is_refused(name, how, tmp_path, monkeypatch):
    from engine.evidence import recorded
    from engine.training import recording

    shutil.copytree(ASSETS / "recordings", tmp_path / "recordings")
    damaged(tmp_path / "recordings" / f"{name}.json", how)
    read = recording.load_recording
    monkeypatch.setattr(recorded, "load_recording", lambda name: read(name, tmp_path / "recordings"))
    reader = recorded.recording
    sentence(lambda: getattr(reader, "__wrapped__", reader)(name))
