"""The first minute: what comes next is on the first screen, can be written, and the drawing follows the reader."""

import pytest

from tests.browser.controls import exceptions
from tests.screenshot import settle


def text(page):
    return page.locator(".st-key-home-prompt textarea").input_value()


def lit(page):
    return page.locator(".machine").get_attribute("data-lit")


def test_text_prediction_and_machine_are_on_the_first_screen(visit):
    page = visit("Home", "checkpoint=pocket-llama")
    for part in (".st-key-home-prompt textarea", ".st-key-says-candidates button", ".machine svg"):
        box = page.locator(part).first.bounding_box()
        assert box["y"] < 720 * 0.75, part
    assert exceptions(page) == []


def test_a_token_is_written_and_everything_follows(visit):
    page = visit("Home", "checkpoint=pocket-gpt2")
    before = text(page)
    chosen = page.locator(".st-key-says-candidates button").first
    chosen.click()
    settle(page)
    assert text(page).startswith(before)
    assert len(text(page)) > len(before)
    assert page.locator(".machine .token.last").evaluate("e => e.textContent").strip("·… ") in text(page)
    assert exceptions(page) == []


def test_it_keeps_writing_and_the_text_grows(visit):
    page = visit("Home", "checkpoint=pocket-llama")
    before = text(page)
    page.get_by_role("button", name="Keep writing").click()
    page.wait_for_function(
        "before => document.querySelector('.st-key-home-prompt textarea').value.length > before + 20",
        arg=len(before),
        timeout=60_000,
    )
    settle(page)
    assert text(page).startswith(before)
    assert exceptions(page) == []


def test_the_drawing_stays_and_its_parts_light_up_in_turn(visit):
    page = visit("Home", "checkpoint=pocket-gpt2")
    assert lit(page) == "all"
    seen = []
    for item in page.locator(".steps li").all():
        item.evaluate("e => e.scrollIntoView({ block: 'center' })")
        page.wait_for_timeout(300)
        seen.append(lit(page))
        assert page.locator(".machine svg").bounding_box()["y"] < 400, "it stays in the window"
    assert seen == [item.get_attribute("data-parts") for item in page.locator(".steps li").all()]
    assert len(set(seen)) >= 5


@pytest.mark.parametrize("step", [1, 2])
def test_each_part_is_a_door_to_its_chapter(visit, step):
    page = visit("Home", "checkpoint=pocket-llama&layer=2")
    door = page.locator(".steps li").nth(step).locator("button").first
    name = door.inner_text().split("·")[0].strip()
    door.evaluate("e => e.scrollIntoView({ block: 'center' })")
    door.click()
    page.wait_for_selector(f'[class*="st-key-beat-{name}-"]', timeout=60_000)
    settle(page)
    assert "layer=2" in page.url
    assert exceptions(page) == []


def test_a_hostile_prompt_is_only_text_in_the_drawing(visit):
    page = visit("Home", "checkpoint=pocket-gpt2&prompt=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E+%3Cb%3E")
    assert page.locator(".machine img, .machine b, .steps img").count() == 0
    assert "<" in page.locator(".machine").evaluate("e => e.textContent")
