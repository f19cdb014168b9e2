"""What axe-core finds on a page, and whether its headings are in order."""

import itertools

from axe_playwright_python.sync_playwright import Axe

SERIOUS = ("serious", "critical")
ORDER = ("heading-order", "page-has-heading-one", "empty-heading")
HEADINGS = """() => [...document.querySelectorAll('[data-testid="stMain"] :is(h1, h2, h3, h4, h5, h6)')]
    .filter(e => e.getClientRects().length).map(e => Number(e.tagName[1]))"""


def violations(page):
    """What axe-core finds: its rule, and the first place."""
    found = Axe().run(page).response["violations"]
    return [
        (one["id"], len(one["nodes"]), one["nodes"][0]["html"][:160])
        for one in found
        if one["impact"] in SERIOUS or one["id"] in ORDER
    ]


def steps(levels):
    """By how much headings go deeper, from each to the next."""
    return [after - before for before, after in itertools.pairwise(levels)]


def readable(page):
    """Nothing serious, one title, and no heading that skips a level."""
    found = violations(page)
    assert not found, found
    levels = page.evaluate(HEADINGS)
    assert levels[0] == 1
    assert max(steps(levels), default=0) <= 1
