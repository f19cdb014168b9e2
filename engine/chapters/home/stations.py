"""The landing page: one small figure for each station of the prompt's way through the model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine import ReaderError, figures
from engine.chapters.home.recomputed import blocks_code, decoded, decoded_code, read_off, read_off_again
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles import ends
from engine.evidence.oracles.embedding import entering as entering_again
from engine.evidence.oracles.order import at_ranks
from engine.evidence.oracles.tokenizing import reader
from engine.evidence.rounding import float_tolerance, probability_tolerance, same_pass
from engine.evidence.script import preamble
from engine.model.capturing import tokens_of
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.ops.sampling import softmax
from engine.tokens.encoder import encode, encoder
from engine.tokens.text import display, plural

BYTES_SHOWN = 36
DIMENSIONS_SHOWN = 64
TOKENS_SHOWN = 24
CANDIDATES = 10


def text(loaded: Loaded, trace: Trace, total: int) -> Card:
    """The bytes of the tokens, joined: the text, without what the tokenizer puts before it.

    `total` is how many tokens the text has, those included that the trace has not.
    """
    words = _text(loaded, trace)
    if not words:
        raise ReaderError("The prompt has no text yet; please type something.")
    raw = list(words.encode())
    letters = [letter for letter in words for _ in letter.encode()]
    typed = _typed(trace)
    shown = [str(byte) for byte in raw[:BYTES_SHOWN]]
    return Card(
        key="text",
        title=("The first " if total > len(trace.tokens) else "")
        + f"{plural(len(words), 'character')} {'is' if len(words) == 1 else 'are'} {plural(len(raw), 'byte')}, each a "
        "number from 0 to 255",
        alt=f"The first {len(shown)} bytes of the prompt in reading order, each below its character.",
        badge=Badge.LIVE,
        figure=figures.chips(_visible(letters[:BYTES_SHOWN]), shown, columns=12),
        table={"byte": raw, "character": _visible(letters)},
        shown=_bytes_of(words),
        oracle=Oracle(
            "The tokenizer's own decoder turns the token ids back into exactly these characters and bytes.",
            lambda: _bytes_of(decoded(loaded, typed)),
        ),
        code=preamble(loaded, trace.ids)
        + decoded_code(loaded, typed)
        + 'result = {"bytes": list(text.encode()), "characters": [ord(c) for c in text for _ in c.encode()]}\n',
        atol=0,
        note=f"The first {BYTES_SHOWN} are drawn; the table has all." if len(raw) > BYTES_SHOWN else "",
    )


def tokens(loaded: Loaded, trace: Trace, total: int) -> Card:
    """The chips of the prompt with the ids that the model is given; `total` as in `text`."""
    shown = trace.tokens[:TOKENS_SHOWN]
    pieces, written, ids = [token.piece for token in trace.tokens], _whole(loaded, trace), trace.ids
    put = [token.display for token in trace.tokens if token.special]
    before = f" and puts {' '.join(put)} before it" if put else ""
    return Card(
        key="tokens",
        title=f"The tokenizer cuts the text into {plural(total - len(put), 'token')}, each known by a number{before}"
        + (f"; the model reads the first {len(pieces)} here" if total > len(pieces) else ""),
        alt="The tokens in reading order, each with its id below it.",
        badge=Badge.LIVE,
        figure=figures.chips([t.display for t in shown], [str(t.id) for t in shown]),
        table={"token": [t.display for t in trace.tokens], "id": list(trace.ids)},
        shown={"ids": ids},
        oracle=Oracle(
            "Each piece looked up in the tokenizer's vocabulary"
            + (
                ". (They do not spell the whole text, so it is not cut again.)"
                if written is None
                else ", and the text cut again, by merges replayed in Python or by the tokenizer's model alone."
            ),
            lambda: {"ids": _ids_again(loaded, pieces, written)},
        ),
        code=preamble(loaded)
        + f"pieces = {pieces!r}\n"
        + 'result = {"ids": [tokenizer.get_vocab()[piece] for piece in pieces]}\n',
        atol=0,
        note=f"The first {TOKENS_SHOWN} are drawn; the table has all." if len(pieces) > TOKENS_SHOWN else "",
    )


def vectors(loaded: Loaded, trace: Trace) -> Card:
    """hidden[0], (seq, d_model): the embeddings that enter block 0."""
    entering, names = trace.hidden[0], [token.display for token in trace.tokens]
    shown, ids = entering[:TOKENS_SHOWN, :DIMENSIONS_SHOWN], trace.ids
    learned = " plus the vector of its position" if loaded.spec.positions == "learned" else ""
    return Card(
        key="vectors",
        title=f"Each token becomes a vector of {loaded.spec.d_model} numbers",
        alt=f"A heat map with a row for each token and the first {shown.shape[1]} dimensions of its vector.",
        badge=Badge.LIVE,
        figure=figures.heatmap(
            shown,
            names[:TOKENS_SHOWN],
            kind="diverging",
            concept="embeddings",
            row_name="token",
            column_name="dimension",
            value_name="value",
        ),
        table={"token": names} | {f"dimension {i}": entering[:, i].tolist() for i in range(shown.shape[1])},
        shown={"vectors": entering[:, :DIMENSIONS_SHOWN]},
        oracle=Oracle(
            f"Each row is the token's row of the embedding table{learned}, read from the weights with torch.",
            lambda: {"vectors": entering_again(loaded, ids)[:, :DIMENSIONS_SHOWN].numpy()},
            float_tolerance(loaded, shown),
        ),
        code=preamble(loaded, trace.ids)
        + "with torch.no_grad():\n"
        + "    entering = model(ids, output_hidden_states=True).hidden_states[0][0]\n"
        + f'result = {{"vectors": entering.float().numpy()[:, :{DIMENSIONS_SHOWN}]}}\n',
        note=f"The first {shown.shape[1]} of {loaded.spec.d_model} dimensions are drawn."
        + (
            f" Each row is the token's own{learned}: one token at two places has two rows." if learned else ""
        ),
    )


def blocks(loaded: Loaded, trace: Trace) -> Card:
    """The favourite next token before the first block and after every block, by the logit lens."""
    p = softmax(read_off(loaded, trace.hidden[:, -1]))  # layer+1, vocab
    guess, guessed = p.argmax(-1), p.max(-1)
    names, ids = _names(loaded, guess.tolist()), trace.ids
    passed, probable = range(len(guess)), probability_tolerance(loaded)
    return Card(
        key="blocks",
        title=_settling(names, settled(guess)),
        alt="The favourite next token before the first block and after every block: "
        + ", ".join(f"{name} {chance:.0%}" for name, chance in zip(names, guessed, strict=True)),
        badge=Badge.LIVE,
        figure=figures.chips(
            names,
            [f"{i} · {chance:.0%}" for i, chance in zip(passed, guessed, strict=True)],
            details=[f"after {plural(i, 'block')}: {name}" for i, name in zip(passed, names, strict=True)],
            colors=["logits" if one == guess[-1] else "residual" for one in guess],
        ),
        table={"blocks passed": list(passed), "favourite": names, "probability": guessed.tolist()},
        shown={"guess": guess, "guessed": guessed},
        oracle=Oracle(
            "Hidden states that transformers returns, and by torch's own hook the vector that the final norm reads; "
            "then norm, unembedding and softmax written out with torch.",
            lambda: _blocks_again(loaded, ids, guess.tolist(), probable),
            {"guess": 0.0, "guessed": probable},
        ),
        code=preamble(loaded, trace.ids) + blocks_code(loaded),
        note="Below each favourite: how many blocks the vector has passed, and the favourite’s probability. "
        "Reddish: the favourite of the last block. Norm and unembedding were trained for what leaves the last block, "
        "so an early favourite may mean little (chapter 5).",
    )


def settled(guess: Sequence[int] | NDArray[np.int64]) -> int:
    """The number of blocks after which the favourite is the final one and stays so."""
    same = np.asarray(guess) == guess[-1]
    return next(i for i in range(len(same)) if same[i:].all())


def _settling(names: Sequence[str], after: int) -> str:
    first, last, count = names[0], names[-1], len(names) - 1
    if after == 0:
        return f"Before the first block and after every block, the favourite next token is “{last}”"
    return (
        f"The favourite next token is “{first}” before the first block; “{last}” leads for good after {after} of "
        f"{plural(count, 'block')}"
    )


def logits(loaded: Loaded, trace: Trace) -> Card:
    """The largest logits of the last token."""
    last, ids = trace.logits[-1], trace.ids
    best, allowed = _best(last), float_tolerance(loaded, last)
    names = _names(loaded, best)
    return Card(
        key="logits",
        title=f"The last vector is scored against all {len(last):,} tokens of the vocabulary",
        alt=f"Bars: the {CANDIDATES} tokens with the largest logits after the prompt.",
        badge=Badge.LIVE,
        figure=figures.bars(
            names,
            last[best],
            concept="logits",
            signed=bool((last[best] < 0).any()),
            value_name="logit",
            label_name="token",
        ),
        table={"token": names, "id": best, "logit": last[best].tolist()},
        shown={"ids": best, "logits": last[best]},
        oracle=Oracle(
            "The last vector that transformers returns, behind its final norm, times every row of the unembedding in "
            "float32, and the largest of these products.",
            lambda: _logits_again(loaded, ids, best, allowed),
            {"ids": 0.0, "logits": allowed},
        ),
        code=preamble(loaded, trace.ids)
        + "with torch.no_grad():\n    logits = model(ids).logits[0, -1].float()\n"
        + f"best = logits.sort(descending=True, stable=True).indices[:{CANDIDATES}]\n"
        + 'result = {"ids": best, "logits": logits[best]}\n',
    )


def next_token(loaded: Loaded, trace: Trace) -> Card:
    """The softmax of the last token's logits: the most probable next tokens, and all others together."""
    chances = softmax(trace.logits[-1])
    best = _best(chances)
    names = _names(loaded, best)
    rest, ids = 1 - float(chances[best].sum()), trace.ids
    return Card(
        key="next",
        title=f"Most probable next token: “{names[0]}”, with {chances[best[0]]:.1%}",
        alt=f"Bars: the probability of the {CANDIDATES} most probable next tokens, and of all others together.",
        badge=Badge.LIVE,
        figure=figures.bars(
            [*names, "all others"],
            [*chances[best], rest],
            concept="logits",
            probability=True,
            highlight=[0],
            value_name="probability",
            label_name="token",
        ),
        table={
            "token": [*names, "all others"],
            "id": [*map(str, best), ""],
            "probability": [*chances[best].tolist(), rest],
        },
        shown={"ids": best, "probabilities": chances[best], "all others": rest},
        oracle=Oracle(
            "The same prompt through transformers alone, with torch's softmax, its largest probabilities, and the sum "
            "of all the others. (The same model twice: this finds a wrong probability, not a wrong logit; the logits "
            "have a proof of their own.)",
            lambda: _next_again(loaded, ids, best),
            {"ids": 0.0, "probabilities": same_pass(), "all others": same_pass()},
        ),
        code=preamble(loaded, trace.ids)
        + "with torch.no_grad():\n    chances = model(ids).logits[0, -1].double().softmax(-1)\n"
        + f"best = chances.sort(descending=True, stable=True).indices[:{CANDIDATES}]\n"
        + 'result = {"ids": best, "probabilities": chances[best], "all others": 1 - chances[best].sum()}\n',
    )


