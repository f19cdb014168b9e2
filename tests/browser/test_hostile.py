"""A prompt that would like to be code stays a prompt."""

from urllib.parse import quote

import pytest

from tests.browser.controls import exceptions
from tests.screenshot import ROOT

ATTACK = (
    "<img src=x onerror=document.title='owned'><script>alert(1)</script> "
    "[x](javascript:alert(2)) $zqz$ **b** :red[c]"
)
PAGES = ("Home", *sorted(file.stem for file in (ROOT / "pages").glob("[0-9]*.py")))


@pytest.mark.parametrize("name", PAGES)
def test_markup_in_the_prompt_executes_nothing(visit, name):
    page = visit(name, f"prompt={quote(ATTACK)}")
    assert exceptions(page) == []
    assert "owned" not in page.title()
    main = page.locator('[data-testid="stMain"]')
    assert main.locator('img[src="x"]').count() == 0
    assert main.locator('a[href^="javascript"]').count() == 0
    assert ATTACK in [field.input_value() for field in page.locator("textarea").all()]
    assert [
        formula for formula in main.locator(".katex").all_inner_texts() if "z" in formula and "q" in formula
    ] == []
