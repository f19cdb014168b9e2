"""The frame around the beats: what is shown, what is escaped, what waits until it is asked for."""

import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from engine.evidence.card import Badge, Card
from engine.tokens.text import markdown
from pages._shared import card as cards
from pages._shared import chapters, files, frame, resources, sidebar, tidying
from pages._shared.state import State
from tests.pages import conftest
from tests.pages.conftest import DEMO_PAGE, open_app


def words(app):
    return [one.value for one in app.markdown]


def evidence(app, key):
    return next(group for group in app.get("button_group") if group.key == f"{key}-evidence")


def test_a_chapter_leads_with_its_question_as_literal_text(demo):
    assert [title.value for title in demo().title] == [markdown("Does it *work*?")]


def test_the_scroll_shows_every_beat_once(demo):
    assert [one.value for one in demo().header] == ["The first beat", "The second beat"]


def test_a_card_title_is_literal_text(demo):
    assert markdown("layer 0 focus 11 <b>$x$</b>") in [one.value for one in demo().subheader]


@pytest.mark.parametrize(
    ("sent", "chosen"),
    [
        ({"customdata": [4, 7]}, {"layer": 4, "head": 7}),
        ({"customdata": [4]}, None),
        ({"customdata": {"0": 4, "1": 7}}, None),
        ({}, None),
        (None, None),  # clicked again: nothing is selected any more
        (1, None),  # not what a browser of this app sends
        ({"customdata": "47"}, None),
    ],
)
def test_a_click_chooses_what_its_point_carries(monkeypatch, sent, chosen):
    points = [] if sent is None else [sent]
    monkeypatch.setattr(cards.st, "session_state", {"9-wall-clickable": {"selection": {"points": points}}})
    heard = []
    cards._picked(("layer", "head"), "9-wall-clickable", heard.append)
    assert heard == ([] if chosen is None else [chosen])


def test_a_recorded_card_names_its_run(demo):
    named = markdown("Recorded by engine/training/demo.py on 2025-01-02, a laptop.")
    assert named in [caption.value for caption in demo().caption]


def test_an_error_for_the_reader_is_one_escaped_sentence_and_the_other_beat_stays(demo):
    app = demo()
    app.selectbox(key="8-second-fail").set_value("reader").run()
    app.run()
    assert [one.value for one in app.warning] == [markdown("This **cannot** <b>work</b>.")]
    assert not app.exception
    assert "Prose one." in words(app)


def test_a_bug_surfaces(demo):
    app = demo()
    app.selectbox(key="8-second-fail").set_value("bug").run()
    assert [one.message for one in app.exception] == ["a bug"]


def test_nothing_is_proved_before_it_is_asked(demo):
    app = demo()
    assert conftest.PROVED == []
    evidence(app, "8-one").set_value(cards.PROVE).run()
    assert conftest.PROVED == ["one"]


def test_prove_it_shows_the_claim_the_difference_and_the_tolerance(demo):
    app = demo()
    app = evidence(app, "8-one").set_value(cards.PROVE).run()
    (shown,) = [one.value for one in app.success]
    assert r"One is one\." in shown
    assert "max |Δ| = **0**, tolerance 0: it holds" in shown


def test_code_shows_the_script(demo):
    app = demo()
    app = evidence(app, "8-one").set_value(cards.CODE).run()
    assert [one.value for one in app.code] == ["result = {'x': 1}\nprint(result)"]


def test_a_card_without_proof_offers_none(demo):
    assert [label.split(" ")[-1] for label in evidence(demo(), "8-two").options] == ["Code", "Download"]


def test_the_projector_shows_the_beat_of_the_address_and_nothing_else(demo):
    app = demo(present="1", beat="second")
    assert [one.value for one in app.header] == ["The second beat"]
    assert [one.value for one in app.title] == ["8 · Demo · 2 of 2"]


