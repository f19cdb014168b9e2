"""A branch, a tag or a commit of a Hub checkpoint: `owner/name@revision`."""

from dataclasses import replace

import pytest

from engine import load
from engine.checkpoints import hub, hub_cache
from engine.model import fetching
from tests.hub.conftest import ignore, refusal
from tests.hub.server import REVISION

STEP = "5" * 40
PULL = "f" * 40


@pytest.fixture
def steps(repo, tiny_folder):
    """The played repository with a branch and a pull request whose weights differ from main's."""
    weights = bytearray(repo.files["model.safetensors"])
    weights[-1] ^= 1
    files = {**repo.files, "model.safetensors": bytes(weights)}
    repo.others = {
        "step512": replace(repo, files=files, commit=STEP, others={}),
        "refs/pr/1": replace(repo, files=files, commit=PULL, others={}),
    }
    return repo


def refs():
    at = hub_cache.store("owner/tiny") / "refs"
    return {path.relative_to(at).as_posix(): path.read_text() for path in at.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("revision", "commit"), [("step512", STEP), ("refs/pr/1", PULL), ("main", REVISION)])
def test_a_branch_is_fetched_under_its_own_ref(online, steps, revision, commit):
    name = f"owner/tiny@{revision}"
    assert fetching.describe(name).revision == commit
    folder = fetching.download(name, ignore)
    assert folder.name == commit
    weights = steps.at(revision).files["model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == weights
    assert refs() == {revision: commit}
    assert fetching.describe(name).cached
    assert hub.is_cached("owner/tiny") == (revision == "main")


def test_a_commit_needs_no_ref(online, steps):
    name = f"owner/tiny@{STEP}"
    fetching.download(name, ignore)
    assert refs() == {}
    online.requests.clear()
    assert load(name).revision == STEP
    assert online.requests == []


def test_two_revisions_lie_beside_each_other(online, steps):
    for name in ("owner/tiny", "owner/tiny@step512"):
        fetching.download(name, ignore)
    assert refs() == {"main": REVISION, "step512": STEP}
    assert hub.snapshot("owner/tiny").name == REVISION
    assert hub.snapshot("owner/tiny@step512").name == STEP


@pytest.mark.parametrize("revision", ["step513", "9" * 40, "refs/pr/2"])
def test_a_revision_that_does_not_exist(online, steps, revision):
    expected = f"The Hub has no revision “{revision}” of “owner/tiny” (404)."
    assert refusal(fetching.describe, f"owner/tiny@{revision}") == expected
    assert refusal(fetching.download, f"owner/tiny@{revision}", ignore) == expected
    assert not hub.is_cached(f"owner/tiny@{revision}")
