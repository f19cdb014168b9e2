"""The default and example prompts: they follow the checkpoint, and never replace what a reader wrote."""

import pytest

from engine.checkpoints.prompts import prompts_for
from pages._shared import state
from pages._shared.state import LAST, State
from tests.pages.conftest import HOME

SMOL = "SmolLM2-135M-Instruct"
MARY = prompts_for(SMOL).default
CASTLE = prompts_for("pocket-gpt2").default
CAPITAL = "The capital of France is"
OWN = "My own words"


def test_a_fresh_state_has_the_default_prompt_of_the_default_checkpoint(monkeypatch):
    monkeypatch.setenv("ANATOMY_CHECKPOINT", SMOL)
    assert state.default_state().prompt == MARY


def test_an_address_with_a_checkpoint_alone_brings_its_default_prompt():
    named, _ = state.from_query({"checkpoint": SMOL}, State())
    assert named.prompt == MARY


@pytest.mark.parametrize("prompt", [OWN, CASTLE, CAPITAL])
def test_a_prompt_in_an_address_is_shown_whatever_the_checkpoint_is(prompt):
    named, _ = state.from_query({"checkpoint": SMOL, "prompt": prompt}, State())
    assert named.prompt == prompt


def test_a_refused_prompt_in_an_address_leaves_the_default_of_its_checkpoint():
    named, refused = state.from_query({"checkpoint": SMOL, "prompt": "x" * 9999}, State())
    assert (named.prompt, len(refused)) == (MARY, 1)


@pytest.mark.parametrize("prompt", [MARY, CAPITAL])
def test_a_default_or_example_gives_way_to_the_default_of_the_next_checkpoint(prompt):
    moved = state.moved(State(prompt=prompt, checkpoint=SMOL, focus=3), "pocket-gpt2")
    assert (moved.checkpoint, moved.prompt, moved.focus) == ("pocket-gpt2", CASTLE, LAST)


def test_a_prompt_of_the_readers_own_stays_with_its_focus():
    moved = state.moved(State(prompt=OWN, checkpoint=SMOL, focus=3), "pocket-gpt2")
    assert (moved.prompt, moved.focus) == (OWN, 3)


def test_the_same_checkpoint_chosen_again_changes_nothing():
    before = State(prompt=CAPITAL, checkpoint=SMOL)
    assert state.moved(before, SMOL) is before


def test_another_precision_leaves_an_example_where_it_is():
    named, _ = state.from_query({"precision": "bf16"}, State(prompt="Dorothy and the Tin"))
    assert named.prompt == "Dorothy and the Tin"


EXAMPLE = prompts_for("pocket-gpt2").examples[2].text


def test_choosing_an_example_applies_it_at_once(demo):
    app = demo(focus="2")
    app.selectbox(key="side-example").set_value(EXAMPLE).run()
    assert app.text_area(key="side-prompt").value == EXAMPLE
    assert app.query_params["prompt"] == EXAMPLE
    assert "focus" not in app.query_params


def test_the_menu_names_the_example_that_is_the_prompt_and_nothing_for_ones_own(demo):
    app = demo(prompt=EXAMPLE)
    assert app.selectbox(key="side-example").value == EXAMPLE
    app.text_area(key="side-prompt").set_value(OWN).run()
    assert app.selectbox(key="side-example").value is None


def test_the_same_example_can_be_chosen_again_after_ones_own_words(demo):
    app = demo(prompt=EXAMPLE)
    app.text_area(key="side-prompt").set_value(OWN).run()
    app.selectbox(key="side-example").set_value(EXAMPLE).run()
    assert app.text_area(key="side-prompt").value == EXAMPLE


def test_an_example_survives_going_to_another_chapter(demo):
    app = demo()
    app.selectbox(key="side-example").set_value(EXAMPLE).run()
    app.switch_page("pages/09_Other.py").run()
    assert app.selectbox(key="side-example").value == EXAMPLE
    assert app.text_area(key="side-prompt").value == EXAMPLE


def test_home_offers_the_examples_under_its_field(demo):
    app = demo(HOME)
    pills = next(group for group in app.get("button_group") if group.key == "home-example")
    pills.set_value(EXAMPLE).run()
    assert app.text_area(key="home-prompt").value == EXAMPLE


def test_a_pill_that_is_let_go_leaves_the_prompt(demo):
    app = demo(HOME, prompt=EXAMPLE)
    pills = next(group for group in app.get("button_group") if group.key == "home-example")
    pills.set_value(None).run()
    assert app.text_area(key="home-prompt").value == EXAMPLE


def test_the_examples_follow_the_checkpoint(demo, monkeypatch):
    from pages._shared import models, resources

    plain = resources.loaded
    monkeypatch.setattr(models, "is_cached", lambda name: True)
    monkeypatch.setattr(
        resources, "loaded", lambda name, *more: plain("pocket-gpt2" if name == SMOL else name, *more)
    )
    app = demo()
    app.selectbox(key="side-checkpoint").set_value(SMOL).run()
    assert app.text_area(key="side-prompt").value == MARY
    assert app.selectbox(key="side-example").options == [one.label for one in prompts_for(SMOL).examples]
    app.selectbox(key="side-example").set_value(CAPITAL).run()
    app.selectbox(key="side-checkpoint").set_value("pocket-gpt2").run()
    assert app.text_area(key="side-prompt").value == CASTLE
