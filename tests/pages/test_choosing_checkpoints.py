"""Choosing a checkpoint on a page: nothing is fetched unasked, and what worked is never lost."""

from contextlib import nullcontext

import pytest

from engine import ReaderError
from engine.tokens.text import markdown
from tests.pages.conftest import Visit, open_app, watched


def test_a_hub_name_in_an_address_is_not_fetched_before_a_button_is_pressed(demo, monkeypatch):
    from engine.model import fetching

    asked = []
    monkeypatch.setattr(fetching, "describe", lambda *given: asked.append(given))
    monkeypatch.setattr(fetching, "download", lambda *given: asked.append(given))
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
    from engine.model import fetching

    entry = hub.HubEntry("EleutherAI/pythia-160m", cached=False, bytes=375_000_000, revision="abc")
    monkeypatch.setattr(fetching, "describe", lambda name: entry)
    app = demo()
    app.selectbox(key="side-checkpoint").set_value("EleutherAI/pythia-160m").run()
    app.button(key="download-ask").click().run()
    assert app.button(key="download-start").label == "Download, 375 MB"


@pytest.mark.parametrize("step", ["describe", "download"])
def test_a_failing_hub_is_one_sentence_and_the_checkpoint_stays(demo, monkeypatch, step):
    from engine.checkpoints import hub
    from engine.model import fetching

    def fail(*given):
        raise ReaderError("The Hub is asleep.")

    entry = hub.HubEntry("EleutherAI/pythia-160m", cached=False, bytes=None, revision="abc")
    monkeypatch.setattr(fetching, "describe", lambda name: entry)
    monkeypatch.setattr(fetching, step, fail)
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
    from engine.model import fetching
    from pages._shared import models, resources

    name, plain, told = "EleutherAI/pythia-160m", resources.loaded, []
    entry = hub.HubEntry(name, cached=False, bytes=10, revision="abc")
    monkeypatch.setattr(fetching, "describe", lambda name: entry)
    monkeypatch.setattr(fetching, "download", lambda name, progress: (progress(5, 10), told.append(name)))
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


def full(monkeypatch, fits):
    """From now on only `fits(name, precision)` finds room in memory."""
    from engine.checkpoints.memory import NoRoom
    from pages._shared import resources

    plain = resources.loaded

    def loaded(name, precision):
        if not fits(name, precision):
            raise NoRoom("The memory is full.")
        return plain(name, precision)

    monkeypatch.setattr(resources, "loaded", loaded)


def test_what_does_not_fit_is_one_sentence_and_the_checkpoint_that_worked_comes_back(demo, monkeypatch):
    app = demo(checkpoint="pocket-llama")
    full(monkeypatch, lambda name, precision: (name, precision) == ("pocket-llama", "fp32"))
    app.selectbox(key="side-precision").set_value("fp16").run()
    assert [warning.value for warning in app.warning] == [r"The memory is full\."]
    assert (app.query_params["checkpoint"], app.query_params["precision"]) == ("pocket-llama", "fp32")


def test_a_checkpoint_that_fits_no_more_gives_way_to_a_bundled_one(demo, monkeypatch):
    app = demo(checkpoint="pocket-llama", precision="fp16")
    full(monkeypatch, lambda name, precision: name == "pocket-gpt2")
    app.run()
    assert not app.exception
    assert app.query_params["checkpoint"] == "pocket-gpt2"


def test_when_nothing_fits_the_page_says_so_and_stops(demo, monkeypatch):
    app = demo(checkpoint="pocket-llama", precision="fp16")
    full(monkeypatch, lambda name, precision: False)
    app.run()
    assert not app.exception
    assert [error.value for error in app.error] == [r"The memory is full\."]


def test_a_folder_is_called_by_its_name_and_its_path_is_the_tooltip(demo, tiny_folder):
    path = str(tiny_folder("llama-gqa"))
    app = demo(checkpoint=path)
    box = app.selectbox(key="side-checkpoint")
    assert box.value == path
    assert box.options[-1] == "llama-gqa"
    assert box.help == markdown(path)


def test_a_folder_named_like_a_listed_checkpoint_does_not_read_like_it(demo, tiny_folder, tmp_path):
    (tmp_path / "pocket-gpt2").symlink_to(tiny_folder("gpt2"))
    app = demo(checkpoint=str(tmp_path / "pocket-gpt2"))
    options = app.selectbox(key="side-checkpoint").options
    assert options[-1] == "pocket-gpt2 (a folder)"
    assert len(set(options)) == len(options)


