"""Who may import what, read from the source: the rooms of the engine, and one direction between them."""

import ast
from functools import cache
from pathlib import PurePosixPath

import pytest

from engine.model.adapters import SUPPORTED
from tests.pages.conftest import PAGES, ROOT

ENGINE = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "engine").rglob("*.py"))
HEAVY = {"plotly", "torch", "transformers"}
FORBIDDEN_NAMES = {"session_state", "query_params", "cache_data", "cache_resource", "html"}


@cache
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


SEAM = "engine"
"""The package itself: ReaderError, and lazily what the outside is to use."""

ROOMS = {
    "ops": set(),
    "tokens": {"ops"},
    "checkpoints": {"tokens", "ops"},
    "model": {"tokens", "checkpoints", "ops"},
    "figures": {"model", "tokens", "ops"},
    "evidence": {"model", "tokens", "checkpoints", "ops", "training"},
    "chapters": {"evidence", "figures", "model", "tokens", "checkpoints", "ops", "training"},
    "training": {"model", "tokens", "checkpoints", "ops"},
}
"""Room -> the rooms that it may import from, inside functions too. `training` writes what RECORDED figures read."""


def engine_imports(file):
    """Modules of the engine that a file names in import statements, wherever they stand."""
    names = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if is_module(name) else node.module for name in whole}
    return {name for name in names if name.partition(".")[0] == SEAM}


def is_module(name):
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def room(module):
    """The room of `engine.room.…`; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


def test_imports_go_in_one_direction_between_the_rooms():
    for file in [file for file in ENGINE if file != "engine/__init__.py"]:
        own = PurePosixPath(file).parts[1]
        taken = {module for module in engine_imports(file) if room(module) not in {"", own}}
        assert {module for module in taken if room(module) not in ROOMS[own]} == set(), file


def test_there_are_no_other_rooms_and_no_loose_modules():
    inside = {path.name for path in (ROOT / "engine").iterdir() if path.name != "__pycache__"}
    assert inside == {*ROOMS, "assets", "__init__.py"}


def test_a_chapter_imports_no_sibling():
    for file in [file for file in ENGINE if file.startswith("engine/chapters/c")]:
        own = PurePosixPath(file).parts[2]
        others = {
            module.split(".")[2] for module in engine_imports(file) if module.startswith("engine.chapters.")
        }
        assert others <= {own, "shared"}, file


def test_operations_never_see_a_model():
    for file in [file for file in ENGINE if file.startswith("engine/ops/")]:
        assert engine_imports(file) == {
            module for module in engine_imports(file) if room(module) in {"", "ops"}
        }, file
        assert "Loaded" not in (ROOT / file).read_text("utf-8"), file


def test_there_is_no_cycle_of_imports_not_even_inside_functions():
    graph = {module_of(file): engine_imports(file) - {SEAM, module_of(file)} for file in ENGINE}
    graph = {module: {name for name in names if name in graph} for module, names in graph.items()}
    while leaves := [module for module, names in graph.items() if not names]:
        for leaf in leaves:
            del graph[leaf]
        graph = {module: names - set(leaves) for module, names in graph.items()}
    assert set(graph) == set()


def module_of(file):
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


WRITES_OR_READS_CONFIGS = ("engine/model/adapters/", "engine/training/", "engine/checkpoints/")
"""Files that are about architectures by name: what is known of each, which one is trained, what others published."""

DRAWING = [file for file in (*ENGINE, *PAGES) if not file.startswith(WRITES_OR_READS_CONFIGS)]


def test_an_architecture_is_asked_and_not_told_by_its_name():
    """No comparison with a model_type or a norm's name, and no module path put together by hand."""
    for file in DRAWING:
        asked = []
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Compare):
                sides = [ast.unparse(side) for side in (node.left, *node.comparators)]
                known = {repr(name) for name in (*SUPPORTED, "LayerNorm", "RMSNorm")}
                asked += [
                    ast.unparse(node) for side in sides if side in known or side.endswith("spec.model_type")
                ]
            if isinstance(node, ast.Attribute) and node.attr in {"parts", "layer", "qkv"}:
                asked += [ast.unparse(node)] if ast.unparse(node.value).endswith("adapter") else []
        assert [each for each in asked if each not in NAMED_BY_A_FILE.get(file, set())] == [], file


NAMED_BY_A_FILE = {
    "engine/model/dequantize.py": {
        "metadata.get('tokenizer.ggml.model') == 'gpt2'",
        "architecture != 'gpt2'",
    },
}
"""What a GGUF file calls its own tokenizer and architecture."""


def test_the_engine_never_imports_streamlit_or_pages():
    for file in ENGINE:
        assert imported(tree_of(file)) & {"streamlit", "pages"} == set(), file


def test_a_page_imports_no_model_and_no_figure_library():
    for file in PAGES:
        assert imported(tree_of(file)) & HEAVY == set(), file


def test_a_page_leaves_state_caches_and_html_to_the_frame():
    for file in PAGES:
        tree = tree_of(file)
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
        assert attributes & FORBIDDEN_NAMES == set(), file
        assert "unsafe_allow_html" not in keywords, file


@pytest.mark.parametrize(
    "module",
    [
        "engine",
        "pages._shared",
        "engine.checkpoints.catalogue",
        "engine.evidence.card",
        "engine.checkpoints.hub",
        "engine.model.precisions",
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
