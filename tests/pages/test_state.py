"""The reader's choices: one place, in the address, never trusted."""

from dataclasses import fields

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as texts
from streamlit.runtime.state import QueryParamsProxy

from engine import ReaderError
from engine.checkpoints.catalogue import known
from engine.model.precisions import PRECISIONS
from engine.tokens.text import PROMPT_CHARACTERS
from pages._shared import fragments, frame, state
from pages._shared.state import State
from tests.pages.conftest import DEMO_PAGE, HOME

ADDRESS = {
    "prompt": "Ünï 😀\ncode & $x$ =1",
    "checkpoint": "pocket-llama",
    "precision": "bf16",
    "focus": "2",
    "layer": "3",
    "head": "1",
    "seed": "7",
}
ANY_TEXT = texts.text(texts.characters(), max_size=60) | texts.text(alphabet="-0123456789", max_size=12)
ODD = (
    "",
    "x" * 100_000,
    "\ud800",
    "\x00\u202e\u2066",
    "<script>alert(1)</script>",
    "$x$ **b** [x](javascript:alert(1))",
    "../../etc/passwd",
    "٣",
    "9" * 5000,
    "-1",
)


def odd_examples(test):
    for text in ODD:
        test = example(text)(test)
    return test


def test_an_address_names_a_state_and_a_state_its_address():
    named, refused = state.from_query(ADDRESS, State())
    assert refused == []
    assert state.to_query(named) == ADDRESS


@settings(max_examples=150, deadline=None)
@given(ANY_TEXT)
@odd_examples
def test_no_text_in_an_address_can_make_a_state_that_is_not_allowed(text):
    for field in fields(State):
        named, refused = state.from_query({field.name: text}, State())
        assert len(named.prompt) <= PROMPT_CHARACTERS
        assert named.prompt.isascii() or named.prompt.encode()  # a lone surrogate would raise
        assert known(named.checkpoint)
        assert named.precision in PRECISIONS
        for bounded, (low, high) in state.BOUNDS.items():
            assert low <= getattr(named, bounded) <= high
        assert len(refused) <= 1
        assert named == State() if refused else True


def test_a_longer_prompt_than_allowed_is_refused_in_one_sentence():
    with pytest.raises(ReaderError, match="100,000 characters"):
        state.checked("prompt", "a" * 100_000)


def test_layer_head_and_focus_move_into_the_range_of_the_model_and_the_prompt():
    moved = State(layer=40, head=40, focus=40).within(n_layer=6, n_head=10, n_tokens=3)
    assert (moved.layer, moved.head, moved.focus) == (5, 9, 2)


LAYER, HEAD = "bar-layer-6", "bar-head-10"


def strip(app):
    """The chips of the prompt's tokens."""
    return next(group for group in app.get("button_group") if str(group.key).startswith("bar-focus"))


def test_a_focus_that_nobody_chose_is_the_last_token():
    assert State().within(6, 10, 12).focus == 11


def test_a_cold_session_shows_what_its_address_names(demo):
    app = demo(**ADDRESS)
    assert app.text_area(key="side-prompt").value == ADDRESS["prompt"]
    assert app.selectbox(key="side-checkpoint").value == "pocket-llama"
    assert app.selectbox(key="side-precision").value == "bf16"
    assert app.slider(key=LAYER).value == 3
    assert app.slider(key=HEAD).value == 1
    assert strip(app).value == 2
    assert app.number_input(key="bar-seed").value == 7
    assert app.query_params == ADDRESS


def test_the_bar_moves_the_address_and_every_beat(demo):
    app = demo()
    app.slider(key=LAYER).set_value(4).run()
    assert app.query_params["layer"] == "4"
    assert sum("layer 4" in one.value for one in app.subheader) == 2


def test_a_chip_sets_the_focus_of_every_beat(demo):
    app = demo()
    app = strip(app).set_value(3).run()
    assert app.query_params["focus"] == "3"
    assert sum("focus 3" in one.value for one in app.subheader) == 2


def test_the_bar_stands_once_on_a_page_and_no_beat_repeats_it(demo):
    app = demo()
    assert [one.key for one in app.slider if one.label in ("Layer", "Head")] == [LAYER, HEAD]
    assert len([group for group in app.get("button_group") if str(group.key).startswith("bar-focus")]) == 1


