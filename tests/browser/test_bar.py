"""The bar at the foot of the window: the last input wins, however fast it comes, and everything agrees with it."""

from urllib.parse import parse_qs, urlparse

import pytest

from tests.browser.controls import exceptions
from tests.screenshot import settle

CHAPTERS = ("03_Neuron_Activation", "08_Attention_QKV", "09_Multi_Head_Attention", "11_Transformer_Block")
PHONE = "Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36"


def slider(page, name):
    return page.locator(f'.st-key-bar [class*="st-key-bar-{name}-"] input[type="range"]')


def chips(page):
    return page.locator(".st-key-strip button")


def chosen_chips(page):
    return [i for i, chip in enumerate(chips(page).all()) if chip.get_attribute("aria-checked") == "true"]


def in_address(page, field):
    return parse_qs(urlparse(page.url).query)[field][0]


def folded(page):
    """The bar in a line, as a phone shows it; its text is there on every screen."""
    return page.locator(".st-key-bar summary").evaluate("e => e.textContent")


def table_beside(page, beat):
    """The table of a beat's first figure, as text."""
    row = page.locator(f'[class*="st-key-beat-{beat}"] [class*="-evidence"]').first
    row.get_by_role("radio", name="Code").click()
    settle(page)
    return page.locator(f'[class*="st-key-beat-{beat}"] [data-testid="stCode"]').first.inner_text()


@pytest.mark.parametrize("name", CHAPTERS)
def test_ten_presses_end_where_the_slider_ends(visit, name):
    page = visit(name, "checkpoint=pocket-gpt2&layer=0")
    thumb = slider(page, "layer")
    thumb.focus()
    for key in ["ArrowRight"] * 8 + ["ArrowLeft"] * 2:  # six layers: 5 is the last, so this ends at 3
        thumb.press(key)
        page.wait_for_timeout(50)
    settle(page)
    assert thumb.input_value() == "3"
    assert in_address(page, "layer") == "3"
    assert "layer 3" in folded(page)
    assert exceptions(page) == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_six_chips_in_a_row_end_at_the_last_one(visit, name):
    page = visit(name, "checkpoint=pocket-llama")
    for number in (1, 3, 0, 4, 2, 5):
        chips(page).nth(number).click()
        page.wait_for_timeout(100)
    settle(page)
    assert chosen_chips(page) == [5]
    assert in_address(page, "focus") == "5"
    assert exceptions(page) == []


def test_after_fast_input_bar_figures_address_and_code_say_the_same(visit):
    page = visit("08_Attention_QKV", "checkpoint=pocket-gpt2&layer=0&head=0")
    layer, head = slider(page, "layer"), slider(page, "head")
    for thumb, times in ((layer, 4), (head, 7), (layer, 1)):
        thumb.focus()
        for _ in range(times):
            thumb.press("ArrowRight")
            page.wait_for_timeout(50)
    chips(page).nth(2).click()
    page.wait_for_timeout(30)
    chips(page).nth(4).click()
    settle(page)
    assert (layer.input_value(), head.input_value(), chosen_chips(page)) == ("5", "7", [4])
    assert [in_address(page, field) for field in ("layer", "head", "focus")] == ["5", "7", "4"]
    for beat in ("8-vectors", "8-map"):
        page.locator(f'[class*="st-key-beat-{beat}"]').scroll_into_view_if_needed()
        settle(page)
        titles = page.locator(f'[class*="st-key-beat-{beat}"] h3').all_inner_texts()
        assert any("layer 5" in title and "head 7" in title for title in titles), titles
    assert "layer, head, kv_head, d_head = 5, 7" in table_beside(page, "8-map")
    assert exceptions(page) == []


def test_a_drag_ends_where_it_was_let_go(visit):
    page = visit("11_Transformer_Block", "checkpoint=pocket-llama&layer=0")
    thumb = slider(page, "layer")
    track = page.locator('.st-key-bar [class*="st-key-bar-layer-"] [data-testid="stSlider"]').bounding_box()
    knob = thumb.bounding_box()
    page.mouse.move(knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2)
    page.mouse.down()
    for step in range(1, 11):
        page.mouse.move(track["x"] + track["width"] * step / 10 * 0.8, knob["y"] + knob["height"] / 2)
        page.wait_for_timeout(40)
    page.mouse.up()
    settle(page)
    value = thumb.input_value()
    assert value != "0"
    assert in_address(page, "layer") == value
    assert f"layer {value}" in folded(page)
    assert exceptions(page) == []


def test_the_bar_leaves_a_narrow_window_to_the_page(visit):
    page = visit("09_Multi_Head_Attention", "checkpoint=pocket-gpt2", width=390)
    bar = page.get_by_test_id("stBottom").bounding_box()
    for name in ("layer", "head"):
        place = slider(page, name).locator("..").bounding_box()
        assert bar["y"] < place["y"] < bar["y"] + bar["height"]
    assert bar["height"] < 0.3 * page.viewport_size["height"]


def test_on_a_phone_the_bar_is_one_line_that_unfolds(browser, address):
    from tests.screenshot import SIZES, url_of

    context = browser.new_context(viewport={"width": 390, "height": SIZES[390]}, user_agent=PHONE)
    page = context.new_page()
    page.goto(url_of(address, "08_Attention_QKV", "checkpoint=pocket-llama&layer=2"))
    settle(page)
    bar = page.locator(".st-key-bar")
    assert bar.bounding_box()["height"] < 60
    assert "layer 2" in bar.inner_text()
    page.locator(".st-key-bar summary").click()
    page.wait_for_timeout(500)
    assert slider(page, "layer").is_visible()
    chips(page).nth(1).click()
    settle(page)
    assert in_address(page, "focus") == "1"
    assert slider(page, "layer").is_visible(), "it stays unfolded while it is used"
    beat = page.locator('[class*="st-key-beat-8-projection"]')
    figure = beat.locator('[data-testid="stPlotlyChart"]').bounding_box()
    assert figure["y"] < beat.locator('[data-testid="stSlider"]').first.bounding_box()["y"], (
        "figure, then controls"
    )
    page.locator(
        '[data-testid="stExpandSidebarButton"], [data-testid="stSidebarCollapsedControl"] button'
    ).first.click()
    page.locator('[data-testid="stSidebar"] a', has_text="Multi-head").first.click()
    page.wait_for_selector('[class*="st-key-beat-9-"]')
    settle(page)
    assert page.locator('[data-testid="stSidebar"]').get_attribute("data-collapsed") == "true"
    context.close()


def test_own_controls_survive_a_reload_and_a_copied_link(visit):
    page = visit("08_Attention_QKV", "checkpoint=pocket-gpt2")
    beat = page.locator('[class*="st-key-beat-8-projection"]')
    beat.get_by_role("radio", name="value").click()
    settle(page)
    assert in_address(page, "projection.part") == "value"
    page.reload()
    settle(page)
    assert in_address(page, "projection.part") == "value"
    again = visit("08_Attention_QKV", urlparse(page.url).query)
    radio = again.locator('[class*="st-key-beat-8-projection"]').get_by_role("radio", name="value")
    assert radio.get_attribute("aria-checked") == "true"
