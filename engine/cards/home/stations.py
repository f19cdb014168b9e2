"""The landing page: one small figure for each station of the prompt's way through the model."""

from collections.abc import Sequence

import numpy as np

from engine import ReaderError, figures
from engine.cards.home.evidence import (
    blocks_code,
    close,
    decoded,
    decoded_code,
    embedded,
    same,
    second_run,
    tolerance,
    unembedded,
)
from engine.evidence.card import Badge, Card
from engine.evidence.script import preamble
from engine.model.capturing import tokens_of
from engine.model.loading import Loaded
from engine.model.trace import Array, Trace
from engine.tokens.encoder import encoder
from engine.tokens.text import display

BYTES_SHOWN = 36
DIMENSIONS_SHOWN = 64
TOKENS_SHOWN = 24
CANDIDATES = 10


def text(loaded: Loaded, trace: Trace) -> Card:
    """The bytes of the tokens, joined: the text, without what the tokenizer puts before it."""
    words = _text(loaded, trace)
    if not words:
        raise ReaderError("The prompt has no text yet; please type something.")
    raw = list(words.encode())
    letters = [letter for letter in words for _ in letter.encode()]
    shown = [str(byte) for byte in raw[:BYTES_SHOWN]]
    return Card(
        key="text",
        title=f"{len(words)} characters are {len(raw)} bytes, each a number from 0 to 255",
        alt=f"The first {len(shown)} bytes of the prompt in reading order, each below its character.",
        badge=Badge.LIVE,
        figure=figures.chips(_visible(letters[:BYTES_SHOWN]), shown, columns=12),
        table={"byte": raw, "character": _visible(letters)},
        prove=lambda: same(
            "The tokenizer's own decoder turns the token ids back into exactly these bytes.",
            raw,
            list(decoded(loaded, trace).encode()),
        ),
        code=preamble(loaded, trace.ids)
        + decoded_code(loaded, trace)
        + 'result = {"bytes": list(text.encode())}\n',
        numbers={"bytes": raw},
        atol=0,
        note=f"The first {BYTES_SHOWN} are drawn; the table has all." if len(raw) > BYTES_SHOWN else "",
    )


def tokens(loaded: Loaded, trace: Trace) -> Card:
    """The chips of the prompt with the ids that the model is given."""
    shown = trace.tokens[:TOKENS_SHOWN]
    pieces = [token.piece for token in trace.tokens]
    put = [token.display for token in trace.tokens if token.special]
    before = f" and puts {' '.join(put)} before it" if put else ""
    return Card(
        key="tokens",
        title=f"The tokenizer cuts the text into {len(pieces) - len(put)} tokens, each known by a number{before}",
        alt="The tokens in reading order, each with its id below it.",
        badge=Badge.LIVE,
        figure=figures.chips([t.display for t in shown], [str(t.id) for t in shown]),
        table={"token": [t.display for t in trace.tokens], "id": list(trace.ids)},
        prove=lambda: same(
            "Each piece, looked up in the tokenizer's vocabulary, has exactly this id.",
            trace.ids,
            [loaded.tokenizer.get_vocab()[piece] for piece in pieces],
        ),
        code=preamble(loaded)
        + f"pieces = {pieces!r}\n"
        + 'result = {"ids": [tokenizer.get_vocab()[piece] for piece in pieces]}\n',
        numbers={"ids": list(trace.ids)},
        atol=0,
        note=f"The first {TOKENS_SHOWN} are drawn; the table has all." if len(pieces) > TOKENS_SHOWN else "",
    )


def vectors(loaded: Loaded, trace: Trace) -> Card:
    """hidden[0], (seq, d_model): the embeddings that enter block 0."""
    entering, names = trace.hidden[0], [token.display for token in trace.tokens]
    shown = entering[:TOKENS_SHOWN, :DIMENSIONS_SHOWN]
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
        prove=lambda: close(
            loaded,
            f"Each row is the token's row of the embedding table{learned}, read from the weights.",
            entering,
            embedded(loaded, trace.ids),
        ),
        code=preamble(loaded, trace.ids)
        + "with torch.no_grad():\n"
        + "    entering = model(ids, output_hidden_states=True).hidden_states[0][0]\n"
        + 'result = {"vectors": entering.float().numpy()}\n',
        numbers={"vectors": entering},
        atol=tolerance(loaded, entering),
        note=f"The first {shown.shape[1]} of {loaded.spec.d_model} dimensions are drawn.",
    )


