"""Chapter 12, the last beat: a tiny training against scripts and formulas, and one run at a time on the server."""

import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest
from torch.nn import functional as F

from engine import ReaderError
from engine.chapters.c12_training import live_run as cards
from engine.chapters.c12_training.live_run import figure
from engine.evidence.oracles import tiny
from engine.tokens.passages import passage, sample
from engine.tokens.text import label
from engine.training import tiny_training as ops
from pages._shared import runs, sheet
from pages._shared.work import Lane

NASTY = (
    "'\"\\ \x00\x07\u202eevil\u2066\u200b\ufeff <b>$x$</b> &amp; [x](javascript:alert(1)) 😀🏳️‍🌈 \u0301\ufffd"
    "\ud800\r\n\t{text}"
)


def trained(steps, **settings):
    training = ops.Training(ops.Settings(**{"text": passage()} | settings))
    for step in range(steps):
        training.advance(publish=step == steps - 1)
    return training


@pytest.fixture(scope="module")
def thirty():
    """After thirty steps on the shorter tale, with marks at 0, 10 and 25."""
    return trained(30).snapshot


def result_of(card):
    names = {}
    exec(card.code, names)
    return names["result"]


def test_the_reference_losses_are_the_entropies_of_the_characters():
    corpus = ops.Corpus("aaab" * 200)
    assert corpus.uniform == pytest.approx(math.log(2))
    assert corpus.unigram == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert corpus.decode(corpus.train[:5]) == "aaaba"


def test_an_untrained_model_knows_no_more_than_that_there_are_so_many_characters():
    snapshot = trained(0).snapshot
    assert snapshot.steps == 0
    assert snapshot.marks[0].held_out == pytest.approx(snapshot.corpus.uniform, abs=0.15)
    assert f"ln {len(set(passage()))}" in cards.losses(snapshot).title
    assert cards.losses(snapshot).prove().passed
    assert cards.texts(snapshot).prove().passed


def test_it_learns_more_than_the_frequencies_of_characters():
    snapshot = trained(60, layers=1).snapshot
    assert snapshot.losses[-10:].mean() < snapshot.corpus.unigram - 0.2
    assert snapshot.marks[-1].held_out < snapshot.corpus.unigram


def test_the_last_tenth_is_never_trained_on():
    training = trained(0, text="abcd" * 250 + "efgh" * 25)
    held = {training.corpus.chars[i] for i in training.corpus.held_out.tolist()}
    seen = torch.cat([training._next_batch().flatten() for _ in range(200)])
    assert held > set("efgh")
    assert {training.corpus.chars[i] for i in seen.tolist()} == set("abcd")


def test_stopping_and_continuing_changes_no_bit():
    whole = trained(14)
    parts = ops.Training(ops.Settings(passage()))
    for step in range(1, 15):
        parts.advance(publish=step in (3, 4, 11, 14))
        if step in (3, 4, 11):
            assert parts.snapshot.steps == step
            assert all(card.prove().passed for card in cards.cards(parts))
            torch.rand(7)  # others draw meanwhile
    ours, theirs = parts.snapshot, whole.snapshot
    assert ours.losses.tolist() == theirs.losses.tolist()
    assert ours.marks == theirs.marks
    assert all(torch.equal(ours.after[name], theirs.after[name]) for name in theirs.after)


@pytest.mark.parametrize("other", [{"seed": 1}, {"layers": 1}, {"rate": 1e-2}, {"text": sample()}])
def test_every_setting_counts(other):
    assert trained(3).snapshot.losses.tolist() != trained(3, **other).snapshot.losses.tolist()


@pytest.mark.parametrize("text", [sample(), passage(), NASTY * 8])
def test_the_script_repeats_the_first_steps_exactly(text):
    snapshot = trained(12, text=text, layers=1, seed=5).snapshot
    first, second = cards.losses(snapshot), cards.texts(snapshot)
    ours = result_of(first)
    assert ours == first.numbers
    assert len(ours["losses"]) == 12
    assert result_of(second) == second.numbers
    assert len(second.numbers["texts"]) == 2


def test_a_long_run_has_a_script_of_its_first_steps(monkeypatch):
    monkeypatch.setattr("engine.chapters.c12_training.live_run.code.REPEATED", 4)
    card = cards.losses(trained(11).snapshot)
    assert result_of(card) == card.numbers
    assert (len(card.numbers["losses"]), len(card.numbers["held_out"])) == (4, 1)
    assert len(card.table["steps taken"]) == 11


