"""What the server has imported before its first reader comes."""

import os
import subprocess
import sys
from pathlib import Path

from streamlit.web.server.app_discovery import discover_asgi_app

from tests.pages.conftest import HOME, ROOT

IMPORTED = """
import sys
import torch
from pages._shared import starting
starting.import_all()
print(*(name for name in sys.modules if name.startswith("engine.chapters.c")))
assert {"torch", "transformers", "plotly.graph_objects", "pandas"} <= set(sys.modules)
assert torch.get_num_threads() == 1, "as public copies compute"
"""


def test_the_server_finds_what_it_is_to_do_as_it_starts():
    assert discover_asgi_app(Path(ROOT / HOME)).import_string == "Home:app"


def test_all_chapters_are_imported_as_the_server_starts_of_a_public_copy_too(tmp_path):
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "secrets.toml").write_text('ANATOMY_PUBLIC = "1"\n', "utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "ANATOMY_PUBLIC"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {name.split(".")[2] for name in done.stdout.split()}
    assert imported == {folder.name for folder in (ROOT / "engine/chapters").glob("c[0-9]*")}
