"""On a projector axe-core finds nothing serious either, and a new title is read out. The walk looks at all pages."""

import pytest

from tests.browser.reading import readable
from tests.browser.test_walk import CHAPTERS
from tests.screenshot import settle


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", CHAPTERS[7:9])
def test_nothing_serious_on_a_projector(visit, name, theme):
    page = visit(name, "checkpoint=pocket-gpt2&present=1", theme=theme)
    readable(page)


def test_a_new_title_is_announced(visit):
    page = visit("08_Attention_QKV", "checkpoint=pocket-gpt2&present=1&beat=row")
    page.locator('[class*="st-key-strip"] button').nth(3).click()
    settle(page)
    title = page.locator('[class*="st-key-card-"] h3').first.inner_text()
    page.wait_for_function(
        "title => document.querySelector('[role=status].anatomy-live')?.textContent === title", arg=title
    )
