"""The written rule on answers made by hand, each with the value worked out on paper."""

import pytest

from engine.training import rule

SCENE = "Write a scene with: rabbit, watch, hole"
GOOD = "The rabbit took a watch out of its pocket. It ran to the hole."


@pytest.mark.parametrize(
    ("request_text", "asked"),
    [
        (SCENE, rule.Asked("scene", ("rabbit", "watch", "hole"), (1, 3))),
        ("Write a scene with: rabbit", rule.Asked("scene", ("rabbit",), (1, 3))),
        ("Write one sentence about the rabbit.", rule.Asked("one sentence", ("rabbit",), (1, 1))),
        (
            "Write two sentences about the rabbit and the watch.",
            rule.Asked("two sentences", ("rabbit", "watch"), (2, 2)),
        ),
        ("Continue: The rabbit ran.", rule.Asked("continue", (), (1, 3))),
        ("Who are you?", None),
    ],
)
def test_a_request_is_read_as_it_was_written(request_text, asked):
    assert rule.read_request(request_text) == asked


def test_the_templates_are_read_back():
    assert rule.read_request(rule.scene(["a", "b"])).words == ("a", "b")
    assert rule.read_request(rule.about("one sentence", ["fox"])).words == ("fox",)
    assert rule.read_request(rule.about("two sentences", ["fox", "hen"])).words == ("fox", "hen")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ('"Stop!" he cried. He ran.', ['"Stop!" he cried.', "He ran."]),
        ('He said "Stop." Then he ran.', ['He said "Stop."', "Then he ran."]),
        ("Mr. Brown met Mrs. Hen. They talked.", ["Mr. Brown met Mrs. Hen.", "They talked."]),
        ("J. Smith went home.", ["J. Smith went home."]),
        ("It is. . . over", ["It is. . . over"]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text, sentences):
    assert rule.sentences_of(text) == sentences


def test_a_faultless_answer_scores_one():
    judgement = rule.judge(SCENE, GOOD, ended=True)
    assert (judgement.words, judgement.ends, judgement.length, judgement.fresh) == (1.0, True, True, True)
    assert judgement.score == pytest.approx(1.0)


def test_words_count_whole_and_in_any_case():
    assert rule.judge(SCENE, "Watch the rabbits near the HOLE.", True).words == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "ended"),
    [(GOOD, False), (GOOD.rstrip("."), True), ('"The rabbit ran to the hole.', True), ("", True)],
    ids=["cut off by the limit", "no full stop", "quotation left open", "nothing"],
)
def test_an_answer_ends_only_by_itself_at_the_end_of_a_sentence(answer, ended):
    assert not rule.judge(SCENE, answer, ended).ends
    assert rule.judge(SCENE, GOOD + '"', True).ends is False


@pytest.mark.parametrize(
    ("request_text", "answer", "kept"),
    [
        ("Write one sentence about the hen.", "The hen sat.", True),
        ("Write one sentence about the hen.", "The hen sat. It slept.", False),
        ("Write two sentences about the hen.", "The hen sat. It slept.", True),
        ("Write two sentences about the hen.", "The hen sat.", False),
        (SCENE, "One ran. Two ran. Three ran.", True),
        (SCENE, "One ran. Two ran. Three ran. Four ran.", False),
        (SCENE, "", False),
    ],
)
def test_length_is_the_number_of_sentences_asked_for(request_text, answer, kept):
    assert rule.judge(request_text, answer, True).length is kept


@pytest.mark.parametrize(
    ("answer", "fresh"),
    [
        ("The rabbit ran and the rabbit hid.", True),  # two words in a row may come again
        ("The rabbit ran, and the rabbit ran.", False),
        ("He had a rabbit, watch, hole.", False),  # the request's own three words
        ("", False),
    ],
)
def test_three_words_in_a_row_are_a_repetition(answer, fresh):
    assert rule.judge(SCENE, answer, True).fresh is fresh


def test_the_score_is_the_weighted_sum():
    # two of three words 0.4 · 2/3; not ended 0; one sentence of at most three 0.2; nothing twice 0.2
    assert rule.judge(SCENE, "The rabbit lost its watch.", False).score == pytest.approx(0.4 * 2 / 3 + 0.4)
    assert sum(rule.WEIGHTS.values()) == pytest.approx(1.0)


def test_a_request_of_no_known_kind_is_refused():
    with pytest.raises(ValueError, match="does not know"):
        rule.judge("Who are you?", GOOD, True)


def test_a_request_without_words_asks_for_none():
    assert rule.judge("Continue: The hen sat.", "It slept.", True).score == pytest.approx(1.0)
