"""On a wall: keys turn whatever has the focus, each press counts, a beat fills one screen and grows with it."""

from urllib.parse import parse_qs, urlparse

import pytest

from tests.browser.controls import exceptions
from tests.screenshot import SIZES, settle

LOWEST = """() => Math.max(...[...document.querySelectorAll(
    '[data-testid="stMain"] .js-plotly-plot, [class*="st-key-beat-"] [data-testid="stSlider"],'
    + '[class*="st-key-beat-"] [data-testid="stSelectbox"], [class*="st-key-beat-"] [data-testid="stCheckbox"]'
)].map(e => e.getBoundingClientRect().bottom))"""


def beat(page):
    return parse_qs(urlparse(page.url).query).get("beat", [""])[0]


def at(page):
    counter = page.locator('[class*="st-key-projector-bar"] h1').first.inner_text()
    return int(counter.rpartition("·")[2].split(" of ")[0])


def test_quick_presses_are_all_counted(visit):
    page = visit("08_Attention_QKV", "checkpoint=pocket-gpt2&present=1")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(120)
    settle(page)
    assert at(page) == 5
    for key in ("PageUp", "PageUp", "PageDown"):
        page.keyboard.press(key)
        page.wait_for_timeout(350)
    settle(page)
    assert at(page) == 4
    assert exceptions(page) == []


def test_keys_turn_beats_after_a_click_on_a_slider(visit):
    page = visit("08_Attention_QKV", "checkpoint=pocket-gpt2&present=1")
    slider = page.locator('.st-key-bar [class*="st-key-bar-layer-"] input[type="range"]')
    slider.focus()
    before = slider.input_value()
    page.keyboard.press("PageDown")
    settle(page)
    assert at(page) == 2
    page.keyboard.press("ArrowRight")
    settle(page)
    assert at(page) == 3
    assert (
        page.locator('.st-key-bar [class*="st-key-bar-layer-"] input[type="range"]').input_value() == before
    )


def test_b_blanks_and_o_shows_all_beats_and_the_first_escape_only_closes(visit):
    page = visit("08_Attention_QKV", "checkpoint=pocket-gpt2&present=1")
    page.keyboard.press("b")
    assert page.locator('.anatomy-layer[data-kind="blank"]').is_visible()
    page.keyboard.press("b")
    assert page.locator(".anatomy-layer").count() == 0
    page.keyboard.press("o")
    assert page.locator(".anatomy-layer li").count() == 9
    page.keyboard.press("Escape")
    assert page.locator(".anatomy-layer").count() == 0
    assert "present=1" in page.url
    page.keyboard.press("o")
    page.locator(".anatomy-layer button").nth(6).click()
    settle(page)
    assert at(page) == 7
    page.keyboard.press("Escape")
    page.wait_for_function("() => !location.search.includes('present=1')")
    settle(page)
    assert page.locator('[class*="st-key-beat-8-"]').count() > 1
    assert exceptions(page) == []


def test_presenting_begins_at_the_beat_in_sight_and_leaving_returns_to_it(visit):
    page = visit("11_Transformer_Block", "checkpoint=pocket-llama")
    third = page.locator('[class*="st-key-beat-11-"]').nth(2)
    third.scroll_into_view_if_needed()
    settle(page)
    heading = third.locator("h2").first.inner_text()
    third.evaluate("e => e.scrollIntoView({ block: 'start' })")
    settle(page)
    page.locator(".st-key-present button").first.evaluate("e => e.click()")
    page.wait_for_selector('[class*="st-key-projector-bar"]')
    settle(page)
    assert page.locator('[class*="st-key-beat-11-"] h2').first.inner_text() == heading
    page.keyboard.press("Escape")
    page.wait_for_function("() => !location.search.includes('present=1')")
    settle(page)
    top = page.locator('[class*="st-key-beat-11-"]').nth(2).bounding_box()["y"]
    assert -100 < top < 400, "the page is where it was left"


def test_the_text_can_be_changed_without_leaving(visit):
    page = visit("08_Attention_QKV", "checkpoint=pocket-gpt2&present=1&beat=map")
    page.get_by_role("button", name="Text").click()
    field = page.locator(".st-key-projector-prompt textarea")
    field.fill("A dog saw a cat")
    field.press("Control+Enter")
    page.wait_for_function("() => location.search.includes('A+dog+saw+a+cat')")
    settle(page)
    assert beat(page) == "map"
    assert exceptions(page) == []


@pytest.mark.parametrize("width", [1280, 1920])
@pytest.mark.parametrize(
    ("name", "key"),
    [("08_Attention_QKV", "map"), ("05_Logits_and_Sampling", "logits"), ("15_Quantization", "text")],
)
def test_a_beat_fills_one_screen(visit, name, key, width):
    page = visit(name, f"checkpoint=pocket-llama&present=1&beat={key}", width=width)
    foot = page.locator('[data-testid="stBottom"]').bounding_box()["y"]
    lowest = page.evaluate(LOWEST)
    assert lowest <= foot
    assert lowest > SIZES[width] * 0.6, "and does not leave it empty"
    assert exceptions(page) == []


def test_two_figures_of_a_beat_stand_beside_each_other_on_a_wall(visit):
    page = visit("12_Training_Phases", "checkpoint=pocket-llama&present=1&beat=prompt", 1920)
    first, second = (chart.bounding_box() for chart in page.locator('[data-testid="stPlotlyChart"]').all())
    assert first["x"] + first["width"] <= second["x"]
    assert min(first["height"], second["height"]) > SIZES[1920] / 3
    assert exceptions(page) == []


def test_home_can_be_presented(visit):
    page = visit("Home", "checkpoint=pocket-gpt2")
    page.locator(".st-key-present button").first.click()
    page.wait_for_selector('[class*="st-key-projector-bar"]')
    settle(page)
    page.keyboard.press("PageDown")
    page.wait_for_selector(".machine svg")
    settle(page)
    assert at(page) == 2
    assert exceptions(page) == []


def test_p_covers_a_figure_until_there_is_a_guess(visit):
    page = visit("08_Attention_QKV", "checkpoint=pocket-gpt2&present=1&beat=row")
    figures = page.locator('[class*="st-key-beat-8-row"] [data-testid="stPlotlyChart"]')
    assert figures.count() == 1
    page.keyboard.press("p")
    page.locator('[class*="st-key-ask-8-row"]').wait_for()
    settle(page)
    assert figures.count() == 0
    page.locator('[class*="8-row-guess-0"] button').click()
    page.locator('[class*="st-key-answer-8-row"]').wait_for()
    settle(page)
    assert figures.count() == 1
    assert "of 1 right so far" in page.locator('[class*="st-key-answer-8-row"]').inner_text()
    page.keyboard.press("p")
    page.locator('[class*="st-key-answer-8-row"]').wait_for(state="detached")
    assert figures.count() == 1
