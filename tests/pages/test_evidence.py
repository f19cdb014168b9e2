"""The proof of every card can fail: it does when what the card shows is altered."""

import numpy as np
import pytest

from engine.evidence.card import Badge, Card, Oracle
from tests.pages.conftest import PAGES
from tests.pages.mutations import mutations
from tests.pages.test_every_page import everywhere, live_cards

LEFT = 20
"""LIVE cards of both bundled checkpoints whose proof is not yet made from what they show; this only ever sinks."""


def slow(test):
    """Mark a test that takes minutes: every proof of a page, once."""
    return pytest.mark.mutations(pytest.mark.timeout(1200)(test))


def proven(page, checkpoint):
    return [card for card in live_cards(page, checkpoint) if card.oracle is not None]


@slow
@everywhere
def test_a_proof_fails_for_every_altered_figure(page, checkpoint):
    survived = [
        f"{card.key}, {what}"
        for card in proven(page, checkpoint)
        for what, altered in mutations(card.shown, fixed(card))
        if fixed(card).judge(altered).passed
    ]
    assert survived == []


@slow
@everywhere
def test_a_tolerance_is_narrower_than_what_it_lets_through(page, checkpoint):
    """A figure of zeros is farther from the truth than the tolerance, or it is a figure of zeros."""
    wide = [
        f"{card.key}, {name}"
        for card in proven(page, checkpoint)
        for name, array in card.shown.items()
        if 0 < np.abs(np.asarray(array, float)).max(initial=0) <= card.oracle.allowed(name)
    ]
    assert wide == []


@slow
def test_what_is_left_to_do_only_shrinks():
    left = {
        card.key
        for page in PAGES
        for name in ("pocket-gpt2", "pocket-llama")
        for card in live_cards(page, name)
        if card.oracle is None
    }
    assert len(left) <= LEFT, sorted(left)


def fixed(card):
    """The card's oracle with its answer computed once."""
    answers = COMPUTED.setdefault(id(card.oracle), (card.oracle, card.oracle.compute()))[1]
    return Oracle(card.oracle.claim, lambda: answers, card.oracle.tolerance)


COMPUTED: dict = {}


def test_an_oracle_that_computes_something_else_is_no_proof():
    oracle = Oracle("claim", lambda: {"a": [1.0, 2.0]}, 0.1)
    assert oracle.judge({"a": [1.0, 2.05]}).passed
    assert not oracle.judge({"a": [1.0, 2.2]}).passed
    assert not oracle.judge({"a": [1.0]}).passed
    assert not oracle.judge({"b": [1.0, 2.0]}).passed
    assert not oracle.judge({"a": [1.0, 2.0], "b": [0.0]}).passed
    assert not oracle.judge({"a": [1.0, float("nan")]}).passed


@pytest.mark.parametrize("tolerance", [-1.0, {"a": 0.1, "b": -0.1}])
def test_a_negative_tolerance_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        Oracle("claim", dict, tolerance)


def test_a_tolerance_of_numbers_that_are_none_lets_nothing_pass():
    oracle = Oracle("claim", lambda: {"a": [1.0], "b": [2.0]}, {"a": float("nan"), "b": 1.0})
    assert not oracle.judge({"a": [1.0], "b": [2.0]}).passed


def test_the_array_that_fits_worst_is_told():
    oracle = Oracle("claim", lambda: {"a": [1.0], "b": [100.0]}, {"a": 0.01, "b": 10.0})
    proof = oracle.judge({"a": [1.02], "b": [105.0]})
    assert (proof.tolerance, proof.passed) == (0.01, False)
    assert oracle.judge({"a": [1.0], "b": [105.0]}).passed


def test_a_card_with_an_oracle_needs_something_shown():
    with pytest.raises(ValueError, match="shows nothing"):
        Card("k", "t", "a", Badge.LIVE, None, {"x": [1]}, oracle=Oracle("c", dict), code="result = {}")
