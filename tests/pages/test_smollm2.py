"""What holds for every page, on a published checkpoint of 135 million parameters and thirty layers."""

import pytest

from tests.conftest import SMOLLM2, needs_smollm2
from tests.pages import test_every_page as every
from tests.pages import test_evidence as evidence
from tests.pages.conftest import HOME, PAGES

pytestmark = [pytest.mark.smollm2, pytest.mark.timeout(1200), needs_smollm2]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_draws_every_beat_and_proves_it(page):
    """In one test, because all look at one visit of the page; the proofs are tried as they are, too."""
    every.test_a_page_runs_without_an_exception(page, SMOLLM2)
    every.test_every_beat_draws_a_card(page, SMOLLM2)
    every.test_a_page_opens_no_connection(page, SMOLLM2)
    assert page == HOME or len(every.asked(page, SMOLLM2)) >= 2
    assert evidence.untold(page, SMOLLM2) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", PAGES)
def test_the_scripts_of_a_page_reproduce_its_numbers(page, monkeypatch):
    every.test_every_code_script_leaves_the_numbers_shown(page, SMOLLM2, monkeypatch)
