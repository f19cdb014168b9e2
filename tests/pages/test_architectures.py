"""What holds for every page, on a tiny random model of each architecture that no bundled checkpoint has.

What cannot be told truthfully of an architecture is refused in a sentence: the beats in `REFUSED`, and no others.
"""

import pytest

from tests.pages import test_every_page as every
from tests.pages.conftest import PAGES, visited

pytestmark = [pytest.mark.architectures, pytest.mark.timeout(600)]
TINY = ("mistral", "stablelm", "phi", "olmo2", "starcoder2", "gpt-neo", "neox-parallel", "qwen3")
REFUSED = {
    ("olmo2", "pages/03_Neuron_Activation.py"): {"direction"},
    ("olmo2", "pages/08_Attention_QKV.py"): {"output", "promoted", "walk"},
    ("olmo2", "pages/09_Multi_Head_Attention.py"): {"copies", "looks"},
    ("qwen3", "pages/09_Multi_Head_Attention.py"): {"looks"},
}
"""Beats that show what one head or one neuron writes, where a norm stands between all of them and the stream, or what
makes up a key, where a norm stands behind its projection."""

UNTRAINED = {"pages/09_Multi_Head_Attention.py": {"patching"}}
"""Beats that need an answer that the model has read from its text, which random weights have not."""

on_each = pytest.mark.parametrize(
    ("name", "page"),
    [
        pytest.param(name, page, marks=pytest.mark.exhaustive if (i + j) % 2 else ())
        for i, name in enumerate(TINY)
        for j, page in enumerate(PAGES)
    ],
)
"""Each architecture on every second page, and each page on every second architecture; the others are `exhaustive`."""


@on_each
def test_a_page_draws_proves_and_reproduces_itself(name, page, tiny_folder, monkeypatch):
    checkpoint = str(tiny_folder(name))
    every.test_a_page_runs_without_an_exception(page, checkpoint)
    visit = visited(page, checkpoint)
    refused = REFUSED.get((name, page), set()) | UNTRAINED.get(page, set())
    assert {beat for beat, drawn in visit.cards.items() if not drawn} == refused
    assert visit.connections == []
    every.prove_every_live_card(page, checkpoint)
    every.test_every_code_script_leaves_the_numbers_shown(page, checkpoint, monkeypatch)
