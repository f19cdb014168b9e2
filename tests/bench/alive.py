"""How long a reader waits, beside an earlier copy of the project: both in one run, page by page.

    python -m tests.bench.alive [--before FOLDER] [--checkpoint NAME] [pages, such as Attention_QKV]

For each page, on a warm server and in a new tab each time:

first      until the first figure is drawn
complete   until every figure is, scrolling down through the page
early      from a key pressed right after the first figure, on a control in sight, to the figure it moves
own        the same once the page is quiet, for a beat's own control
shared     and for a control that all beats share (the layer; in the earlier copy the first such slider)

The last three are given as multiples of the floor too: the smallest Streamlit app with a slider and a bar chart,
measured in the same run. Promises: own 1.5, shared 2 times the floor on the bundled pair; first within 3 s.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from tests.bench.common import ROOT, browser, machine, server, wait_until_it_answers

PAGES = ("Attention_QKV", "Neuron_Activation", "Logits_and_Sampling", "Transformer_Block", "Quantization")
FLOOR = """import streamlit as st, plotly.graph_objects as go
@st.fragment
def beat():
    n = st.slider("n", 0, 31, 5)
    st.plotly_chart(go.Figure(go.Bar(x=list(range(32)), y=[(i * 7 + n) % 13 for i in range(32)])), key="f")
beat()
"""
WATCH = """() => {
    window.pressed = null; window.drawn = null
    document.addEventListener("keydown", () => { window.pressed = performance.now(); window.drawn = null }, true)
    const known = new WeakSet()
    const look = () => {
        for (const plot of document.querySelectorAll(".js-plotly-plot")) {
            if (plot.on && !known.has(plot)) {
                known.add(plot); plot.on("plotly_afterplot", () => { window.drawn ??= performance.now() })
                if (window.pressed) window.drawn ??= performance.now()
            }
        }
        requestAnimationFrame(look)
    }
    look()
}"""
RUNNING = """() => {
    const app = document.querySelector('[data-testid="stApp"]')
    const inSight = e => {
        const b = e.getBoundingClientRect()
        return b.height > 0 && b.top < innerHeight && b.bottom > 0
    }
    const waits = [...document.querySelectorAll(
        '[data-testid^="stSkeleton"], [data-testid="stSpinner"], [class*="st-key-"][class*="-stop"]'
    )]
    return !app || app.dataset.testScriptState !== "notRunning" || waits.some(inSight)
}"""
UNDRAWN = """() => [...document.querySelectorAll('[class*="st-key-beat-"]')].some(
    b => !b.querySelector('.js-plotly-plot, [data-testid=stDataFrame], [data-testid=stAlert]'))"""
AT_THE_END = """() => {
    const main = document.querySelector("[data-testid=stMain]")
    return main.scrollTop + main.clientHeight >= main.scrollHeight - 2
}"""
FIRST = "[data-testid=stMain] .js-plotly-plot .main-svg"
SLIDERS = '[class*="st-key-beat-"] [data-testid=stSlider]:visible input[type=range]'
BAR = '.st-key-bar [class*="st-key-bar-layer-"] input[type=range]'
PRESSES = 6


def main():
    options = arguments()
    roots = {"now": ROOT} if options.before is None else {"before": options.before, "now": ROOT}
    print(machine(), options.checkpoint)
    with browser() as chromium:
        floor = floors(chromium)
        print(f"floor {floor:.0f} ms")
        for page in options.pages or PAGES:
            for name, root in roots.items():  # one after the other: two servers would share the cores
                with server(root) as (address, _):
                    wait_until_it_answers(address)
                    url = f"{address}/{page}?checkpoint={options.checkpoint}"
                    warm(chromium, url)
                    show(page, name, measured(chromium, url), floor)


def show(page, name, found, floor):
    times = " ".join(
        f"{what} {value / 1000:5.1f} s " for what, value in found.items() if what in ("first", "complete")
    )
    controls = " ".join(
        f"{what} {value:5.0f} ms ({value / floor:.1f}x)"
        for what, value in found.items()
        if what in ("early", "own", "shared") and value is not None
    )
    print(f"{page:<22} {name:<7} {times} {controls}", flush=True)


def warm(chromium, url):
    """The checkpoint is loaded, and the libraries are; what is cached of figures is the default prompt's."""
    page = chromium.new_page()
    page.goto(url)
    page.locator(FIRST).first.wait_for(timeout=180_000)
    page.close()
    time.sleep(2)


