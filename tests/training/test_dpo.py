"""Preference tuning end to end on a tiny model: pairs, log-probabilities, the frozen reference, resuming."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from engine.ops.preference import dpo as formula
from engine.ops.preference import sequence_log_probability
from engine.training import dpo, preferences, rule, sft
from engine.training.checkpointing import load_state, read_log
from engine.training.preferences import Pair, load_pairs, load_with_lora, pair_of, save_pairs
from tests.training.test_sft import arguments as sft_arguments


def line(*scores: float) -> dict:
    answers = [{"text": f"a{i}", "ids": [i + 1], "score": score} for i, score in enumerate(scores)]
    return {"kind": rule.SCENE, "request": "Write a scene with: fox", "answers": answers}


def test_best_and_worst_become_a_pair_the_first_among_equals():
    pair = pair_of(line(0.4, 1.0, 0.2, 1.0, 0.2), gap=0.15)
    assert (pair.chosen, pair.rejected) == ("a1", "a2")
    assert (pair.chosen_ids, pair.rejected_ids) == ((2,), (3,))
    assert (pair.chosen_score, pair.rejected_score) == (1.0, 0.2)


def test_answers_that_the_rule_hardly_tells_apart_make_no_pair():
    assert pair_of(line(0.5, 0.6, 0.55), gap=0.15) is None
    assert pair_of(line(0.5, 0.5), gap=0.0001) is None


def test_an_answer_without_tokens_is_in_no_pair():
    given = line(0.0, 0.6, 1.0)
    given["answers"][0]["ids"] = []
    assert pair_of(given, gap=0.15).rejected == "a1"


def test_pairs_are_read_back_as_they_were_written(tmp_path):
    pairs = [pair_of(line(0.2, 1.0), gap=0.15)]
    save_pairs(tmp_path / "pairs.jsonl", pairs)
    assert load_pairs(tmp_path / "pairs.jsonl") == pairs


@pytest.fixture(scope="module")
def tuned(tiny_base, tmp_path_factory):
    """The --out of a finished SFT run."""
    out = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "LATER", 12)
        patch.setattr(sft, "HELD_OUT", 8)
        sft.main(sft_arguments(tiny_base, out, "--lr", "0.02"))
    return out


@pytest.fixture(scope="module")
def paired(tuned, tmp_path_factory):
    """A folder of pairs with made-up answers: those of the books preferred to the same words backwards."""
    from engine.training.instructions import load_examples

    out = tmp_path_factory.mktemp("paired")
    tokenizer = AutoTokenizer.from_pretrained(tuned / "final")
    end = tokenizer.eos_token_id
    pairs = []
    for example in load_examples(tuned / "train.jsonl"):
        ids = tokenizer.encode(example.answer, add_special_tokens=False)[:40]
        pairs.append(Pair(example.kind, example.request, "", "", (*ids, end), tuple(ids[::-1]), 1.0, 0.2))
    save_pairs(out / "pairs.jsonl", pairs[:30])
    save_pairs(out / "held_out_pairs.jsonl", pairs[30:])
    return out


def arguments(tiny, tuned, paired, out, *more: str) -> list[str]:
    folders = ["--base", tiny.base, "--corpus", tiny.corpus, "--sft", tuned, "--pairs", paired, "--out", out]
    sizes = ["--steps", "6", "--batch-tokens", "600", "--warmup", "1", "--lr", "0.01", "--device", "cpu"]
    return [*map(str, folders), *sizes, "--save-every", "2", "--measure-every", "3", *more]


@pytest.fixture(scope="module")
def finished(tiny_base, tuned, paired, tmp_path_factory):
    out = tmp_path_factory.mktemp("dpo")
    dpo.main(arguments(tiny_base, tuned, paired, out))
    return out


def test_the_trainers_log_probabilities_are_those_of_the_page(tiny_base, tuned, paired):
    """Padded batches through the adapter against one sequence at a time through the merged weights, in float64."""
    tokenizer = AutoTokenizer.from_pretrained(tuned / "final")
    pairs = [dpo.tokens_of(tokenizer, pair) for pair in load_pairs(paired / "pairs.jsonl")[:5]]
    model = load_with_lora(tiny_base.base, tuned / "final")
    function = dpo.log_probabilities("fp32", "cpu")
    with torch.no_grad():
        got = dpo.both(function, model, pairs, 144, 0, "cpu")
    for i, pair in enumerate(pairs):
        for row, side in zip(got, (pair.chosen, pair.rejected), strict=True):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([side.ids])).logits[0].numpy()
            expected = sequence_log_probability(logits, side.ids, side.carries_loss)
            assert float(row[i]) == pytest.approx(expected, abs=1e-3)


def test_loss_is_on_the_answers_and_on_the_end_token_only_where_it_was_drawn(tuned, paired):
    tokenizer = AutoTokenizer.from_pretrained(tuned / "final")
    pair = load_pairs(paired / "pairs.jsonl")[0]
    tokens = dpo.tokens_of(tokenizer, pair)
    for side, ids in ((tokens.chosen, pair.chosen_ids), (tokens.rejected, pair.rejected_ids)):
        kept = tuple(i for i, carries in zip(side.ids, side.carries_loss, strict=True) if carries)
        assert kept == ids
    assert tokens.chosen.ids[-1] == tokenizer.eos_token_id != tokens.rejected.ids[-1]


def test_it_begins_at_the_reference_and_learns_the_preference(finished):
    rows = [row for row in read_log(finished / "log.jsonl") if "held_out_loss" in row]
    assert rows[0]["step"] == 0
    assert rows[0]["held_out_loss"] == pytest.approx(0.693147, abs=1e-3), "ln 2: the policy is the reference"
    assert (rows[0]["chosen_moved"], rows[0]["rejected_moved"]) == pytest.approx((0, 0), abs=1e-3)
    assert rows[-1]["held_out_loss"] < 0.6
    assert rows[-1]["accuracy"] > 0.9
    assert rows[-1]["margin"] > 0.2


def test_what_the_log_says_of_the_margin_follows_from_log_probabilities(finished):
    beta = json.loads((finished / "plan.json").read_text())["beta"]
    row = [row for row in read_log(finished / "log.jsonl") if "held_out_loss" in row][-1]
    expected = formula(row["chosen_moved"], row["rejected_moved"], 0, 0, beta).margin
    assert row["margin"] == pytest.approx(expected, abs=1e-5), (
        "a mean of differences is a difference of means"
    )


def test_killed_and_continued_gives_the_same_adapter_bit_for_bit(
    finished, tiny_base, tuned, paired, tmp_path, killed
):
    killed(lambda: dpo.main(arguments(tiny_base, tuned, paired, tmp_path)))
    assert load_state(tmp_path / "state.pt", "cpu")["step"] == 2
    dpo.main(arguments(tiny_base, tuned, paired, tmp_path))
    expected, got = (load_state(out / "state.pt", "cpu")["lora"] for out in (finished, tmp_path))
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_it_goes_on_training_the_adapter_of_sft(finished, tuned, tiny_base):
    before, after = (load_with_lora(tiny_base.base, out / "final") for out in (tuned, finished))
    moved = [(a - b).abs().max() for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert 0 < max(moved) < 0.5


def test_samples_go_on_behind_the_last_request(tiny_base, tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(preferences, "BATCH", 2)
    monkeypatch.setattr(preferences, "MOST_TOKENS", 6)
    always = ["--base", str(tiny_base.base), "--sft", str(tuned), "--requests", "6", "--each", "3"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    preferences.main([*always, "--out", str(whole)])
    expected = (whole / "samples.jsonl").read_text()
    assert len(expected.splitlines()) == 6
    cut.mkdir()
    (cut / "samples.jsonl").write_text(expected[: len(expected) // 2])  # in the middle of a line
    preferences.main([*always, "--out", str(cut)])
    assert (cut / "samples.jsonl").read_text() == expected
    for name in ("pairs", "held_out_pairs"):
        assert (cut / f"{name}.jsonl").read_text() == (whole / f"{name}.jsonl").read_text()
    with pytest.raises(ValueError, match="Other samples"):
        preferences.main([*always, "--each", "2", "--out", str(cut)])


def test_a_sampled_answer_keeps_its_ids_its_end_and_its_score(tuned):
    from engine.training.instructions import Example
    from engine.training.sampling import Answer

    tokenizer = AutoTokenizer.from_pretrained(tuned / "final")
    text = "The old fox saw a hen."
    ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    example = Example(rule.SCENE, "Write a scene with: fox, boat", "", "children")
    got = preferences.sampled_line(tokenizer, example, [Answer(ids, True), Answer(ids, False)])["answers"]
    assert [answer["text"] for answer in got] == [text, text]
    assert got[0]["ids"] == [*ids, tokenizer.eos_token_id]
    assert got[1]["ids"] == [*ids]
    assert [answer["score"] for answer in got] == pytest.approx([0.8, 0.6])