def test_the_loss_is_that_of_the_logits_that_transformers_returns(thirty):
    model = ops.holding(thirty.before.weights, len(thirty.corpus.chars), thirty.settings.layers)
    with torch.no_grad():
        logits = model(thirty.batch).logits[:, :-1].double()
    expected = F.cross_entropy(logits.flatten(0, 1), thirty.batch[:, 1:].flatten())
    assert thirty.losses[-1] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    "settings", [{"steps": 1}, {"steps": 2, "layers": 3}, {"steps": 3, "text": "ab" * 300}]
)
def test_the_last_step_is_adamw_s_formula(settings):
    snapshot = trained(**settings).snapshot
    before = snapshot.before
    model = ops.holding(before.weights, len(snapshot.corpus.chars), snapshot.settings.layers).double()
    logits = model(snapshot.batch).logits[:, :-1].flatten(0, 1)
    F.cross_entropy(logits, snapshot.batch[:, 1:].flatten()).backward()
    t, rate = snapshot.steps, snapshot.settings.rate * snapshot.steps / 50
    for name, p in model.named_parameters():
        zero = torch.zeros_like(p.grad)
        first = 0.9 * before.first.get(name, zero).double() + 0.1 * p.grad
        second = 0.999 * before.second.get(name, zero).double() + 0.001 * p.grad**2
        step = (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        expected = p.detach() * (1 - rate * ops.DECAY) - rate * step
        assert float((snapshot.after[name] - expected).norm()) < 1e-3 * float((expected - p.detach()).norm())


def test_the_proofs_notice_what_is_wrong(thirty):
    last = thirty.marks[-1]
    other = replace(last, written=(*last.written[:-1], (last.written[-1] + 1) % len(thirty.corpus.chars)))
    assert cards.losses(thirty).prove().passed
    for place in (0, 15, 29):
        losses = thirty.losses.copy()
        losses[place] += 0.001
        assert not cards.losses(replace(thirty, losses=losses)).prove().passed
    for i, mark in enumerate(thirty.marks):
        moved = replace(mark, held_out=mark.held_out + 0.001)
        wrong = replace(thirty, marks=(*thirty.marks[:i], moved, *thirty.marks[i + 1 :]))
        assert not cards.losses(wrong).prove().passed
        assert not cards.texts(wrong).prove().passed
    assert cards.texts(thirty).prove().passed
    assert not cards.texts(replace(thirty, marks=(*thirty.marks[:-1], other))).prove().passed


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("rate_at", lambda rate, step: rate), ("spread", lambda name, layers: 0.02), ("DECAY", 0.5)],
)
def test_a_training_that_is_not_the_one_described_fails_the_proof(monkeypatch, name, wrong):
    monkeypatch.setattr(ops, name, wrong)
    card = cards.losses(trained(12).snapshot)
    monkeypatch.undo()
    assert not card.prove().passed


def test_a_training_is_repeated_as_far_as_it_is_asked_for():
    settings = ops.Settings(passage(), layers=1, seed=9)
    found = tiny.trained_again(settings, 3)
    losses = list(found.losses)
    assert tiny.trained_again(settings, 11) is found
    assert found.losses[:3] == losses
    assert (len(found.losses), found.marks) == (11, [0, 10])
    other = tiny.TrainedAgain(settings)
    other.reach(11)
    assert other.losses == found.losses