def test_the_panel_says_where_the_files_come_from(demo, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    app = demo(checkpoint="EleutherAI/pythia-160m@step512")
    (told,) = [one.value for one in app.markdown if "not on this machine" in one.value]
    assert markdown("huggingface.co/EleutherAI/pythia-160m") + " at revision step512." in told


def test_a_listed_checkpoint_in_an_installed_package_is_taken_without_a_download(demo, monkeypatch, tmp_path):
    from engine.checkpoints import hub, packaged
    from pages._shared import resources

    name, plain = "SmolLM2-135M-Instruct", resources.loaded
    monkeypatch.setattr(hub, "snapshot", lambda name: None)
    monkeypatch.setattr(packaged, "find", lambda asked: tmp_path if asked == name else None)
    monkeypatch.setattr(resources, "loaded", lambda one, at: plain("pocket-gpt2" if one == name else one, at))
    app = demo()
    app.selectbox(key="side-checkpoint").set_value(name).run()
    assert app.query_params["checkpoint"] == name
    assert [button.key for button in app.button if button.key.startswith("download-")] == []


def test_a_name_with_markup_is_literal_text_while_it_loads(monkeypatch):
    from pages._shared import models

    said = []
    monkeypatch.setattr(models.st, "spinner", lambda text: said.append(text) or nullcontext())
    with models.loading("/models/:red[x] **b**", "fp32"):
        pass
    assert said == [f"Loading {markdown(':red[x] **b**')} at fp32 …"]


def test_a_public_deployment_takes_no_other_checkpoint(demo, monkeypatch):
    monkeypatch.setenv("ANATOMY_PUBLIC", "1")
    app = demo(checkpoint="someone/else")
    assert len(app.warning) == 1
    assert app.selectbox(key="side-checkpoint").value == "pocket-gpt2"
    assert not app.text_input


def test_a_public_deployment_says_so_lists_what_is_on_it_and_offers_no_download(demo, monkeypatch):
    from engine.checkpoints import catalogue

    here = ["SmolLM2-135M-Instruct", "pocket-gpt2", "pocket-llama"]
    monkeypatch.setattr(catalogue, "is_cached", here.__contains__)
    monkeypatch.setenv("ANATOMY_PUBLIC", "yes")
    app = demo(checkpoint="EleutherAI/pythia-160m")
    assert [markdown("is not on the server of this public copy") in one.value for one in app.warning] == [
        True
    ]
    assert list(app.selectbox(key="side-checkpoint").options) == here
    assert [button.key for button in app.button if button.key.startswith("download-")] == []
    assert [one.value for one in app.sidebar.caption if "public copy" in one.value]


def test_what_became_public_takes_a_folder_away_from_the_page_that_shows_it(demo, tiny_folder):
    from engine.checkpoints import catalogue

    app = demo(checkpoint=str(tiny_folder("llama-gqa")))
    catalogue.make_public()
    app.run()
    assert len(app.warning) == 1
    assert app.selectbox(key="side-checkpoint").value == "pocket-gpt2"


@pytest.mark.parametrize("broken", [["pocket-gpt2"], ["pocket-llama"], ["pocket-gpt2", "pocket-llama"]])
def test_a_damaged_bundled_checkpoint_is_one_sentence_and_the_other_one(demo, monkeypatch, broken):
    from pages._shared import resources

    plain = resources.loaded

    def loaded(name, precision):
        if name in broken:
            raise ReaderError(f"{name} is damaged.")
        return plain(name, precision)

    monkeypatch.setattr(resources, "loaded", loaded)
    app = demo(checkpoint=broken[0])
    assert not app.exception
    if len(broken) == 2:
        assert len(app.error) == 1
    else:
        assert [warning.value for warning in app.warning] == [markdown(f"{broken[0]} is damaged.")]
        assert app.selectbox(key="side-checkpoint").value not in broken


def test_a_broken_folder_as_the_default_is_one_sentence_and_the_bundled_one(demo, monkeypatch, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "bert"}', "utf-8")
    monkeypatch.setenv("ANATOMY_CHECKPOINT", str(broken))
    app = demo()
    assert not app.exception
    assert len(app.warning) == 1
    assert app.selectbox(key="side-checkpoint").value == "pocket-gpt2"


PYTHIA = {"prompt.by": "steps of Pythia"}
STEP = "EleutherAI/pythia-14m@step512"


@pytest.fixture
def reachable(monkeypatch):
    """The Hub may be asked, as far as this app knows."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_step_of_pythia_is_offered_and_nothing_is_fetched_before_a_button_is_pressed(reachable):
    visit = Visit()
    with watched(visit):
        app = open_app("pages/12_Training_Phases.py", checkpoint="pocket-gpt2", **PYTHIA)
        (press,) = [button for button in app.button if button.label == "Open this step"]
        press.click().run()
    assert visit.connections == []
    assert visit.cards["prompt"] == []
    assert any(
        "No step of EleutherAI/pythia-14m is on this machine" in one.value.replace("\\", "")
        for one in said(app)
    )
    assert any(f"**{markdown(STEP)}** is not on this machine" in one.value for one in app.markdown)
    assert "download-ask" in [button.key for button in app.button]


def said(app):
    return [*app.info, *app.warning, *app.error, *app.markdown]


def test_steps_of_pythia_on_this_machine_read_the_prompt(monkeypatch):
    from engine.chapters.c12_training import pythia
    from pages._shared import resources

    plain = resources.loaded
    monkeypatch.setattr(pythia, "is_cached", lambda name: name in (STEP, "EleutherAI/pythia-14m@step0"))
    monkeypatch.setattr(
        resources, "loaded", lambda name, at: plain("pocket-gpt2" if "pythia" in name else name, at)
    )
    visit = Visit()
    with watched(visit):
        app = open_app("pages/12_Training_Phases.py", checkpoint="pocket-llama", **PYTHIA)
    (card,) = visit.cards["prompt"]
    assert card.key == "by-step"
    assert card.figure.data[0].z.shape == (2, len(card.table["token"]))
    assert card.prove().passed
    assert "Open this step" not in [button.label for button in app.button], "offline"


def test_a_public_copy_says_what_pythia_would_show_and_offers_nothing(monkeypatch, reachable):
    monkeypatch.setenv("ANATOMY_PUBLIC", "1")
    visit = Visit()
    with watched(visit):
        app = open_app("pages/12_Training_Phases.py", checkpoint="pocket-gpt2", **PYTHIA)
    assert visit.cards["prompt"][0].key == "next-token"
    assert any("where they can be fetched from the Hub" in one.value for one in app.markdown)
    assert "Open this step" not in [button.label for button in app.button]
