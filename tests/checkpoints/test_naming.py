"""What a checkpoint is called: the last part of a path, and nothing else is cut."""

import pytest

from engine.checkpoints.catalogue import CATALOGUE
from engine.checkpoints.naming import short


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("/models/my-llama", "my-llama"),
        ("/models/my-llama/", "my-llama"),
        ("~/models/my-llama", "my-llama"),
        ("./my-llama", "my-llama"),
        ("../models/my-llama//", "my-llama"),
        ("some/models/my-llama", "my-llama"),
        ("C:\\models\\my-llama\\", "my-llama"),
        ("C:/models/my-llama", "my-llama"),
        ("models\\my-llama", "my-llama"),
        ("/models/tiny.Q4_1.gguf", "tiny.Q4_1.gguf"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_a_path_is_called_by_its_last_part(name, called):
    assert short(name) == called


@pytest.mark.parametrize(
    "name",
    [*CATALOGUE, "owner/name", "owner/name@step512", "owner/name/file.gguf", "gpt2", "pocket-llama-sft"],
)
def test_listed_names_and_hub_ids_stay_whole(name):
    assert short(name) == name


def test_a_relative_gguf_file_is_called_by_its_own_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny.gguf").touch()
    assert short("models/tiny.gguf") == "tiny.gguf"


@pytest.mark.parametrize("name", [".", "./", "../here"])
def test_the_folder_one_stands_in_is_called_by_its_name(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert short(name) == "here"
