"""What a library makes of a stranger's files, as one sentence."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from engine import ReaderError
from engine.tokens.text import reason

_LOG = logging.getLogger(__name__)


@contextmanager
def one_sentence(beginning: str) -> Iterator[None]:
    """Turn whatever a library raises inside the block into a ReaderError: `beginning`, then what it says.

    A panic of a library in Rust too, which is no Exception. The traceback goes to the log.
    """
    try:
        yield
    except ReaderError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        _LOG.info(beginning, exc_info=error)
        raise ReaderError(f"{beginning}: {reason(error)}") from error


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a Rust library's panic, such as of a regular expression that took too long."""
    return type(error).__module__ == "pyo3_runtime"
