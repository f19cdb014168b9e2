"""Nothing that a reader of the bundled checkpoints sees says where on its machine the app lies."""

import tomllib
from pathlib import Path

import pytest

from tests.pages.conftest import PAGES, ROOT, visited

SECRET = (str(ROOT), str(Path.home()), "/work")


@pytest.mark.parametrize("page", PAGES)
def test_no_script_and_no_sentence_of_a_card_names_a_place_on_this_machine(page):
    for cards in visited(page, "pocket-gpt2").cards.values():
        for card in cards:
            texts = (card.code, card.title, card.alt, card.note, str(dict(card.table)))
            assert not any(place in (text or "") for text in texts for place in SECRET), card.key


def test_errors_are_for_the_log_and_uploads_and_old_sessions_take_no_memory():
    settings = tomllib.loads((ROOT / ".streamlit/config.toml").read_text("utf-8"))
    assert settings["client"]["showErrorDetails"] == "none"
    assert settings["client"]["disableDataExport"] is True
    assert settings["server"]["maxUploadSize"] == 1
    assert settings["server"]["disconnectedSessionTTL"] == 10
    assert settings["browser"] == {"gatherUsageStats": False, "serverAddress": "localhost"}
