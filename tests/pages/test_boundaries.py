"""Who may import what, read from the source."""

import ast

import pytest

from tests.pages.conftest import PAGES, ROOT

ENGINE = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "engine").rglob("*.py"))
HEAVY = {"plotly", "torch", "transformers"}
FORBIDDEN_NAMES = {"session_state", "query_params", "cache_data", "cache_resource", "html"}


def tree_of(file):
    return ast.parse((ROOT / file).read_text("utf-8"))


def imported(tree):
    """Top-level packages named by any import statement, wherever it stands."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("file", ENGINE)
def test_the_engine_never_imports_streamlit_or_pages(file):
    assert imported(tree_of(file)) & {"streamlit", "pages"} == set()


@pytest.mark.parametrize("file", PAGES)
def test_a_page_imports_no_model_and_no_figure_library(file):
    assert imported(tree_of(file)) & HEAVY == set()


@pytest.mark.parametrize("file", PAGES)
def test_a_page_leaves_state_caches_and_html_to_the_frame(file):
    tree = tree_of(file)
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert attributes & FORBIDDEN_NAMES == set()
    assert "unsafe_allow_html" not in keywords


@pytest.mark.parametrize(
    "module",
    [
        "engine",
        "pages._shared",
        "engine.checkpoints.catalogue",
        "engine.evidence.card",
        "engine.checkpoints.hub",
    ],
)
def test_the_first_words_need_no_torch(module):
    import subprocess
    import sys

    script = f"import {module}, sys; print({{'torch', 'transformers'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
