"""What a reader sees and touches."""


def exceptions(page):
    """Texts of red exception boxes."""
    return page.locator('[data-testid="stException"]').all_inner_texts()


def warnings(page):
    """Texts of warning and error boxes."""
    return page.locator('[data-testid="stAlert"]').all_inner_texts()


def scrolls_sideways(page):
    """Whether the page itself is wider than the window."""
    return page.evaluate(
        """() => [document.documentElement, document.querySelector('[data-testid="stMain"]')]
            .some(box => box.scrollWidth > box.clientWidth + 1)"""
    )


def move_a_control(beat):
    """Move the first control of a beat that can be moved; whether there was one."""
    return any(move(beat) for move in (_slider, _toggle, _select, _number, _choice))


def _controls(beat, selector):
    """Controls outside the card's evidence row."""
    return [
        one
        for one in beat.locator(selector).all()
        if one.is_visible() and not one.evaluate("e => !!e.closest('[class*=\"st-key-card-\"]')")
    ]


def _slider(beat):
    for thumb in _controls(beat, '[data-testid="stSlider"] input[type="range"]')[:1]:
        before = thumb.input_value()
        thumb.focus()
        thumb.press("ArrowRight")
        if thumb.input_value() == before:
            thumb.press("ArrowLeft")
        assert thumb.input_value() != before
        return True
    return False


def _toggle(beat):
    for box in _controls(beat, '[data-testid="stCheckbox"] label')[:1]:
        box.click()
        return True
    return False


def _select(beat):
    for box in _controls(beat, '[data-testid="stSelectbox"] input')[:1]:
        box.focus()
        box.press("ArrowDown")
        box.press("ArrowDown")
        box.press("Enter")
        return True
    return False


def _number(beat):
    for step in _controls(beat, '[data-testid="stNumberInputStepUp"]')[:1]:
        if step.is_enabled():
            step.click()
            return True
    return False


def _choice(beat):
    for pill in _controls(beat, '[data-testid="stButtonGroup"] button:not([aria-checked="true"])')[:1]:
        pill.click()
        return True
    return False
