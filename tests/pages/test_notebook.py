"""A chapter as a notebook: it has the words, and its scripts run from top to bottom."""

import json
import re

import pytest

from pages._shared import notebook
from pages._shared.state import State
from tests.pages.conftest import BUNDLED, ROOT, open_app


def parts(page, checkpoint):
    """What a page has kept for its notebook."""
    app = open_app(f"pages/{page}.py", checkpoint=checkpoint)
    assert not app.exception
    (drawn,) = app.session_state["anatomy.notebook"].values()
    return drawn


def notebook_of(drawn, checkpoint):
    return json.loads(notebook.made("A chapter", list(drawn), drawn, State(checkpoint=checkpoint)))


@pytest.mark.parametrize("checkpoint", BUNDLED)
@pytest.mark.parametrize("page", ["05_Logits_and_Sampling", "08_Attention_QKV", "11_Transformer_Block"])
def test_a_notebook_runs_from_top_to_bottom(page, checkpoint, monkeypatch, capsys):
    drawn = parts(page, checkpoint)
    cells = notebook_of(drawn, checkpoint)["cells"]
    scripts = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    assert len(scripts) >= 5
    monkeypatch.chdir(ROOT)
    names = {}
    for script in scripts:
        exec(compile(script, page, "exec"), names)
        assert names.pop("result")
    assert capsys.readouterr().out


def test_a_notebook_has_the_form_that_it_must_have():
    drawn = parts("08_Attention_QKV", "pocket-gpt2")
    made = notebook_of(drawn, "pocket-gpt2")
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in made["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", id) for id in ids)
    texts = "\n".join(cell["source"] for cell in made["cells"])
    assert "The mask hides the future" in texts
    assert "- checkpoint: pocket-gpt2" in texts.replace("\\", "")


def test_the_text_of_a_reader_is_no_markup_in_a_notebook():
    made = json.loads(notebook.made("t", [], {}, State(prompt="<script>alert(1)</script> [a](b)")))
    assert "<script>" not in made["cells"][0]["source"]
    assert "[a](b)" not in made["cells"][0]["source"]
