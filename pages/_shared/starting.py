"""What the server does before its first reader comes: it imports what every page needs.

In a thread of its own, so that it answers at once. A reader who comes meanwhile waits for what is left of it.
"""

import pkgutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

from pages._shared import publicity, resources


@asynccontextmanager
async def importing(app: object) -> AsyncIterator[None]:
    """The time during which the server runs, as `st.App` asks for it."""
    threading.Thread(target=import_all, name="anatomy-imports", daemon=True).start()
    yield


def import_all() -> None:
    """All chapters, and with them torch, transformers, plotly and pandas.

    After a look at whether this is a public copy: some modules ask that as they are imported.
    """
    publicity.look()
    chapters = import_module("engine.chapters")
    for module in pkgutil.walk_packages(chapters.__path__, f"{chapters.__name__}."):
        import_module(module.name)
    resources.set_aside("torch")
