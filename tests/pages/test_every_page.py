"""What holds for every page, on both bundled checkpoints. A new chapter is covered by being there."""

import contextlib
import copy
import importlib
import io
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.evidence.card import Badge
from engine.figures.scaling import scaled
from pages._shared import where
from tests.pages.conftest import BUNDLED, HOME, PAGES, ROOT, open_app, shared, visited

LONGEST = "pages/15_Quantization.py"
"""The page that takes longest: six precisions, one after another."""

QUICK = BUNDLED[1]
"""The checkpoint on which the default run shows every page; the other comes with `-m slow`."""

everywhere = pytest.mark.parametrize(
    ("page", "checkpoint"),
    [
        pytest.param(page, name, marks=[shared(page, name), *([] if name == QUICK else [pytest.mark.slow])])
        for page in PAGES
        for name in BUNDLED
    ],
)

TERM = re.compile(r'\[([^\]]+)\]\(#term-([a-z0-9-]+) "([^"]+)"\)')
"""A marked term: its word, its place in the glossary, its meaning."""

SECRET = (str(ROOT), str(Path.home()))

LONG = (LONGEST, "pages/13_Post_Training.py", "pages/14_Context_and_KV_Cache.py")
"""Pages that write again with every text in their fields."""

NASTY = (
    "",
    "a" * 100_000,
    "\x00\x07\u202eevil\u2066\u200b\ufeff <script>alert(1)</script> <img src=x onerror=alert(1)> $x$ **b** "
    "[x](javascript:alert(1)) :material/home: 😀🏳️‍🌈 =1+1 `c` \u0301\ufffd",
)


@everywhere
def test_a_page_runs_without_an_exception(page, checkpoint):
    assert [error.message for error in visited(page, checkpoint).app.exception] == []


@everywhere
def test_a_page_shows_the_checkpoint_that_its_address_names(page, checkpoint):
    assert visited(page, checkpoint).app.selectbox(key="side-checkpoint").value == checkpoint


@everywhere
def test_every_beat_draws_a_card(page, checkpoint):
    cards = visited(page, checkpoint).cards
    assert cards, "no beat was drawn"
    assert [beat for beat, drawn in cards.items() if not drawn] == []


@everywhere
def test_card_keys_are_unique_on_a_page(page, checkpoint):
    keys = [card.key for drawn in visited(page, checkpoint).cards.values() for card in drawn]
    assert sorted(set(keys)) == sorted(keys)


@everywhere
def test_a_page_opens_no_connection(page, checkpoint):
    assert visited(page, checkpoint).connections == []


@pytest.mark.parametrize("page", PAGES)
def test_a_wall_moves_no_point_of_a_figure(page):
    for cards in visited(page, QUICK).cards.values():
        for card in cards:
            if card.figure is not None:
                assert points(scaled(card.figure, 2.0)) == points(card.figure), card.key


def points(figure):
    """All coordinates that are on axes or parts of the drawing."""
    drawn = json.loads(figure.to_json())
    return [[trace.get(axis) for axis in ("x", "y", "z")] for trace in drawn["data"]] + [
        [mark.get(key) for key in ("x", "y", "x0", "x1", "y0", "y1", "path")]
        + [mark.get(key) for key in ("ax", "ay") if mark.get(f"{key}ref", "pixel") != "pixel"]
        for kind in ("annotations", "shapes", "images")
        for mark in drawn["layout"].get(kind, ())
    ]


@pytest.mark.parametrize("page", PAGES)
def test_no_script_and_no_sentence_of_a_card_names_a_place_on_this_machine(page):
    for cards in visited(page, QUICK).cards.values():
        for card in cards:
            texts = (card.code, card.title, card.alt, card.note, str(dict(card.table)))
            assert not any(place in (text or "") for text in texts for place in SECRET), card.key


@pytest.mark.parametrize("page", PAGES[1:])
def test_a_page_marks_terms_and_none_twice(page):
    texts = [one.value for one in visited(page, QUICK).app.markdown]
    found = [slug for text in texts for _, slug, _ in TERM.findall(text)]
    assert len(found) >= 3
    assert len(found) == len(set(found))


@pytest.mark.parametrize("page", PAGES[1:])
def test_every_chapter_says_where_in_the_model_it_is(page):
    pieces = [one.value for one in visited(page, QUICK).app.get("html")]
    drawn = [piece for piece in pieces if piece.startswith('<div class="anatomy-here"')]
    assert len(drawn) == 1
    lit = re.findall(r'class="part (\w+) lit"', drawn[0])
    assert lit
    said = re.search(r'aria-label="The model; this chapter is about: ([^"]*)\."', drawn[0])[1]
    assert said == ", ".join(name for part, (name, _) in where.PARTS.items() if part in lit)


