"""What a term means is one press away, and gone with the next key."""

from pages._shared.terms import terms

SHOWN = ".anatomy-meaning"


def test_a_term_that_is_pressed_says_what_it_means(visit):
    page = visit("08_Attention_QKV", width=390)
    meanings = {term.name: term.meaning for term in terms()}
    before = page.url
    page.locator('a[href="#term-query"]').first.click()
    assert page.locator(SHOWN).inner_text() == meanings["query"]
    page.wait_for_timeout(600)
    assert page.locator(SHOWN).count() == 1, "it stays when the scrolling that brought it has come to rest"
    box = page.locator(SHOWN).bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    page.keyboard.press("Escape")
    assert page.locator(SHOWN).count() == 0
    other = page.locator('a[href="#term-residual-stream"]').first
    other.focus()
    page.keyboard.press("Enter")
    assert page.locator(SHOWN).inner_text() == meanings["residual stream"]
    page.mouse.wheel(0, 200)
    page.wait_for_timeout(600)
    page.mouse.wheel(0, 200)
    page.wait_for_timeout(300)
    assert page.locator(SHOWN).count() == 0
    assert page.url == before
