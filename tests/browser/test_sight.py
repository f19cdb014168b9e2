"""Beats are computed when they come near the window: nothing waits for what nobody looks at."""

import pytest

from tests.browser.controls import exceptions
from tests.screenshot import settle, url_of

FIGURES = '[data-testid="stPlotlyChart"], [data-testid="stDataFrame"]'


def drawn(page):
    """Which beats have a figure, by number."""
    return page.evaluate(
        f"""() => [...document.querySelectorAll('[class*="st-key-beat-"]')]
            .map((beat, i) => beat.querySelector('{FIGURES}') ? i : -1).filter(i => i >= 0)"""
    )


def tops(page):
    return page.evaluate(
        """() => [...document.querySelectorAll('[class*="st-key-beat-"]')].map(b => b.getBoundingClientRect().top)"""
    )


@pytest.mark.parametrize("name", ["08_Attention_QKV", "11_Transformer_Block", "15_Quantization"])
def test_a_beat_far_below_costs_nothing_until_it_is_scrolled_to(visit, name):
    page = visit(name, "checkpoint=pocket-llama")
    page.wait_for_timeout(1500)
    count = page.locator('[class*="st-key-beat-"]').count()
    early = drawn(page)
    assert early[0] == 0
    assert max(early) < count - 2, "the last beats are far below"
    assert page.locator('[data-testid^="stSkeleton"]').count() >= count - len(early)
    assert page.locator('[class*="st-key-beat-"] h2').count() == count, "headings are there at once"
    last = page.locator('[class*="st-key-beat-"]').last
    last.scroll_into_view_if_needed()
    settle(page)
    assert count - 1 in drawn(page)
    assert exceptions(page) == []


def test_what_a_reader_looks_at_does_not_jump_when_a_beat_below_comes(visit):
    page = visit("09_Multi_Head_Attention", "checkpoint=pocket-gpt2")
    second = page.locator('[class*="st-key-beat-"]').nth(1)
    second.scroll_into_view_if_needed()
    settle(page)
    before = second.bounding_box()["y"]
    page.wait_for_timeout(2500)  # the beats near the window are computed meanwhile
    assert abs(second.bounding_box()["y"] - before) < 2
    assert exceptions(page) == []


def test_a_choice_made_far_above_is_shown_by_every_beat_when_it_comes_into_sight(visit):
    page = visit("08_Attention_QKV", "checkpoint=pocket-llama&layer=0&head=0")
    whole_way_down(page)
    thumb = page.locator('.st-key-bar [class*="st-key-bar-layer-"] input[type="range"]')
    thumb.focus()
    thumb.press("ArrowRight")
    settle(page)
    for beat in ("8-map", "8-vectors"):
        page.locator(f'[class*="st-key-beat-{beat}"]').scroll_into_view_if_needed()
        settle(page)
        titles = page.locator(f'[class*="st-key-beat-{beat}"] h3').all_inner_texts()
        assert any("layer 1" in title for title in titles), titles
    assert exceptions(page) == []


def whole_way_down(page):
    for beat in page.locator('[class*="st-key-beat-"]').all():
        beat.scroll_into_view_if_needed()
        settle(page, quiet=0.4)


def test_a_deep_link_computes_its_own_beat(visit):
    page = visit("08_Attention_QKV", "checkpoint=pocket-gpt2&present=1&beat=walk")
    assert page.locator('[class*="st-key-beat-8-walk"]').locator(FIGURES).count() == 1
    assert exceptions(page) == []


def test_writing_streams_and_stops_and_goes_on(browser, address):
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    page.goto(url_of(address, "05_Logits_and_Sampling", "checkpoint=pocket-gpt2&seed=77&texts.length=24"))
    settle(page)
    page.locator('[class*="st-key-beat-5-texts"]').scroll_into_view_if_needed()
    settle(page)
    assert page.locator('[class*="st-key-beat-5-texts"]').locator(FIGURES).count() >= 1
    assert exceptions(page) == []
    page.context.close()


def test_a_proof_that_takes_a_while_comes_without_another_click(visit):
    page = visit("14_Context_and_KV_Cache", "checkpoint=pocket-gpt2&beat=speculative")
    beat = page.locator(".st-key-beat-14-speculative")
    beat.get_by_role("radio", name="Prove it").click()
    page.wait_for_function(
        "beat => document.querySelector(beat)?.innerText.includes('it holds')",
        arg=".st-key-beat-14-speculative",
        timeout=60_000,
    )
    assert beat.locator(".anatomy-waiting").count() == 0
