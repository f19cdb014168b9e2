"""The proof of every card can fail: it does when what the card shows is altered."""

import numpy as np
import pytest

from engine.evidence.card import Badge, Card, Oracle
from tests.conftest import SMOLLM2, needs_smollm2
from tests.pages.conftest import BUNDLED, PAGES, shared, visited
from tests.pages.mutations import mutations

AT = {"fp32": BUNDLED, "nf4": BUNDLED[1:], "int8": BUNDLED[:1]}
"""Where all pages are tried: 32-bit floats, and the two ways in which bitsandbytes multiplies, in bfloat16 and in 8-bit
integers, on one checkpoint each. What else there is takes many more minutes and is marked `exhaustive`."""

DEEP = {("pages/08_Attention_QKV.py", "nf4"), ("pages/05_Logits_and_Sampling.py", "int8")}
"""What is tried on SmolLM2 each time: where its thirty layers have shown a proof to be too wide."""


def cases():
    """(page, checkpoint, precision): all there are but SmolLM2 at fp32, which is tried elsewhere."""
    for page in PAGES:
        for precision, here in AT.items():
            for checkpoint in BUNDLED:
                rare = [] if checkpoint in here else [pytest.mark.exhaustive]
                marks = [shared(page, checkpoint, precision), *rare]
                yield pytest.param(page, checkpoint, precision, marks=marks)
            if precision != "fp32":
                rare = () if (page, precision) in DEEP else (pytest.mark.exhaustive,)
                yield pytest.param(page, SMOLLM2, precision, marks=[needs_smollm2, *rare])


@pytest.mark.mutations
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("page", "checkpoint", "precision"), list(cases()))
def test_a_proof_fails_for_every_altered_figure(page, checkpoint, precision):
    named = [] if precision == "fp32" else [precision]
    visit = visited(page, checkpoint, *named)
    assert visit.app.selectbox(key="side-precision").value == precision
    assert [error.message for error in visit.app.exception] == []
    assert [beat for beat, drawn in visit.cards.items() if not drawn] == []
    assert untold(page, checkpoint, *named) == []


def untold(page, checkpoint, *precision):
    """What the proofs of a page do not tell: a right figure by a wrong one, or a tolerance by what it lets through."""
    found = []
    for card in proved_cards(page, checkpoint, *precision):
        once = fixed(card.oracle)
        found += [] if once.judge(card.shown).passed else [f"{card.key} as it is"]
        altered = mutations(card.shown, once)
        found += [f"{card.key}, {what}" for what, shown in altered if once.judge(shown).passed]
        found += [f"{card.key}, {name}: too wide" for name in card.shown if too_wide(card, name)]
    return found


def proved_cards(page, checkpoint, *precision):
    """The LIVE cards of a page, and the TOY ones that bring an oracle."""
    drawn = visited(page, checkpoint, *precision).cards.values()
    return [card for cards in drawn for card in cards if card.oracle is not None]


def fixed(oracle):
    """An oracle with its answer computed once."""
    answer = oracle.compute()
    return Oracle(oracle.claim, lambda: answer, oracle.tolerance)


def too_wide(card, name):
    """Whether a figure of zeros, which this one is not, would be nearer to the truth than the tolerance."""
    return 0 < np.abs(np.asarray(card.shown[name], float)).max(initial=0) <= card.oracle.allowed(name)


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
