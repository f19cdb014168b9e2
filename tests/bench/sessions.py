"""What each further reader of a page costs in memory, with a long prompt that is the same for all.

    python -m tests.bench.sessions [--checkpoint NAME] [--before FOLDER] [pages, such as Neuron_Activation]

Ten readers without a browser open the page and stay, each until its first figure has come; the slope is over the last
seven. Promise: 5 MB.
"""

import argparse
import asyncio
from pathlib import Path

import psutil
import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from tests.bench.common import ROOT, machine, server, wait_until_it_answers

PAGES = ("Neuron_Activation", "Transformer_Block", "RoPE", "Optimizers", "Training_Phases", "Backpropagation")
PROMPT = "+".join(["The+old+fox+went+down+to+the+river+and+saw+a+bird"] * 22)
READERS, WARM = 10, 3


async def open_one(address, page, checkpoint):
    """A websocket that has shown a figure, and stays open."""
    socket = await websockets.connect(
        f"{address.replace('http', 'ws')}/_stcore/stream", subprotocols=["streamlit"], max_size=None
    )
    message = BackMsg()
    message.rerun_script.page_name = page
    message.rerun_script.query_string = f"checkpoint={checkpoint}&prompt={PROMPT}"
    await socket.send(message.SerializeToString())
    drawn = False
    for _ in range(4000):
        answer = ForwardMsg()
        answer.ParseFromString(await asyncio.wait_for(socket.recv(), 120))
        kind = answer.WhichOneof("type")
        if kind == "delta" and answer.delta.WhichOneof("type") == "new_element":
            drawn |= answer.delta.new_element.WhichOneof("type") == "plotly_chart"
        if kind == "script_finished":
            if drawn:
                break
            await asyncio.sleep(0.3)
            await socket.send(message.SerializeToString())
    return socket


async def slope(address, process, page, checkpoint):
    held, sizes = [], []
    for _ in range(READERS):
        held.append(await open_one(address, page, checkpoint))
        await asyncio.sleep(0.5)
        sizes.append(psutil.Process(process.pid).memory_info().rss / 1e6)
    for socket in held:
        await socket.close()
    return (sizes[-1] - sizes[WARM - 1]) / (READERS - WARM), sizes[-1]


def main():
    options = arguments()
    print(machine(), options.checkpoint)
    for page in options.pages or PAGES:
        for root in (options.before, ROOT) if options.before else (ROOT,):
            with server(root) as (address, process):
                wait_until_it_answers(address)
                each, whole = asyncio.run(slope(address, process, page, options.checkpoint))
                name = "before" if root == options.before else "now"
                print(
                    f"{page:<20} {name:<7} {each:6.1f} MB a reader, {whole:.0f} MB with {READERS}", flush=True
                )


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="pocket-gpt2")
    parser.add_argument("--before", type=Path, help="the root of an earlier copy of the project")
    parser.add_argument("pages", nargs="*")
    return parser.parse_args()


if __name__ == "__main__":
    main()
