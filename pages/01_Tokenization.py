"""1 · Tokenization — text is cut into tokens."""

from collections.abc import Callable, Sequence

from engine.chapters import c01_tokenization as cards
from engine.chapters.c01_tokenization.questions import ASKED
from engine.evidence.card import Card
from engine.tokens import passages
from engine.tokens.encoder import encoder
from engine.tokens.pieces import IN_NO_TEXT
from engine.tokens.text import PROMPT_CHARACTERS, display_bytes, markdown, shorten
from pages._shared import Beat, View, chapter

SAMPLE = "naïve 🦉 日本語 café"


def write(view: View, start: str, label: str = "Text") -> str:
    """A text area of the beat's own that begins with `start`, and begins anew when `start` changes."""
    with view.controls:
        return view.text("text", label, start, limit=PROMPT_CHARACTERS, tall=True, of=start, height=90)


def chips(view: View) -> Callable[[], Card]:
    text = write(view, view.state.prompt)
    return lambda: cards.chips(text)


def own(view: View) -> Callable[[], list[Card]]:
    samples = {sentence.name: sentence.text for sentence in passages.sentences()}
    with view.controls:
        chosen = view.select("which", "Text", ["The prompt", *samples])
    return lambda: cards.own(view.loaded, samples.get(chosen, view.state.prompt))


def merging(view: View) -> Callable[[], Card]:
    prompt = view.state.prompt
    with view.controls:
        source = view.segments("source", "Merges of", cards.sources(view.loaded), format_func=markdown)
        pieces: list[bytes] = view.work(
            "Splitting the prompt", source, lambda progress: cards.pieces(view.loaded, source, prompt)
        )
        chosen = view.select(
            "piece",
            "Piece of the prompt",
            range(len(pieces)),
            format_func=lambda i: shorten(display_bytes(pieces[i]), 40),
            of=(source, prompt),
        )
        piece = pieces[chosen]
        last: int = view.work(
            "Merging", (source, piece), lambda progress: cards.steps(view.loaded, source, piece)
        )
        done = view.slider("done", "Merges done", 0, last, last, of=(source, piece))
    return lambda: cards.merging(view.loaded, source, prompt, piece, done)


def roundtrip(view: View) -> Callable[[], Card]:
    text = write(view, SAMPLE, "Any text at all")
    return lambda: cards.roundtrip(view.loaded, text)


def price(view: View) -> Callable[[], Card]:
    with view.controls:
        measure = view.segments("measure", "Count", cards.MEASURES)
        yours = view.text("yours", "A sentence of yours", limit=300)
    return lambda: cards.price(view.loaded, yours, measure)


def space(view: View) -> Callable[[], Card]:
    text = write(view, view.state.prompt)
    return lambda: cards.space(view.loaded, text, lambda ending: view.capture(ending))


def whose(view: View) -> str:
    size = len(view.loaded.tokenizer)
    return f"""
    A tokenizer is trained before the model and never changes again, so every model speaks only its own tokens.
    {markdown(view.loaded.name)} has {size:,} of them; r50k is GPT-2's list, cl100k and o200k are later and larger
    ones. A larger list has room for longer pieces of text: the model reads fewer tokens, and pays with a larger
    embedding and unembedding matrix. Ids mean nothing outside the tokenizer that gave them.
    """


def written(view: View) -> str:
    return f"""
    {_single_bytes(view)} One character takes one to four bytes in UTF-8, and a cut may go right through it. Such a
    token is no text by itself, only the tokens together are. Laid end to end, their bytes are the text again, unless
    the title says otherwise.
    """


def _single_bytes(view: View) -> str:
    lacking, name = encoder(view.loaded.tokenizer).lacking, markdown(view.loaded.name)
    if lacking is None:
        return f"{name} is not built from bytes, so a text may hold characters that it has no token for."
    needed = [byte for byte in lacking if byte not in IN_NO_TEXT]
    if not needed:
        number = "All 256 single bytes" if not lacking else "All single bytes that occur in texts"
        return (
            f"{number} are in the list, so the tokenizer has no unknown word: what it has never seen it writes "
            "byte by byte."
        )
    return (
        f"What this tokenizer has never seen it writes byte by byte. But {name} lacks {len(needed)} of the single "
        f"bytes that occur in texts ({_hexadecimal(needed)}): a character that needs one of them comes through "
        "with a part missing, or not at all."
    )


def _hexadecimal(values: Sequence[int]) -> str:
    return ", ".join(f"{value:02X}" for value in values[:8]) + (" …" if len(values) > 8 else "")


def begins(view: View) -> str:
    example = next((t.display for t in view.tokens if t.bytes[:1] == b" " and len(t.bytes) > 1), "")
    seen = f" In your prompt, “{markdown(example)}” is such a token." if example else ""
    return f"""
    The space before a word usually belongs to the word's token.{seen} A space at the end of a prompt cannot join a
    word that is not there yet, so it becomes part of the last token, or a token by itself. After a whole word the
    likeliest next words would each bring the space along, and it is already spent: the model has to go on from a
    text that it has seldom or never seen in training.
    """


chapter(
    number=1,
    title="Tokenization",
    question="What does a language model read instead of letters?",
    lead=(
        "A model knows no letters and no words. It reads a list of integers, each the number of a piece of text in a "
        "fixed list: its **tokens**. This chapter shows where the cuts fall, why they fall there, and what "
        "they change."
    ),
    bar=(),
    beats=[
        Beat(
            "chips",
            "Text becomes a list of integers",
            prose="""
            Type anything. Each chip is one token of o200k_base, a list of about 200,000 pieces that
            OpenAI published for its models; below it is the token's id, and the id is all that a model
            would receive. Spaces and line breaks are part of tokens and are made visible here. A frequent
            word is one token, a rare one is several, and a character that is rare enough falls apart into
            bytes.
            """,
            draw=chips,
            try_this="Write a word in capitals, misspell it, or put a space before it: it gets other ids.",
        ),
        Beat(
            "own",
            "Every model has its own cuts",
            prose=whose,
            draw=own,
            try_this="Choose Python, then Hindi: who was given code to learn from, and who was given Hindi?",
        ),
        Beat(
            "merging",
            "Tokens grow out of bytes by merging",
            prose="""
            Byte-pair encoding begins with single bytes. Its training joined the most frequent adjacent pair of a
            large text into a new token, and did so again and again; the order of these pairs is their rank. A text
            is split into pieces, roughly words. Inside a piece the pair of lowest rank is joined, until no pair
            has a rank; nothing is joined across two pieces.
            """,
            draw=merging,
            try_this="Move the slider from the left end: early ranks are pairs of letters, later ones whole words.",
        ),
        Beat(
            "roundtrip",
            "What has no token of its own is written in bytes",
            prose=written,
            draw=roundtrip,
            try_this="Paste an emoji with a skin tone, or a family of emoji: one picture, many code points.",
        ),
        Beat(
            "price",
            "The same sentence has a different price in every language",
            prose="""
            Merges go to what was frequent in the text that the tokenizer was trained on. A language that
            was rare there is cut into smaller pieces: its sentence fills more of the context window and
            takes more steps to write. The first column is the loaded checkpoint's tokenizer, the others
            are from an older one to a newer one.
            """,
            draw=price,
            try_this="Choose “times English”, and find a row that became cheaper from r50k to o200k.",
        ),
        Beat(
            "space",
            "A space at the end changes what comes next",
            prose=begins,
            draw=space,
            try_this="End the text in the middle of a word, then with a full stop, and compare the two distributions.",
        ),
    ],
    asks=ASKED,
)
