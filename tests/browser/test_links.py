"""A copied address reproduces the view, on a server that has just started too."""

from urllib.parse import parse_qs, urlparse

from tests.browser.controls import exceptions, warnings
from tests.screenshot import SIZES, server, settle, url_of

QUERY = "prompt=A+dog+and+a+cat+ran&checkpoint=pocket-llama&precision=bf16&focus=2&layer=3&head=4&seed=9"


def shows_the_state(page):
    assert exceptions(page) == []
    assert page.locator(".st-key-side-prompt textarea").input_value() == "A dog and a cat ran"
    chosen = page.locator('[data-testid="stSidebar"]').inner_html()
    assert "pocket-llama" in chosen
    assert "bf16" in chosen
    address = parse_qs(urlparse(page.url).query)
    assert address == parse_qs(QUERY)


def test_a_deep_link_on_a_cold_server(visit):
    with server() as cold:
        page = visit("08_Attention_QKV", QUERY, at=cold)
        shows_the_state(page)
        assert page.locator('[class*="st-key-beat-8-"]').count() > 1
        page.context.close()  # before its server goes


def test_a_chip_moves_the_focus_and_the_address(visit):
    page = visit("08_Attention_QKV", QUERY)
    page.locator('[class*="st-key-strip"] button').nth(4).click()
    settle(page)
    page.wait_for_url("**focus=4**")
    assert exceptions(page) == []
    again = visit("08_Attention_QKV", urlparse(page.url).query)
    checked = again.locator('[class*="st-key-strip"] button').nth(4)
    assert checked.get_attribute("aria-checked") == "true" or checked.get_attribute("aria-pressed") == "true"


def test_a_click_on_a_map_of_heads_moves_the_layer_and_the_head_everywhere(visit):
    page = visit("09_Multi_Head_Attention", QUERY)
    left, right = (0.03, "0"), (0.97, "9")
    for beat, turns in (
        ("wall", (left, right, left)),
        ("scores", (right, left)),
        ("kinds", (right, left, right)),
    ):
        figure = page.locator(f'[class*="st-key-beat-9-{beat}"] [class*="-clickable"] .nsewdrag').first
        for x, head in turns:
            page.locator(f'[class*="st-key-beat-9-{beat}"]').scroll_into_view_if_needed()
            settle(page)
            figure.scroll_into_view_if_needed()
            box, before = figure.bounding_box(), page.url
            page.mouse.click(box["x"] + x * box["width"], box["y"] + 0.98 * box["height"])
            page.wait_for_function("before => location.href !== before", arg=before)
            settle(page)
            address = parse_qs(urlparse(page.url).query)
            assert (address["layer"], address["head"]) == (["5"], [head])
            sliders = page.locator('.st-key-bar [data-testid="stSlider"] input[type="range"]')
            assert [sliders.nth(i).input_value() for i in (0, 1)] == ["5", head]
    assert exceptions(page) == []


def test_on_a_phone_a_finger_scrolls_past_the_map_of_heads(browser, address):
    telephone = "Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36"
    context = browser.new_context(viewport={"width": 390, "height": SIZES[390]}, user_agent=telephone)
    page = context.new_page()
    page.goto(url_of(address, "09_Multi_Head_Attention", QUERY))
    settle(page)
    figure = '[class*="st-key-card-9-wall"] .nsewdrag'
    page.wait_for_selector(figure, state="attached")  # it may be below the fold
    assert page.locator('[class*="-clickable"]').count() == 0
    context.close()


def test_choices_survive_going_to_another_chapter(visit):
    page = visit("08_Attention_QKV", QUERY)
    page.locator('[data-testid="stSidebar"] a', has_text="Tokenization").first.click()
    page.wait_for_selector('[class*="st-key-beat-1-"]')
    settle(page)
    shows_the_state(page)


def test_nonsense_in_the_address_is_refused_in_one_sentence(visit):
    page = visit("08_Attention_QKV", "precision=fp7&layer=banana&checkpoint=../../etc")
    assert exceptions(page) == []
    assert len(warnings(page)) == 3


def test_what_was_opened_is_remembered_by_the_browser(browser, address):
    from tests.screenshot import SIZES, settle, url_of

    context = browser.new_context(viewport={"width": 1280, "height": SIZES[1280]})
    page = context.new_page()
    for name in ("04_Feed_Forward_Network", "08_Attention_QKV"):
        page.goto(url_of(address, name, "checkpoint=pocket-gpt2"))
        settle(page)
    page.wait_for_function(
        "() => Object.keys(JSON.parse(localStorage.getItem('anatomy-seen') ?? '{}')).length == 2"
    )
    page.reload()  # a new session
    settle(page)
    page.locator('[class*="st-key-side-whole"] label').first.click()  # a run of the whole page
    page.get_by_text("2 of 15 chapters opened").wait_for()
    context.close()
