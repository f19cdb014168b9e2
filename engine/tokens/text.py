"""Text on its way to a reader: one escaper for each sink, and prompts made safe to tokenize."""

import re
import unicodedata

from engine import ReaderError

PROMPT_CHARACTERS = 2000
"""Longest prompt accepted, in characters: it also has to fit into the address bar."""

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&=@/\"'^])")
SPACE, LINE_BREAK, TAB = "␣⏎⇥"
"""What a reader sees for a space, a line break and a tab; the same signs in a text are shown by their numbers."""

_VISIBLE = {" ": SPACE, "\n": LINE_BREAK, "\t": TAB, "\r": "␍"}
_BY_NUMBER = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs")


def clean_prompt(text: str, limit: int = PROMPT_CHARACTERS) -> str:
    """The prompt as the tokenizer will see it: lone surrogates become U+FFFD; nothing else changes.

    Raises ReaderError when the text is longer than `limit` characters.
    """
    if len(text) > limit:
        raise ReaderError(f"This text has {len(text):,} characters; the limit here is {limit:,}.")
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def display(text: str) -> str:
    """Text with visible whitespace and no control, format or bidirectional characters.

    No two characters are shown alike: what stands for a space here is shown by its number where a text has it.
    """
    return "".join(_VISIBLE.get(c) or _printable(c) for c in text)


def display_bytes(raw: bytes) -> str:
    """Bytes of one token as text; bytes that are not complete UTF-8 as hexadecimal in angle quotes."""
    try:
        return display(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return "‹" + raw.hex(" ").upper() + "›"


def _printable(char: str) -> str:
    by_number = unicodedata.category(char) in _BY_NUMBER or char in _VISIBLE.values()
    return f"‹U+{ord(char):04X}›" if by_number else char


def markdown(text: str) -> str:
    """Text as literal characters inside Streamlit markdown: no emphasis, link, image, HTML, math, directive."""
    flat = re.sub(r"[\r\n]+", " ", text)
    return _MARKDOWN.sub(r"\\\1", flat)


def label(text: str) -> str:
    """Text as literal characters inside a plotly label, which reads a little HTML and `$…$` as TeX."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;")


def plural(count: int, noun: str) -> str:
    """How many there are of something, in words: "1 token", "1,200 tokens"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def shorten(text: str, width: int = 16) -> str:
    """At most `width` characters, with an ellipsis where something was cut."""
    return text if len(text) <= width else text[: width - 1] + "…"


def reason(error: BaseException, width: int = 160) -> str:
    """What an exception of a library says, as the end of a sentence: its first line, or two where one only begins."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [
        type(error).__name__
    ]
    said = f"{lines[0]} {lines[1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    return shorten(said.rstrip(" .:"), width).rstrip(".") + "."


def quoted(text: str) -> str:
    """Text in quotation marks, for titles."""
    return f"“{text}”"
