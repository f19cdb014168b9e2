"""One server and one browser for the whole walk; pages that watch what the app must never do."""

import os
import shutil

import pytest

from tests.screenshot import SIZES, chromium, server, settle, url_of

OWN_NOISE = (
    "_stcore/health",  # streamlit probes these below a deep link, where they are not
    "_stcore/host-config",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/browser" in str(item.path):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(600))


def has_chromium():
    return os.path.exists("/usr/bin/chromium") or shutil.which("chromium") is not None


@pytest.fixture(scope="session")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("server") / "log.txt"


@pytest.fixture(scope="session")
def address(log):
    with server(log=log) as where:
        yield where


@pytest.fixture(scope="session")
def browser():
    if not has_chromium():
        pytest.skip("Chromium is not installed")
    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser, address, log):
    """A function that opens a page in a fresh context and remembers everything that must not happen.

    After the test: no console error of the app's own, no script error, no request to another machine, and in the
    server's log no traceback and no value of a control that was taken for nonsense.
    """
    contexts, wrong, before = [], [], len(log.read_text("utf-8", "replace"))

    def open_page(name="Home", query="", width=1280, theme="light", at=None, follow=True):
        context = browser.new_context(
            viewport={"width": width, "height": SIZES[width]}, color_scheme=theme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: _console(message, wrong))
        page.on("pageerror", lambda error: wrong.append(f"script error: {error}"))
        page.on("request", lambda request: _request(request, at or address, wrong))
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.goto(url_of(at or address, name, query))
        if follow:
            settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong, wrong
    said = log.read_text("utf-8", "replace")[before:]
    assert "Traceback" not in said, said[-4000:]
    assert "that it cannot have" not in said, said[-4000:]


def _console(message, wrong):
    source = (message.location or {}).get("url", "")
    if message.type == "error" and not any(noise in source + message.text for noise in OWN_NOISE):
        wrong.append(f"console: {message.text} {source}")


def _request(request, address, wrong):
    local = (address, address.replace("http", "ws"), "data:", "blob:")
    if not request.url.startswith(local):
        wrong.append(f"request: {request.url}")