def _bytes_of(words: str) -> dict[str, ArrayLike]:
    """Bytes, and the code point that each belongs to."""
    return {
        "bytes": [*words.encode()],
        "characters": [ord(letter) for letter in words for _ in letter.encode()],
    }


def _ids_again(loaded: Loaded, pieces: Sequence[str], written: str | None) -> list[int]:
    """`written` is the text where nothing of it is lost; what the tokenizer puts around it is looked up."""
    vocabulary, known = loaded.tokenizer.get_vocab(), encoder(loaded.tokenizer).special
    looked_up = [vocabulary[piece] for piece in pieces]
    if written is None:
        return looked_up
    typed = [id for id, _ in reader(loaded, loaded.name)(written)]
    before = next((i for i, id in enumerate(looked_up) if id not in known), len(looked_up))
    after = [id for id in looked_up[before:] if id in known]
    return [*looked_up[:before], *typed, *after]


def _blocks_again(
    loaded: Loaded, ids: Sequence[int], guess: Sequence[int], allowed: float
) -> dict[str, ArrayLike]:
    p = read_off_again(loaded, ends.streams(loaded, ids)[:, -1])
    return {
        "guess": [int(at_ranks([given], row, allowed)[0]) for given, row in zip(guess, p, strict=True)],
        "guessed": p.max(-1).values.numpy(),
    }