def blocks(loaded: Loaded, trace: Trace) -> Card:
    """The length of the last token's residual stream, and of what each sublayer adds to it."""
    lengths = {
        "residual stream": _length(trace.hidden[:, -1]),
        "attention adds": _length(trace.attn_out[:, -1]),
        "MLP adds": _length(trace.mlp_out[:, -1]),
    }
    n_layer = loaded.spec.n_layer
    depth = np.arange(n_layer + 1)
    padded = {name: np.concatenate([np.full(n_layer + 1 - len(v), np.nan), v]) for name, v in lengths.items()}
    return Card(
        key="blocks",
        title=f"{n_layer} blocks, each adding to the vector of the last token",
        alt="Lines: the length of the last token's vector after each block, and of what attention and MLP added.",
        badge=Badge.LIVE,
        figure=figures.lines(
            depth,
            padded,
            colors={"residual stream": "residual", "attention adds": "attention", "MLP adds": "mlp"},
            x_name="blocks passed",
            y_name="length of the vector (L2 norm)",
            zero=True,
            height=300,
        ),
        table={"blocks passed": depth.tolist()} | {name: values.tolist() for name, values in padded.items()},
        prove=lambda: close(
            loaded,
            "In every block, the vector that enters plus what attention and MLP add is the vector that leaves.",
            trace.hidden[1:],
            trace.hidden[:-1] + trace.attn_out + trace.mlp_out,
        ),
        code=preamble(loaded, trace.ids) + blocks_code(loaded),
        numbers=lengths,
        atol=tolerance(loaded, trace.hidden[:, -1]),
    )


def logits(loaded: Loaded, trace: Trace) -> Card:
    """The largest logits of the last token."""
    last = trace.logits[-1]
    best = _best(last)
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
        prove=lambda: close(
            loaded,
            "The captured last vector, through the final norm and times the unembedding matrix, gives all logits.",
            last,
            unembedded(loaded, trace.hidden[-1, -1]),
        ),
        code=preamble(loaded, trace.ids)
        + "with torch.no_grad():\n    logits = model(ids).logits[0, -1].float()\n"
        + f'result = {{"logits": logits[{best}].tolist()}}\n',
        numbers={"logits": last[best]},
        atol=tolerance(loaded, last),
    )


def next_token(loaded: Loaded, trace: Trace) -> Card:
    """The softmax of the last token's logits: the most probable next tokens, and all others together."""
    chances = _softmax(trace.logits[-1])
    best = _best(chances)
    names = _names(loaded, best)
    rest = 1 - float(chances[best].sum())
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
        prove=lambda: close(
            loaded,
            "A second run of the model through transformers alone, with torch's softmax, gives the same "
            "probabilities.",
            chances,
            second_run(loaded, trace.ids),
        ),
        code=preamble(loaded, trace.ids)
        + "with torch.no_grad():\n    chances = model(ids).logits[0, -1].float().softmax(-1)\n"
        + f'result = {{"probabilities": chances[{best}].tolist()}}\n',
        numbers={"probabilities": chances[best]},
        atol=tolerance(loaded, trace.logits[-1]),
    )


def _text(loaded: Loaded, trace: Trace) -> str:
    joined = b"".join(token.bytes for token in trace.tokens)
    if encoder(loaded.tokenizer).leading_space:
        joined = joined.removeprefix(b" ")  # put there by the tokenizer
    return joined.decode("utf-8", "replace")


def _visible(letters: Sequence[str]) -> list[str]:
    return [display(letter) for letter in letters]


def _names(loaded: Loaded, ids: Sequence[int]) -> list[str]:
    return [token.display for token in tokens_of(loaded, ids)]


def _best(values: Array) -> list[int]:
    return [int(i) for i in np.argsort(-values, kind="stable")[:CANDIDATES]]


def _length(vectors: Array) -> Array:
    return np.linalg.norm(vectors, axis=-1).astype(np.float32)


def _softmax(logits: Array) -> Array:
    exponents = np.exp(logits.astype(np.float64) - logits.max())
    return (exponents / exponents.sum()).astype(np.float32)
