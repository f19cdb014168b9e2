"""The played Hub, an empty cache, and the files of a good tiny checkpoint."""

import threading
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import close_session

from engine import ReaderError
from tests.hub.server import Hub, Repo


@pytest.fixture
def hub():
    """A running Hub with no repositories."""
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield hub
    hub.server.shutdown()
    thread.join()
    hub.server.server_close()


def point_at(monkeypatch, address, cache):
    """Make huggingface_hub, whose constants are already read, use this address and this cache folder."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)  # between its retries
    close_session()


@pytest.fixture
def online(hub, tmp_path, monkeypatch):
    """The engine talks to the played Hub and has an empty cache."""
    point_at(monkeypatch, hub.address, tmp_path / "cache")
    return hub


def ignore(done, total):
    pass


def refusal(action, *arguments):
    """The sentence of the ReaderError that an action ends in."""
    with pytest.raises(ReaderError) as caught:
        action(*arguments)
    return str(caught.value)


def write_cache(repo, commit, files, refs=()):
    """A snapshot as the tools of Hugging Face leave it, with the refs that name it; its folder."""
    at = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    snapshot = at / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, body in files.items():
        (snapshot / name).write_bytes(body)
    for ref in refs:
        path = at / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
    return snapshot


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="session")
def good_files(tiny_folder):
    """The files of a tiny GPT-2 as `save_pretrained` writes them."""
    return read_files(tiny_folder("gpt2"))


@pytest.fixture
def repo(online, good_files):
    """A good checkpoint on the played Hub, among files that must never be asked for."""
    bait = {
        "pytorch_model.bin": b"pickle",
        "modeling_tiny.py": b"print()",
        "README.md": b"#",
        "tf_model.h5": b"h5",
    }
    online.repos["owner/tiny"] = Repo({**good_files, **bait, "onnx/model.onnx": b"onnx"})
    return online.repos["owner/tiny"]
