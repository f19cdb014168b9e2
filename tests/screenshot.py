"""Screenshots of the pages in headless Chromium: `python tests/screenshot.py --pages 08_Attention --out shots`."""

import argparse
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parent.parent
SIZES = {1280: 720, 1920: 1080, 390: 844}
CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TELLING = {
    "01_Tokenization": "merging",
    "02_Vector_Embeddings": "neighbours",
    "03_Neuron_Activation": "direction",
    "04_Feed_Forward_Network": "sparsity",
    "05_Logits_and_Sampling": "lens",
    "06_Backpropagation": "norms",
    "07_Optimizers": "surface",
    "08_Attention_QKV": "map",
    "09_Multi_Head_Attention": "patching",
    "10_RoPE": "beyond",
    "11_Transformer_Block": "ledger",
    "12_Training_Phases": "birth",
    "13_Post_Training": "answers",
    "14_Context_and_KV_Cache": "speculative",
    "15_Quantization": "disk",
}
"""The beat of each chapter that the README shows."""

TALLEST = 16_000
"""Pixels: Chromium does not paint taller pages reliably."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(root: Path = ROOT, log: Path | None = None, **environment: str) -> Iterator[str]:
    """The app on a free port of this machine, on pocket-gpt2 unless `environment` names another; its address.

    What it says goes into the file `log`, if one is named: errors as well, which Streamlit prints where rich is
    installed, and else logs.
    """
    port = free_port()
    usual = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root), "ANATOMY_CHECKPOINT": "pocket-gpt2"}
    command = [sys.executable, "-m", "streamlit", "run", "Home.py", "--server.port", str(port)]
    command += [
        "--server.address",
        "127.0.0.1",
        "--server.headless",
        "true",
        "--server.fileWatcherType",
        "none",
    ]
    said = log.open("wb") if log else None
    process = subprocess.Popen(
        command,
        cwd=root,
        env=os.environ | usual | environment,
        stdout=said or subprocess.DEVNULL,
        stderr=subprocess.STDOUT if said else None,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(10)
        if said:
            said.close()


def _wait_until_up(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the app did not start")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless Chromium: the system's where there is one, else playwright's own."""
    system = "/usr/bin/chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=system if os.path.exists(system) else None, args=CHROMIUM
        )
        try:
            yield browser
        finally:
            browser.close()


def settle(page: Page, quiet: float = 0.6, timeout: float = 180) -> None:
    """Wait until streamlit has run, what is in sight is drawn, and nothing has changed for `quiet` seconds."""
    page.wait_for_selector('[data-testid="stApp"]', timeout=timeout * 1000)
    deadline, since = time.monotonic() + timeout, time.monotonic()
    while time.monotonic() < deadline:
        if page.evaluate(_BUSY):
            since = time.monotonic()
        elif time.monotonic() - since > quiet:
            return
        time.sleep(0.1)
    raise TimeoutError("the page did not settle")


_BUSY = """() => {
  const app = document.querySelector('[data-testid="stApp"]');
  const running = !app || app.getAttribute('data-test-script-state') !== 'notRunning';
  const empty = !document.querySelector('[data-testid="stMain"] [data-testid="stElementContainer"]');
  const undrawn = [...document.querySelectorAll('[data-testid="stPlotlyChart"]')]
    .some(chart => !chart.querySelector('.main-svg'));
  const inSight = element => {
    const box = element.getBoundingClientRect();
    return box.height > 0 && box.top < innerHeight && box.bottom > 0;
  };
  const loading = [...document.querySelectorAll(
    '[data-testid^="stSkeleton"], [data-testid="stSpinner"], [class*="st-key-"][class*="-stop"]'
  )].some(inSight);
  const waiting = document.querySelector('.anatomy-waiting') !== null;
  return running || empty || undrawn || loading || waiting;
}"""

_INNER_HEIGHT = """() => {
  const main = document.querySelector('[data-testid="stMain"]');
  return Math.ceil(main ? main.scrollHeight : document.documentElement.scrollHeight);
}"""


def shoot(page: Page, file: Path, width: int, full: bool) -> None:
    """One screenshot; streamlit scrolls an inner container, so a full one needs a window as tall as its content."""
    if full:
        tall = max(SIZES.get(width, 800), min(page.evaluate(_INNER_HEIGHT), TALLEST))
        page.set_viewport_size({"width": width, "height": tall})
        settle(page)
    page.screenshot(path=str(file))


def open_page(browser: Browser, url: str, width: int, theme: str) -> Page:
    """A fresh context on a page of the app, settled."""
    context = browser.new_context(
        viewport={"width": width, "height": SIZES.get(width, 800)}, color_scheme=theme
    )
    page = context.new_page()
    page.goto(url)
    settle(page)
    return page


def url_of(address: str, name: str, query: str) -> str:
    """`08_Attention` is served at /Attention, Home at /."""
    path = "" if name == "Home" else name.partition("_")[2]
    return f"{address}/{path}?{query}"


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    pages = options.pages or [
        "Home",
        *sorted(file.stem for file in (options.root / "pages").glob("[0-9]*.py")),
    ]
    with server(options.root) as address, chromium() as browser:
        for name, mode, width, theme in product(pages, options.modes, options.widths, options.themes):
            if name == "Home" and mode == "projector":
                continue
            query = urlencode(
                {"checkpoint": options.checkpoint}
                | ({"present": 1} if mode == "projector" else {})
                | ({"beat": TELLING[name]} if options.telling and name in TELLING else {})
            )
            page = open_page(browser, url_of(address, name, f"{query}&{options.query}"), width, theme)
            stem = f"{name}-{mode}-{width}-{theme}"
            for number in range(beats_on(page, mode)):
                if number:
                    page.keyboard.press("ArrowRight")
                    settle(page)
                file = options.out / (f"{stem}-{number + 1}.png" if mode == "projector" else f"{stem}.png")
                shoot(page, file, width, full=not options.fold and (mode == "scroll" or width < 600))
                page.set_viewport_size({"width": width, "height": SIZES.get(width, 800)})
                print(file, "EXCEPTION" if page.query_selector('[data-testid="stException"]') else "")
            page.context.close()


def beats_on(page: Page, mode: str) -> int:
    """How many beats the projector has to show: "8 · Attention · 1 of 6"."""
    if mode != "projector":
        return 1
    return int(page.inner_text('[class*="st-key-projector-bar"] h1').rpartition(" of ")[2])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    listed = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--pages", nargs="*", help="file names without .py, and Home; all when left out")
    parser.add_argument("--out", type=Path, default=ROOT / "screenshots")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with Home.py")
    parser.add_argument("--checkpoint", default="pocket-gpt2")
    parser.add_argument(
        "--fold", action="store_true", help="only what fits into the window, as in the README"
    )
    parser.add_argument("--telling", action="store_true", help="begin with the beat that the README shows")
    parser.add_argument("--query", default="", help='more of the address, as "layer=3&focus=2"')
    parser.add_argument(
        "--widths", type=lambda text: [int(part) for part in text.split(",")], default=[1280, 390]
    )
    parser.add_argument("--themes", type=listed, default=["light", "dark"])
    parser.add_argument("--modes", type=listed, default=["scroll", "projector"])
    found = parser.parse_args()
    if not {"scroll", "projector"}.issuperset(found.modes):
        parser.error("the modes are scroll and projector")
    return found


if __name__ == "__main__":
    main()