def test_the_projector_moves_by_beats_and_then_to_the_next_chapter(demo):
    app = demo(present="1")
    app.button(key="go-Next").click().run()
    assert app.query_params["beat"] == "second"
    app.button(key="go-Next").click().run()
    assert [one.value for one in app.header] == ["The first beat"]
    assert any(one.value.startswith("9 · Demo · 1 of 2") for one in app.title)


def test_before_the_first_chapter_the_projector_shows_home(demo):
    assert not demo(present="1").button(key="go-Back").disabled


def test_home_can_be_presented_and_is_the_first_page():
    app = open_app(present="1")
    assert not app.exception
    assert app.button(key="go-Back").disabled
    assert not app.button(key="go-Next").disabled


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("One sentence is here for all. Another one.", "One sentence is here for all."),
        ("Short. A longer one follows this. End.", "Short. A longer one follows this."),
        ("A **mark. Over two** sentences, and more. Then this.", "A **mark. Over two** sentences, and more."),
        ("No end at all", "No end at all"),
        ("A paragraph.\n\nAnother.", "A paragraph."),
    ],
)
def test_the_short_form_of_a_beats_words_is_its_first_sentence(words, first):
    assert frame.first_sentence(words) == first


def test_leaving_the_projector_gives_the_scroll_back(demo):
    app = demo(present="1", beat="second")
    app.button(key="leave").click().run()
    assert len(app.header) == 2
    assert "present" not in app.query_params


def test_an_unknown_beat_in_the_address_is_the_first(demo):
    app = demo(present="1", beat="<b>nothing")
    assert [one.value for one in app.header] == ["The first beat"]


def test_the_sidebar_lists_the_chapters_that_exist_in_their_groups(demo):
    app = demo()
    labels = [link.label for link in app.sidebar.get("page_link")]
    assert [label.split("  ")[0] for label in labels] == ["Home", markdown("8 · Demo"), markdown("9 · Other")]
    assert [caption.value for caption in app.sidebar.caption] == ["Attention"]


def test_the_sidebar_ticks_a_chapter_whose_beats_were_all_shown(demo):
    app = demo()
    app.switch_page("pages/09_Other.py").run()
    assert any("8 · Demo" in link.label and "✓" in link.label for link in app.sidebar.get("page_link"))


def test_a_chapter_is_named_by_its_docstring(tmp_path, monkeypatch):
    (tmp_path / "05_Some_File.py").write_text(
        '"""5 · Logits: a, b — what comes next."""\nimport nothing', "utf-8"
    )
    (tmp_path / "06_No_Docstring.py").write_text("syntax error here", "utf-8")
    monkeypatch.setattr(chapters, "PAGES", tmp_path)
    first, second = chapters.chapters()
    assert (first.number, first.title, first.about, first.group) == (
        5,
        "Logits: a, b",
        "what comes next",
        "Output",
    )
    assert (second.number, second.title, second.group) == (6, "No Docstring", "Learning")


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1", "-1", "@A1", "\t=1", " =1", "\r=1", "＝1", "\u3000＋1", "\u00a0－1", "＠A"]
)
def test_a_spreadsheet_reads_no_formula_in_the_csv(cell):
    card = Card("k", "t", "a", Badge.TOY, None, {cell: [cell, 'a "quoted", cell'], "n": [-1.5, 2]})
    header, first, *_ = files.to_csv(card).decode("utf-8-sig").split("\r\n", 2)
    assert header.lstrip('"').startswith("'")
    assert first.lstrip('"').startswith("'")
    assert "-1.5" in first  # a number stays a number


def test_the_downloaded_figure_needs_no_network_and_runs_no_title():
    import plotly.graph_objects as go

    card = Card("k", "<script>alert(1)</script> $x$", "a", Badge.TOY, go.Figure(go.Bar(y=[1])), {"y": [1]})
    page = files.to_html(card, State(prompt="<script>alert(2)</script>", layer=3))
    assert "plotly.js v" in page
    assert 'src="http' not in page
    assert "<script>alert(" not in page
    assert "&lt;script&gt;alert(2)" in page
    assert 'filename: "k-pocket-gpt2-fp32-L3-H0"' in page


