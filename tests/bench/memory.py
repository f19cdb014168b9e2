"""Resident memory of one process with checkpoints loaded and warm.

    python -m tests.bench.memory

Each row is a fresh process that loads the named checkpoints and captures one prompt on each, as the server does.
`streamlit` and `plotly` are imported first. Promises: both bundled checkpoints at fp16 and nf4 under 900 MB; with
GPT-2's real size at two precisions besides, under 1.6 GB.
"""

import subprocess
import sys
import tempfile

from tests.bench.common import ROOT, machine, save_gpt2

BUNDLED = [(name, precision) for name in ("pocket-gpt2", "pocket-llama") for precision in ("fp16", "nf4")]
PROMPT = "Once upon a time there was a little girl who lived in the wood."


def main():
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "tests.bench.memory", "--save", folder], cwd=ROOT, check=True)
        gpt2 = [(folder, "fp16"), (folder, "nf4")]
        rows = [
            ("imports alone", [], ""),
            ("both bundled checkpoints, fp16 and nf4", BUNDLED, "under 900 MB"),
            ("GPT-2's size, fp16 and nf4", gpt2, ""),
            ("all of these", BUNDLED + gpt2, "under 1600 MB"),
            (
                "GPT-2's size, fp32 and nf4, and the bundled ones",
                [*BUNDLED, (folder, "fp32"), gpt2[1]],
                "under 1600 MB",
            ),
        ]
        for title, loads, promise in rows:
            resident, peak = _measure(loads)
            note = f"  promise: {promise}" if promise else ""
            print(f"{title:<52} {resident:6.0f} MB resident, {peak:6.0f} MB at the peak{note}")


def _measure(loads):
    words = [f"{name}:{precision}" for name, precision in loads]
    command = [sys.executable, "-m", "tests.bench.memory", "--load", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return map(float, done.stdout.split()[-2:])


def _load(words):
    """Runs in the measured process. Prints resident and peak megabytes."""
    import resource

    import plotly.graph_objects
    import psutil
    import streamlit.web.bootstrap

    from engine import capture, load

    assert plotly.graph_objects
    assert streamlit.web.bootstrap
    kept = [load(*word.rsplit(":", 1), device="cpu") for word in words]
    traces = [capture(loaded, PROMPT) for loaded in kept]
    resident = psutil.Process().memory_info().rss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert len(traces) == len(words)
    print(resident / 1e6, peak / 1e6)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        _load(sys.argv[2:])
    elif sys.argv[1:2] == ["--save"]:
        save_gpt2(sys.argv[2])
    else:
        main()
