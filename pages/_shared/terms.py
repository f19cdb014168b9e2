"""The terms of the book, and the marks that say in a beat's words what a term in them means."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

MARK = "#term-"
"""What the address of a marked term begins with. It leads nowhere: the browser shows the meaning beside the word."""

_KEPT = r"`[^`]*`|\$[^$]*\$|!?\[[^\]]*\]\([^)]*\)|<[^>]*>|:[a-z-]+\[[^\]]*\]|^\#+ .*$|^\|.*$"
"""Pieces of markdown in which no word is marked: code, formulas, links, tags, directives, headings and tables."""


@dataclass(frozen=True)
class Term:
    """A term, what it means in two sentences, and the number of the chapter where it is at work.

    said  the forms in which prose has it, where they are others than the name
    only  the chapters in whose prose the word has this meaning; all where it is empty
    """

    name: str
    meaning: str
    chapter: int
    said: tuple[str, ...] = ()
    only: frozenset[int] = frozenset()

    @property
    def forms(self) -> tuple[str, ...]:
        """The term as prose has it, in the singular; of “byte-pair encoding (BPE)” the name and the short form."""
        return self.said or tuple(part.strip() for part in re.split(r"[,()]", self.name) if part.strip())


@lru_cache(maxsize=1)
def terms() -> tuple[Term, ...]:
    """All terms, in the order of the alphabet."""
    read = tomllib.loads((Path(__file__).parent / "glossary.toml").read_text("utf-8"))
    found = [
        Term(
            name,
            one["meaning"].strip().replace("\n", " "),
            one["chapter"],
            tuple(one.get("said", ())),
            frozenset(one.get("only", ())),
        )
        for name, one in read.items()
    ]
    return tuple(sorted(found, key=lambda term: term.name.casefold()))


def marked(prose: str, chapter: int | None, wanted: Callable[[Term], bool] = lambda term: True) -> str:
    """Some markdown in which each wanted term, where it comes first, is a link that says what it means."""
    done: set[str] = set()

    def mark(found: re.Match[str]) -> str:
        term = _meant(found, chapter)
        if term is None or term.name in done or not wanted(term):
            return found[0]
        done.add(term.name)
        return f'[{found[0]}]({MARK}{_slug(term.name)} "{_title(term.meaning)}")'

    return _pattern().sub(mark, prose)


def _meant(found: re.Match[str], chapter: int | None) -> Term | None:
    """The term that a word stands for in a chapter, if it is one."""
    if found["word"] is None:
        return None
    term = _by_form()[_singular(found["word"])]
    return term if not term.only or chapter in term.only else None


@lru_cache(maxsize=1)
def _by_form() -> dict[str, Term]:
    return {_singular(form): term for term in terms() for form in term.forms}


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    """What is kept, and else every form of every term as a word of its own, the longest first."""
    forms = sorted((form for term in terms() for form in term.forms), key=len, reverse=True)
    words = "|".join(_spelled(form) for form in forms)
    return re.compile(rf"{_KEPT}|(?<![\w-])(?P<word>{words})(?![\w-])", re.MULTILINE)


def _spelled(form: str) -> str:
    """A pattern for a form: in any breaking of its line, in the plural too, with or without a capital where the rest
    is small."""
    words = [re.escape(word) for word in form.split()]
    if form[1:] == form[1:].lower():
        words[0] = f"[{form[0].upper()}{form[0].lower()}]{re.escape(form.split()[0][1:])}"
    stem = r"\s+".join(words)
    return f"{stem[:-1]}(?:y|ies)" if form.endswith("y") and len(form) > 3 else f"{stem}s?"


def _singular(word: str) -> str:
    """A form as the key of a table."""
    plain = " ".join(word.split())
    plain = plain.casefold()
    if plain.endswith("ies"):
        return plain[:-3] + "y"
    return plain if plain.endswith("ss") else plain.removesuffix("s")


def _slug(name: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", name.casefold()))


def _title(meaning: str) -> str:
    """A meaning inside the quotation marks of a markdown link."""
    return meaning.replace("\\", r"\\").replace('"', "”")
