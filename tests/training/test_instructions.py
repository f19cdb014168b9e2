"""The instruction set: cut from the books, faultless by the rule, the same for the same seed, held-out kept apart."""

import pytest

from engine.training import instructions, rule


@pytest.fixture(scope="module")
def corpus(story_corpus):
    return story_corpus


@pytest.fixture(scope="module")
def made(corpus):
    return instructions.instruction_set(corpus, 120, 20, seed=3)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_every_answer_is_cut_from_its_source_and_faultless_by_the_rule(corpus, made):
    for example in made[0] + made[1]:
        source = (corpus / f"{example.source}.txt").read_text(encoding="utf-8")
        assert example.answer in flat(source)
        judgement = rule.judge(example.request, example.answer, ended=True)
        assert judgement.score == pytest.approx(1.0), example


def test_words_are_asked_in_the_order_in_which_the_answer_uses_them(made):
    several = [e for e in made[0] if len(rule.read_request(e.request).words) > 1]
    assert len(several) > 20
    for example in several:
        used = rule.words_of(example.answer)
        places = [used.index(word) for word in rule.read_request(example.request).words]
        assert places == sorted(places)


def test_a_continuation_follows_its_beginning_in_the_book(corpus, made):
    followed = [e for e in made[0] if e.kind == rule.CONTINUE]
    assert followed
    for example in followed:
        source = flat((corpus / f"{example.source}.txt").read_text(encoding="utf-8"))
        assert f"{example.request.removeprefix('Continue: ')} {example.answer}" in source


def test_held_out_requests_come_from_held_out_books_and_are_never_trained_on(made):
    train, held_out = made
    assert {e.source for e in held_out} == {"held_out"}
    assert {e.source for e in train} == {"children", "adventure"}
    assert {e.request for e in held_out}.isdisjoint(e.request for e in train)
    assert len({e.request for e in held_out}) == len(held_out)
    assert len({e.answer for e in train}) == len(train)


def test_the_seed_decides_and_a_longer_set_begins_as_a_shorter_one(corpus, made):
    again = instructions.instruction_set(corpus, 60, 20, seed=3)
    assert again == (made[0][:60], made[1])
    other = instructions.instruction_set(corpus, 60, 20, seed=4)
    assert other[0] != again[0]


def test_kinds_are_mixed_as_planned(corpus):
    train, _ = instructions.instruction_set(corpus, 400, 0, seed=1)
    for kind, share in instructions.SHARES.items():
        assert sum(e.kind == kind for e in train) / 400 == pytest.approx(share, abs=0.08)


def test_nouns_are_told_from_adjectives_and_adverbs():
    text = "Here the old man was a man. Now the old hat is a hat. He saw the out, out, out, out, out, out. "
    assert instructions.nouns([text * 50]) == {"man", "hat"}
    assert instructions.nouns([text]) == frozenset(), "rare words are not asked for"


@pytest.mark.parametrize(
    "text",
    [
        'He said, "Come with me to the old house by the river',
        "he came to the house by the river and the old wood.",
        "He came to the house by the river and the old wood",
        "CHAPTER ten tells of the house by the river and wood.",
        "He came to the house [1] by the river and the old wood.",
        "Short.",
    ],
)
def test_spans_that_cannot_stand_alone_are_refused(text):
    assert not instructions.usable(text)
    assert instructions.usable("He came to the house by the river and the old wood.")


def test_a_set_is_read_back_as_it_was_written(made, tmp_path):
    instructions.save_examples(tmp_path / "set.jsonl", made[0])
    assert instructions.load_examples(tmp_path / "set.jsonl") == made[0]


def test_books_that_are_used_up_are_an_error_and_no_endless_search(corpus, monkeypatch):
    monkeypatch.setattr(instructions, "MOST_TRIES", 50)
    with pytest.raises(ValueError, match="no further example"):
        instructions.instruction_set(corpus, 20_000, 0, seed=1)
