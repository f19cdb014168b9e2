"""The real Hub: `pytest -m network`. Asks for sizes only, except for one very small checkpoint."""

import os
import socket

import pytest

from engine import ReaderError
from engine.checkpoints.catalogue import HUB
from engine.model import fetching

pytestmark = pytest.mark.network


@pytest.fixture(autouse=True)
def hub_in_reach(monkeypatch):
    """The session is offline by default; these tests are not."""
    from huggingface_hub import constants

    try:
        socket.create_connection(("huggingface.co", 443), timeout=5).close()
    except OSError:
        pytest.skip("the Hugging Face hub cannot be reached from here")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "0")


@pytest.mark.parametrize("name", [checkpoint.name for checkpoint in HUB])
def test_every_listed_checkpoint_can_be_described(name):
    entry = fetching.describe(name)
    assert entry.bytes is None or 10**7 < entry.bytes < 10**10


def test_steps_of_pythia_can_be_described_unless_they_are_pickles_alone():
    """Chapter 12 offers them."""
    sizes, refused = [], []
    for step in (0, 512, 1000, 143_000):
        try:
            sizes.append(fetching.describe(f"EleutherAI/pythia-70m@step{step}").bytes)
        except ReaderError as error:
            refused.append(str(error))
    assert sizes, refused
    assert all(size is None or 10**7 < size < 10**9 for size in sizes)
    assert all("safetensors" in sentence for sentence in refused)
