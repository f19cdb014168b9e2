"""What a name means: a listed checkpoint, something on this machine, or a repository of the Hub."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import ReaderError
from engine.checkpoints import catalogue, hub, hub_names
from engine.checkpoints.hub_names import HubName
from engine.model import fetching
from tests.hub.conftest import ignore, refusal, write_cache
from tests.hub.server import REVISION


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gpt2", ("gpt2", "main", "")),
        ("owner/name", ("owner/name", "main", "")),
        ("gpt2@v1.0", ("gpt2", "v1.0", "")),
        ("EleutherAI/pythia-160m@step512", ("EleutherAI/pythia-160m", "step512", "")),
        (f"owner/name@{REVISION}", ("owner/name", REVISION, "")),
        ("owner/name@refs/pr/1", ("owner/name", "refs/pr/1", "")),
        ("owner/name/a-Q4_K_M.gguf", ("owner/name", "main", "a-Q4_K_M.gguf")),
        ("owner/name/deep/er/a.gguf", ("owner/name", "main", "deep/er/a.gguf")),
        ("owner/name@v2/a.gguf", ("owner/name", "v2", "a.gguf")),
        ("owner/name@refs/pr/12/deep/a.gguf", ("owner/name", "refs/pr/12", "deep/a.gguf")),
    ],
)
def test_a_hub_name_has_a_repository_a_revision_and_a_file(text, parts):
    assert hub_names.parse(text) == HubName(*parts)
    assert str(HubName(*parts)) == text


HOSTILE = [
    *(
        "",
        "..",
        "../x",
        "a/../b",
        "/etc",
        "a//b",
        "a/",
        ".hidden",
        "-x",
        "x.",
        "x.lock",
        "a..b",
        "x\n",
        "a b",
        "é",
    ),
    *(
        "a\0",
        "\x1b[31m",
        "‮x",
        "\ud800",
        "a\\b",
        "a:b",
        "a?b",
        "a#b",
        "a%2e",
        "a@b",
        "~a",
        "a^",
        "a*",
        "x" * 201,
    ),
]


@pytest.mark.parametrize("revision", HOSTILE)
def test_a_hostile_revision_is_refused_before_anything_is_asked(online, revision):
    name = f"owner/name@{revision}"
    assert hub_names.parse(name) is None
    assert not catalogue.known(name)
    assert refusal(fetching.download, name, ignore).endswith(
        " names no possible revision: after the @ comes a branch, a tag or a commit, as in owner/name@step512."
    )
    assert not hub.is_cached(name)
    assert online.requests == []


@pytest.mark.parametrize(
    "file",
    ["../a.gguf", "x/../a.gguf", "./a.gguf", "/a.gguf", "a\n.gguf", "a\\b.gguf", " a.gguf"],
)
def test_a_hostile_file_name_is_refused(file):
    assert hub_names.parse(f"owner/name/{file}") is None
    assert hub_names.parse(f"owner/name@v1/{file}") is None


@given(st.text() | st.from_regex(r"[a-z./]{1,9}(@[a-z0-9./]{0,9})?(/[a-z./]{0,9}\.gguf)?", fullmatch=True))
def test_any_text_is_a_name_or_is_refused_in_one_line(text):
    parsed = hub_names.parse(text)
    assert parsed is None or hub_names.parse(str(parsed)) == parsed
    said = "accepted"
    try:
        catalogue.check_name(text)
    except ReaderError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 300


@pytest.fixture
def here(online, tmp_path, monkeypatch):
    """A working directory of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


NOTE = " There is also a folder “owner/name” here; write ./owner/name for it."


def test_a_folder_never_stands_in_for_a_hub_id(here):
    (here / "owner" / "name").mkdir(parents=True)
    assert catalogue.folder("owner/name") is None
    assert not hub.is_cached("owner/name")
    assert catalogue.folder_note("owner/name") == NOTE
    assert (
        refusal(fetching.describe, "owner/name")
        == "The Hub has no checkpoint called “owner/name” (404)." + NOTE
    )


