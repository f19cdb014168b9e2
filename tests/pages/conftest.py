"""Pages run by streamlit's own test runner, always from Home.py, with every drawn card noted."""

import socket
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from streamlit import config
from streamlit.testing.v1 import AppTest

from engine.evidence.card import Card
from engine.tokens import passages
from pages._shared import card as cards
from pages._shared import chapters, frame, sheet, work

ROOT = Path(__file__).parent.parent.parent
HOME = "Home.py"
PAGES = (HOME, *sorted(f"pages/{file.name}" for file in (ROOT / "pages").glob("[0-9]*.py")))
BUNDLED = ("pocket-gpt2", "pocket-llama")
TIMEOUT = 120
PASSAGE = passages.passage()[:700].rpartition(" ")[0]

sheet.browserless = True
config.set_option("client.showErrorDetails", "full")  # a test says what went wrong

PROVED: list[str] = []
"""Keys of the cards of the small book below that were proved."""


@pytest.fixture(autouse=True)
def _nothing_made_before():
    """What one test's pages have made is not what another's show."""
    work.forget()
    PROVED.clear()


@pytest.fixture(autouse=True)
def _a_short_passage(monkeypatch):
    """Its first fifth, two windows: chapter 15 reads it at six precisions, and every test that draws it waits."""
    monkeypatch.setattr(passages, "passage", lambda: PASSAGE)


@dataclass
class Visit:
    """What happened while pages were shown: the cards of each beat, and every attempt to reach a network."""

    cards: dict[str, list[Card]] = field(default_factory=dict)
    connections: list[object] = field(default_factory=list)
    app: AppTest | None = None


@contextmanager
def watched(visit: Visit):
    """Note the cards by the beat that draws them, and the connections; let none of those through."""
    current = [""]
    plain = frame.draw_beat

    def noted(beat, *args):
        current[0] = beat.key
        visit.cards.setdefault(beat.key, [])
        plain(beat, *args)

    def refuse(*args, **kwargs):
        visit.connections.append(args)
        raise OSError("no network in this test")

    def listen(card):
        visit.cards.setdefault(current[0], []).append(card)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame, "draw_beat", noted)
        patch.setattr(cards, "listeners", [listen])
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


def open_app(page: str = HOME, root: Path = ROOT, **query: str) -> AppTest:
    """A session that opened a page at an address."""
    app = AppTest.from_file(str(root / HOME), default_timeout=TIMEOUT)
    app.query_params.update(query)
    if page != HOME:
        app.switch_page(page)
    return app.run()


@cache
def visited(page: str, checkpoint: str, *precision: str) -> Visit:
    """A page shown once on a checkpoint, from Home on; shared by all tests that only look at it.

    `precision` is the one that the address names, if it names one other than that of the bundled pair.
    """
    visit = Visit()
    app = open_app(checkpoint=checkpoint, **dict(zip(["precision"], precision, strict=False)))
    with watched(visit):
        visit.app = (app if page == HOME else app.switch_page(page)).run()
    shown = visit.app.selectbox(key="side-checkpoint").value
    assert shown == checkpoint, f"the page fell back on {shown}"  # which would pass what follows in its stead
    return visit


def shared(page: str, checkpoint: str, precision: str = "fp32") -> pytest.MarkDecorator:
    """A mark: with `--dist=loadgroup`, tests that look at one visit run in one worker, which makes it once."""
    return pytest.mark.xdist_group(f"{page} {checkpoint} {precision}")


DEMO = '''"""8 · Demo — a chapter for tests."""
from tests.pages import conftest
from engine.evidence.card import Badge, Card, Oracle, Recorded
from engine import ReaderError
from pages._shared import Beat, View, chapter

def card(view, key, **more):
    layer, focus = view.state.layer, view.state.focus
    given = dict(badge=Badge.LIVE, shown={"x": 1}, oracle=Oracle("One is one.", lambda: prove(key)),
                 code="result = {'x': 1}")
    return Card(key=key, title=f"layer {layer} focus {focus} <b>$x$</b>", alt="alt", figure=None,
                table={"token": [t.display for t in view.tokens]}, **(given | more))

def prove(key):
    conftest.PROVED.append(key)
    return {"x": 1}

def first(view: View):
    return lambda: card(view, "one")

def second(view: View):
    with view.controls:
        choice = view.select("fail", "Fail", ["no", "reader", "bug"])
        view.slider("count", "Count", 0, 10, 3)
    run = Recorded("engine/training/demo.py", "2025-01-02", "a laptop")

    def make():
        if choice == "reader":
            raise ReaderError("This **cannot** <b>work</b>.")
        if choice == "bug":
            raise ZeroDivisionError("a bug")
        return card(view, "two", badge=Badge.RECORDED, source=run, oracle=None)

    return make

chapter(number=8, title="Demo", question="Does it *work*?", lead="A lead.", beats=[
    Beat("first", "The first beat", prose="Prose one.", draw=first, try_this="Try one."),
    Beat("second", "The second beat", prose="Prose two.", draw=second),
], bar=("focus", "layer", "head", "seed"))
'''
DEMO_PAGE = "pages/08_Demo.py"


def make_book(root: Path, patch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """A function that opens a small book, with two chapters of two beats and no stations, at an address."""
    (root / "pages").mkdir()
    (root / DEMO_PAGE).write_text(DEMO, "utf-8")
    other = DEMO.replace("8 · Demo", "9 · Other").replace("number=8", "number=9")
    (root / "pages/09_Other.py").write_text(other, "utf-8")
    (root / HOME).write_text(
        'from pages._shared import home\nhome("Book", "Lead.", None, "About.", [])\n', "utf-8"
    )
    patch.setattr(chapters, "PAGES", root / "pages")
    return lambda page=DEMO_PAGE, **query: open_app(page, root, **query)


@pytest.fixture
def demo(tmp_path, monkeypatch) -> Callable[..., AppTest]:
    """A small book for one test."""
    return make_book(tmp_path, monkeypatch)
