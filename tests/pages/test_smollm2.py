"""What holds for every page, on a published checkpoint of 135 million parameters and thirty layers."""

import pytest

from tests.conftest import SMOLLM2, needs_smollm2
from tests.pages import test_every_page as every
from tests.pages import test_evidence as evidence
from tests.pages.conftest import PAGES

pytestmark = [pytest.mark.smollm2, pytest.mark.timeout(1200), needs_smollm2]
on_each_page = pytest.mark.parametrize(
    "page", PAGES
)  # the tests of one page in one process: they look at one visit


@on_each_page
def test_a_page_runs_without_an_exception_and_every_beat_draws_a_card(page):
    every.test_a_page_runs_without_an_exception(page, SMOLLM2)
    every.test_every_beat_draws_a_card(page, SMOLLM2)
    every.test_a_page_opens_no_connection(page, SMOLLM2)


@on_each_page
def test_every_live_card_proves_itself(page):
    every.prove_every_live_card(page, SMOLLM2)


@on_each_page
def test_a_proof_fails_for_every_altered_figure(page):
    assert evidence.untold(page, SMOLLM2) == []


@on_each_page
def test_every_code_script_leaves_the_numbers_shown(page, monkeypatch):
    every.test_every_code_script_leaves_the_numbers_shown(page, SMOLLM2, monkeypatch)