def test_a_table_says_what_it_was_made_of():
    card = Card("k", "t", "a", Badge.TOY, None, {"n": [1, 2]})
    lines = files.to_csv(card, State(prompt="=1+1", layer=3)).decode("utf-8-sig").splitlines()
    assert lines[:4] == ["n", "1", "2", ""]
    assert "prompt,'=1+1" in lines
    assert "layer,3" in lines
    assert any(line.startswith("made with,Anatomy of a Language Model 0") for line in lines)


def test_a_chapter_can_be_the_first_page_of_a_session(demo, tmp_path):
    app = open_app(DEMO_PAGE, tmp_path)
    assert not app.exception
    assert "Prose one." in words(app)


def test_a_collection_does_not_walk_the_libraries():
    resources._aside.clear()
    gc.unfreeze()
    everything = len(gc.get_objects())
    try:
        resources.set_aside("torch")
        assert gc.get_freeze_count() > everything / 2
        assert len(gc.get_objects()) < everything / 2
        frozen = gc.get_freeze_count()
        resources.set_aside("torch")
        assert gc.get_freeze_count() <= frozen, "what is made later can still be collected"
    finally:
        gc.unfreeze()


def test_readers_who_come_at_once_wait_for_one_collection(monkeypatch):
    monkeypatch.setattr(resources, "_aside", set())
    collected, readers = [], 8
    together = threading.Barrier(readers)
    monkeypatch.setattr(resources, "import_module", lambda name: together.wait(10))
    monkeypatch.setattr(resources.gc, "collect", lambda: collected.append(time.sleep(0.05)))
    monkeypatch.setattr(resources.gc, "freeze", lambda: None)
    with ThreadPoolExecutor(readers) as pool:
        list(pool.map(resources.set_aside, ["torch"] * readers))
    assert len(collected) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked")
def test_freed_memory_goes_back_to_the_system():
    process, blocks = psutil.Process(), [bytearray(5_000) for _ in range(40_000)]
    last = blocks[-1]  # glibc gives back by itself only what lies behind everything that is in use
    del blocks
    kept = process.memory_info().rss
    tidying.give_back()
    assert kept - process.memory_info().rss > 100_000_000
    assert len(last) == 5_000


def test_garbage_is_collected_a_little_after_a_run_and_once_for_several(monkeypatch, demo):
    monkeypatch.setattr(tidying, "AFTER", 0.2)
    monkeypatch.setattr(tidying, "_armed", False)
    collected = []
    monkeypatch.setattr(tidying.gc, "collect", lambda *args: collected.append(args))
    demo().run()
    assert collected == [], "not while a reader waits"
    deadline = time.monotonic() + 5
    while not collected and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.4)
    assert len(collected) == 1
    demo()
    time.sleep(0.6)
    assert len(collected) == 2


@pytest.mark.parametrize(
    "kept",
    [
        None,
        [],
        {"8": "x"},
        {"8": ["3"]},
        {"8": ["three", "row"]},
        {"8": ["3", 4]},
        {"99": ["3", "row"]},
        {"8": ["3"] * 99},
    ],
)
def test_a_forged_record_of_what_was_seen_changes_nothing(kept, monkeypatch):
    session = {}
    monkeypatch.setattr(sidebar.st, "session_state", session)
    sidebar.recall(kept)
    assert not session.get("anatomy.seen")


def test_what_a_browser_remembers_is_added_to_what_was_seen(monkeypatch):
    session = {"anatomy.seen": {"8": (frozenset({"row"}), 9)}}
    monkeypatch.setattr(sidebar.st, "session_state", session)
    sidebar.recall({"8": ["9", "map"], "3": ["6", "toy"]})
    assert session["anatomy.seen"] == {"8": (frozenset({"row", "map"}), 9), "3": (frozenset({"toy"}), 6)}
    assert sidebar.record() == {"8": ["9", "map", "row"], "3": ["6", "toy"]}
