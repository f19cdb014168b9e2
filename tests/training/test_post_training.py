"""The measured table, the recordings and the model cards: on rows made by hand, on a tiny run, and as bundled."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoTokenizer

from engine.training import post_training, rule, sft
from engine.training.held_out import HeldOutLoss
from engine.training.instructions import Example
from engine.training.recording import load_recording
from engine.training.sampling import Answer

ASSETS = Path("engine/assets")
MEASURED = {
    "version", "kind", "requests", "answers", "words", "ends", "length", "fresh", "score", "score_error", "tokens",
    "bits_per_character", "prose_loss",
}  # fmt: skip
ANSWERS = {
    "version", "kind", "request", "seed", "answer", "ended", "tokens", "words", "ends", "length", "fresh", "score",
}  # fmt: skip


def row(version: str, kind: str, request: str, score: float, words: float = 0.0) -> dict:
    parts = {"words": words, "ends": 1.0, "length": 1.0, "fresh": 0.0, "score": score}
    return {"version": version, "kind": kind, "request": request, "tokens": 10, **parts}


def test_means_are_over_answers_and_words_over_requests_that_ask_for_some():
    rows = [
        row("base", rule.SCENE, "a", 0.2, words=0.5),
        row("base", rule.SCENE, "a", 0.4, words=0.0),
        row("base", rule.SCENE, "b", 0.9, words=1.0),
        row("base", rule.SCENE, "b", 0.9, words=1.0),
        *[row("base", kind, q, 0.5) for kind in rule.KINDS[1:] for q in (kind + "1", kind + "2")],
    ]
    table = post_training.measured_rows(rows, {"base": HeldOutLoss(nats=80.0, predicted=40, characters=100)})
    scene = next(r for r in table if r["kind"] == rule.SCENE)
    assert (scene["requests"], scene["answers"]) == (2, 4)
    assert scene["words"] == pytest.approx(0.625)
    assert scene["score"] == pytest.approx(0.6)
    # request means 0.3 and 0.9: standard deviation 0.6/√2, error of the mean 0.3
    assert scene["score_error"] == pytest.approx(0.3)
    assert next(r for r in table if r["kind"] == rule.CONTINUE)["words"] is None
    whole = next(r for r in table if r["kind"] == "all")
    assert whole["words"] == pytest.approx((0.5 + 0 + 1 + 1 + 0 + 0 + 0 + 0) / 8), (
        "continue asks for no words"
    )
    assert whole["prose_loss"] == pytest.approx(2.0)
    assert whole["bits_per_character"] == pytest.approx(0.8 / np.log(2))


def test_base_reads_the_bare_request_and_a_tuned_version_the_template(tmp_path):
    from engine.training.lora import write_tokenizer

    write_tokenizer(ASSETS / "pocket-llama", tmp_path)
    base, tuned = (AutoTokenizer.from_pretrained(folder) for folder in (ASSETS / "pocket-llama", tmp_path))
    bare = post_training.Version(post_training.BASE, None, base)
    assert base.decode(bare.prompt("Continue: He ran.")) == "Continue: He ran."
    assert bare.stops == {base.eos_token_id}
    version = post_training.Version(post_training.SFT, None, tuned)
    assert tuned.decode(version.prompt("Hi")) == "<|endoftext|><|user|>Hi<|assistant|>"
    assert version.stops == {tuned.eos_token_id, base.eos_token_id}


def test_every_answer_is_judged_by_the_rule_with_its_seed():
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "pocket-llama")
    ids = tuple(tokenizer.encode("The fox ran.", add_special_tokens=False))
    example = Example(rule.SCENE, "Write a scene with: fox, hen", "", "held_out")
    version = post_training.Version(post_training.BASE, None, tokenizer)
    rows = post_training.judged_rows(version, [example] * 2, [[Answer(ids, True), Answer(ids, False)]] * 2)
    assert [r["seed"] for r in rows] == [0, 1, 2, 3]
    assert [r["score"] for r in rows] == pytest.approx([0.8, 0.6] * 2)
    assert set(rows[0]) == ANSWERS


def test_one_command_installs_measures_records_and_writes_the_cards(tiny_base, tmp_path, monkeypatch):
    from engine.training import dpo, preferences
    from tests.training.test_sft import arguments

    monkeypatch.setattr(sft, "LATER", 60)
    monkeypatch.setattr(sft, "HELD_OUT", 40)
    monkeypatch.setattr(post_training, "HELD_OUT", 40)
    monkeypatch.setattr(preferences, "MOST_TOKENS", 12)
    # An untrained model's answers are all equally bad: here any difference makes a pair.
    monkeypatch.setattr(
        preferences, "judge", lambda request, text, ended: SimpleNamespace(score=sum(map(ord, text)) % 7 / 7)
    )
    monkeypatch.setattr(post_training, "MOST_TOKENS", 12)
    base, runs = str(tiny_base.base), {name: tmp_path / name for name in ("sft", "pairs", "dpo")}
    sft.main(arguments(tiny_base, runs["sft"]))
    preferences.main(
        ["--base", base, "--sft", str(runs["sft"]), "--out", str(runs["pairs"]), "--requests", "60"]
    )
    dpo.main(
        ["--base", base, "--corpus", str(tiny_base.corpus), "--sft", str(runs["sft"]), "--pairs", str(runs["pairs"]),
         "--out", str(runs["dpo"]), "--steps", "4", "--batch-tokens", "300", "--warmup", "1", "--device", "cpu"]
    )  # fmt: skip
    out = tmp_path / "recordings" / "post-training.json"
    out.parent.mkdir()
    places = {name: tmp_path / f"tiny-{name}" for name in ("sft", "dpo")}
    order = ["--corpus", str(tiny_base.corpus), "--out", str(out), "--base", base, "--each", "2", "--requests", "20",
             "--sft", str(places["sft"]), "--dpo", str(places["dpo"]), "--sft-run", str(runs["sft"]),
             "--pairs", str(runs["pairs"]), "--dpo-run", str(runs["dpo"])]  # fmt: skip
    post_training.main(order)
    recording = load_recording("post-training", out.parent)
    check_measured(recording, requests=20)
    assert str(tmp_path) not in out.read_text()
    for name in ("sft-llama", "dpo-llama"):
        assert load_recording(name, out.parent).table("log")[0]["step"] == 0
    for name, place in places.items():
        card = (place / "README.md").read_text(encoding="utf-8")
        assert f"# tiny-{name}" in card
        assert str(tmp_path) not in card
        whole = [r for r in recording.table("measured") if r["kind"] == "all"]
        assert all(f"{r['score']:.3f} ± {r['score_error']:.3f}" in card for r in whole)
        assert (place / "adapter_model.safetensors").read_bytes() == (
            runs[name] / "final" / "adapter_model.safetensors"
        ).read_bytes()
    before = out.read_text()
    post_training.main(order[: order.index("--sft-run")])  # from the installed adapters alone
    again = load_recording("post-training", out.parent)
    assert again.table("measured") == recording.table("measured")
    assert again.table("answers") == recording.table("answers")
    assert json.loads(before)["tables"]["requests"] == json.loads(out.read_text())["tables"]["requests"]


def test_runs_are_named_all_or_none():
    with pytest.raises(SystemExit):
        post_training.main(["--corpus", "c", "--out", "o", "--sft-run", "s"])


def check_measured(recording, requests: int | None = None) -> None:
    table = recording.table("measured")
    assert set(table[0]) == MEASURED
    assert {(r["version"], r["kind"]) for r in table} == {
        (version, kind) for version in ("base", "SFT", "DPO") for kind in ("all", *rule.KINDS)
    }
    for r in table:
        parts = [1.0 if r[part] is None else r[part] for part in rule.WEIGHTS]
        assert all(0 <= part <= 1 for part in parts)
        if r["kind"] != "all":  # there "words" leaves requests out that ask for none
            expected = sum(w * part for w, part in zip(rule.WEIGHTS.values(), parts, strict=True))
            assert r["score"] == pytest.approx(expected, abs=1e-5)
        if requests is not None and r["kind"] == "all":
            assert r["requests"] == requests
    answers = recording.table("answers")
    assert set(answers[0]) == ANSWERS
    assert {r["version"] for r in answers} == {"base", "SFT", "DPO"}
    for r in answers:
        judgement = rule.judge(r["request"], r["answer"], r["ended"])
        assert r["score"] == pytest.approx(judgement.score, abs=1e-5), "the answer is the one that was judged"
    for r in recording.table("requests"):
        assert rule.read_request(r["request"]).kind == r["kind"]
    assert {r["request"] for r in answers} <= {r["request"] for r in recording.table("requests")}
    assert {"temperature", "most_tokens", "each", "rule", "note"} <= set(recording.settings)


def test_the_bundled_recordings_hold_what_the_chapter_reads():
    check_measured(load_recording("post-training"))
    for name, extra in (
        ("sft-llama", set()),
        ("dpo-llama", {"margin", "accuracy", "chosen_moved", "rejected_moved"}),
    ):
        recording = load_recording(name)
        log = recording.table("log")
        assert {"step", "held_out_loss", "prose_loss", "bits_per_character"} | extra <= set(log[0])
        assert log[0]["step"] == 0
        assert log[-1]["step"] == recording.settings["steps"] == recording.table("train")[-1]["step"]
        assert (np.diff(recording.column("train", "step")) > 0).all()
    assert load_recording("dpo-llama").settings["beta"] > 0


def test_sft_follows_better_than_base_and_dpo_scores_better_than_sft():
    """What the chapter says of the three versions, beyond three standard errors."""
    whole = {r["version"]: r for r in load_recording("post-training").table("measured") if r["kind"] == "all"}
    for better, worse in (("SFT", "base"), ("DPO", "SFT")):
        error = (whole[better]["score_error"] ** 2 + whole[worse]["score_error"] ** 2) ** 0.5
        assert whole[better]["score"] - whole[worse]["score"] > 3 * error, (better, worse)
    assert whole["SFT"]["words"] > 2 * whole["base"]["words"]


def test_the_bundled_cards_state_the_recorded_numbers():
    from engine.training.model_card import card

    measured = load_recording("post-training")
    for name, run in (("SFT", "sft"), ("DPO", "dpo")):
        folder = ASSETS / f"pocket-llama-{run}"
        expected = card(name, folder.name, measured, load_recording(f"{run}-llama"))
        assert (folder / "README.md").read_text(encoding="utf-8") == expected


def test_the_prose_loss_of_base_is_that_of_its_own_card():
    whole = next(r for r in load_recording("post-training").table("measured") if r["version"] == "base")
    text = (ASSETS / "pocket-llama" / "README.md").read_text(encoding="utf-8")
    assert f"{whole['bits_per_character']:.3f}" in text


def test_examples_for_a_class_are_the_first_of_each_kind_without_what_old_books_call_peoples():
    made = [
        Example(rule.CONTINUE, f"Continue: {text}", "An answer.", "x")
        for text in ("A savage came.", "b", "c", "d")
    ]
    assert [e.request for e in post_training.first_of_each_kind(made, 2)] == ["Continue: b", "Continue: c"]


def test_no_bundled_example_request_uses_such_a_word():
    recording = load_recording("post-training")
    requests = (
        recording.table("requests") + recording.table("answers") + load_recording("dpo-llama").table("pairs")
    )
    assert requests
    assert not [r["request"] for r in requests if post_training._UNFIT.search(r["request"])]
