"""Settings that keep the matters of the machine from its readers."""

import tomllib

from tests.pages.conftest import ROOT


def test_errors_are_for_the_log_and_uploads_and_old_sessions_take_no_memory():
    settings = tomllib.loads((ROOT / ".streamlit/config.toml").read_text("utf-8"))
    assert settings["client"]["showErrorDetails"] == "none"
    assert settings["client"]["disableDataExport"] is True
    assert settings["server"]["maxUploadSize"] == 1
    assert settings["server"]["disconnectedSessionTTL"] == 10
    assert settings["browser"] == {"gatherUsageStats": False, "serverAddress": "localhost"}
