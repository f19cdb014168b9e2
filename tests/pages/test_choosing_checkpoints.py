"""Choosing a checkpoint on a page: nothing is fetched unasked, and what worked is never lost."""

import pytest

from engine import ReaderError


def test_a_hub_name_in_an_address_is_not_fetched_before_a_button_is_pressed(demo, monkeypatch):
    from engine.checkpoints import hub

    asked = []
    monkeypatch.setattr(hub, "describe", lambda *given: asked.append(given))
    monkeypatch.setattr(hub, "download", lambda *given: asked.append(given))
    app = demo(checkpoint="EleutherAI/pythia-160m")
    assert asked == []
    assert app.selectbox(key="side-checkpoint").value == "pocket-gpt2"
    assert [button.key for button in app.button if button.key.startswith("download-")] == [
        "download-ask",
        "download-cancel",
    ]


def test_every_refused_part_of_an_address_is_named_even_when_the_checkpoint_is_missing_too(demo):
    app = demo(checkpoint="EleutherAI/pythia-160m", precision="fp1", layer="two")
    assert len(app.warning) == 3


def test_the_size_of_a_hub_checkpoint_is_shown_before_its_download(demo, monkeypatch):
    from engine.checkpoints import hub

    entry = hub.HubEntry("EleutherAI/pythia-160m", cached=False, bytes=375_000_000, revision="abc")
    monkeypatch.setattr(hub, "describe", lambda name: entry)
    app = demo()
    app.selectbox(key="side-checkpoint").set_value("EleutherAI/pythia-160m").run()
    app.button(key="download-ask").click().run()
    assert app.button(key="download-start").label == "Download, 375 MB"


@pytest.mark.parametrize("step", ["describe", "download"])
def test_a_failing_hub_is_one_sentence_and_the_checkpoint_stays(demo, monkeypatch, step):
    from engine.checkpoints import hub

    def fail(*given):
        raise ReaderError("The Hub is asleep.")

    entry = hub.HubEntry("EleutherAI/pythia-160m", cached=False, bytes=None, revision="abc")
    monkeypatch.setattr(hub, "describe", lambda name: entry)
    monkeypatch.setattr(hub, step, fail)
    app = demo(checkpoint="pocket-llama")
    app.selectbox(key="side-checkpoint").set_value("EleutherAI/pythia-160m").run()
    app.button(key="download-ask").click().run()
    if step == "download":
        app.button(key="download-start").click().run()
    assert [warning.value for warning in app.warning] == [r"The Hub is asleep\."]
    assert app.selectbox(key="side-checkpoint").value == "pocket-llama"
    assert not app.exception


def test_a_finished_download_becomes_the_checkpoint(demo, monkeypatch):
    from engine.checkpoints import hub
    from pages._shared import models, resources

    name, plain, told = "EleutherAI/pythia-160m", resources.loaded, []
    entry = hub.HubEntry(name, cached=False, bytes=10, revision="abc")
    monkeypatch.setattr(hub, "describe", lambda name: entry)
    monkeypatch.setattr(hub, "download", lambda name, progress: (progress(5, 10), told.append(name)))
    monkeypatch.setattr(models, "is_cached", lambda one: one != name or bool(told))
    monkeypatch.setattr(resources, "loaded", lambda one, at: plain("pocket-gpt2" if one == name else one, at))
    app = demo()
    app.selectbox(key="side-checkpoint").set_value(name).run()
    app.button(key="download-ask").click().run()
    app.button(key="download-start").click().run()
    assert told == [name]
    assert app.query_params["checkpoint"] == name


def test_a_checkpoint_that_cannot_be_loaded_leaves_the_one_that_worked(demo, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "bert"}', "utf-8")
    app = demo(checkpoint="pocket-llama")
    app.text_input(key="side-other").set_value(str(broken)).run()
    assert len(app.warning) == 1
    assert not app.exception
    assert app.selectbox(key="side-checkpoint").value == "pocket-llama"
    assert app.query_params["checkpoint"] == "pocket-llama"


def test_a_precision_that_fails_leaves_the_checkpoint_of_the_address(demo, monkeypatch):
    from pages._shared import resources

    plain = resources.loaded

    def refuse(name, precision):
        if precision == "fp16":
            raise ReaderError("No halves today.")
        return plain(name, precision)

    monkeypatch.setattr(resources, "loaded", refuse)
    app = demo(checkpoint="pocket-llama", precision="fp16")
    assert [warning.value for warning in app.warning] == [r"No halves today\."]
    assert (app.query_params["checkpoint"], app.query_params["precision"]) == ("pocket-llama", "fp32")


def test_a_public_deployment_takes_no_other_checkpoint(demo, monkeypatch):
    monkeypatch.setenv("ANATOMY_PUBLIC", "1")
    app = demo(checkpoint="someone/else")
    assert len(app.warning) == 1
    assert app.selectbox(key="side-checkpoint").value == "pocket-gpt2"
    assert not app.text_input
