"""The labels of chapter 2's map, measured where a browser draws them: none covers another, or a point."""

import pytest

from tests.browser.controls import exceptions
from tests.screenshot import settle

WINDOWS = {390: 844, 640: 800, 1280: 720}

BEAT = '[class*="st-key-beat-2-map"]'

MEASURED = f"""() => {{
    const sides = r => [r.left, r.top, r.right, r.bottom];
    const box = e => [...sides(e.getBoundingClientRect()), e.textContent];
    const all = s => [...document.querySelectorAll('{BEAT} ' + s)].map(box);
    const texts = [...all('.scatterlayer .textpoint text'), ...all('.annotation text')].filter(b => b[4]);
    return [texts, all('.scatterlayer path.point'),
            box(document.querySelector('{BEAT} .main-svg'))];
}}"""

SLACK = 2
"""Pixels: a line of type has more room above and below than its letters."""


def cover(one, other):
    across = min(one[2], other[2]) - max(one[0], other[0])
    return across > SLACK and min(one[3], other[3]) - max(one[1], other[1]) > 2 * SLACK


@pytest.mark.parametrize("checkpoint", ["pocket-gpt2", "pocket-llama"])
def test_no_label_covers_another_or_a_point_or_leaves_the_figure(visit, checkpoint):
    page = visit("02_Vector_Embeddings", f"checkpoint={checkpoint}&beat=map")
    for width, height in WINDOWS.items():
        page.set_viewport_size({"width": width, "height": height})
        page.reload()
        settle(page)
        page.locator(BEAT).scroll_into_view_if_needed()
        page.locator(f"{BEAT} .textpoint text").first.wait_for()
        settle(page)
        labels, points, figure = page.evaluate(MEASURED)
        assert len(labels) > 10
        assert len(points) > len(labels)
        covered = [
            (a[4], b[4]) for i, a in enumerate(labels) for b in [*labels[i + 1 :], *points] if cover(a, b)
        ]
        assert not covered, (width, covered)
        outside = [a[4] for a in labels if a[0] < figure[0] - SLACK or a[2] > figure[2] + SLACK]
        assert not outside, (width, outside)
    assert exceptions(page) == []
