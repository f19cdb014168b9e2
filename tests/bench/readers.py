"""N readers open chapters at once on a server just started, or some seconds after: times, exceptions and memory.

    python -m tests.bench.readers [--readers 30] [--seconds 10] [--after 0] [--checkpoint NAME]
        [--before FOLDER]

Readers without a browser: each opens a websocket with a prompt of its own, half of them on one chapter (a class), and
runs the beat that waits again until its figure has come, as often as the page's own pulse does.
Promises: no exception, the first figure within 6 s at the 95th percentile, memory under 900 MB on the bundled pair.
"""

import argparse
import asyncio
import random
import time
from pathlib import Path

import psutil
import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from tests.bench.common import ROOT, machine, server, wait_until_it_answers

CLASS = "Multi_Head_Attention"
PATIENCE = 120.0
WORDS = "red old tall kind sly".split()


async def read(address, page, prompt, checkpoint, delay):
    """Seconds to the end of the page run and to the first figure, and how many exceptions were shown."""
    await asyncio.sleep(delay)
    start, first, whole, wrong, wait, waiting, asked = time.perf_counter(), None, None, 0, 0.15, [], 0
    url = f"{address.replace('http', 'ws')}/_stcore/stream"
    async with websockets.connect(
        url, subprotocols=["streamlit"], max_size=None, open_timeout=60, ping_timeout=300
    ) as socket:
        message = BackMsg()
        message.rerun_script.page_name = page
        message.rerun_script.query_string = f"checkpoint={checkpoint}&prompt={prompt.replace(' ', '+')}"
        await socket.send(message.SerializeToString())
        while time.perf_counter() - start < PATIENCE:
            answer = ForwardMsg()
            answer.ParseFromString(await asyncio.wait_for(socket.recv(), PATIENCE))
            kind = answer.WhichOneof("type")
            if kind == "delta" and answer.delta.WhichOneof("type") == "new_element":
                element = answer.delta.new_element.WhichOneof("type")
                wrong += element == "exception"
                if element == "skeleton" and answer.delta.fragment_id not in waiting:
                    waiting.append(answer.delta.fragment_id)
                if element == "plotly_chart" and first is None:
                    first = time.perf_counter() - start
            if kind == "script_finished":
                whole = whole or time.perf_counter() - start
                if first is not None:
                    break
                await asyncio.sleep(wait)
                wait = min(1.2, 1.35 * wait)
                if waiting:  # the beat in sight is drawn last; another one has no figure to come
                    message.rerun_script.fragment_id = waiting[-1 - asked // 3 % len(waiting)]
                    asked += 1
                await socket.send(message.SerializeToString())
    return whole, first, wrong


async def crowd(address, count, spread, checkpoint):
    chance = random.Random(0)
    pages = [path.stem.partition("_")[2] for path in sorted((ROOT / "pages").glob("[0-9]*.py"))]
    visits = [
        read(
            address,
            CLASS if number % 2 else chance.choice(pages),
            f"The {chance.choice(WORDS)} fox number {number} went to the",
            checkpoint,
            chance.uniform(0, spread),
        )
        for number in range(count)
    ]
    return await asyncio.gather(*visits, return_exceptions=True)


def main():
    options = arguments()
    print(machine(), options.checkpoint)
    for root in (options.before, ROOT) if options.before else (ROOT,):
        with server(root) as (address, process):
            wait_until_it_answers(address)
            time.sleep(options.after)
            found = asyncio.run(crowd(address, options.readers, options.seconds, options.checkpoint))
            served = [one for one in found if not isinstance(one, BaseException)]
            memory = psutil.Process(process.pid).memory_info().rss / 1e6
            whole = sorted(one[0] for one in served if one[0])
            first = sorted(one[1] for one in served if one[1])
            print(
                f"{'before' if root == options.before else 'now':<7} {len(served)} of {len(found)} served, "
                f"{sum(one[2] for one in served)} exceptions; page run p50 {at(whole, 0.5):.1f} s p95 "
                f"{at(whole, 0.95):.1f} s; first figure p50 {at(first, 0.5):.1f} s p95 {at(first, 0.95):.1f} s "
                f"({len(first)} had one); {memory:.0f} MB",
                flush=True,
            )


def at(values, share):
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--readers", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=10.0, help="over which they arrive")
    parser.add_argument("--after", type=float, default=0.0, help="seconds between the start and the first")
    parser.add_argument("--checkpoint", default="pocket-gpt2")
    parser.add_argument("--before", type=Path, help="the root of an earlier copy of the project")
    return parser.parse_args()


if __name__ == "__main__":
    main()
