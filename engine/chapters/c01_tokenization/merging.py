"""Byte-pair encoding replayed merge by merge in one piece of the text."""

from textwrap import dedent

from numpy.typing import ArrayLike

from engine import ReaderError
from engine.chapters.c01_tokenization.scripts import tiktoken_lines, tokenizer_lines
from engine.chapters.c01_tokenization.texts import checked
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.tokenizing import joined_pairs, library_ids
from engine.figures.tokenization import Part, Strip, strips
from engine.model.loaded import Loaded
from engine.ops import bpe
from engine.tokens import encodings, merges
from engine.tokens.merges import Merger
from engine.tokens.text import display_bytes, plural, shorten

R50K = "r50k_base"
ROWS = 9
"""Rows of the figure at most: the last steps up to the one that the reader chose."""

LONGEST = 240
"""Bytes of a piece that are merged in the figure: each of its merges is a row of the table with all of its parts."""


def sources(loaded: Loaded) -> list[str]:
    """Names of the tokenizers whose merges can be replayed: the checkpoint's own where it is a byte-level BPE."""
    return [*([loaded.name] if merges.of_loaded(loaded) else []), R50K]


def pieces(loaded: Loaded, source: str, text: str) -> list[bytes]:
    """The different pieces that a text is split into before any merge, those with most to merge first.

    Raises ReaderError for a text without any, such as one of added tokens alone.
    """
    found = dict.fromkeys(_merger(loaded, source).split(checked(text)))
    if not found:
        raise ReaderError(f"Nothing in this text is merged by {source}; please type some more.")
    return sorted(found, key=len, reverse=True)


def steps(loaded: Loaded, source: str, piece: bytes) -> int:
    """How many merges a piece takes."""
    return len(bpe.replay(beginning(piece), _merger(loaded, source).rank))


def beginning(piece: bytes) -> bytes:
    """A piece, or of a long one its first characters, up to `LONGEST` bytes: they are merged like a piece of their own.

    What is cut off may have been the rest of a pair, so the last of their tokens need not be the whole piece's.
    """
    if len(piece) <= LONGEST:
        return piece
    end = next((end for end in range(LONGEST, LONGEST - 4, -1) if piece[end] & 0xC0 != 0x80), LONGEST)
    return piece[:end]


def merging(loaded: Loaded, source: str, text: str, piece: bytes, done: int) -> Card:
    """A piece after its first `done` merges, with the way there; the ids of the whole text are proved as well.

    Raises ReaderError for a source that has no merges, or when the text does not contain the piece.
    """
    merger, text = _merger(loaded, source), checked(text)
    if piece not in merger.split(text):
        raise ReaderError("This piece is not part of the text any more.")
    whole, piece = piece, beginning(piece)
    path = bpe.replay(piece, merger.rank)
    done = min(max(done, 0), len(path))
    rows = _rows(piece, path, done)
    ids = merger.encode(text)
    final = path[-1].parts if path else tuple(bytes([byte]) for byte in piece)
    quoted = f"“{shorten(display_bytes(piece), 40)}”"

    return Card(
        key="merging",
        title=_title(quoted, path, done, len(rows[-1].parts)),
        alt=f"{quoted} as {plural(len(piece), 'byte')} at first and {plural(len(final), 'token')} after "
        f"{plural(len(path), 'merge')}; a row for each step, the bytes just joined filled.",
        badge=Badge.LIVE,
        figure=strips([rows], axis=_axis(whole, piece)),
        table={
            "merge": list(range(len(path) + 1)),
            "rank": ["", *(f"{step.rank:,}" for step in path)],
            "joined": ["", *(f"{display_bytes(step.left)} + {display_bytes(step.right)}" for step in path)],
            "parts": [" | ".join(map(display_bytes, parts)) for parts in _states(piece, path)],
        },
        shown={
            "ranks": [step.rank for step in path],
            "parts": [len(parts) for parts in _states(piece, path)],
            "widths": [len(part) for parts in _states(piece, path) for part in parts],
            "ids": ids,
        },
        oracle=Oracle(
            "The merges of the piece by substitution in a text, as Sennrich et al. 2016 publish them; and the ids of "
            f"the whole text, replayed as the figure is, against those that {_library(loaded, source)} returns for it.",
            lambda: _again(loaded, source, text, piece),
        ),
        code=_code(loaded, source, text, piece),
        atol=0.0,
        note=f"Beside each row: the rank of the pair that was joined. Ranks and cuts are those of {source}."
        + _cut_off(whole, piece)
        + _left_out(source, merger.left_out(text)),
    )


def _merger(loaded: Loaded, source: str) -> Merger:
    if source in encodings.ENCODINGS:
        return merges.of_encoding(source)
    merger = merges.of_loaded(loaded) if source == loaded.name else None
    if merger is None:
        raise ReaderError(f"The merges of {source} cannot be replayed here; choose {R50K}.")
    return merger


def _states(piece: bytes, path: list[bpe.Merge]) -> list[bpe.Parts]:
    return [tuple(bytes([byte]) for byte in piece), *(step.parts for step in path)]


def _rows(piece: bytes, path: list[bpe.Merge], done: int) -> list[Strip]:
    states = _states(piece, path)
    names = ["bytes", *(f"rank {step.rank:,}" for step in path)]
    joined = [b"", *(step.left + step.right for step in path)]
    return [
        Strip(
            names[i],
            tuple(_part(part, part == joined[i]) for part in states[i]),
        )
        for i in range(max(0, done - ROWS + 1), done + 1)
    ]


def _part(raw: bytes, marked: bool) -> Part:
    shown = display_bytes(raw)
    return Part(shown, len(raw), f"{shown}  bytes {raw.hex(' ').upper()}", marked)