def test_the_bar_draws_beats_anew_and_leaves_the_frame_alone(demo, monkeypatch):
    app = demo()
    drawn, plain = [], frame.draw_beat
    monkeypatch.setattr(frame, "draw_beat", lambda beat, *more: (drawn.append(beat.key), plain(beat, *more)))
    monkeypatch.setattr(frame, "begin", lambda *given: drawn.append("frame"))
    monkeypatch.setattr(fragments, "_due", lambda: ["bar"])  # a browser asks for the fragment of the control
    app.run()
    drawn.clear()
    app.slider(key=LAYER).set_value(4).run()
    assert drawn == ["first", "second"]


def test_a_value_that_the_browser_had_before_it_heard_of_the_new_one_is_no_choice(monkeypatch):
    session = {"bar-layer-6": 0}
    monkeypatch.setattr(state.st, "session_state", session)
    state.mirror("bar-layer-6", 5)  # a figure was clicked
    session["bar-layer-6"] = 0  # what the browser still sends with its next message
    assert state.chosen("bar-layer-6") is None
    session["bar-layer-6"] = 0  # and now the reader has moved it there
    assert state.chosen("bar-layer-6") == 0


def test_a_choice_other_than_the_one_before_counts_at_once(monkeypatch):
    session = {"bar-layer-6": 0}
    monkeypatch.setattr(state.st, "session_state", session)
    state.mirror("bar-layer-6", 5)
    session["bar-layer-6"] = 4
    assert state.chosen("bar-layer-6") == 4


def test_a_beats_own_control_is_in_the_address_and_survives_another_chapter(demo):
    app = demo()
    assert "second.count" not in app.query_params
    app.slider(key="8-second-count").set_value(7).run()
    assert app.query_params["second.count"] == "7"
    app.switch_page("pages/09_Other.py").run()
    assert "second.count" not in app.query_params
    app.switch_page(DEMO_PAGE).run()
    assert app.slider(key="8-second-count").value == 7
    assert app.query_params["second.count"] == "7"
    app.slider(key="8-second-count").set_value(3).run()
    assert "second.count" not in app.query_params, "a usual value needs no words"


def test_a_copied_link_sets_a_beats_own_controls(demo):
    app = demo(**{"layer": "1", "second.count": "9", "second.fail": "reader"})
    assert app.slider(key="8-second-count").value == 9
    assert app.selectbox(key="8-second-fail").value == "reader"


@pytest.mark.parametrize("value", ["", "banana", "11", "-1", "nan", "1e99", "9" * 5000, "<b>"])
def test_a_link_with_an_impossible_value_leaves_the_usual_one(demo, value):
    app = demo(**{"layer": "1", "second.count": value, "second.fail": value, "nothing.here": value})
    assert not app.exception
    assert app.slider(key="8-second-count").value == 3
    assert app.selectbox(key="8-second-fail").value == "no"


def test_an_address_from_before_the_last_change_does_not_undo_it(demo):
    app = demo()
    before = dict(app.query_params)
    app.slider(key=LAYER).set_value(4).run()
    app.run()
    app.query_params = before  # what a browser still sends that has not yet heard of the change
    app.text_area(key="side-prompt").set_value("Something new").run()
    assert app.query_params["layer"] == "4"
    assert app.query_params["prompt"] == "Something new"


def test_a_run_that_nobody_asked_for_takes_no_old_address(demo):
    app = demo()
    before = dict(app.query_params)
    app.slider(key=LAYER).set_value(4).run()
    app.query_params = before
    app.run()
    assert app.slider(key=LAYER).value == 4
    assert app.query_params["layer"] == "4"


def test_an_address_that_is_on_its_way_to_the_browser_is_replaced(demo, monkeypatch):
    """There and back again while the browser still shows where it was: the last run has to write all the same."""
    app = demo(layer="1")
    app.slider(key=LAYER).set_value(2).run()
    assert app.query_params["layer"] == "2"
    sent = []
    plain = QueryParamsProxy.from_dict
    monkeypatch.setattr(
        QueryParamsProxy, "from_dict", lambda self, query: sent.append(query) or plain(self, query)
    )
    app.query_params["layer"] = "1"  # the browser has not taken the new one
    app.slider(key=LAYER).set_value(1).run()
    assert [query["layer"] for query in sent] == ["1"]
    app.run()
    assert len(sent) == 1, "what the browser has is not sent again"


