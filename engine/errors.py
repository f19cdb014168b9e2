"""Errors meant for the reader."""


class ReaderError(Exception):
    """Something the reader can act on. The message is one plain sentence and is shown on the page as it is."""
