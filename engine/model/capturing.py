"""Run a prompt through a loaded checkpoint and keep what happened inside."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine import ReaderError
from engine.model import hooks
from engine.model.interventions import Intervention, check
from engine.model.loaded import Loaded
from engine.model.trace import Trace
from engine.tokens.encoder import encode, encoder
from engine.tokens.pieces import piece_bytes
from engine.tokens.text import clean_prompt, display_bytes
from engine.tokens.text import display as shown
from engine.tokens.token import Token

LONGEST = 200_000
"""Characters of a text that are encoded at most."""


def tokenize(loaded: Loaded, text: str) -> tuple[Token, ...]:
    """The tokens that the model reads for a text: those of the text, and those its tokenizer puts around every text.

    Text that looks like a special token is ordinary text here. A text of no tokens becomes the beginning-of-text token
    where there is one, because a model cannot run on nothing; else ReaderError.
    """
    return tokens_of(loaded, _encode(loaded.tokenizer, clean_prompt(text, LONGEST)))


def typed(loaded: Loaded, text: str) -> tuple[Token, ...]:
    """The tokens of a text alone, with none that the tokenizer puts around it; none where it has no token for it."""
    return tokens_of(loaded, encode(loaded.tokenizer, clean_prompt(text, LONGEST), special=False))


def start_tokens(loaded: Loaded) -> tuple[Token, ...]:
    """The tokens that the tokenizer puts before every text: mostly none, or one that nobody typed."""
    return tokens_of(loaded, encoder(loaded.tokenizer).start)


def windows(loaded: Loaded, text: str, size: int) -> tuple[tuple[int, ...], ...]:
    """A long text as token ids in runs of at most `size`, one after the other, the last maybe shorter.

    Each run is read by itself, so each begins with the start token where the model was trained to see one.
    """
    start = encoder(loaded.tokenizer).start
    ids, step = [token.id for token in typed(loaded, text)], max(1, size - len(start))
    return tuple((*start, *ids[i : i + step]) for i in range(0, len(ids), step))


def tokens_of(loaded: Loaded, ids: Sequence[int]) -> tuple[Token, ...]:
    """Token values for ids of the checkpoint's vocabulary."""
    return tuple(token(loaded, int(i)) for i in ids)


def token(loaded: Loaded, id: int) -> Token:
    """One vocabulary entry as a Token. Ids of padding rows that the tokenizer does not know get a placeholder."""
    piece = loaded.tokenizer.convert_ids_to_tokens(id)
    if piece is None:
        return Token(id, "", b"", f"‹id {id}›")
    if id in encoder(loaded.tokenizer).special:
        return Token(id, piece, b"", shown(piece) or "∅", special=True)
    raw = piece_bytes(loaded.tokenizer, id, piece)
    return Token(id, piece, raw, display_bytes(raw) or "∅")


def capture(loaded: Loaded, text: str | Sequence[int], interventions: Sequence[Intervention] = ()) -> Trace:
    """One forward pass over a text, or over token ids, and what it left behind.

    Raises ReaderError when the prompt is empty or longer than the model's context, or when an intervention names
    something the model does not have.
    """
    tokens = tokenize(loaded, text) if isinstance(text, str) else tokens_of(loaded, text)
    _check_length(loaded, tokens)
    chosen = tuple(interventions)
    check(chosen, loaded.spec)
    recorded = forward(loaded, [t.id for t in tokens], chosen)
    return Trace(
        tokens=tokens,
        checkpoint=loaded.name,
        revision=loaded.revision,
        precision=loaded.precision,
        interventions=chosen,
        **_arrays(loaded, recorded),
    )


@torch.no_grad()
def forward(
    loaded: Loaded, ids: Sequence[int], interventions: Sequence[Intervention] = ()
) -> dict[tuple[str, int], torch.Tensor]:
    """The recorded tensors of one forward pass, by (name, layer), batch axis still there."""
    batch = torch.tensor([list(ids)], device=loaded.model.device)
    with hooks.running(hooks.Pass(tuple(interventions), record=True)) as current:
        loaded.model(input_ids=batch, use_cache=False)
    return current.recorded


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids = encode(tokenizer, text, special=True)
    if ids:
        return ids
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ReaderError("This tokenizer makes no token of an empty text; please type something.")
    return [start]


def _check_length(loaded: Loaded, tokens: Sequence[Token]) -> None:
    if not tokens:
        raise ReaderError("A model needs at least one token to run on.")
    if len(tokens) > loaded.spec.context:
        raise ReaderError(
            f"This prompt has {len(tokens):,} tokens; {loaded.name} reads at most {loaded.spec.context:,}."
        )
    if len(tokens) > loaded.spec.longest:
        raise ReaderError(
            f"This prompt has {len(tokens):,} tokens, and some layers of {loaded.name} attend to the last "
            f"{loaded.spec.longest:,} alone, which is not drawn here; shorten it to that many."
        )


def _arrays(loaded: Loaded, recorded: dict[tuple[str, int], torch.Tensor]) -> dict[str, Any]:
    layers = range(loaded.spec.n_layer)
    q, k, v, q_pre, k_pre = (
        _stack(list(x)) for x in zip(*(_qkv(loaded, recorded, i) for i in layers), strict=True)
    )
    return {
        "hidden": _stack([recorded["hidden", i][0] for i in range(loaded.spec.n_layer + 1)]),
        **{
            name: _stack([recorded[name, i][0] for i in layers])
            for name in ("attention", "attn_out", "mlp_out", "mlp_act")
        },
        "logits": _stack([recorded["logits", 0][0]], squeeze=True),
        "q": q,
        "k": k,
        "v": v,
        "q_pre": q_pre,
        "k_pre": k_pre,
    }


def _qkv(
    loaded: Loaded, recorded: dict[tuple[str, int], torch.Tensor], layer: int
) -> list[torch.Tensor | None]:
    """q, k, v as the dot product used them, then q and k before RoPE (None without RoPE). Shapes head, seq, d_head."""
    outputs = {name: recorded[name, layer] for name in loaded.adapter.projections}
    q, k, v = loaded.adapter.heads(outputs, loaded.spec.d_head)
    if loaded.spec.positions == "learned":
        return [q[0], k[0], v[0], None, None]
    turned_q, turned_k = hooks.rotate(
        loaded.part("attention", layer), q, k, recorded["cos", layer], recorded["sin", layer]
    )
    return [turned_q[0], turned_k[0], v[0], q[0], k[0]]


def _stack(tensors: list[torch.Tensor | None], squeeze: bool = False) -> Any:
    """Tensors of one shape as a read-only float32 array with a new first axis, or None if they are None."""
    if tensors[0] is None:
        return None
    given = [t for t in tensors if t is not None]
    joined = given[0] if squeeze else torch.stack([t.to(given[0].device) for t in given])
    array: np.ndarray[Any, Any] = joined.to("cpu", torch.float32).numpy()
    if squeeze and array.base is None:
        array = array.view()
    array.setflags(write=False)
    return array


def display(loaded: Loaded, id: int) -> str:
    """A vocabulary entry as plain text; it still needs the escaper of its sink."""
    return token(loaded, int(id)).display
