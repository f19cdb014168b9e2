"""A button of a beat chooses the layer, the head or the token in which its point shows, for the whole page."""

import pytest

from tests.pages.conftest import open_app

OFFERS = [
    ("pages/08_Attention_QKV.py", "8-map-offer", {"pocket-gpt2": ("3", "4"), "pocket-llama": ("1", "9")}),
    (
        "pages/09_Multi_Head_Attention.py",
        "9-arcs-offer",
        {"pocket-gpt2": ("3", "4"), "pocket-llama": ("1", "9")},
    ),
    (
        "pages/09_Multi_Head_Attention.py",
        "9-ablate-offer",
        {"pocket-gpt2": ("5", "0"), "pocket-llama": ("4", "0")},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["pocket-gpt2", "pocket-llama"])
@pytest.mark.parametrize(("page", "key", "expected"), OFFERS)
def test_a_button_chooses_a_head_and_the_address_says_so(page, key, expected, checkpoint):
    app = open_app(page, checkpoint=checkpoint)
    app.button(key=key).click().run()
    assert [error.message for error in app.exception] == []
    layer, head = expected[checkpoint]
    assert (app.query_params["layer"], app.query_params["head"]) == (layer, head)
    assert app.button(key=key).disabled


def test_a_button_chooses_a_token_from_which_the_mask_hides_others():
    app = open_app("pages/08_Attention_QKV.py", checkpoint="pocket-llama")
    assert any("is the last token, so here the mask hides nothing" in text.value for text in app.markdown)
    app.button(key="8-row-offer").click().run()
    assert [error.message for error in app.exception] == []
    assert app.query_params["focus"] == "5"
    assert any("the query sees 6 of 12 keys" in text.value for text in app.markdown)
