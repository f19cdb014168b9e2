"""A reader walks through the book: every page, at both sizes, on both papers, as a scroll and on a projector."""

from urllib.parse import quote

import pytest

from tests.browser.controls import exceptions, move_a_control, scrolls_sideways, warnings
from tests.browser.reading import readable
from tests.conftest import BUNDLED
from tests.screenshot import ROOT, SIZES, settle

CHAPTERS = tuple(sorted(file.stem for file in (ROOT / "pages").glob("[0-9]*.py")))
PAGES = ("Home", *CHAPTERS)
SHOWN = (
    '[data-testid="stPlotlyChart"], [data-testid="stDataFrame"], .machine svg, .st-key-says-candidates button'
)
ATTACK = (
    "<img src=x onerror=document.title='owned'><script>alert(1)</script> "
    "[x](javascript:alert(2)) $zqz$ **b** :red[c]"
)


def healthy(page):
    assert exceptions(page) == []
    assert not scrolls_sideways(page)
    page.locator(SHOWN).first.wait_for(state="attached", timeout=60_000)


def at_width(page, width):
    """The same page in another window."""
    page.set_viewport_size({"width": width, "height": SIZES[width]})
    settle(page)
    return page


@pytest.mark.parametrize("name", PAGES)
def test_every_beat_answers_its_controls(visit, name):
    page = visit(name, f"checkpoint={BUNDLED[len(name) % 2]}", theme="light")
    healthy(page)
    beats = page.locator('[class*="st-key-beat-"]')
    for number in range(beats.count()):
        beat = beats.nth(number)
        beat.scroll_into_view_if_needed()
        settle(page)
        if move_a_control(beat):
            settle(page)
        beat.locator(SHOWN).first.wait_for(state="attached", timeout=60_000)
        assert exceptions(page) == [], f"beat {number}"
    readable(page)
    healthy(at_width(page, 390))


@pytest.mark.parametrize("name", PAGES)
def test_on_dark_paper_nothing_overflows_and_a_hostile_prompt_stays_a_prompt(visit, name):
    query = f"checkpoint={BUNDLED[(len(name) + 1) % 2]}&prompt={quote(ATTACK)}"
    page = visit(name, query, width=390, theme="dark")
    healthy(page)
    healthy(at_width(page, 1280))
    readable(page)
    inert(page)


def inert(page):
    """Nothing of the prompt has become code, a link, an image or a formula; the field shows it as it is."""
    assert "owned" not in page.title()
    main = page.locator('[data-testid="stMain"]')
    assert main.locator('img[src="x"]').count() == 0
    assert main.locator('a[href^="javascript"]').count() == 0
    assert ATTACK in [field.input_value() for field in page.locator("textarea").all()]
    formulas = main.locator(".katex").all_inner_texts()
    assert [formula for formula in formulas if "z" in formula and "q" in formula] == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_arrow_keys_turn_the_beats_on_a_projector(visit, name):
    theme = ("light", "dark")[len(name) % 2]
    page = visit(name, "present=1", theme=theme)
    seen = []
    for _ in range(30):
        beats = page.locator('[class*="st-key-beat-"]')
        assert beats.count() == 1
        assert exceptions(page) == []
        assert not scrolls_sideways(page)
        heading = beats.locator("h2").first.inner_text()
        seen.append(heading)
        counter = page.locator('[class*="st-key-projector-bar"]').inner_text()
        at, _, total = counter.split("·")[-1].split("\n")[0].partition(" of ")
        if int(at) == int(total):
            break
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "before => document.querySelector('[class*=\"st-key-beat-\"] h2')?.innerText !== before",
            arg=heading,
        )
        settle(page)
    assert len(set(seen)) == len(seen) == int(total)
    assert not scrolls_sideways(at_width(page, 390))
    assert warnings(page) == []
