"""What the server has imported before its first reader comes."""

import subprocess
import sys
from pathlib import Path

from streamlit.web.server.app_discovery import discover_asgi_app

from tests.pages.conftest import HOME, ROOT

IMPORTED = """
import sys
from pages._shared import starting
starting.import_all()
print(*(name for name in sys.modules if name.startswith("engine.chapters.c")))
assert {"torch", "transformers", "plotly.graph_objects", "pandas"} <= set(sys.modules)
"""


def test_the_server_finds_what_it_is_to_do_as_it_starts():
    assert discover_asgi_app(Path(ROOT / HOME)).import_string == "Home:app"


def test_all_chapters_are_imported_as_the_server_starts():
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported = {name.split(".")[2] for name in done.stdout.split()}
    assert imported == {folder.name for folder in (ROOT / "engine/chapters").glob("c[0-9]*")}
