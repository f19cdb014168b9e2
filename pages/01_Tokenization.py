"""1 · Tokenization — text is cut into tokens."""

from collections.abc import Callable, Sequence

from engine.chapters import c01_tokenization as cards
from engine.chapters.c01_tokenization.questions import ASKED
from engine.evidence.card import Card
from engine.tokens import encodings, passages
from engine.tokens.encoder import encoder
from engine.tokens.pieces import IN_NO_TEXT
from engine.tokens.text import PROMPT_CHARACTERS, display_bytes, markdown, shorten
from pages._shared import Beat, View, chapter

SAMPLE = "naïve 🦉 日本語 café"
EXAMPLE = "strawberry, strawberry and STRAWBERRY, 1234567 owls 🦉"
RHYME = (
    "She sells sea shells on the sea shore. The shells that she sells are sea shells, I am sure. "
    "So if she sells sea shells on the sea shore, then I am sure that they are sea shore shells."
)
INDENTED = "    return"
TIKTOKEN = "[tiktoken](https://github.com/openai/tiktoken/blob/main/tiktoken/model.py)"


def write(view: View, start: str, label: str = "Text") -> str:
    """A text area of the beat's own that begins with `start`, and begins anew when `start` changes."""
    with view.controls:
        return view.text("text", label, start, limit=PROMPT_CHARACTERS, tall=True, of=start, height=90)


def chips(view: View) -> Callable[[], Card]:
    starts = {"an example": EXAMPLE, "the prompt": view.state.prompt}
    with view.controls:
        start = view.segments("start", "Begin with", list(starts))
    text = write(view, starts[start])
    return lambda: cards.chips(text)


def own(view: View) -> Callable[[], list[Card]]:
    samples = {sentence.name: sentence.text for sentence in passages.sentences()}
    with view.controls:
        chosen = view.select("which", "Text", ["The prompt", *samples], "Python")
    return lambda: cards.own(view.loaded, samples.get(chosen, view.state.prompt))


def training(view: View) -> Callable[[], list[Card]]:
    text = write(view, RHYME, "Text to train on")
    with view.controls:
        most: int = view.work("Training", text, lambda progress: cards.learnable(text))
        done = view.slider("done", "Merges learned", 0, most, min(6, most), of=text)
    return lambda: cards.training(text, done)


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
    return f"""
    A tokenizer is trained before the model and hardly changes afterwards, so a model understands only the tokens of
    its own tokenizer. (Later training may add a few special tokens: chapter 13.) {markdown(view.loaded.name)} has
    {len(view.loaded.tokenizer):,} tokens. The others are OpenAI’s: r50k belongs to GPT-2 and GPT-3, cl100k to GPT-3.5
    and GPT-4, o200k to GPT-4o ({TIKTOKEN}). A larger vocabulary has room for longer pieces of text: the model reads
    fewer tokens, but its embedding and unembedding matrices are larger. An id means nothing outside its tokenizer.
    """


def indentation(view: View) -> str:
    old, new = (len(encodings.encode(name, INDENTED)) for name in ("r50k_base", "o200k_base"))
    return (
        "Choose English, then Hindi: what was frequent in the text that a tokenizer was trained on takes few tokens. "
        f"Its rules for spaces count as well: `return` after four spaces is {old} tokens for r50k and {new} for o200k."
    )


def written(view: View) -> str:
    return f"""
    {_single_bytes(view)} One character takes one to four bytes in UTF-8, and a cut may go right through it: such a
    token is not valid text on its own, only together with its neighbours. Joined end to end, the tokens’ bytes are the
    text again, unless the title says otherwise.
    """


def _single_bytes(view: View) -> str:
    lacking, name = encoder(view.loaded.tokenizer).lacking, markdown(view.loaded.name)
    if lacking is None:
        return f"{name} is not built from bytes, so a text may hold characters that it has no token for."
    needed = [byte for byte in lacking if byte not in IN_NO_TEXT]
    if not needed:
        number = "All 256 single bytes" if not lacking else "All single bytes that occur in texts"
        return (
            f"{number} are tokens of {name}, so no text is unknown to it: anything it has never seen is spelled out "
            "byte by byte."
        )
    return (
        f"Anything that {name} has never seen is spelled out byte by byte. But it lacks {len(needed)} of the single "
        f"bytes that occur in texts ({_hexadecimal(needed)}): a character that needs one of them comes through "
        "with a part missing, or not at all."
    )


