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
    assert page.locator(".machine .token.last").evaluate("e => e.textContent").strip("␣… ") in text(page)
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


def test_nothing_is_told_of_a_page_while_the_next_one_is_made(visit):
    """Streamlit would take it for a wish to be on the old page, and empty the new one."""
    page, line = visit("Home", "checkpoint=pocket-llama", follow=False), Line()
    page.route_web_socket("**/_stcore/stream", line.connect)
    page.reload()
    settle(page)
    assert line.told('"inside":'), "what is seen here is told"
    door = page.locator(".steps li button").first
    door.scroll_into_view_if_needed()
    settle(page)
    line.hold()
    door.click()
    for _ in range(20):
        page.locator('[data-testid="stMain"]').evaluate("main => main.scrollBy(0, 100)")
        page.wait_for_timeout(50)
    assert line.told("01_Tokenization.py")
    assert not line.told('"inside":')
    line.let_go()
    page.wait_for_selector('[class*="st-key-beat-1-"]')
    settle(page)
    assert line.told("1-chips")
    assert exceptions(page) == []


class Line:
    """What goes between a page and the server; what comes from the server can be held for a while."""

    def __init__(self):
        self.sent, self.held = [], None

    def connect(self, browser):
        def passed(message):
            self.sent.append(message if isinstance(message, bytes) else message.encode())
            server.send(message)

        server = browser.connect_to_server()
        browser.on_message(passed)
        server.on_message(lambda message: self.arrived(browser, message))

    def arrived(self, browser, message):
        if self.held is None:
            browser.send(message)
        else:
            self.held.append((browser, message))

    def hold(self):
        self.held = []
        self.sent.clear()

    def let_go(self):
        held, self.held = self.held, None
        for browser, message in held:
            browser.send(message)

    def told(self, what):
        return any(what.encode() in message for message in self.sent)


def test_a_hostile_prompt_is_only_text_in_the_drawing(visit):
    page = visit("Home", "checkpoint=pocket-gpt2&prompt=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E+%3Cb%3E")
    assert page.locator(".machine img, .machine b, .steps img").count() == 0
    assert "<" in page.locator(".machine").evaluate("e => e.textContent")
