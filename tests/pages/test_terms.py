"""A term in the words of a beat says what it means, once on a page, and changes nothing else of the words."""

import re

import pytest

from pages._shared import terms

LINK = re.compile(r'\[([^\]]+)\]\(#term-([a-z0-9-]+) "([^"]+)"\)')


def plain(text):
    return LINK.sub(r"\1", text)


def test_each_term_is_marked_where_it_comes_first_in_its_own_words():
    text = "Logits and a logit. The residual\nstream, the KV cache, KV caches; byte-pair encoding or BPE."
    found = terms.marked(text, 5)
    assert [word for word, *_ in LINK.findall(found)] == [
        "Logits",
        "residual\nstream",
        "KV cache",
        "byte-pair encoding",
    ]
    assert plain(found) == text
    meanings = {term.name: term.meaning for term in terms.terms()}
    assert LINK.findall(found)[0][2] == meanings["logit"]


@pytest.mark.parametrize("term", terms.terms(), ids=lambda term: term.name)
def test_every_form_of_every_term_is_found_and_means_it(term):
    chapter = min(term.only, default=1)
    for form in term.forms:
        found = LINK.findall(terms.marked(f"Here is {form}, once.", chapter))
        assert [(word, meaning) for word, _, meaning in found] == [(form, term.meaning.replace('"', "”"))]


@pytest.mark.parametrize(
    "kept",
    ["`logits`", "$token$", "[the logits](https://x.org)", "## Logits", "| logit |", "tokenizer", "sub-token",
     ":blue[logits]", '<b title="logits">'],
)  # fmt: skip
def test_code_formulas_links_headings_tables_and_other_words_are_left_alone(kept):
    assert terms.marked(kept, 5) == kept


def test_a_word_with_two_meanings_is_marked_only_where_it_has_the_one():
    assert (
        terms.marked("A block of 64 weights has a key value.", 15) == "A block of 64 weights has a key value."
    )
    assert len(LINK.findall(terms.marked("A block of a key and a value.", 8))) == 3
