"""Slow work: once for all who ask the same, told of as it goes, ended when nobody looks any more."""

import gc
import threading
import time
import weakref

import pytest

from engine.model.stopping import stop_here
from pages._shared import sheet, work
from pages._shared.sheet import Sheet, Stop
from pages._shared.work import LONG, QUICK, Lane, Pending, Stopped

WINDOW = (1280, 720)


class Somebody:
    """A reader who can leave."""

    def __init__(self):
        self.there = True


@pytest.fixture
def browser(monkeypatch):
    """As with a browser: work is done in threads of its own."""
    monkeypatch.setattr(sheet, "browserless", False)


def finished(job):
    assert job.done.wait(10)
    return job


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_job_tells_how_far_it_is_and_ends_with_its_result():
    go = threading.Event()

    def do(progress):
        progress(0.5, "half way")
        progress.show("one **column**", "another")
        go.wait(10)
        return 42

    job = work.ask("count", "Counting", do, Somebody())
    until(lambda: job.columns)
    assert (job.share, job.what, job.columns) == (0.5, "half way", ("one **column**", "another"))
    assert not job.done.is_set()
    version = job.version
    go.set()
    assert finished(job).result == 42
    assert job.version > version, "the end is news too"


def test_readers_who_ask_the_same_share_one_run_and_its_result():
    go, started = threading.Event(), []

    def do(progress):
        started.append(1)
        go.wait(10)
        return object()

    first, second = work.ask("same", "", do, Somebody()), work.ask("same", "", do, Somebody())
    assert first is second
    go.set()
    assert work.ask("same", "", do, Somebody()) is finished(first)
    assert started == [1]


def test_work_ends_at_its_next_report_when_its_last_reader_has_left():
    here, there, go, reports = Somebody(), Somebody(), threading.Event(), []

    def do(progress):
        while True:
            reports.append(1)
            progress(0.0, "going on")
            go.wait(10)

    job = work.ask("endless", "", do, here)
    work.ask("endless", "", do, there)
    until(lambda: reports)
    job.leave(here)
    assert job.wanted, "one reader is left"
    there.there = False  # the tab was closed
    go.set()
    assert isinstance(finished(job).error, Stopped)
    assert work.found("endless") is None
    again = work.ask("endless", "", lambda progress: "anew", Somebody())
    assert finished(again).result == "anew"


def test_work_ends_at_its_next_forward_pass():
    from tests.conftest import loaded_checkpoint

    loaded, reader, passes = loaded_checkpoint("pocket-gpt2"), Somebody(), []

    def do(progress):
        from engine import capture

        while True:
            capture(loaded, "Once upon a time")
            passes.append(1)
            if len(passes) == 2:
                reader.there = False

    assert isinstance(finished(work.ask("passes", "", do, reader)).error, Stopped)
    assert len(passes) == 2
    stop_here()  # and outside of such work nothing is stopped


def test_an_error_is_kept_for_a_while_and_then_tried_again(monkeypatch):
    calls = []

    def do(progress):
        calls.append(1)
        raise ValueError("no")

    for _ in range(2):
        assert isinstance(finished(work.ask("fails", "", do, Somebody())).error, ValueError)
    assert len(calls) == 1
    monkeypatch.setattr(work, "_RETRY_SECONDS", -1.0)
    finished(work.ask("fails", "", do, Somebody()))
    assert len(calls) == 2


def test_one_lane_does_one_thing_after_another_and_says_how_many_are_ahead():
    lane, go, order = Lane("test", lambda: 1), threading.Event(), []
    keep = lambda job: None  # noqa: E731
    jobs = [
        work.Job(name, lambda progress, name=name: (go.wait(10), order.append(name)), lane, keep)
        for name in "abc"
    ]
    for job in jobs:
        job.join(Somebody())
        lane.put(job)
    until(lambda: jobs[1].ahead == 0 and jobs[2].ahead == 1)
    go.set()
    for job in jobs:
        finished(job)
    assert order == ["a", "b", "c"]


def test_who_left_while_waiting_holds_nobody_up():
    lane, go, order = Lane("test", lambda: 1), threading.Event(), []
    keep = lambda job: None  # noqa: E731
    first, second, third = (
        work.Job(name, lambda progress, name=name: (go.wait(10), order.append(name)), lane, keep)
        for name in "abc"
    )
    readers = [Somebody() for _ in range(3)]
    for job, reader in zip((first, second, third), readers, strict=True):
        job.join(reader)
        lane.put(job)
    readers[1].there = False
    go.set()
    finished(third)
    assert order == ["a", "c"]


def test_a_job_that_takes_long_makes_room_for_the_short_ones_behind_it():
    lane, go, done = Lane("test", lambda: 1, patience=0.1, most=2), threading.Event(), []
    jobs = [
        work.Job("long", lambda progress: go.wait(10), lane, lambda job: None),
        work.Job("short", lambda progress: done.append("short"), lane, lambda job: None),
    ]
    for job in jobs:
        job.join(Somebody())
        lane.put(job)
    assert not jobs[1].done.wait(0.05)
    time.sleep(0.1)
    lane.relieve()  # as every page does that asks how far its work is
    finished(jobs[1])
    assert not jobs[0].done.is_set()
    go.set()
    finished(jobs[0])


def test_short_work_does_not_stand_behind_long_work():
    go = threading.Event()
    long = work.ask("long", "", lambda progress: go.wait(10), Somebody(), lane=LONG)
    assert finished(work.ask("short", "", lambda progress: 1, Somebody(), lane=QUICK)).result == 1
    assert not long.done.is_set()
    go.set()
    finished(long)


