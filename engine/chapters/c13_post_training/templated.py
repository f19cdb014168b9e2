"""The chat template, token by token."""

from collections.abc import Sequence
from typing import Any

from engine.chapters.c13_post_training.family import Version
from engine.chapters.c13_post_training.requests import rendered
from engine.chapters.c13_post_training.scripts import script
from engine.evidence.card import Badge, Card, Oracle
from engine.evidence.oracles.chat import conversation_again
from engine.figures import chips
from engine.model.capturing import tokens_of, typed
from engine.model.loaded import Loaded
from engine.tokens.chat import special_ids
from engine.tokens.encoder import decode, encoder
from engine.tokens.text import display, plural, quoted

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
        shown={"ids": ids, "special": special},
        oracle=Oracle(
            "The tokens against the text that the template writes, cut at its own special tokens, each piece encoded "
            "by tokenizers alone; so no special token comes from your text.",
            lambda: _template_again(version, request),
        ),
        code=script([version], _CODE.format(request=request, label=version.label)),
        atol=0.0,
        note=f"Your request alone makes {plural(mine, 'token')}; the rest is the template's."
        + _unasked(loaded, ids, request)
        + _lost(loaded, request)
        + (f" The figure shows the first {SHOWN} tokens, the table all of them." if len(ids) > SHOWN else ""),
    )


def _unasked(loaded: Loaded, ids: Sequence[int], request: str) -> str:
    """The text that a template writes before the request, as a sentence; empty where it writes marks alone."""
    asked, marks = [token.id for token in typed(loaded, request)], special_ids(loaded.tokenizer)
    starts = (i for i in range(len(ids)) if asked and list(ids[i : i + len(asked)]) == asked)
    before = [id for id in ids[: next(starts, 0)] if id not in marks]
    text = decode(loaded.tokenizer, before) if before else ""
    return (
        f" Before it the template writes {quoted(display(text))}, which nobody typed." if text.strip() else ""
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


def _template_again(version: Version, request: str) -> dict[str, Any]:
    again = conversation_again(version.get().tokenizer, request, None)
    return {"ids": again.ids, "special": again.special}


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
