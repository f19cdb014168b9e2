"""The files around the code agree with one another."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MEGABYTE = 1_000_000


def committed():
    """The files of the project, as git sees them; a machine without git is no place to ask."""
    if not (shutil.which("git") and (ROOT / ".git").exists()):
        pytest.skip("needs git and a clone")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_requirements_are_the_dependencies():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    stated = {line.partition(";")[0].strip() for line in lines if re.match(r"\w", line)}
    assert {line for line in stated if "+cpu" not in line} == set(wanted)
    [build] = [line for line in stated if "+cpu" in line]
    assert re.fullmatch(r"torch==2\.13\.\d+\+cpu", build)  # within the range of pyproject.toml


def test_the_readme_has_one_command_to_run_and_one_to_test():
    readme = (ROOT / "README.md").read_text()
    assert len(re.findall(r"streamlit run Home\.py$", readme.split("## What")[0], re.MULTILINE)) == 1
    assert len(re.findall(r"\.venv/bin/pytest$", readme, re.MULTILINE)) == 1  # .ci/run looks for this line


def test_the_top_level_is_short():
    visible = {path.relative_to(ROOT).parts[0] for path in committed()}
    files = {"pyproject.toml", "README.md", "Home.py", "LICENSE", "requirements.txt"}
    assert {name for name in visible if not name.startswith(".")} <= {*files, "pages", "engine", "tests"}


def test_the_repository_stays_small():
    sizes = [path.stat().st_size for path in committed()]
    assert sum(sizes) < 100 * MEGABYTE
    assert max(sizes) < 50 * MEGABYTE