def test_nothing_of_the_process_is_touched():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert all(card.prove().passed for card in cards.cards(trained(2)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    "text", ["", "a", "a" * 399, "a" * 400, "a" * 100_000, "".join(map(chr, range(3000, 6000)))]
)
def test_a_text_that_cannot_be_learned_is_refused_in_one_sentence(text):
    with pytest.raises(ReaderError, match=r"^This text [^.]*\.$"):
        ops.Settings(text)


@pytest.mark.parametrize("text", ["ab" * 200, NASTY * 6, "\n" * 300 + "\x00" * 300, "字" * 399 + "文"])
def test_any_other_text_is_learned_and_shown_without_markup(text):
    training = trained(1, text=text)
    first, second = cards.cards(training)
    written = second.figure.data[0].text[0]
    assert first.prove().passed
    assert second.prove().passed
    assert not set(written.replace("<br>", "")) & set("<>$\n\x00\u202e")
    assert "characters" in first.note


def test_samples_are_wrapped_as_literal_text():
    rows = figure.wrapped("a <b>" + "x" * figure.WIDE)
    assert rows == [label("a <b>" + "x" * (figure.WIDE - 5)).replace(" ", "\u00a0"), "x" * 5]


def test_a_rate_that_is_too_high_ends_in_a_sentence():
    training = trained(2)
    for parameter in training._names.values():
        parameter.data.fill_(math.nan)
    assert not training.advance(publish=False)
    first, second = cards.cards(training)
    assert "no number" in first.title
    assert first.figure.data
    assert second.table["steps"] == [0]


def test_the_figure_shows_the_first_and_the_last_sample(thirty):
    marks = [replace(thirty.marks[0], step=step) for step in (0, 10, 25, *range(50, 2050, 50))]
    steps = [mark.step for mark in cards.chosen(marks)]
    assert (steps[0], steps[-1], len(steps)) == (0, 2000, cards.SHOWN)
    ratios = np.diff(np.log(steps[1:]))
    assert ratios.max() < 1.5 * ratios.min()
    assert [mark.step for mark in cards.chosen(marks[:1])] == [0]


class Counter:
    """Work that counts, and notices when two of its kind work at once."""

    busy = threading.Lock()

    def __init__(self, most=10**9, fail_at=None):
        self.done, self.shown, self.most, self.fail_at = 0, 0, most, fail_at
        self.collided = False

    def advance(self, publish):
        self.collided |= not Counter.busy.acquire(blocking=False)
        time.sleep(0.005)
        self.done += 1
        if not self.collided:
            Counter.busy.release()
        if self.done == self.fail_at:
            raise ZeroDivisionError("a bug")
        if publish:
            self.shown = self.done
        return self.done < self.most


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Somebody:
    """A reader who can leave."""

    def __init__(self):
        self.there = True


@pytest.fixture
def line():
    return Lane("test", lambda: 1)


def started(line, steps=None, **more):
    run = runs.Run(steps or Counter(), line, **more)
    run.start(Somebody())
    return run


def test_one_run_at_a_time_and_the_next_sees_its_place(line):
    first = started(line)
    until(lambda: first.steps.done)
    second, third = started(line), started(line)
    assert (second.job.ahead, third.job.ahead) == (0, 1)
    assert (second.steps.done, third.steps.done) == (0, 0)
    assert "1 ahead" in runs.place(third.job.ahead)
    first.stop()
    until(lambda: second.steps.done and third.job.ahead == 0)
    second.stop()
    until(lambda: third.steps.done)
    third.stop()
    until(lambda: not any(run.busy for run in (first, second, third)))
    assert not any(run.steps.collided for run in (first, second, third))
    assert first.steps.shown == first.steps.done


def test_a_run_goes_on_where_it_stood(line):
    run = started(line)
    until(lambda: run.steps.done > 2)
    run.stop()
    until(lambda: not run.busy)
    stood = run.steps.done
    run.start(Somebody())
    until(lambda: run.steps.done > stood)
    run.stop()
    until(lambda: not run.busy)


def test_a_closed_tab_gives_its_place_back(line, monkeypatch):
    monkeypatch.setattr(runs, "_PUBLISHED_EVERY", 0.05)
    readers = [Somebody() for _ in range(3)]
    gone, waiter, here = (runs.Run(Counter(), line) for _ in range(3))
    for run, reader in zip((gone, waiter, here), readers, strict=True):
        run.start(reader)
    until(lambda: gone.steps.done)
    readers[1].there = readers[0].there = False
    until(lambda: here.steps.done)
    here.stop()
    assert not gone.busy
    assert not waiter.busy
    assert waiter.steps.done == 0


def test_a_run_pauses_by_itself_and_may_go_on(line):
    run = started(line, seconds=0.1)
    until(lambda: not run.busy)
    stood = run.steps.done
    assert not run.over
    run.start(Somebody())
    until(lambda: not run.busy)
    assert run.steps.done > stood


def test_work_that_is_over_or_fails_is_not_begun_again(line):
    for steps, error in ((Counter(most=3), None), (Counter(fail_at=3), ZeroDivisionError)):
        run = started(line, steps)
        until(lambda run=run: not run.busy)
        assert (type(run.error) if run.error else None) is error
        run.start(Somebody())
        assert not run.busy
        assert steps.done == 3


def page():
    """A page with one run, for streamlit's test runner."""
    import streamlit as st

    from engine.evidence.card import Badge, Card
    from pages._shared import state
    from pages._shared.runs import run
    from pages._shared.view import View
    from tests.chapters.test_training_live import Counter

    def draw(steps):
        table = {"steps": [steps.shown]}
        return [Card("c", f"{steps.shown} steps", "alt", Badge.TOY, None, table)]

    state.begin("12")
    key = st.text_input("key", "a", key="key")
    run(View("12", "t", st.container(), st.container()), key, Counter, draw)


def buttons(app):
    return [button.label for button in app.button]


def press(app, name):
    return next(button for button in app.button if button.label == name).click().run()


def test_two_readers_at_once(monkeypatch, line):
    monkeypatch.setattr(runs.Run.__init__, "__defaults__", (line, 60.0))
    monkeypatch.setattr(runs, "_PUBLISHED_EVERY", 0.05)
    monkeypatch.setattr(sheet, "browserless", True)
    one, two = (AppTest.from_function(page, default_timeout=60).run() for _ in range(2))
    mine = lambda app: app.session_state["anatomy.runs"]["12-t"][1]  # noqa: E731
    assert buttons(one) == ["Start"]
    press(one, "Start")
    until(lambda: mine(one).steps.done)
    press(two, "Start")
    assert "0 ahead" in two.info[0].value
    assert buttons(two) == ["Stop"]
    press(one, "Stop")
    until(lambda: one.run() and buttons(one) == ["Continue", "Start over"])
    until(lambda: two.run() and not two.info)
    press(two, "Stop")
    until(lambda: not mine(two).busy)
    stood = mine(one).steps.done
    press(one, "Continue")
    until(lambda: mine(one).steps.done > stood)
    press(one, "Stop")
    until(lambda: one.run() and "Start over" in buttons(one))
    press(one, "Start over")
    assert mine(one).steps.done == 0
    press(one, "Start")
    one.text_input(key="key").set_value("b").run()
    assert buttons(one) == ["Start"]
    assert [*one.exception, *two.exception] == []
