"""Values that no control has: what a manipulated browser sends. One sentence, and the page goes on."""

import pytest
from streamlit.proto.WidgetStates_pb2 import WidgetState, WidgetStates

from pages._shared import forged
from tests.pages.conftest import HOME, open_app

WRONG = {
    "not a number": lambda sent: setattr(sent, "double_value", float("nan")),
    "far too large": lambda sent: sent.double_array_value.data.append(1e300),
    "none of the options": lambda sent: sent.string_array_value.data.append("none of them"),
    "no option has this place": lambda sent: sent.int_array_value.data.append(10**9),
    "empty": lambda sent: sent.double_array_value.SetInParent(),
    "no JSON": lambda sent: setattr(sent, "json_value", "{nonsense"),
    "bytes": lambda sent: setattr(sent, "bytes_value", b"\xff"),
    "markup": lambda sent: setattr(sent, "string_value", "<b>$x$</b>"),
}


def controls(block):
    """The ids of all controls in a part of a page."""
    for child in block.children.values():
        yield from controls(child) if hasattr(child, "children") else ()
        name = getattr(getattr(child, "proto", None), "id", "")
        if str(name).startswith("$$"):
            yield name


def sent(names, fill):
    """All controls, each with the same value."""
    states = [WidgetState(id=name) for name in names]
    for one in states:
        fill(one)
    return WidgetStates(widgets=states)


@pytest.mark.parametrize("page", [HOME, "pages/08_Attention_QKV.py"])
def test_a_page_goes_on_whatever_its_controls_are_sent(page):
    app = open_app(page)
    names = list(dict.fromkeys(controls(app._tree)))
    assert len(names) > 20
    for what, fill in WRONG.items():
        app = app._run(sent(names, fill))
        assert [error.message for error in app.exception] == [], what
        assert [one.value for one in app.header], what
    assert not app.run().exception


def test_what_a_control_cannot_say_is_told_in_one_sentence_and_the_control_is_as_it_was(demo):
    app = demo()
    slider = next(one for one in app.slider if one.label == "Count")
    app = app._run(sent([slider.id], WRONG["no JSON"]))
    assert [one.value for one in app.warning] == [forged.SENTENCE.replace(".", "\\.")]
    assert next(one for one in app.slider if one.label == "Count").value == 3
    again = next(one for one in app.slider if one.label == "Count").set_value(5).run()
    assert next(one for one in again.slider if one.label == "Count").value == 5
    assert [one.value for one in again.warning] == []


def test_a_whole_number_is_one_to_every_control_of_numbers(demo):
    app = demo()
    seed = next(one for one in app.number_input if one.label == "Seed")
    app = app._run(sent([seed.id], lambda state: setattr(state, "int_value", 5)))
    assert next(one for one in app.number_input if one.label == "Seed").value == 5
    assert [one.value for one in app.warning] == []
    slider = next(one for one in app.slider if one.label == "Count")
    app = app._run(sent([slider.id], lambda state: state.int_array_value.data.append(7)))
    assert next(one for one in app.slider if one.label == "Count").value == 7
    assert [one.value for one in app.warning] == []