def test_results_leave_when_they_hold_too_much():
    for number in range(5):
        finished(work.ask(number, "", lambda progress: 1, Somebody(), weigh=work.KEPT_BYTES // 3))
    assert [number for number in range(5) if work.found(number)] == [2, 3, 4]


def test_finished_work_keeps_nothing_alive_but_its_result():
    class Large:
        pass

    held = Large()
    alive = weakref.ref(held)
    job = work.ask("holds", "", lambda progress, held=held: bool(held), Somebody())
    assert finished(job).result is True
    del held
    until(lambda: gc.collect() >= 0 and alive() is None)


# A page


def page(beats, first=None):
    here = Sheet()
    here.reader = Somebody()
    here.begin("8", beats, first or beats[0])
    return here


def ask(here, fragment, key, do):
    return here.work(fragment, key, "label", do, weigh=1)


def test_a_beat_waits_a_little_and_then_for_its_job(browser):
    here, go = page(["8-a"]), threading.Event()
    with pytest.raises(Pending) as pending:
        ask(here, "8-a", "k", lambda progress: go.wait(10))
    assert here.busy
    assert here.due() == ["8-a"] or here.due() == []
    go.set()
    finished(pending.value.job)
    assert "8-a" in here.due()
    assert ask(here, "8-a", "k", None) is True
    assert not here.is_waiting("8-a")


def test_what_a_page_no_longer_shows_is_left_alone(browser):
    here, go = page(["8-a"]), threading.Event()
    with pytest.raises(Pending) as pending:
        ask(here, "8-a", "k", lambda progress: go.wait(10))
    job = pending.value.job
    here.begin("9", ["9-a"], "9-a")
    assert job.wanted, "the next page may want it as well"
    here.end()
    assert not job.wanted
    go.set()


def test_another_choice_leaves_the_work_for_the_one_before(browser):
    here, go = page(["8-a"]), threading.Event()
    with pytest.raises(Pending) as before:
        ask(here, "8-a", "layer 1", lambda progress: go.wait(10))
    with pytest.raises(Pending) as after:
        ask(here, "8-a", "layer 2", lambda progress: go.wait(10))
    here.end()
    assert (before.value.job.wanted, after.value.job.wanted) == (False, True)
    go.set()


def test_stop_leaves_what_was_written_and_go_on_begins_again(browser):
    here, go = page(["8-a"]), threading.Event()

    def do(progress):
        progress.show("so far")
        go.wait(10)
        progress.show("never")

    with pytest.raises(Pending) as pending:
        ask(here, "8-a", "k", do)
    until(lambda: pending.value.job.columns)
    here.stop("8-a")
    go.set()
    with pytest.raises(Stop) as stop:
        ask(here, "8-a", "k", do)
    assert stop.value.job.columns == ("so far",)
    here.go_on("k")
    assert finished(here.start("8-a", "k", "label", lambda progress: "whole", weigh=1)).result == "whole"


def test_a_new_long_work_ends_the_one_before(browser):
    here, go = page(["8-a", "8-b"]), threading.Event()
    first = here.start("8-a", "one", "", lambda progress: go.wait(10), lane=LONG, weigh=1)
    quick = here.start("8-b", "two", "", lambda progress: go.wait(10), lane=QUICK, weigh=1)
    here.stop_long()
    assert (first.wanted, quick.wanted) == (False, True)
    go.set()


@pytest.fixture
def chosen(monkeypatch):
    """The reader's choices, without a session."""
    from dataclasses import replace

    from pages._shared import state
    from pages._shared.state import State

    now = {"state": State()}
    monkeypatch.setattr(state, "current", lambda: now["state"])
    monkeypatch.setattr(state, "presenting", lambda: False)
    monkeypatch.setattr(sheet.st, "session_state", {})
    return lambda **values: now.update(state=replace(now["state"], **values))


def test_only_beats_in_sight_that_show_a_choice_are_drawn_anew(browser, chosen):
    here = page(["8-a", "8-b", "8-c", "8-d"])
    here.seen(["8-a", "8-b"], ["8-c"], WINDOW)
    for beat, used in (("8-a", ["layer"]), ("8-b", ["head"]), ("8-c", ["layer"])):
        here.drew(beat, used)
    assert here.due() == []
    assert not here.busy, "what is far below is not to come"
    chosen(layer=3)
    assert here.stale_in_sight() == ["8-a"]
    assert here.due() == ["8-a"]
    here.drew("8-a", ["layer"])
    assert here.due() == ["8-c"], "and then the one just below"
    here.drew("8-c", ["layer"])
    here.seen(["8-d"], [], WINDOW)
    assert here.due() == ["8-d"]
    chosen(prompt="Something else")
    here.seen(["8-b"], [], WINDOW)
    assert here.due() == ["8-b"], "every beat shows the prompt"


def test_a_beat_that_waits_and_goes_out_of_sight_is_left_alone(browser, chosen):
    here, go = page(["8-a", "8-b"]), threading.Event()
    here.seen(["8-a", "8-b"], [], WINDOW)
    here.drew("8-a", [])
    with pytest.raises(Pending) as pending:
        ask(here, "8-b", "k", lambda progress: go.wait(10))
    here.seen(["8-a"], [], WINDOW)  # another figure has pushed it away
    go.set()
    finished(pending.value.job)
    assert here.due() == ["8-b"]
    here.draws("8-b")  # and draws no more than a placeholder
    here.end()
    assert here.due() == []
    assert not here.busy


def test_what_a_browser_says_of_other_beats_is_ignored(browser):
    here = page(["8-a"])
    here.seen(["8-a", "nonsense", "9-a"], ["<script>"], WINDOW)
    assert (here.inside, here.near) == ({"8-a"}, set())