def _logits_again(
    loaded: Loaded, ids: Sequence[int], best: Sequence[int], allowed: float
) -> dict[str, ArrayLike]:
    found = ends.last_logits(loaded, ids)
    top = at_ranks(best, found, allowed)
    return {"ids": top, "logits": found[top].numpy()}


def _next_again(loaded: Loaded, ids: Sequence[int], best: Sequence[int]) -> dict[str, ArrayLike]:
    found = ends.last_probabilities(loaded, ids)
    top = at_ranks(best, found, same_pass())
    return {
        "ids": top,
        "probabilities": found[top].numpy(),
        "all others": float(np.delete(found.numpy(), top).sum()),
    }


def _typed(trace: Trace) -> list[int]:
    return [token.id for token in trace.tokens if not token.special]


def _whole(loaded: Loaded, trace: Trace) -> str | None:
    """The text that the tokens spell; None where that is another text to the tokenizer, because bytes were lost."""
    text = _text(loaded, trace)
    return text if encode(loaded.tokenizer, text, special=False) == _typed(trace) else None


def _text(loaded: Loaded, trace: Trace) -> str:
    joined = b"".join(token.bytes for token in trace.tokens)
    if encoder(loaded.tokenizer).leading_space:
        joined = joined.removeprefix(b" ")  # put there by the tokenizer
    return joined.decode("utf-8", "replace")


def _visible(letters: Sequence[str]) -> list[str]:
    return [display(letter) for letter in letters]


def _names(loaded: Loaded, ids: Sequence[int]) -> list[str]:
    return [token.display for token in tokens_of(loaded, ids)]


def _best(values: NDArray[np.floating[Any]]) -> list[int]:
    return [int(i) for i in np.argsort(-values, kind="stable")[:CANDIDATES]]
