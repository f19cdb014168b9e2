"""A public copy fails closed: anything but a plain no makes it public, wherever it stands, and it stays so."""

import pytest
from streamlit import config
from streamlit.runtime.secrets import Secrets

from engine.checkpoints import catalogue
from pages._shared import publicity


@pytest.mark.parametrize("value", ["1", "1 ", "true", "True", "yes", "1.0", "on", "maybe", "2", "public"])
def test_any_value_but_a_no_is_public_and_stays_so(monkeypatch, value):
    monkeypatch.setenv("ANATOMY_PUBLIC", value)
    assert catalogue.public()
    monkeypatch.delenv("ANATOMY_PUBLIC")
    assert catalogue.public()


@pytest.mark.parametrize("value", ["", " ", "0", "false", "False ", "NO", "off"])
def test_a_no_is_private(monkeypatch, value):
    monkeypatch.setenv("ANATOMY_PUBLIC", value)
    assert not catalogue.public()


@pytest.fixture
def secrets(monkeypatch, tmp_path):
    """A function that puts a text into the secrets' file, or removes it; the environment hears nothing of it."""
    monkeypatch.delenv("ANATOMY_PUBLIC", raising=False)
    monkeypatch.setattr(Secrets, "_maybe_set_environment_variable", staticmethod(lambda name, value: None))
    monkeypatch.setattr(Secrets, "_maybe_install_file_watchers", lambda self: None)
    file = tmp_path / "secrets.toml"

    def put(text):
        monkeypatch.setattr(publicity.st, "secrets", Secrets())
        if text is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(text)

    before = config.get_option("secrets.files")
    config.set_option("secrets.files", [str(file)])
    yield put
    config.set_option("secrets.files", before)


YES = [
    b'ANATOMY_PUBLIC = "1"',
    b"ANATOMY_PUBLIC = 1",
    b"ANATOMY_PUBLIC = true",
    b'ANATOMY_PUBLIC = "yes"',
    b"ANATOMY_PUBLIC = 1.0",
    b'[general]\nANATOMY_PUBLIC = "1"',
    b"[a.b]\nanatomy_public = true",
    b"ANATOMY_PUBLIC = yes",
    b'key = "x',
    b"\xff\xfe",
]
NO = [
    None,
    b"",
    b'key = "x"',
    b"ANATOMY_PUBLIC = false",
    b"ANATOMY_PUBLIC = 0",
    b'[general]\nANATOMY_PUBLIC = "no"',
]


@pytest.mark.parametrize("text", YES)
def test_secrets_make_a_copy_public_whatever_becomes_of_their_file(secrets, text):
    secrets(text)
    publicity.look()
    assert catalogue.public()
    secrets(None)
    publicity.look()
    assert catalogue.public()


@pytest.mark.parametrize("text", NO)
def test_secrets_that_say_no_or_nothing_do_not(secrets, text):
    secrets(text)
    publicity.look()
    assert not catalogue.public()