def test_nothing_is_said_about_folders_that_are_not_there_or_not_to_be_seen(here, monkeypatch):
    assert catalogue.folder_note("owner/name") == ""
    (here / "owner" / "name").mkdir(parents=True)
    assert catalogue.folder_note("./owner/name") == ""
    monkeypatch.setenv("ANATOMY_PUBLIC", "1")
    assert catalogue.folder_note("owner/name") == ""


def test_a_listed_checkpoint_is_never_a_folder_of_the_reader(here):
    for name in ("openai-community/gpt2", "pocket-gpt2"):
        (here / name).mkdir(parents=True)
    assert catalogue.folder("openai-community/gpt2") is None
    assert catalogue.folder("pocket-gpt2") == Path(catalogue.locate("pocket-gpt2"))


@pytest.mark.parametrize("form", ["./owner/name", "owner/name/", "../here/owner/name", "{here}/owner/name"])
def test_a_name_written_as_a_path_is_the_folder(here, form):
    (here / "owner" / "name").mkdir(parents=True)
    name = form.format(here=here)
    assert catalogue.folder(name) == Path(name)
    assert catalogue.known(name)


def test_a_path_from_the_home_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("USERPROFILE", str(here))
    (here / "mine").mkdir()
    assert catalogue.folder("~/mine") == here / "mine"


def test_three_parts_are_a_folder(here):
    (here / "a" / "b" / "c").mkdir(parents=True)
    assert catalogue.folder("a/b/c") == Path("a/b/c")


def test_one_part_is_the_folder_here(here):
    (here / "mymodel").mkdir()
    assert catalogue.folder("mymodel") == Path("mymodel")
    assert catalogue.known("mymodel")


def test_one_part_that_is_a_folder_and_a_cached_repository_is_refused(here, good_files):
    (here / "mymodel").mkdir()
    write_cache("mymodel", REVISION, good_files, ["main"])
    assert refusal(catalogue.check_name, "mymodel") == (
        "“mymodel” is a folder here and also a checkpoint of the Hub on this machine; write ./mymodel for the folder, "
        "or mymodel@main for the one of the Hub."
    )
    assert refusal(fetching.download, "mymodel", ignore) == refusal(catalogue.check_name, "mymodel")
    assert catalogue.folder("./mymodel") == Path("mymodel")
    assert catalogue.folder("mymodel@main") is None
    assert fetching.download("mymodel@main", ignore).name == REVISION


def test_a_gguf_file_here(here):
    (here / "a" / "b").mkdir(parents=True)
    for name in ("x.gguf", "a/x.gguf", "a/b/x.gguf"):
        (here / name).write_bytes(b"GGUF")
        for form in (name, f"./{name}", str(here / name)):
            assert catalogue.folder(form) == Path(form)
            assert catalogue.known(form)
            assert fetching.describe(form) == hub.HubEntry(form, True, 4, "local")
    assert catalogue.folder("a/b/none.gguf") is None  # so it is the file of a repository a/b


def test_a_folder_with_one_gguf_file_is_that_file(here):
    (here / "mine").mkdir()
    for name in ("x.gguf", "mmproj-x.gguf", "README.md"):
        (here / "mine" / name).write_bytes(b"GGUF")
    assert catalogue.folder("./mine") == Path("mine/x.gguf")


def test_a_folder_with_several_gguf_files_asks_which(here):
    (here / "mine").mkdir()
    for name in "gfedcba":
        (here / "mine" / f"{name}.gguf").write_bytes(b"GGUF")
    example = os.path.join("mine", "a.gguf")
    assert refusal(catalogue.check_name, "./mine") == (
        "“./mine” has no safetensors weights, but GGUF files (a.gguf, b.gguf, c.gguf, d.gguf, e.gguf and 2 more): "
        f"name one of them, such as {example}."
    )
    assert catalogue.known(example)


def test_a_folder_with_safetensors_weights_stays_a_folder(here):
    (here / "mine").mkdir()
    for name in ("x.gguf", "model.safetensors"):
        (here / "mine" / name).write_bytes(b"")
    assert catalogue.folder("mine") == Path("mine")


def test_a_folder_without_any_file_of_a_checkpoint_can_be_described(here):
    assert fetching.describe(str(here)).bytes == 0
