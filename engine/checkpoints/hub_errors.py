"""What can go wrong between this machine and the Hub, each in one sentence."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine import ReaderError
from engine.checkpoints import hub_names
from engine.checkpoints.catalogue import folder_note, locate
from engine.tokens.text import shorten


class CutShort(OSError):
    """A file that did not arrive as the Hub describes it."""


class NotTheHub(OSError):
    """An answer that is not one of the Hub's API: a network's login page, perhaps."""


@contextmanager
def one_sentence(name: str) -> Iterator[None]:
    """Turn a failure of the network, the Hub or the disk inside the block into a ReaderError about `name`.

    It says too when a folder of that name could have been meant.
    """
    from httpx2 import HTTPError

    try:
        yield
    except (OSError, RuntimeError, HTTPError) as error:
        raise ReaderError(sentence(name, error) + folder_note(name)) from error


def sentence(name: str, error: BaseException) -> str:
    """The sentence for an exception of huggingface_hub, httpx2, hf_xet or the operating system."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        return sentence(name, error.__cause__)
    if isinstance(error, OfflineModeIsEnabled):
        return f"“{name}” is not on this machine, and HF_HUB_OFFLINE forbids downloading it."
    if isinstance(error, NotTheHub):
        return f"What answers at {_host()} does not speak as the Hub does, so “{name}” was not downloaded."
    if isinstance(error, HfHubHTTPError):
        return _refusal(name, error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return f"The disk ran full while “{name}” was downloaded; the unfinished file was removed."
    if isinstance(error, CutShort) or "Consistency check failed" in str(error):
        return f"A file of “{name}” arrived cut short or damaged and was thrown away; try again."
    return _silence(name, error)


def _refusal(name: str, error: Any) -> str:
    """The Hub answered, and the answer was no."""
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    status = error.response.status_code
    if isinstance(error, GatedRepoError) or status == 403:
        return (
            f"“{name}” is gated ({status}): accept its conditions on its page on the Hub, "
            "set HF_TOKEN to a token of your account, and try again."
        )
    if isinstance(error, RevisionNotFoundError):
        asked = hub_names.parse(locate(name))
        revision, repo = (asked.revision, asked.repo) if asked else (hub_names.MAIN, name)
        return f"The Hub has no revision “{revision}” of “{repo}” (404)."
    answers = {
        401: f"The Hub shows “{name}” to nobody without a login (401): set HF_TOKEN, or check the name.",
        404: f"The Hub has no checkpoint called “{name}” (404).",
        416: f"A file of “{name}” is shorter than the Hub says it is; try again later.",
        429: f"The Hub has had too many requests from this address (429); try “{name}” again later.",
    }
    return answers.get(status, f"The Hub could not deliver “{name}”: it answered with status {status}.")


def _host() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT.split("://")[-1]


def _silence(name: str, error: BaseException) -> str:
    """No answer, or one that broke off."""
    from httpx2 import ConnectError, TimeoutException, TransportError

    host = _host()
    if isinstance(error, TimeoutException):
        return f"The Hub ({host}) did not answer in time, so “{name}” was not downloaded."
    if isinstance(error, ConnectError):
        return f"The Hub ({host}) cannot be reached from this machine, so “{name}” was not downloaded."
    if isinstance(error, TransportError | ConnectionError):
        return f"The connection to the Hub ({host}) broke off while “{name}” was downloaded."
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"“{name}” was not downloaded: {shorten(reason, 160)}"
