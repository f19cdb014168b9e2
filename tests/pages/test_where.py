"""The drawing at the head of a chapter lights the parts that it is about, and says which."""

import re

import pytest

from pages._shared import where
from tests.pages.conftest import PAGES, open_app


@pytest.mark.parametrize("page", PAGES[1:])
def test_every_chapter_says_where_in_the_model_it_is(page):
    pieces = [one.value for one in open_app(page, checkpoint="pocket-gpt2").get("html")]
    drawn = [piece for piece in pieces if piece.startswith('<div class="anatomy-here"')]
    assert len(drawn) == 1
    lit = re.findall(r'class="part (\w+) lit"', drawn[0])
    assert lit
    said = re.search(r'aria-label="The model; this chapter is about: ([^"]*)\."', drawn[0])[1]
    assert said == ", ".join(name for part, (name, _) in where.PARTS.items() if part in lit)


def test_a_part_that_is_none_is_refused():
    with pytest.raises(ValueError, match="brain"):
        where.drawing(("brain",))