def test_the_state_survives_going_to_another_chapter(demo):
    app = demo()
    app.slider(key=LAYER).set_value(4).run()
    app.switch_page("pages/09_Other.py").run()
    assert app.slider(key=LAYER).value == 4
    assert app.query_params["layer"] == "4"


def test_going_back_on_a_page_restores_what_the_address_names(demo, monkeypatch):
    app = demo()
    before = dict(app.query_params)
    app.slider(key=LAYER).set_value(4).run()
    app.query_params = before
    monkeypatch.setattr(state, "_went_in_history", lambda: True)
    app.run()
    assert [one.value for one in app.slider if one.label == "Layer"] == [0]


def test_a_link_made_before_the_last_change_does_not_undo_it(demo):
    app = demo()
    before = dict(app.query_params)
    app.slider(key=LAYER).set_value(4).run()
    app.switch_page("pages/09_Other.py")
    app.query_params = before
    app.run()
    assert app.slider(key=LAYER).value == 4


@pytest.mark.parametrize(
    ("field", "value", "kept"),
    [("checkpoint", "no such thing!", "pocket-gpt2"), ("precision", "fp1", "fp32"), ("layer", "two", "0")],
)
def test_a_refused_part_of_an_address_is_named_in_one_sentence_and_the_default_stays(
    demo, field, value, kept
):
    app = demo(**{field: value})
    assert len(app.warning) == 1
    assert app.query_params[field] == kept


def test_a_refused_prompt_leaves_the_one_before(demo):
    app = demo(prompt="Kept as it was")
    app.text_area(key="side-prompt").set_value("a" * (PROMPT_CHARACTERS + 1)).run()
    assert len(app.warning) == 1
    assert app.text_area(key="side-prompt").value == "Kept as it was"


def test_a_prompt_over_128_tokens_is_cut_and_says_so(demo):
    app = demo(prompt="one two three four " * 60)
    captions = " ".join(caption.value for caption in app.caption)
    assert "first 128 of them" in captions
    assert strip(app).value == 127


SENDABLE = texts.text(texts.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=12, deadline=None)
@given(SENDABLE)
@example("")
@example("x" * 100_000)
@example("<script>alert(1)</script> $x$ **b** *i* [x](javascript:alert(1)) :smile: \x00\u202e\u2066")
def test_any_text_is_a_prompt_or_is_refused_in_one_sentence(app_on_home, text):
    app = app_on_home
    app.text_area(key="home-prompt").set_value(text).run()
    assert not app.exception
    accepted = app.query_params["prompt"] == text
    assert accepted != bool(app.warning)


@settings(max_examples=12, deadline=None)
@given(SENDABLE)
@example("x" * 100_000)
@example("../" * 30)
@example("<script>alert(1)</script>")
def test_any_text_may_be_typed_as_another_checkpoint(app_on_home, text):
    app = app_on_home
    app.text_input(key="side-other").set_value(text).run()
    assert not app.exception
    assert app.selectbox(key="side-checkpoint").value == "pocket-gpt2"


@settings(max_examples=8, deadline=None)
@given(texts.dictionaries(texts.sampled_from([*ADDRESS, "present", "beat"]), SENDABLE, max_size=4))
@example(dict.fromkeys([*ADDRESS, "present", "beat"], ODD[4]))
@example(dict.fromkeys([*ADDRESS, "present", "beat"], ""))
def test_any_address_opens_a_page(small_book, query):
    assert not small_book(DEMO_PAGE, **query).exception


@pytest.fixture(scope="module")
def small_book(tmp_path_factory):
    """`demo`, made once for all examples."""
    from tests.pages.conftest import make_book

    with pytest.MonkeyPatch.context() as patch:
        yield make_book(tmp_path_factory.mktemp("book"), patch)


@pytest.fixture(scope="module")
def app_on_home(small_book):
    """One session for all examples: what one text leaves behind must not hurt the next."""
    return small_book(HOME)
