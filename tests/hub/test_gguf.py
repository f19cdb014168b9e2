"""A GGUF file in a repository of the Hub: `owner/name/file.gguf`."""

import pytest

from engine.checkpoints import hub
from engine.model import fetching
from tests.hub.conftest import ignore, refusal, write_cache
from tests.hub.server import REVISION, Repo

FILE = "tiny-Q4_1.gguf"
NAME = f"owner/tiny-GGUF/{FILE}"


@pytest.fixture
def ggufs(online):
    """A repository of GGUF files alone."""
    files = {FILE: b"GGUF four", "tiny-Q8_0.gguf": b"GGUF eight", "deep/tiny-F16.gguf": b"GGUF sixteen"}
    parts = {"tiny-BF16-00001-of-00002.gguf": b"1", "tiny-BF16-00002-of-00002.gguf": b"2"}
    online.repos["owner/tiny-GGUF"] = Repo({**files, **parts, "mmproj-tiny.gguf": b"eye", "README.md": b"#"})
    return online.repos["owner/tiny-GGUF"]


@pytest.mark.parametrize("file", [FILE, "deep/tiny-F16.gguf"])
def test_only_the_named_file_is_fetched(online, ggufs, file):
    name, body = f"owner/tiny-GGUF/{file}", ggufs.files[file]
    assert fetching.describe(name) == hub.HubEntry(name, False, len(body), REVISION)
    reports = []
    path = fetching.download(name, lambda done, total: reports.append((done, total)))
    assert path.read_bytes() == body
    assert path.as_posix().endswith(f"/{REVISION}/{file}")
    assert reports[-1] == (len(body), len(body))
    assert set(online.fetched()) == {path.name}

    online.requests.clear()
    assert fetching.describe(name) == hub.HubEntry(name, True, len(body), REVISION)
    assert fetching.download(name, ignore) == path
    assert online.requests == []
    assert not hub.is_cached("owner/tiny-GGUF/tiny-Q8_0.gguf")


@pytest.mark.parametrize("spoil", [lambda body: body[:-1], lambda body: body[:-1] + b"!"])
def test_a_file_that_arrives_damaged_is_thrown_away(online, ggufs, spoil):
    ggufs.body = {FILE: spoil}
    assert refusal(fetching.download, NAME, ignore) == (
        f"A file of “{NAME}” arrived cut short or damaged and was thrown away; try again."
    )
    assert not hub.is_cached(NAME)


def test_a_file_of_a_revision(online, ggufs):
    ggufs.others = {"v2": Repo({FILE: b"GGUF two"}, commit="2" * 40)}
    name = f"owner/tiny-GGUF@v2/{FILE}"
    assert fetching.download(name, ignore).read_bytes() == b"GGUF two"
    assert hub.cached(name).revision == "v2"
    assert not hub.is_cached(NAME)


def test_a_repository_of_gguf_files_asks_which(online, ggufs):
    expected = (
        "“owner/tiny-GGUF” has no safetensors weights, but GGUF files (deep/tiny-F16.gguf, tiny-Q4_1.gguf, "
        "tiny-Q8_0.gguf): name one of them, such as owner/tiny-GGUF/deep/tiny-F16.gguf."
    )
    assert refusal(fetching.describe, "owner/tiny-GGUF") == expected
    assert refusal(fetching.download, "owner/tiny-GGUF", ignore) == expected
    assert online.fetched() == []


def test_at_most_five_files_are_listed(online, ggufs):
    ggufs.files = {f"{letter}.gguf": b"" for letter in "gfedcba"}
    assert "(a.gguf, b.gguf, c.gguf, d.gguf, e.gguf and 2 more)" in refusal(
        fetching.describe, "owner/tiny-GGUF"
    )


def test_safetensors_weights_come_first_where_there_are_both(online, repo):
    repo.files[FILE] = b"GGUF"
    assert fetching.download("owner/tiny", ignore).is_dir()
    assert FILE not in online.fetched()
    assert fetching.download(f"owner/tiny/{FILE}", ignore).is_file()


def test_a_part_of_a_split_file_is_refused_by_its_name(online, ggufs):
    name = "owner/tiny-GGUF/tiny-BF16-00001-of-00002.gguf"
    assert refusal(fetching.describe, name) == (
        f"“{name}” is one part of a split GGUF file, and this app reads whole ones only."
    )
    assert online.requests == []


def test_a_repository_of_split_files_alone(online, ggufs):
    ggufs.files = {name: body for name, body in ggufs.files.items() if "-of-" in name}
    assert refusal(fetching.describe, "owner/tiny-GGUF") == (
        "“owner/tiny-GGUF” holds split GGUF files only, and this app reads whole ones."
    )


def test_a_file_that_is_not_there(online, ggufs):
    assert refusal(fetching.describe, "owner/tiny-GGUF/none.gguf") == (
        "“owner/tiny-GGUF” has no file none.gguf; it has deep/tiny-F16.gguf."
    )
    ggufs.files = {}
    assert refusal(fetching.describe, "owner/tiny-GGUF/none.gguf") == (
        "“owner/tiny-GGUF” has no file none.gguf, nor any other GGUF file."
    )


def test_a_file_that_another_tool_has_fetched(online):
    snapshot = write_cache("owner/tiny-GGUF", REVISION, {FILE: b"GGUF"}, ["main"])
    assert fetching.download(NAME, ignore) == snapshot / FILE
    assert hub.cached(NAME) == hub.Cached(snapshot / FILE, REVISION, "owner/tiny-GGUF", "")
    assert online.requests == []
