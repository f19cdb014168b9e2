"""A local folder is checked before its weights are read."""

import json
import shutil

import pytest

from engine import ReaderError, load
from engine.checkpoints.catalogue import known
from engine.checkpoints.hub import check_folder

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A private copy of a good folder, called “mine”."""
    return shutil.copytree(tiny_folder("gpt2"), tmp_path / "mine")


def refusal(folder):
    with pytest.raises(ReaderError) as caught:
        check_folder(folder)
    return str(caught.value)


def not_loaded(folder):
    with pytest.raises(ReaderError) as caught:
        load(str(folder))
    return str(caught.value)


def edit(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_good_folder_passes_and_loads(folder):
    check_folder(folder)
    assert known(str(folder))
    assert load(str(folder)).revision.startswith("local")


@pytest.mark.parametrize("name", ["pocket-gpt2", "pocket-llama"])
def test_the_bundled_folders_pass(name):
    from engine.checkpoints.catalogue import folder

    check_folder(folder(name))


def test_no_folder(tmp_path):
    assert refusal(tmp_path / "none") == f"There is no folder “{tmp_path / 'none'}” on this machine."


def test_no_config(folder):
    (folder / "config.json").unlink()
    assert refusal(folder) == "“mine” has no config.json, so it is not a checkpoint."


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    assert refusal(folder) == "“mine” comes without a tokenizer, so no text can be put into it."


def test_unsupported_type(folder):
    edit(folder, "config.json", model_type="t5")
    assert not_loaded(folder).startswith("“mine” names the unsupported model_type “t5”; supported are gpt2, ")


def test_no_type(folder):
    edit(folder, "config.json", model_type=None)
    assert not_loaded(folder).startswith("“mine” names no model_type; supported are gpt2, ")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code(folder, file):
    edit(folder, file, auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    assert refusal(folder) == "“mine” wants to run Python code of its own, which never happens here."


def test_only_pickled_weights(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert refusal(folder).startswith("“mine” has only pickled weights (pytorch_model.bin), ")


def test_no_weights(folder):
    (folder / WEIGHTS).unlink()
    assert refusal(folder) == "“mine” holds no safetensors weights."


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_weights_cut_short(folder, keep):
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    assert (
        refusal(folder) == "The file model.safetensors of “mine” is cut short or damaged; download it again."
    )


def test_weights_that_are_a_git_lfs_pointer(folder):
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n")
    assert (
        refusal(folder) == "The file model.safetensors of “mine” is cut short or damaged; download it again."
    )


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"weight_map": {"a": "model-00001-of-00002.safetensors"}},
        {"weight_map": {"a": "../x.safetensors"}},
    ],
)
def test_an_index_whose_shards_are_missing(folder, index):
    (folder / WEIGHTS).unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refusal(folder) == "Some of the safetensors files that “mine” lists in its index are missing."
