"""Pin: one figure stays, another beside it follows, and a copied link brings both."""

from tests.browser.controls import exceptions, scrolls_sideways
from tests.screenshot import settle

BEAT = '[class*="st-key-beat-8-row"]'


def test_a_pinned_figure_stays_beside_one_that_follows(visit):
    page = visit("08_Attention_QKV", "checkpoint=pocket-gpt2&present=1&beat=row&layer=0")
    title = page.locator(f"{BEAT} h3").first.inner_text()
    page.locator('[class*="st-key-8-row-pin"] button:visible').click()
    page.wait_for_function(f"""() => document.querySelectorAll('{BEAT} .main-svg').length > 3""")
    settle(page)
    slider = page.locator('.st-key-bar [class*="st-key-bar-layer-"] [data-testid="stSlider"]').bounding_box()
    knob = page.locator('.st-key-bar [class*="st-key-bar-layer-"] input[type="range"]').bounding_box()
    page.mouse.click(slider["x"] + 0.6 * slider["width"], knob["y"] + knob["height"] / 2)
    page.wait_for_function("() => location.search.includes('layer=3')")
    settle(page)
    both = page.locator(f"{BEAT} h3").all_inner_texts()
    assert len(both) == 2
    assert both[0] == title != both[1]
    assert "pin-row=" in page.url
    assert exceptions(page) == []
    assert not scrolls_sideways(page)

    copied = visit("08_Attention_QKV", page.url.partition("?")[2])
    assert copied.locator(f"{BEAT} h3").all_inner_texts() == both