def measured(chromium, url):
    # Another prompt for each tab: nothing of it is in a cache.
    found = {}
    page = chromium.new_page(viewport={"width": 1280, "height": 720})
    start = time.perf_counter()
    page.goto(f"{url}&prompt=The+old+fox+and+the+young+crow+went+to+the+river")
    page.locator(FIRST).first.wait_for(timeout=180_000)
    found["first"] = 1000 * (time.perf_counter() - start)
    page.evaluate(WATCH)
    page.wait_for_timeout(100)
    bar = page.locator(BAR)
    control = bar if bar.count() else page.locator(SLIDERS)
    if control.count():
        found["early"] = press(page, control.first, "ArrowRight", 60)
    quiet(page)
    while page.evaluate(UNDRAWN):
        page.mouse.move(800, 300)
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(150)
        quiet(page, 0.3)
        if page.evaluate(AT_THE_END):
            break
    quiet(page)
    found["complete"] = 1000 * (time.perf_counter() - start)
    page.evaluate("() => { document.querySelector('[data-testid=stMain]').scrollTop = 0 }")
    page.wait_for_timeout(800)
    quiet(page)
    own = page.locator(SLIDERS)
    if bar.count():
        found["shared"] = several(page, bar.first)
        found["own"] = several(page, own.first) if own.count() else None
    else:
        labels = [one.get_attribute("aria-label") for one in own.all()]
        shared = next((i for i, label in enumerate(labels) if label in ("Layer", "Head", "Block")), None)
        mine = next((i for i, label in enumerate(labels) if label not in ("Layer", "Head", "Block")), None)
        found["shared"] = several(page, own.nth(shared)) if shared is not None else None
        found["own"] = several(page, own.nth(mine)) if mine is not None else None
    page.close()
    return found


def several(page, slider):
    """The median over presses to and fro, the first of which only fills caches."""
    times = [
        press(page, slider, "ArrowRight" if turn % 2 == 0 else "ArrowLeft") for turn in range(PRESSES + 1)
    ]
    times = [one for one in times[1:] if one is not None]
    return statistics.median(times) if times else None


def press(page, slider, key, patience=15):
    """Milliseconds from the key to the first figure drawn anew, or None."""
    slider.focus()
    page.keyboard.press(key)
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        if page.evaluate("window.drawn") is not None:
            taken = page.evaluate("window.drawn - window.pressed")
            quiet(page)
            return taken
        page.wait_for_timeout(10)
    return None


def quiet(page, seconds=0.5, timeout=240):
    calm, end = time.perf_counter(), time.perf_counter() + timeout
    while time.perf_counter() - calm < seconds and time.perf_counter() < end:
        page.wait_for_timeout(50)
        if page.evaluate(RUNNING):
            calm = time.perf_counter()


def floors(chromium):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "app.py").write_text(FLOOR)
        with server(Path(folder), "app.py") as (address, _):
            wait_until_it_answers(address)
            page = chromium.new_page(viewport={"width": 1280, "height": 720})
            page.goto(address)
            page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=60_000)
            page.evaluate(WATCH)
            quiet(page)
            found = several(page, page.locator("input[type=range]").first)
            page.close()
            return found


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="the root of an earlier copy of the project")
    parser.add_argument("--checkpoint", default="pocket-gpt2")
    parser.add_argument("pages", nargs="*")
    return parser.parse_args()


if __name__ == "__main__":
    main()
