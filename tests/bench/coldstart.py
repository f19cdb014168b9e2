"""From starting the server to Home's text and its first figure, in a browser that is already open.

    python -m tests.bench.coldstart [repeats]

Promises: the text within 3 s, the first figure within 8 s.
"""

import sys
import time

from tests.bench.common import browser, machine, server, show, wait_until_it_answers

HEADING = "[data-testid=stMain] h1"
FIGURE = (
    "[data-testid=stMain] .js-plotly-plot .main-svg, [data-testid=stMain] [data-testid=stDataFrame] canvas"
)


def main(repeats=5):
    with browser() as chromium:
        rows = [_once(chromium) for _ in range(repeats)]
    print(machine())
    for name, column, promise in zip(
        ("the server answers", "Home's text", "Home's first figure"),
        zip(*rows, strict=True),
        ("", "within 3 s", "within 8 s"),
        strict=True,
    ):
        show(name, list(column), "s", promise)


def _once(chromium):
    """Seconds from the start of a server process to each of the three moments."""
    page = chromium.new_page(viewport={"width": 1280, "height": 720})
    start = time.perf_counter()
    with server() as (address, _):
        wait_until_it_answers(address)
        moments = [time.perf_counter() - start]
        page.goto(address, wait_until="commit")
        for selector in (HEADING, FIGURE):
            page.locator(selector).first.wait_for(state="visible", timeout=60_000)
            moments.append(time.perf_counter() - start)
    page.close()
    return moments


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
