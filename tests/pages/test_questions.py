"""Predict first: questions are made of what figures show, asked before them, and counted."""

from dataclasses import replace

import pytest

from engine.chapters.c03_neurons.questions import ASKED as ASKED_OF_NEURONS
from engine.chapters.c07_optimizers.questions import ASKED as ASKED_OF_OPTIMIZERS
from engine.chapters.c08_attention.questions import ASKED
from engine.chapters.home.questions import ASKED as ASKED_OF_HOME
from engine.evidence.card import Badge, Card
from engine.evidence.question import Question, between, how_much, largest, leading, percent, plain, which
from engine.tokens.text import markdown
from tests.pages.conftest import HOME, PAGES, open_app, visited, watched
from tests.pages.conftest import Visit as Seen


def test_the_answer_follows_the_numbers():
    names = ["a", "b", "c", "d", "e"]
    assert leading("?", names, [1, 5, 2, 3, 0]) == Question("?", ("a", "b", "c", "d"), 1)
    assert leading("?", names, [1, 5, 2, 9, 0]).answer == "d"
    assert leading("?", names, [1, 5, 2, 9, 0], least=True).answer == "e"
    assert leading("?", names, [1, 5, float("nan"), 9, "text"]).choices == ("a", "b", "d")


def test_nobody_is_asked_about_a_near_tie():
    assert leading("?", ["a", "b", "c", "d"], [1, 5, 4.99, 0]) is None
    assert leading("?", ["a", "b", "c"], [1, 5, float("inf")]) is None
    assert between("?", 0.249, (0.25, 0.5), percent) is None
    assert between("?", float("nan"), (0.25, 0.5), percent) is None


def test_a_wrong_answer_that_is_offered_is_clearly_wrong():
    found = leading("?", ["a", "b", "c", "d", "e"], [10, 9.5, 5, 4, 0])
    assert found == Question("?", ("a", "c", "d", "e"), 0)


def test_rows_that_read_alike_count_by_their_best():
    found = leading("?", ["the", "cat", "the", "dog", "sat"], [1, 5, 9, 2, 0])
    assert found == Question("?", ("the", "cat", "dog", "sat"), 0)


@pytest.mark.parametrize(("value", "answer"), [(0.1, "less than 2"), (5, "2 to 10"), (12, "more than 10")])
def test_a_number_lies_between_two_borders(value, answer):
    assert between("?", value, (2, 10), plain).answer == answer


def test_no_question_without_three_answers_that_differ():
    with pytest.raises(ValueError, match="answers"):
        Question("?", ("a", "b"), 0)
    with pytest.raises(ValueError, match="answers"):
        Question("?", ("a", "b", "a"), 0)
    with pytest.raises(ValueError, match="answers"):
        Question("?", ("a", "b", "c"), 3)


def open_row(**query):
    """Chapter 8, and the cards that it shows beat by beat."""
    seen = Seen()
    app = open_app(checkpoint="pocket-gpt2", **query)
    with watched(seen):
        app = app.switch_page("pages/08_Attention_QKV.py").run()
    return app, seen


def guess(app, number):
    return app.button(key=f"8-row-guess-{number}").click()


def test_a_figure_is_covered_until_there_is_a_guess():
    plain_cards = visited("pages/08_Attention_QKV.py", "pocket-gpt2").cards
    question = question_of_row(plain_cards)
    app, seen = open_row(predict="1")
    assert seen.cards["row"] == []
    titles = [title.value for title in app.subheader]
    assert markdown(question.text) in titles
    assert markdown(plain_cards["row"][0].title) not in titles

    seen.cards.clear()
    with watched(seen):
        guess(app, question.right).run()
    assert [card.key for card in seen.cards["row"]] == ["row"]
    assert any("1 of 1" in words.value for words in app.caption)