def _hexadecimal(values: Sequence[int]) -> str:
    return ", ".join(f"{value:02X}" for value in values[:8]) + (" …" if len(values) > 8 else "")


def begins(view: View) -> str:
    example = next((t.display for t in view.tokens if t.bytes[:1] == b" " and len(t.bytes) > 1), "")
    seen = f" In your prompt, “{markdown(example)}” is such a token." if example else ""
    return f"""
    The space before a word usually belongs to the word’s token.{seen} A space at the end of a prompt cannot join a
    word that is not there yet, so it becomes part of the last token, or a token by itself. After a whole word the
    likeliest next tokens carry that space themselves. If it is already there, the model has to continue a text of a
    kind that it has rarely seen.
    """


chapter(
    number=1,
    title="Tokenization",
    question="What does a language model read instead of letters?",
    lead=(
        "A language model reads no letters and no words. It reads a list of integers, and each integer stands for one "
        "piece of text from a fixed vocabulary: a **token**. This chapter shows where the cuts fall, why they fall "
        "there, and what they change."
    ),
    bar=(),
    beats=[
        Beat(
            "chips",
            "Text becomes a list of integers",
            prose="""
            A **tokenizer** cuts a text into tokens and gives each its id, and the ids are all that a model receives.
            Each chip is one token of o200k_base, a vocabulary of about 200,000 entries that OpenAI published; its id
            is below it. Spaces and line breaks are part of tokens and are made visible here. A frequent word is one
            token, a rarer one or a long number is several, and a character that is rare enough falls apart into
            bytes. So a model sees neither the letters of a word nor the digits of a number, which is one reason why
            spelling and arithmetic are hard for it.
            """,
            draw=chips,
            try_this="Misspell a word, or take away the space before it: it gets other ids, and often more of them.",
        ),
        Beat(
            "own",
            "Every model has its own cuts",
            prose=whose,
            draw=own,
            try_this=indentation,
        ),
        Beat(
            "training",
            "Training joins the most frequent pair, again and again",
            prose="""
            Byte-level **byte-pair encoding** learns its tokens from a text, and it begins with single bytes. The text
            is split into pieces, roughly words. Then all pairs of neighbours inside the pieces are counted, the most
            frequent pair becomes a new token wherever it stands, and the counting starts again, until the vocabulary
            is as large as was planned. A real tokenizer is trained on a large collection of texts; this one, on a few
            lines of yours.
            """,
            draw=training,
            try_this="Move the slider from the left end, one merge at a time: which words become whole first?",
        ),
        Beat(
            "merging",
            "A new text is cut by the same merges in the same order",
            prose="""
            To cut a new text, a tokenizer replays the merges that its training learned. A pair’s **rank** is its place
            in their order. The text is split into pieces first, and inside each piece the pair of lowest rank is
            joined, until no pair has a rank; nothing is joined across two pieces.
            """,
            draw=merging,
            try_this="Move the slider to the left end and up again: short parts are joined first, longer ones later.",
        ),
        Beat(
            "roundtrip",
            "Bytes are the safety net",
            prose=written,
            draw=roundtrip,
            try_this="Paste an emoji with a skin tone, or a family of emoji: one picture, many code points.",
        ),
        Beat(
            "price",
            "The same sentence costs more tokens in some languages",
            prose="""
            A language that was rare in the tokenizer’s training text is cut into smaller pieces, so the same sentence
            takes more of the context window (the number of tokens that a model can read at once) and more steps to
            write. What was frequent there was merged into long tokens. Nine rows say the same in nine languages;
            below the line are other kinds of text; how digits are cut is a rule of each tokenizer’s own. The first
            column is the loaded checkpoint’s tokenizer, the others run from an older one to a newer one.
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
    parts=("tokens",),
)
