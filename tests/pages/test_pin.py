"""Pin: a figure stays as it was while another beside it follows the choices."""

import json

import numpy as np
import pytest

from engine.evidence.difference import difference
from tests.pages.conftest import PAGES, Visit, open_app, watched

CHAPTERS = PAGES[1:]
ROW = "pages/08_Attention_QKV.py"


def opened(page, **query):
    """A page and its cards, beat by beat."""
    visit = Visit()
    with watched(visit):
        visit.app = open_app(page, checkpoint="pocket-gpt2", **query)
    return visit


def pins(app):
    return [button for button in app.button if (button.key or "").endswith("-pin")]


def after(visit, do):
    """The cards of the next run, beat by beat."""
    visit.cards.clear()
    with watched(visit):
        do(visit.app)
    return dict(visit.cards)


def same(left, right):
    return left.keys() == right.keys() and all(
        np.array_equal(left[name], right[name], equal_nan=np.asarray(left[name]).dtype.kind == "f")
        for name in left
    )


def change_precision(app):
    app.selectbox(key="side-precision").set_value("nf4").run()


@pytest.mark.slow
@pytest.mark.parametrize("page", CHAPTERS)
def test_every_beat_can_be_kept_beside_another_precision(page):
    visit = opened(page)
    before = dict(visit.cards)
    assert len(pins(visit.app)) >= len(before) - 1, "only a run that goes on cannot be pinned"
    pinned = [button.key.removesuffix("-pin").partition("-")[2] for button in pins(visit.app)]
    for beat in pinned:
        visit.app.button(key=f"{page[6:8].lstrip('0')}-{beat}-pin").click()
    both = after(visit, change_precision)
    assert [error.message for error in visit.app.exception] == []
    for beat in pinned:
        kept = [card for card in both[beat] if any(same(card.shown, old.shown) for old in before[beat])]
        if all(old.shown for old in before[beat]) and not measures_time(before[beat]):
            assert len(kept) >= len(before[beat]), beat
        assert len(both[beat]) >= len(before[beat])


def measures_time(cards):
    return any("median" in name for card in cards for name in card.table)


def test_the_pinned_figure_stays_and_the_other_follows():
    visit = opened(ROW)
    (before,) = visit.cards["row"]
    after(visit, lambda app: app.button(key="8-row-pin").click().run())
    both = after(visit, lambda app: app.slider(key=layer(app)).set_value(3).run().run())["row"]
    both = both[-2:]
    assert same(both[0].shown, before.shown)
    assert not same(both[1].shown, before.shown)
    assert both[0].figure.layout.yaxis.range == both[1].figure.layout.yaxis.range
    told = [words.value for words in visit.app.caption]
    assert any(difference(both[0].shown, both[1].shown) == text.replace("\\", "") for text in told)
    assert any("layer 0" in text and "Pinned" in text for text in told)
    assert any("layer 3" in text and "Now" in text for text in told)

    alone = after(visit, lambda app: app.button(key="8-row-pin").click().run())["row"]
    assert len(alone) == 1


def layer(app):
    return next(slider.key for slider in app.slider if (slider.key or "").startswith("bar-layer"))


def test_a_control_of_the_beat_is_kept_as_it_was():
    visit = opened(ROW)
    (before,) = visit.cards["row"]
    after(visit, lambda app: app.button(key="8-row-pin").click().run())
    mask = next(toggle.key for toggle in visit.app.toggle if "mask" in (toggle.key or ""))
    both = after(visit, lambda app: app.toggle(key=mask).set_value(False).run())["row"]
    assert same(both[0].shown, before.shown)
    assert json.loads(text_of(visit.app))[1] == {"mask": "1", "scale": "1"}


def text_of(app):
    """The pin of the row, as the address says it."""
    text = app.query_params["pin-row"]
    return text if isinstance(text, str) else text[0]


def test_a_pin_is_in_the_link():
    visit = opened(ROW)
    (before,) = visit.cards["row"]
    after(visit, lambda app: app.button(key="8-row-pin").click().run())
    copied = opened(ROW, layer="3", **{"pin-row": text_of(visit.app)})
    both = copied.cards["row"][-2:]
    assert not same(both[1].shown, before.shown)
    assert same(both[0].shown, before.shown)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        "[1,2]",
        '[{"precision":"fp1"},{}]',
        '[{"checkpoint":"../../etc"},{}]',
        '[{"layer":"9999999999999"},{}]',
        json.dumps([{}, {"mask": {"a": 1}, "scale": "<script>"}]),
        json.dumps([{}, {"mask": "maybe", "again x": "-1"}]),
        "[" * 2000,
    ],
)
def test_a_forged_pin_is_refused_or_harmless(text):
    visit = opened(ROW, layer="2", **{"pin-row": text})
    assert [error.message for error in visit.app.exception] == []
    assert len(visit.cards["row"]) in (1, 2)


def test_the_difference_is_that_of_what_is_shown():
    assert difference({"a": [1.0, 2.0]}, {"a": [1.0, 2.5]}) == "Largest differences: “a” 0.5."
    assert difference({"a": [1.0]}, {"a": [1.0]}) == "Both show the same numbers."
    assert (
        difference({"ids": [1, 2, 3]}, {"ids": [1, 9, 3]})
        == "Largest differences: “ids” differs in 1 of 3 places."
    )
    assert "2 and 3 numbers" in difference({"a": [1, 2]}, {"a": [1, 2, 3]})
    assert "no difference to state" in difference({"a": [1]}, {"b": [1]})
