"""The local cache of the Hub: what is found in it, and what `from_pretrained` calls it."""

import os

import pytest
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

from engine import load
from engine.checkpoints import hub, hub_cache, safety, transfer
from engine.model import fetching
from tests.hub.conftest import ignore, refusal, write_cache
from tests.hub.server import REVISION

A, B, C = "a" * 40, "b" * 40, "c" * 40


@pytest.mark.parametrize("repo", ["gpt2", "owner/name"])
def test_a_repository_lies_where_huggingface_hub_puts_it(repo):
    assert hub_cache.store(repo).name == repo_folder_name(repo_id=repo, repo_type="model")


@pytest.mark.parametrize("revision", ["main", "step512", "refs/pr/1", A])
def test_a_revision_is_found_where_huggingface_hub_finds_it(online, good_files, revision):
    write_cache("owner/tiny", B, good_files, ["v1"])
    write_cache("owner/tiny", A, good_files, [] if revision == A else [revision])
    found = hub.snapshot(f"owner/tiny@{revision}")
    assert str(found / "config.json") == try_to_load_from_cache(
        "owner/tiny", "config.json", revision=revision
    )
    assert found.name == A


def test_a_revision_that_is_not_in_the_cache_is_not_another_one(online, good_files):
    write_cache("owner/tiny", A, good_files, ["main"])
    assert not hub.is_cached("owner/tiny@step512")
    assert not hub.is_cached(f"owner/tiny@{B}")


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        ("openai-community/gpt2", "gpt2"),
        ("distilbert/distilgpt2", "distilgpt2"),
        ("gpt2", "openai-community/gpt2"),
    ],
)
def test_a_renamed_repository_is_found_under_its_other_name(online, good_files, asked, held):
    snapshot = write_cache(held, A, good_files, ["main"])
    assert hub.cached(asked) == hub.Cached(snapshot, A, held, "")
    assert fetching.download(asked, ignore) == snapshot
    assert load(asked).revision == A
    assert online.requests == []


def test_the_name_that_was_asked_for_comes_first(online, good_files):
    write_cache("gpt2", A, good_files, ["main"])
    write_cache("openai-community/gpt2", B, good_files, ["main"])
    assert hub.cached("openai-community/gpt2").commit == B


def test_an_incomplete_copy_does_not_hide_a_complete_one_of_the_other_name(online, good_files):
    write_cache("gpt2", A, good_files, ["main"])
    write_cache("openai-community/gpt2", B, {"config.json": b"{}"}, ["main"])
    assert hub.cached("openai-community/gpt2").repo == "gpt2"


@pytest.mark.parametrize(
    "name",
    ["openai-community/gpt2", "owner/old", "owner/steps@step512", "owner/steps@refs/pr/1", f"gpt2@{A}"],
)
def test_from_pretrained_finds_what_was_found(online, good_files, name):
    from transformers.utils import cached_file

    write_cache("gpt2", A, good_files, ["main"])
    write_cache("owner/old", B, good_files)
    write_cache("owner/steps", C, good_files, ["step512", "refs/pr/1"])
    found = hub.cached(name)
    here = {"cache_dir": constants.HF_HUB_CACHE, "local_files_only": True}
    path = cached_file(found.repo, "config.json", revision=found.revision or None, **here)
    assert path == str(found.path / "config.json")


def test_a_snapshot_without_a_ref_is_found(online, good_files):
    write_cache("owner/tiny", B, {"config.json": b"{}"})
    write_cache("owner/tiny", A, good_files)
    assert hub.snapshot("owner/tiny").name == A


def test_of_several_snapshots_without_a_ref_the_newest_complete_one_is_taken(online, good_files):
    for age, commit in enumerate((B, A, C)):
        snapshot = write_cache("owner/tiny", commit, good_files)
        os.utime(snapshot, (1e9 - age, 1e9 - age))
    (hub_cache.store("owner/tiny") / "snapshots" / B / "config.json").unlink()
    os.utime(hub_cache.store("owner/tiny") / "snapshots" / B, (1e9, 1e9))
    assert hub.snapshot("owner/tiny").name == A


def test_a_snapshot_that_another_ref_names_does_not_stand_in_for_main(online, good_files):
    write_cache("owner/tiny", A, good_files, ["step512"])
    assert not hub.is_cached("owner/tiny")


def test_a_main_that_is_named_but_not_complete_is_not_cached(online, good_files):
    write_cache("owner/tiny", A, good_files)
    write_cache("owner/tiny", B, {"config.json": b"{}"}, ["main"])
    assert not hub.is_cached("owner/tiny")


@pytest.mark.parametrize("text", ["", "\n", "..", "../..", "/etc", "a/b", "x\0", "none"])
def test_a_damaged_ref_is_no_ref(online, good_files, text):
    write_cache("owner/tiny", A, good_files, ["main", "v1"])
    (hub_cache.store("owner/tiny") / "refs" / "main").write_text(text)
    assert not hub.is_cached("owner/tiny")


def test_a_download_that_ended_before_its_files_were_verified_is_not_cached(online, repo, monkeypatch):
    class Ended(BaseException):
        """In the place of a process that ends here."""

    def end_at_the_weights(path, file):
        if file.name.endswith(".safetensors"):
            raise Ended
        return True

    names = "owner/tiny", f"owner/tiny@{REVISION}"
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_intact", end_at_the_weights)
        with pytest.raises(Ended):
            fetching.download(names[1], ignore)
    assert safety.complete(hub_cache.store("owner/tiny") / "snapshots" / REVISION)
    assert not any(map(hub.is_cached, names))
    fetching.download(names[1], ignore)
    assert all(map(hub.is_cached, names))


def test_the_sentence_of_a_cache_that_is_a_file(online, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    assert not hub.is_cached("owner/tiny")
    assert refusal(fetching.describe, "owner/tiny").startswith("The Hub has no checkpoint")
