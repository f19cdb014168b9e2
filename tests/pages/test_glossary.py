"""The glossary: each term in two sentences, with its chapter; and a search that finds headings and leads to them."""

import re

import pytest

from pages._shared import chapters, glossary
from tests.pages.conftest import open_app

PAGE = "pages/Glossary.py"


@pytest.mark.parametrize("term", glossary.terms(), ids=lambda term: term.name)
def test_a_term_is_two_sentences_and_has_a_chapter(term):
    assert len(re.findall(r"[.?!](?= |$)", term.meaning)) == 2
    assert chapters.chapter_number(term.chapter) is not None


def test_every_beat_of_every_chapter_can_be_found():
    found = glossary.headings()
    assert {chapter.number for chapter, _ in found} == {chapter.number for chapter in chapters.chapters()}
    for number in [chapter.number for chapter in chapters.chapters()]:
        keys = [heading.key for chapter, heading in found if chapter.number == number]
        assert len(keys) == len(set(keys)) >= 5


def test_a_search_finds_terms_and_headings_and_leads_there():
    app = open_app(PAGE, checkpoint="pocket-gpt2")
    assert not app.exception
    assert len(app.subheader) == len(glossary.terms())
    app.text_input(key="glossary-search").set_value("causal MASK").run()
    assert [one.value for one in app.subheader] == ["causal mask"]
    app.text_input(key="glossary-search").set_value("mask hides").run()
    app.button(key="heading-8-row").click().run()
    assert not app.exception
    assert any("8 · " in one.value for one in app.markdown)


def test_a_search_for_markup_finds_nothing_and_shows_none():
    app = open_app(PAGE, checkpoint="pocket-gpt2")
    app.text_input(key="glossary-search").set_value("<b>**x**</b>").run()
    assert not app.exception
    assert not app.subheader
