"""A prompt that would like to be code stays a prompt."""

from urllib.parse import quote

from tests.browser.controls import exceptions
from tests.screenshot import ROOT, settle

ATTACK = (
    "<img src=x onerror=document.title='owned'><script>alert(1)</script> [x](javascript:alert(2)) $x$ **b**"
)


def test_markup_in_the_prompt_executes_nothing_on_any_page(visit):
    for name in ("Home", *sorted(file.stem for file in (ROOT / "pages").glob("[0-9]*.py"))):
        page = visit(name, f"prompt={quote(ATTACK)}")
        assert exceptions(page) == []
        assert "owned" not in page.title()
        assert page.locator('[data-testid="stMain"] img[src="x"]').count() == 0
        assert page.locator('[data-testid="stMain"] a[href^="javascript"]').count() == 0
        assert page.locator('[data-testid="stMain"] .katex').count() == katex_of(visit(name, "prompt=A+dog"))
        page.context.close()


def katex_of(page):
    """How many formulas the page itself typesets."""
    settle(page)
    return page.locator('[data-testid="stMain"] .katex').count()
