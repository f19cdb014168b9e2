"""Garbage is collected a little after a run, once for all readers.

Streamlit would collect after each run of a page or of a part of it, and hold all threads up meanwhile: with thirty
readers that was a fifth of the server's time.
"""

import ctypes
import gc
import sys
import threading

AFTER = 12.0
"""Seconds between a run and the collection: sessions whose tab is gone have ended by then."""

_lock = threading.Lock()
_armed = False


def soon() -> None:
    """Collect garbage in a while, if that is not going to happen anyway."""
    global _armed
    with _lock:
        if _armed:
            return
        _armed = True
    timer = threading.Timer(AFTER, _collect)
    timer.daemon = True
    timer.start()


def _collect() -> None:
    global _armed
    with _lock:
        _armed = False  # a run from now on may leave garbage that this collection does not see
    gc.collect()
    give_back()


def give_back() -> None:
    """Hand freed memory back to the system. Of Linux's C libraries glibc keeps it, in an arena for each thread."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