def test_a_wrong_guess_is_counted_and_the_answer_marked():
    question = question_of_row(visited("pages/08_Attention_QKV.py", "pocket-gpt2").cards)
    app, seen = open_row(predict="1")
    wrong = (question.right + 1) % len(question.choices)
    with watched(seen):
        guess(app, wrong).run()
    shown = [words.value for words in app.markdown]
    assert any(":green-badge[" in text and question.answer.split("”")[0] in text for text in shown)
    assert any(":red-badge[" in text for text in shown)
    assert any("0 of 1" in words.value for words in app.caption)


def test_without_the_switch_nothing_is_asked():
    app, seen = open_row()
    assert [card.key for card in seen.cards["row"]] == ["row"]
    assert not any("guess" in (button.key or "") for button in app.button)


def test_the_switch_is_in_the_link():
    app, _ = open_row()
    app.toggle(key="side-predict").set_value(True).run()
    assert app.query_params["predict"] in ("1", ["1"])


def question_of_row(cards):
    return ASKED["row"](cards["row"])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES[1:])
def test_a_beat_that_shows_something_else_asks_no_wrong_question(page):
    app = open_app(page, checkpoint="pocket-gpt2", predict="1")
    for key in modes(app, page):
        for number in range(len(mode(app, key).options)):
            if number < len(mode(app, key).options):
                app = mode(app, key).set_value(mode(app, key).options[number]).run()
                assert [error.message for error in app.exception] == [], (key, number)


def modes(app, page):
    """Keys of a page's own rows of options."""
    own = f"{int(page.removeprefix('pages/')[:2])}-"
    keys = [str(group.key) for group in app.get("button_group")]
    return [key for key in keys if key.startswith(own) and not key.endswith("-evidence")]


def mode(app, key):
    return next(group for group in app.get("button_group") if group.key == key)


def named(key, **columns):
    """A card whose table has these columns."""
    return Card(key, "t", "a", Badge.TOY, None, columns)


def test_a_question_about_a_card_that_is_not_shown_is_not_asked():
    cards = [named("list", word=["a", "b", "c", "d"], rank=[1, 2, 3, 4])]
    assert largest("?", "rank", "{word}")(cards).answer == "d"
    assert largest("?", "rank", "{word}", card="list")(cards).answer == "d"
    assert largest("?", "cosine", "{word}", card="one")(cards) is None
    assert which("?", lambda card: card.shown["x"], card="one")(cards) is None
    assert how_much("?", lambda card: card.shown["x"], (1, 2), plain, card="one")(cards) is None


def test_below_zero_the_lowest_is_the_lowest():
    card = named("surface", x=[1])
    shown = {"A, heights": [1.0, -4.0], "B, heights": [1.0, 0.5], "C, heights": [1.0, 0.1]}
    assert ASKED_OF_OPTIMIZERS["surface"]([replace(card, shown=shown)]).answer == "A"


def test_a_neuron_strongest_below_zero_asks_nothing():
    table = {"position": [0, 1, 2, 3], "token": ["a", "b", "c", "d"], "activation": [0.1, 3.0, 0.2, -4.0]}
    card = named("over-prompt", **table)
    asked = ASKED_OF_NEURONS["contexts"]
    assert asked([replace(card, shown={"activations": table["activation"]})]) is None
    assert asked([replace(card, shown={"activations": [0.1, 5.0, 0.2, -4.0]})]).answer == "“b” at position 1"


def test_home_asks_about_the_rest_before_it_shows_it():
    plain_card = visited(HOME, "pocket-gpt2").cards["next"][0]
    seen = Seen()
    with watched(seen):
        app = open_app(checkpoint="pocket-gpt2", predict="1")
    question = ASKED_OF_HOME["next"]([plain_card])
    assert seen.cards["next"] == []
    assert seen.cards["blocks"] != []
    assert markdown(question.text) in [title.value for title in app.subheader]
    with watched(seen):
        app.button(key=f"home-next-guess-{question.right}").click().run()
    assert [card.key for card in seen.cards["next"]] == ["next"]
    assert any("1 of 1" in words.value for words in app.caption)