def _title(quoted: str, path: list[bpe.Merge], done: int, parts: int) -> str:
    if not path:
        return f"{quoted}: no pair of its bytes has a rank, so nothing is merged"
    if done == 0:
        return f"{quoted} before the first of {plural(len(path), 'merge')}: {plural(parts, 'single byte')}"
    last = path[done - 1]
    pair = f"“{display_bytes(last.left)}” and “{display_bytes(last.right)}”"
    end = "no pair left has a rank" if done == len(path) else f"{len(path) - done} to come"
    return f"Merge {done} of {len(path)} joins {pair}: {plural(parts, 'part')}, {end}"


def _library(loaded: Loaded, source: str) -> str:
    return "its own tokenizer" if source == loaded.name else "tiktoken"


def _axis(whole: bytes, piece: bytes) -> str:
    axis = "bytes of the piece in UTF-8"
    return axis if len(whole) == len(piece) else f"{axis}: the first {len(piece)} of {len(whole):,}"


def _cut_off(whole: bytes, piece: bytes) -> str:
    if len(whole) == len(piece):
        return ""
    return (
        f" This piece has {len(whole):,} bytes; its first {len(piece)} are merged here like a piece of their own, and "
        "the ids that are proved are those of the whole text."
    )


def _left_out(source: str, lost: bytes) -> str:
    if not lost:
        return ""
    values = ", ".join(f"{byte:02X}" for byte in sorted(set(lost)))
    them = "it" if len(lost) == 1 else "them"
    missing = f"{source} has no token for {plural(len(lost), 'byte')} of this text ({values})"
    return f" {missing} and leaves {them} out."


def _again(loaded: Loaded, source: str, text: str, piece: bytes) -> dict[str, ArrayLike]:
    steps = list(joined_pairs(loaded, source, piece))
    widths = [[1] * len(piece), *(found for _, found in steps)]
    return {
        "ranks": [rank for rank, _ in steps],
        "parts": [len(found) for found in widths],
        "widths": [width for found in widths for width in found],
        "ids": library_ids(loaded, source, text),
    }


_REPLAY = '''
def replay(piece, rank):
    """Join the adjacent pair of lowest rank wherever it stands, until no pair has a rank."""
    parts, ranks = list(piece), []
    widths = [[len(part) for part in parts]]
    while True:
        pairs = [(rank(a, b), a, b) for a, b in zip(parts, parts[1:]) if rank(a, b) is not None]
        if not pairs:
            return parts, ranks, widths
        best, left, right = min(pairs)
        ranks.append(best)
        i = 0
        while i + 1 < len(parts):
            if (parts[i], parts[i + 1]) == (left, right):
                parts[i : i + 2] = [left + right]
            i += 1
        widths.append([len(part) for part in parts])

'''


_SPLIT = """
def split(text):
    return pieces(backend.normalizer.normalize_str(text) if backend.normalizer else text)

"""

_SPLIT_ADDED = '''
import re

normalize = backend.normalizer.normalize_str if backend.normalizer else str
added = json.loads(backend.to_str())["added_tokens"]


def cut(text, tokens, spelled):
    """Text and the ids of added tokens in it; a special token that is spelled out is text."""
    known = {spelled(token["content"]): token for token in tokens}
    pattern, start = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True)), 0
    for match in re.finditer(pattern, text) if known else ():
        if not known[match.group()]["special"]:
            yield from (text[start : match.start()], known[match.group()]["id"])
            start = match.end()
    yield text[start:]


def split(text):
    for part in cut(text, [token for token in added if not token["normalized"]], str):
        if isinstance(part, int):
            yield part
            continue
        for rest in cut(normalize(part), [token for token in added if token["normalized"]], normalize):
            yield from [rest] if isinstance(rest, int) else pieces(rest)

'''


def _typable(loaded: Loaded) -> bool:
    """Whether a text can contain added tokens: such as are not special."""
    return any(not token.special for token in loaded.tokenizer.added_tokens_decoder.values())


def _code(loaded: Loaded, source: str, text: str, piece: bytes) -> str:
    """A script that splits the text, replays the merges with code of its own, and looks the ids up."""
    if source == loaded.name:
        head = (
            tokenizer_lines(loaded)
            + dedent(
                """
            import json

            backend = tokenizer.backend_tokenizer
            model = json.loads(backend.to_str())["model"]
            order = {tuple(pair): place for place, pair in enumerate(model["merges"])}
            vocab = model["vocab"]


            def rank(left, right):
                return order.get((left, right))


            def pieces(text):
                # each character writes one byte
                for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text):
                    yield [char for char in piece if char in vocab]  # one without a token is left out


            """
            )
            + (_SPLIT_ADDED if _typable(loaded) else _SPLIT)
        )
        chars = {byte: char for char, byte in bpe.byte_of_char().items()}
        wanted = ascii("".join(chars[byte] for byte in piece))
    else:
        head = tiktoken_lines(source) + dedent(
            """
            import regex

            vocab = encoding._mergeable_ranks


            def rank(left, right):
                return vocab.get(left + right)


            def split(text):
                pieces = regex.findall(encoding._pat_str, text)
                return [[bytes([byte]) for byte in piece.encode()] for piece in pieces]

            """
        )
        wanted = repr([bytes([byte]) for byte in piece])
    return (
        head
        + _REPLAY
        + dedent(
            f"""
        ids = []
        for piece in split({text!a}):
            ids += [piece] if isinstance(piece, int) else [vocab[part] for part in replay(piece, rank)[0]]
        _, ranks, widths = replay({wanted}, rank)
        result = {{"ranks": ranks, "parts": [len(row) for row in widths],
                  "widths": [width for row in widths for width in row], "ids": ids}}
        """
        )
    )
