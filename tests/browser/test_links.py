"""A copied address reproduces the view, on a server that has just started too."""

from urllib.parse import parse_qs, urlparse

from tests.browser.controls import exceptions, warnings
from tests.screenshot import server, settle

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
