"""Memory of a server on which readers come, move controls, turn to other chapters and go, for a while.

    python -m tests.bench.lasting [--minutes 30] [--readers 30] [--checkpoint NAME] [--before FOLDER]

Readers without a browser: each opens a chapter with a prompt of its own, waits for a figure, moves sliders that it was
sent, and leaves after some moves; another one comes in its place. A line a minute, and the slope over the last half.
Promise: it does not grow.
"""

import argparse
import asyncio
import random
import statistics
import time
from pathlib import Path

import psutil
import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState

from tests.bench.common import ROOT, machine, server, wait_until_it_answers

PAGES = [path.stem.partition("_")[2] for path in sorted((ROOT / "pages").glob("[0-9]*.py"))]
WORDS = "red old tall kind sly young wise small".split()
MOVES, PAUSE, LOOK = 8, (2.0, 6.0), 1.0
FIRST = 12  # sliders that a reader knows of


class Reader:
    """One session: what it was sent, and what it sends."""

    def __init__(self, chance, checkpoint, counts):
        self.chance, self.counts = chance, counts
        self.page = chance.choice(PAGES)
        prompt = f"The+{chance.choice(WORDS)}+fox+number+{chance.randrange(10**6)}+went+to+the"
        self.query = f"checkpoint={checkpoint}&prompt={prompt}"
        self.sliders, self.waiting, self.figures, self.page_hash = {}, [], 0, ""

    def hear(self, data):
        answer = ForwardMsg()
        answer.ParseFromString(data)
        kind = answer.WhichOneof("type")
        if kind == "new_session":
            self.page_hash = answer.new_session.page_script_hash
        if kind != "delta" or answer.delta.WhichOneof("type") != "new_element":
            return
        element, fragment = answer.delta.new_element, answer.delta.fragment_id
        what = element.WhichOneof("type")
        if what == "exception":
            self.counts["exceptions"] += 1
            shown = element.exception
            print(self.page, shown.type, shown.message[:300], *shown.stack_trace[-2:], flush=True)
        self.figures += what == "plotly_chart"
        if what == "skeleton" and fragment not in self.waiting:
            self.waiting.append(fragment)
        if what == "slider" and fragment and len(self.sliders) < FIRST:
            self.sliders[element.slider.id] = (fragment, element.slider)

    def message(self, fragment="", *states):
        message = BackMsg()
        asked = message.rerun_script
        asked.page_name, asked.query_string = self.page, self.query
        asked.page_script_hash, asked.fragment_id = self.page_hash, fragment
        asked.widget_states.widgets.extend(states)
        return message.SerializeToString()

    def move(self):
        """A slider at another place."""
        fragment, slider = self.chance.choice(list(self.sliders.values()))
        state = WidgetState(id=slider.id)
        if slider.options:
            state.string_array_value.data.append(self.chance.choice(slider.options))
        else:
            steps = max(1, round((slider.max - slider.min) / (slider.step or 1)))
            state.double_array_value.data.append(
                slider.min + self.chance.randint(0, steps) * (slider.step or 1)
            )
        return self.message(fragment, state)

    async def listen(self, socket, seconds):
        """Take what comes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                self.hear(await asyncio.wait_for(socket.recv(), left))
            except TimeoutError:
                return

    async def visit(self, address):
        where = f"{address.replace('http', 'ws')}/_stcore/stream"
        async with websockets.connect(
            where, subprotocols=["streamlit"], max_size=None, open_timeout=90, ping_timeout=300
        ) as socket:
            await socket.send(self.message())
            for number in range(60):
                await self.listen(socket, LOOK)
                if self.figures:
                    break
                if self.waiting:  # the beat in sight is drawn last, as far as all have come already
                    await socket.send(self.message(self.waiting[-1 - number % len(self.waiting)]))
            self.counts["figures"] += bool(self.figures)
            for _ in range(MOVES):
                await self.listen(socket, self.chance.uniform(*PAUSE))
                if self.sliders:
                    await socket.send(self.move())
                    self.counts["moves"] += 1
        self.counts["visits"] += 1


async def stay(address, number, end, checkpoint, counts):
    """One reader after another, until the time is over."""
    chance = random.Random(number)
    await asyncio.sleep(chance.uniform(0, 10))
    while time.monotonic() < end:
        try:
            await Reader(chance, checkpoint, counts).visit(address)
        except (OSError, TimeoutError, websockets.exceptions.WebSocketException):
            counts["lost"] += 1


async def watch(process, end, counts):
    """The server's memory every ten seconds, (minutes, MB)."""
    began, seen = time.monotonic(), []
    while time.monotonic() < end:
        await asyncio.sleep(10)
        seen.append(((time.monotonic() - began) / 60, psutil.Process(process.pid).memory_info().rss / 1e6))
        if len(seen) % 6 == 0:
            print(f"{seen[-1][0]:5.1f} min {seen[-1][1]:6.0f} MB  {counts}", flush=True)
    return seen


async def crowd(address, process, options):
    counts = dict.fromkeys(("visits", "figures", "moves", "exceptions", "lost"), 0)
    end = time.monotonic() + 60 * options.minutes
    readers = [
        asyncio.create_task(stay(address, number, end, options.checkpoint, counts))
        for number in range(options.readers)
    ]
    seen = await watch(process, end, counts)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    return seen


def main():
    options = arguments()
    print(machine(), options.checkpoint)
    for root in (options.before, ROOT) if options.before else (ROOT,):
        print("before" if root == options.before else "now")
        with server(root) as (address, process):
            wait_until_it_answers(address)
            seen = asyncio.run(crowd(address, process, options))
        half = [(minute, size) for minute, size in seen if minute > options.minutes / 2]
        slope, _ = statistics.linear_regression(*zip(*half, strict=True))
        sizes = [size for _, size in half]
        print(f"last half: {slope:+.2f} MB a minute, {min(sizes):.0f} to {max(sizes):.0f} MB", flush=True)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--readers", type=int, default=30)
    parser.add_argument("--checkpoint", default="pocket-gpt2")
    parser.add_argument("--before", type=Path, help="the root of an earlier copy of the project")
    return parser.parse_args()


if __name__ == "__main__":
    main()
