"""The chapters that exist: found from the files in pages/, named by the first line of each docstring."""

import ast
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PAGES = Path(__file__).parent.parent
GROUPS = {
    "Text": (1, 2),
    "Network": (3, 4),
    "Output": (5, 5),
    "Learning": (6, 7),
    "Attention": (8, 11),
    "Training": (12, 13),
    "Serving": (14, 15),
}
_FIRST_LINE = re.compile(r"\s*(\d+)\s*·\s*(.+?)\s*(?:—\s*(.+))?\s*")


@dataclass(frozen=True)
class Chapter:
    """One chapter: `path` as page_link takes it, `number` and `title` and `about` from its docstring."""

    number: int
    title: str
    about: str
    path: str

    @property
    def group(self) -> str:
        return next((g for g, (low, high) in GROUPS.items() if low <= self.number <= high), "More")


def chapters() -> tuple[Chapter, ...]:
    """All chapters in the order of their numbers."""
    found = [_chapter(file, file.stat().st_mtime_ns) for file in PAGES.glob("[0-9]*.py")]
    return tuple(sorted(found, key=lambda chapter: chapter.number))


def chapter_number(number: int) -> Chapter | None:
    """The chapter with a number, when it exists."""
    return next((chapter for chapter in chapters() if chapter.number == number), None)


def around(number: int) -> tuple[Chapter | None, Chapter | None]:
    """The chapters before and after a number, among those that exist."""
    book = chapters()
    before = [chapter for chapter in book if chapter.number < number]
    after = [chapter for chapter in book if chapter.number > number]
    return before[-1] if before else None, after[0] if after else None


@lru_cache(maxsize=64)
def _chapter(file: Path, _changed: int) -> Chapter:
    """Read, not imported: a chapter imports what it needs when it is opened.

    A file whose docstring does not follow the form is named by its file name.
    """
    try:
        docstring = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    except SyntaxError:
        docstring = ""
    match = _FIRST_LINE.fullmatch(docstring.partition("\n")[0])
    number, _, title = file.stem.partition("_")
    if match is None:
        return Chapter(int(number), title.replace("_", " "), "", f"pages/{file.name}")
    about = (match[3] or "").rstrip(".")
    return Chapter(int(match[1]), match[2].rstrip("."), about, f"pages/{file.name}")
