"""The chat template, token by token."""

from engine.cards.post_training.common import rendered, script
from engine.cards.post_training.family import Version
from engine.cards.sampling.common import quoted
from engine.evidence.card import Badge, Card, Proof
from engine.figures import chips
from engine.model.capturing import tokens_of, typed
from engine.model.loading import Loaded
from engine.tokens.chat import special_ids
from engine.tokens.encoder import decode, encoder

COLUMNS, SHOWN = 6, 60


def template(version: Version, request: str) -> Card:
    """What a tuned version reads for a request: every token with its id, the special ones in their own colour."""
    loaded = version.get()
    ids = rendered(version, request, None).ids
    tokens = tokens_of(loaded, ids)
    marks = special_ids(loaded.tokenizer)
    special = [id in marks for id in ids]
    names = [token.piece if mark else token.display for token, mark in zip(tokens, special, strict=True)]
    kinds = ["special token" if mark else "text" for mark in special]
    mine = _own(loaded, request)
    first, last = names[0], names[-1]
    begin = f"starts with {quoted(first)} and ends with {quoted(last)}"

    return Card(
        key="template",
        title=f"{len(ids)} tokens, {sum(special)} of them special: the model's reading {begin}",
        alt="The rendered request as chips in reading order, special tokens in another colour: "
        + " ".join(names),
        badge=Badge.LIVE,
        figure=chips(
            names[:SHOWN],
            [str(id) for id in ids[:SHOWN]],
            details=[f"{n}  id {i}  {kind}" for n, i, kind in zip(names, ids, kinds, strict=True)][:SHOWN],
            colors=["key" if mark else "token" for mark in special[:SHOWN]],
            columns=COLUMNS,
        ),
        table={
            "position": list(range(len(ids))),
            "token": names,
            "id": list(ids),
            "kind": kinds,
        },
        prove=lambda: _prove(loaded, request, ids, special),
        code=script([version], _CODE.format(request=request, label=version.label)),
        numbers={"ids": list(ids), "special": [int(mark) for mark in special]},
        atol=0.0,
        note=f"Your request alone makes {mine} tokens; the rest is the template's."
        + _lost(loaded, request)
        + (f" The figure shows the first {SHOWN} tokens, the table all of them." if len(ids) > SHOWN else ""),
    )


def _own(loaded: Loaded, request: str) -> int:
    """Tokens of the bare request."""
    return len(typed(loaded, request))


def _lost(loaded: Loaded, request: str) -> str:
    lacking = encoder(loaded.tokenizer).lacking or ()
    values = [f"{byte:02X}" for byte in request.encode("utf-8") if byte in lacking]
    if not values:
        return ""
    return f" Left out, because {loaded.name} has no token for them: the bytes {', '.join(values[:8])}."


def _prove(loaded: Loaded, request: str, ids: tuple[int, ...], special: list[bool]) -> Proof:
    """Two facts that the drawing rests on, neither of them from the code that made it."""
    tokenizer = loaded.tokenizer
    message = [{"role": "user", "content": request}]
    string = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    read = decode(tokenizer, ids)
    lacking = encoder(tokenizer).lacking or ()
    string = bytes(byte for byte in string.encode("utf-8") if byte not in lacking).decode("utf-8", "replace")
    plain = [{"role": "user", "content": "a"}]
    due = tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)
    silent = [tokenizer.decode([id], skip_special_tokens=True) == "" for id in ids]
    marks = sum(tokenizer.decode([id], skip_special_tokens=True) == "" for id in due)
    wrong = abs(len(string) - len(read)) + sum(a != b for a, b in zip(string, read, strict=False))
    return Proof(
        "The tokens decoded again against the text that the template writes, without bytes that have no token, "
        "character by character; the special ones "
        "against those that decoding leaves out; and their number against that of the request “a”, so that none comes "
        "from your text.",
        float(wrong + sum(a != b for a, b in zip(special, silent, strict=True)) + abs(sum(special) - marks)),
        0.0,
    )


_CODE = """
    request = {request!a}
    ids = tokenizer.apply_chat_template(
        [{{"role": "user", "content": request}}],
        add_generation_prompt=True,
        sanitize_control_tokens=True,
        return_dict=False,
    )
    marks = [id for id, token in tokenizer.added_tokens_decoder.items() if token.special]
    result = {{"ids": ids, "special": [int(id in marks) for id in ids]}}
    for id in ids:
        print(id, repr(tokenizer.decode([id])))
"""
