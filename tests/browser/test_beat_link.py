"""Each beat has a link, and whoever opens it sees that beat first."""

from urllib.parse import parse_qs, urlparse

from tests.browser.controls import exceptions
from tests.screenshot import settle

LINK = 'h2 [data-testid="stHeaderActionElements"] a'


def top(page, beat):
    return page.locator(f".st-key-beat-10-{beat}").bounding_box()["y"]


def test_the_link_of_a_heading_leads_to_its_beat(visit):
    page = visit("10_RoPE", "checkpoint=pocket-llama&layer=2")
    beat = page.locator(".st-key-beat-10-distance")
    beat.scroll_into_view_if_needed()
    settle(page)
    beat.locator("h2").hover()
    link = beat.locator(LINK)
    asked = parse_qs(urlparse(link.get_attribute("href")).query)
    assert (asked["beat"], asked["layer"], asked["checkpoint"]) == (["distance"], ["2"], ["pocket-llama"])
    link.click()
    settle(page)
    assert "beat=distance" in page.url
    assert abs(top(page, "distance")) < 5
    again = visit("10_RoPE", urlparse(page.url).query)
    assert abs(top(again, "distance")) < 5
    assert again.locator('.st-key-beat-10-distance [data-testid="stPlotlyChart"]').count() == 2
    assert exceptions(again) == []
