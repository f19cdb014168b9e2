"""Slow work reports, stops when asked, and hands on what went wrong."""

import threading

import pytest

from pages._shared import slow


def test_a_job_runs_to_its_result_and_reports_on_the_way():
    seen = threading.Event()

    def work(progress):
        progress(0.5, "half way")
        seen.wait(5)
        return 42

    job = slow.Job("count", work)
    while job.share != 0.5:
        pass
    assert job.what == "half way"
    assert not job.done.is_set()
    seen.set()
    assert job.done.wait(5)
    assert slow._finished("key", job) == 42


def test_stop_ends_the_work_at_its_next_report():
    reports = []

    def work(progress):
        for i in range(10_000):
            reports.append(i)
            progress(0.0, "going on")
            job_running.set()
            asked.wait(5)
        return "never"

    job_running, asked = threading.Event(), threading.Event()
    job = slow.Job("count", work)
    job_running.wait(5)
    job.stop.set()
    asked.set()
    assert job.done.wait(5)
    assert len(reports) == 2
    assert slow._finished("key", job) is None


def test_an_error_of_the_work_is_raised_where_the_page_asks():
    job = slow.Job("fail", lambda progress: 1 / 0)
    assert job.done.wait(5)
    with pytest.raises(ZeroDivisionError):
        slow._finished("key", job)


def test_the_same_key_shares_one_run():
    slow.forget()
    started = []
    go = threading.Event()

    def work(progress):
        started.append(1)
        go.wait(5)

    first, second = slow._start("same", "label", work), slow._start("same", "label", work)
    go.set()
    assert first is second
    assert first.done.wait(5)
    assert started == [1]
    slow.forget()


def test_a_job_on_a_public_deployment_waits_for_its_turn(monkeypatch):
    monkeypatch.setattr(slow, "public", lambda: True)
    go = threading.Event()
    order = []
    first = slow.Job("first", lambda progress: (go.wait(5), order.append("first")))
    while not slow.queue._tickets:
        pass
    second = slow.Job("second", lambda progress: order.append("second"))
    assert not second.done.wait(0.3)
    go.set()
    assert second.done.wait(5)
    assert first.done.is_set()
    assert order == ["first", "second"]
