"""From a key pressed on a slider to the figure drawn anew, in the browser, on the default checkpoint.

    python -m tests.bench.control [pages, such as Attention_QKV]

Every visible slider of every chapter, pressed back and forth. The clock starts in the page when the key goes down
and stops when plotly says that a figure has been drawn. Promise: 200 ms.
"""

import sys
import time

from tests.bench.common import ROOT, browser, machine, server, show, wait_until_it_answers

REPEATS = 8
PATIENCE = 5000  # milliseconds until a control counts as moving no figure

WATCH = """
() => {
    window.pressed = null
    window.drawn = null
    document.addEventListener("keydown", () => { window.pressed = performance.now(); window.drawn = null }, true)
    const note = () => { window.drawn ??= performance.now() }
    const known = new WeakSet()
    const look = () => {
        for (const plot of document.querySelectorAll(".js-plotly-plot")) {
            if (plot.on && !known.has(plot)) { known.add(plot); plot.on("plotly_afterplot", note) }
        }
        requestAnimationFrame(look)
    }
    look()
}
"""


def main(*wanted):
    chapters = [path.stem.partition("_")[2] for path in sorted((ROOT / "pages").glob("[0-9]*.py"))]
    with server() as (address, _), browser() as chromium:
        wait_until_it_answers(address)
        print(machine())
        for chapter in wanted or chapters:
            page = chromium.new_page(viewport={"width": 1280, "height": 720})
            page.goto(f"{address}/{chapter}")
            page.locator("[data-testid=stMain] .js-plotly-plot .main-svg").first.wait_for(timeout=90_000)
            _settle(page)
            page.evaluate(WATCH)
            _measure(page, chapter)
            page.close()


def _measure(page, chapter):
    sliders = page.locator("[data-testid=stMain] [data-testid=stSlider]:visible input[type=range]")
    for index in range(sliders.count()):
        slider = sliders.nth(index)
        name = f"{chapter}: {slider.get_attribute('aria-label')} ({index + 1})"
        _press(
            page, slider, "ArrowRight"
        )  # the first move may have to compute what later ones find in a cache
        times = [
            _press(page, slider, "ArrowLeft" if turn % 2 == 0 else "ArrowRight") for turn in range(REPEATS)
        ]
        found = [t for t in times if t is not None]
        if len(found) > 1:
            show(name, found, "ms", "200 ms")
        else:
            print(f"{name:<58} moves no plotly figure")


def _press(page, slider, key):
    """Milliseconds from the key to the first figure drawn, or None."""
    slider.focus()
    page.keyboard.press(key)
    try:
        page.wait_for_function("window.drawn !== null", timeout=PATIENCE, polling=20)
        taken = page.evaluate("window.drawn - window.pressed")
    except Exception as error:
        if "Timeout" not in str(error):
            raise
        taken = None
    _settle(page)
    return taken


def _settle(page, quiet=0.4, timeout=90):
    """Wait until no script has run for a while."""
    calm, end = time.perf_counter(), time.perf_counter() + timeout
    while time.perf_counter() - calm < quiet and time.perf_counter() < end:
        page.wait_for_timeout(50)
        state = page.locator("[data-testid=stApp]").first.get_attribute("data-test-script-state")
        if state != "notRunning":
            calm = time.perf_counter()


if __name__ == "__main__":
    main(*sys.argv[1:])