def prove_every_live_card(page, checkpoint):
    """Every proof of a page, once. For the bundled pair `-m mutations` does it, and more."""
    proofs = {card.key: card.prove() for card in live_cards(page, checkpoint)}
    assert {key: proof for key, proof in proofs.items() if not proof.passed} == {}


@everywhere
def test_at_least_two_beats_of_a_chapter_ask(page, checkpoint):
    if page != HOME:
        assert len(asked(page, checkpoint)) >= 2


def asked(page, checkpoint):
    """The questions that a chapter asks, as the cards of its page have them."""
    folder = next((ROOT / "engine" / "chapters").glob(f"c{page.removeprefix('pages/')[:2]}_*")).name
    questions = importlib.import_module(f"engine.chapters.{folder}.questions").ASKED
    cards = visited(page, checkpoint).cards
    found = {key: ask(cards[key]) for key, ask in questions.items()}
    return {key: question for key, question in found.items() if question is not None}


@pytest.mark.parametrize(
    ("page", "checkpoint"),
    [
        pytest.param(
            page,
            name,
            marks=[shared(page, name), *([pytest.mark.slow] if page == LONGEST or name != QUICK else [])],
        )
        for page in PAGES
        for name in BUNDLED
    ],
)
def test_every_code_script_leaves_the_numbers_shown(page, checkpoint, monkeypatch):
    cards = live_cards(page, checkpoint)  # before the page itself would be given what scripts are given
    monkeypatch.chdir(ROOT)
    use_cached_checkpoints(monkeypatch)
    wrong = {}
    for card in cards:
        difference = differences(executed(card.code), card.numbers, card.atol)
        if difference:
            wrong[card.key] = difference
    assert wrong == {}


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if page in LONG else ()) for page in PAGES]
)
def test_a_page_takes_any_text_in_its_own_fields(page):
    app = open_app(page)
    for text in NASTY:
        for kind in ("text_area", "text_input"):
            for own in [one.key for one in app.get(kind) if not str(one.key).startswith(("side-", "home-"))]:
                app.get(kind)  # the tree is new after each run
                fields = [one for one in app.get(kind) if one.key == own]
                if fields:
                    app = fields[0].set_value(text).run()
        assert [error.message for error in app.exception] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != HOME])
def test_a_page_can_be_presented(page):
    app = open_app(page, present="1")
    assert not app.exception
    assert len(app.header) == 1


def live_cards(page, checkpoint, *precision):
    """Cards that prove themselves."""
    drawn = [card for beat in visited(page, checkpoint, *precision).cards.values() for card in beat]
    return [card for card in drawn if card.badge is Badge.LIVE]


def executed(code):
    """`result` of a script run as its reader would run it."""
    names = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "code", "exec"), names)
    return names["result"]


PLAIN_MODEL, PLAIN_TOKENIZER = AutoModelForCausalLM.from_pretrained, AutoTokenizer.from_pretrained
original = cache(lambda name, options: PLAIN_MODEL(name, **dict(options)))
tokenizer = cache(lambda name: PLAIN_TOKENIZER(name))


def use_cached_checkpoints(monkeypatch):
    """Scripts load from memory. Each gets an unquantized model of its own, because it may hook or change it."""

    def load(name, **options):
        if "quantization_config" in options:
            return PLAIN_MODEL(name, **options)
        return copy.deepcopy(original(name, tuple(sorted(options.items()))))

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", tokenizer)


def differences(result, numbers, atol):
    """One sentence for each key of `numbers` that `result` does not reproduce."""
    if set(result) != set(numbers):
        return [f"keys {sorted(result)} instead of {sorted(numbers)}"]
    found = {key: difference(result[key], numbers[key], atol) for key in numbers}
    return [f"{key}: {sentence}" for key, sentence in found.items() if sentence]


def difference(ours, theirs, atol):
    ours, theirs = (np.asarray(as_numpy(value)) for value in (ours, theirs))
    if ours.shape != theirs.shape:
        return f"shape {ours.shape} instead of {theirs.shape}"
    if ours.dtype.kind in "OUS" or theirs.dtype.kind in "OUS":
        return "" if ours.tolist() == theirs.tolist() else f"{ours.tolist()} instead of {theirs.tolist()}"
    if np.allclose(ours.astype(float), theirs.astype(float), rtol=0, atol=atol, equal_nan=True):
        return ""
    return f"max |Δ| {np.nanmax(np.abs(ours.astype(float) - theirs.astype(float))):.3g} over {atol:.3g}"


def as_numpy(value):
    return value.detach().float().cpu().numpy() if hasattr(value, "detach") else value
