"""What is drawn again after an input, when others came just before it."""

from types import SimpleNamespace

import pytest
import streamlit as st
from streamlit.errors import StreamlitAPIException
from streamlit.runtime.fragment import MemoryFragmentStorage

from pages._shared import fragments, sheet, sight, state, work
from pages._shared.work import Job
from tests.pages.conftest import ROOT


class Rerun(Exception):
    """In place of what ends a callback; its argument is what is to run: names of fragments, or nothing for the page."""


class Storage:
    def resolve_target(self, name):
        if name == "other":
            raise StreamlitAPIException("of another page")
        return [f"id-{name}"]


@pytest.fixture
def run(monkeypatch):
    """Call `fragments.again` in a run of some fragments, by id: what is to run then."""

    def again(names, of):
        def rerun(*scope):
            if scope and "other" in scope[0]:
                raise StreamlitAPIException("of another page")
            raise Rerun(*scope)

        context = SimpleNamespace(fragment_ids_this_run=of, fragment_storage=Storage())
        monkeypatch.setattr(fragments, "get_script_run_ctx", lambda suppress_warning=False: context)
        monkeypatch.setattr(fragments.st, "session_state", {fragments._DRAWN: ("bar", "3-a", "3-b", "pulse")})
        monkeypatch.setattr(fragments.st, "rerun", rerun)
        with pytest.raises(Rerun) as ended:
            fragments.again(names)
        return list(*ended.value.args)

    return again


def test_what_the_interrupted_run_was_to_draw_is_drawn_too(run):
    assert run(["bar", "pulse"], ["id-bar", "id-3-b", "id-pulse"]) == ["bar", "pulse", "3-b"]
    assert run(["bar", "3-a"], ["id-3-a"]) == ["bar", "3-a"]


def test_an_interrupted_run_of_the_whole_page_is_one_again(run):
    assert run(["bar"], None) == []


def test_a_page_just_left_is_drawn_whole(run):
    assert run(["other"], ["id-bar"]) == []


def test_fragments_of_a_page_that_is_left_can_no_longer_be_asked_for(demo, monkeypatch):
    """A browser's wish for one of them would wait for the new page, and then put an empty one in its place."""
    pages, storage = [], MemoryFragmentStorage()
    storage.register("id", lambda: None)
    leave = fragments.leave
    monkeypatch.setattr(fragments, "leave", lambda: pages.append(state.page()))
    app = demo()
    app.run()
    assert pages == [""], "once, by the first page"
    app.switch_page("pages/09_Other.py").run()
    assert pages == ["", "8"]
    monkeypatch.setattr(
        fragments,
        "get_script_run_ctx",
        lambda suppress_warning=False: SimpleNamespace(fragment_storage=storage),
    )
    leave()
    with pytest.raises(KeyError):
        storage.lookup("id")


@pytest.mark.parametrize(("page", "inside"), [("3", {"3-b"}), ("home", {"3-a"}), (None, {"3-a"})])
def test_what_a_browser_tells_of_a_page_that_it_has_left_is_ignored(monkeypatch, page, inside):
    here = sheet.Sheet()
    here.begin("3", ["3-a", "3-b"], "3-a")
    told = {"page": page, "inside": ["3-b", "home-machine"], "near": [], "heights": {}, "size": [1280, 720]}
    monkeypatch.setattr(sheet, "current", lambda: here)
    monkeypatch.setattr(sight.st, "session_state", {sight._KEY: {"sight": told}})
    monkeypatch.setattr(fragments, "again", lambda names: None)
    sight._told()
    assert here.inside == inside


def test_no_fragment_of_a_page_lies_within_another(demo, monkeypatch):
    """Streamlit would keep the messages of the inner one and drop those that make its place: the page breaks."""
    open_now, nested, plain = [], [], st.fragment

    def fragment(function, **given):
        def inside(*args):
            open_now.append(given["key"])
            try:
                return function(*args)
            finally:
                open_now.pop()

        if open_now:
            nested.append((open_now[-1], given["key"]))
        return plain(inside, **given)

    monkeypatch.setattr(st, "fragment", fragment)
    app = demo()
    app.pills[0].select("Table").run()
    assert not app.exception
    assert nested == []


def test_a_beat_is_drawn_when_the_work_of_one_of_its_parts_has_got_further():
    here, job = sheet.Sheet(), Job("a proof", lambda progress: None, work.QUICK, lambda job: None)
    here.wait(sheet.part("3-a", "evidence-0"), "key", job)
    assert here.due() == []
    assert here.busy
    assert not here.is_waiting("3-a"), "the rest of the beat is there"
    job.done.set()
    assert here.due() == ["3-a"]
    here.draws("3-a")
    assert here.due() == []
    assert not here.busy


def test_fragments_are_made_in_one_place_and_begun_by_what_lays_a_page_out():
    found = {"st.fragment(": set(), "fragments.run(": set()}
    for file in [ROOT / "Home.py", *(ROOT / "pages").rglob("*.py")]:
        for call in found:
            if call in file.read_text("utf-8"):
                found[call].add(file.stem if file.stem != "__init__" else file.parent.name)
    assert found == {
        "st.fragment(": {"fragments"},
        "fragments.run(": {"bar", "frame", "landing", "sight"},
    }
