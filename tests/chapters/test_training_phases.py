"""Chapter 12: what its cards say of a recording on paper, and the kept snapshots live."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from engine import ReaderError, capture
from engine.chapters import c12_training as cards
from engine.chapters.c12_training import (
    grokking,
    induction,
    lineage,
    live,
    prompt,
    pythia,
    recordings,
    scaling,
    story,
    twice,
)
from engine.checkpoints import hub_names
from engine.checkpoints.catalogue import locate
from engine.evidence.recorded import recording
from engine.training.held_out import held_out_loss
from engine.training.record_run import passage_windows
from engine.training.recording import Recording
from engine.training.snapshots import fingerprint, snapshots
from tests.conftest import BUNDLED, PROMPT, loaded_checkpoint
from tests.pages.conftest import ROOT
from tests.pages.mutations import mutations

FIELDS = {
    "command": "python -m engine.training.pretrain --arch llama",
    "date": "2025-01-31",
    "versions": {"torch": "2"},
    "hardware": "2-core CPU",
    "seconds": 1.0,
}
PLAN = {
    "batch": 2,
    "shape": {"context": 100, "vocab": 8},
    "induction_from": None,
    "decay_start": None,
    "lr": 1e-3,
}


def evaluated(step, loss):
    return {"step": step, "held_out_loss": loss, "bits_per_character": loss / 2}


def run_of(losses, **settings):
    """A recording of a run with held-out losses by step and references at 2.1, 1.5 and 1.0."""
    return Recording(
        name="a-run",
        settings={**PLAN, **settings},
        tables={
            "train": [{"step": step, "loss": loss, "lr": 1e-3 / (1 + step / 300)} for step, loss in losses.items()],
            "measured": [
                {"step": 0, "held_out_loss": 9.0, "bits_per_character": 9.0, "induction_score": 0.01},
                {"step": 15, "held_out_loss": None, "bits_per_character": None, "induction_score": 0.07},
            ],
            "snapshots": [evaluated(step, loss) for step, loss in losses.items()],
            "references": [
                {"name": name, "loss": loss, "bits_per_character": loss / 2}
                for name, loss in (("uniform", 2.1), ("unigram", 1.5), ("bigram", 1.0))
            ],
            "heads": [
                {"step": step, "layer": layer, "head": head, "induction": 0.1 * layer + 0.01 * head + step / 80,
                 "previous_token": 0.5}
                for head in (1, 0) for layer in (0, 1, 2) for step in (20, 0)
            ],
            "samples": [
                {"step": 20, "prompt": "a\nb", "seed": 3, "temperature": 0.8, "text": " c\x07d\u202e e\n\n *f*"}
            ],
            "candidates": [
                {"step": 20, "prompt": p, "rank": rank, "token": token, "probability": 0.5 / rank}
                for p in ("one", "two") for rank, token in ((1, " x"), (2, "\n"))
            ],
        },
        **FIELDS,
    )  # fmt: skip


@pytest.fixture
def use(monkeypatch):
    """A function that makes the chapter read a given recording."""

    def choose(run):
        for module in (recordings, story, induction, grokking, scaling):
            monkeypatch.setattr(module, "recording", lambda name: run)

    return choose


def test_the_story_names_the_first_step_below_each_reference(use):
    use(run_of({0: 2.2, 10: 1.4, 20: 1.2, 40: 0.9}))
    told = " ".join(cards.told("a-run").split())
    assert "the model did better by update 10 (2,000 tokens)" in told
    assert "did better by update 40 (8,000 tokens)" in told
    assert "loss is 2.20 nats" in told, "evaluated snapshots go before what was measured on the way"
    assert "last recorded loss is 0.90, after 40 updates" in told


@pytest.mark.parametrize(("there", "said"), [("further-gpt2", True), ("another", False)])
def test_the_story_sends_on_to_the_last_stages_that_are_recorded(use, monkeypatch, there, said):
    use(run_of({0: 2.2, 10: 1.4}))
    monkeypatch.setattr(story, "stories", lambda: {"x": there})
    assert ("the *last stages* show" in cards.told("a-run")) is said


def test_a_last_stage_is_told_with_what_it_did(use):
    repeats = {"recur_share": 0.11, "recur_tokens": [3, 9], "tile_share": 0.22, "tile_tokens": [4, 8]}
    use(run_of({0: 1.4, 5000: 0.8}, induction_from=0, repeats=repeats))
    told = cards.last_stage("further-gpt2")
    assert "bundled **pocket-gpt2** read 1.0 M tokens more" in told
    assert "from 1.40 to 0.80 nats per token, while in 11% of the windows a stretch" in told
    assert cards.last_stage("pretrain-llama") == ""


@pytest.mark.parametrize(("peak", "said"), [(1.6, True), (1.4, False)])
def test_a_last_stage_that_first_got_worse_says_so(use, peak, said):
    use(run_of({0: 1.4, 300: peak, 5000: 0.8}))
    told = cards.last_stage("further-llama")
    assert ("from 1.40 to 0.80 nats per token. On the way" in told) is said
    assert ("it had risen to 1.60 (update 300, the learning rate at 50% of its highest)" in told) is said


def test_a_reference_that_was_never_passed_is_said_to_be(use):
    use(run_of({0: 2.2, 10: 1.4}))
    assert "it did better at no step of this recording" in " ".join(cards.told("a-run").split())


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (2.2, "no better than a uniform"),
        (1.9, "uniform guess and"),
        (1.2, "frequencies and pairs"),
        (0.9, "better than pairs"),
    ],
)
def test_the_title_says_where_a_loss_stands(use, loss, said):
    use(run_of({0: 2.3, 20: loss}))
    assert said in cards.loss("a-run", 20, "nats per token").title


def test_the_curve_holds_every_held_out_loss_once_and_marks_the_step(use):
    use(run_of({0: 2.2, 20: 1.2}))
    card = cards.loss("a-run", 20, "bits per character")
    assert card.table == {"updates": [0.0, 20.0], "held-out loss (bits per character)": [1.1, 0.6]}
    assert [
        shape.x0 for shape in card.figure.layout.shapes if shape.type == "line" and shape.yref == "paper"
    ] == [20]
    assert len(card.figure.data) == 1, "training batches have no loss per character"
    assert len(cards.loss("a-run", 20, "nats per token").figure.data) == 2


def test_a_run_that_went_on_is_drawn_on_even_steps_beside_the_one_level_that_is_near(use):
    for command, axis, levels in (("x --arch llama", "log", 3), ("x --init-from final", "linear", 1)):
        use(replace(run_of({0: 2.2, 20: 1.2}), command=command))
        layout = cards.loss("a-run", 20, "nats per token").figure.layout
        assert (layout.xaxis.type or "linear") == axis
        assert len([shape for shape in layout.shapes if shape.xref == "x domain"]) == levels


def test_a_step_that_was_not_evaluated_is_refused(use):
    use(run_of({0: 2.2}))
    with pytest.raises(ReaderError, match="5"):
        cards.loss("a-run", 5, "nats per token")


def test_a_sample_is_one_line_without_control_characters(use):
    use(run_of({20: 1.2}))
    sample = cards.sample("a-run", 20)
    assert sample.prompt == "a b"
    assert sample.text == "c‹U+0007›d‹U+202E› e *f*"
    assert "20 updates" in sample.about
    assert "seed 3" in sample.about


def test_favourites_are_counted_over_the_prompts(use):
    use(run_of({20: 1.2}))
    card = cards.expected("a-run", 20)
    assert card.title == "After 2 prompts, 1 different favourite: “␣x”"
    assert card.table["token"] == ["␣x", "⏎", "␣x", "⏎"]


def test_scores_go_to_their_layer_and_head_whatever_the_order_of_the_rows(use):
    run = run_of({20: 1.2})
    steps, values = recordings.grids(run, "induction")
    assert steps == [0, 20]
    assert values[1] == pytest.approx(np.array([[0.25, 0.26], [0.35, 0.36], [0.45, 0.46]]))
    use(run)
    assert "induction 0.46 (L2 H1)" in cards.heads_at("a-run", 20).title


def test_the_rise_is_from_a_quarter_to_three_quarters_of_the_last_score():
    steps = np.arange(0.0, 60.0, 10)
    assert "most of the rise happens between updates 20 and 40" in induction._rise(
        steps, np.array([0, 0.1, 0.25, 0.5, 0.7, 0.8])
    )
    assert "no induction head" in induction._rise(steps, np.array([0, 0, 0, 0, 0, 0.1]))


def test_heads_are_followed_through_the_run(use):
    use(run_of({20: 1.2}))
    card = cards.heads_through("pocket-llama", "induction")
    assert card.table["head"] == ["L0 H0", "L0 H1", "L1 H0", "L1 H1", "L2 H0", "L2 H1"]
    assert card.table["after 20"] == pytest.approx([0.25, 0.26, 0.35, 0.36, 0.45, 0.46])
    assert "L2 H1 scores 0.46 at the end; of 6 heads, 4 score more than 0.3, and 0 did" in card.title


def test_what_was_mixed_in_is_read_from_the_plan(use):
    use(run_of({20: 1.2}))
    assert "nothing was mixed" in cards.mixed_in("pocket-llama")
    repeats = {"recur_share": 0.11, "recur_tokens": [3, 9], "tile_share": 0.22, "tile_tokens": [4, 8]}
    use(run_of({20: 1.2}, induction_from=1234, repeats=repeats))
    said = cards.mixed_in("pocket-llama")
    assert "From update 1,234 on" in said
    assert "In 0.2 M tokens of ordinary text its best score never rose above 0.07." in said
    assert "11% of the windows a stretch of 3 to 9" in said
    assert "recurs, and 22% repeat a segment of 4 to 8 tokens over and over." in said
    assert "random weights" in said
    use(run_of({20: 1.2}, induction_from=0, repeats=repeats | {"random_share": 0.05}))
    assert "over and over, and 5% do so with random tokens." in cards.mixed_in("pocket-llama")


def grokking_run(rows):
    return Recording(
        name="grokking",
        settings={"prime": 5, "train_share": 0.4, "weight_decay": 1.0, "steps": 20, "seeds": [4, 7]},
        tables={
            "runs": [
                {"seed": seed, "step": step, "train_accuracy": 1.0, "validation_accuracy": value,
                 "weight_norm": 9.0 - step / 10}
                for seed, values in rows.items() for step, value in zip((0, 10, 20), values, strict=True)
            ],
            "summary": [
                {"seed": seed, "train_perfect_step": 10, "validation_99_step": 20 if values[-1] >= 0.99 else None}
                for seed, values in rows.items()
            ],
        },
        **FIELDS,
    )  # fmt: skip


def test_grokking_is_shown_up_to_the_chosen_step_on_axes_for_all_of_it(use):
    use(grokking_run({4: (0.0, 0.1, 1.0), 7: (0.0, 0.1, 0.2)}))
    card = cards.grokked(4, 10)
    assert card.table["validation accuracy"] == [0.0, 0.1]
    assert (
        "Seed 4, 10 updates: 100% of the training sums right, 10% of the others; weight norm 8.0"
        in card.title
    )
    assert card.figure.layout.xaxis.range[1] >= 20
    assert cards.spread(20).title.startswith("By update 20: seed 4 100%, seed 7 20%")
    with pytest.raises(ReaderError, match="5"):
        cards.grokked(5, 10)


def scaling_run(losses):
    """Losses by (parameters, bytes of text)."""
    return Recording(
        name="scaling",
        settings={"layers": 2, "steps": 900, "batch": 8, "context": 64},
        tables={
            "summary": [
                {"parameters": size, "text": text, "lowest": loss} for (size, text), loss in losses.items()
            ]
        },
        **FIELDS,
    )


def test_the_loss_over_size_and_over_text(use):
    use(scaling_run({(400, 1_000): 2.5, (100, 64_000): 2.2, (100, 1_000): 2.4, (400, 64_000): 1.7}))
    by_size, by_text = (cards.by_scale(over) for over in cards.AXES)
    assert by_size.title == (
        "From 100 to 400 parameters: 2.20 → 1.70 nats a byte with 64 kB of text, 2.40 → 2.50 with 1 kB of text"
    )
    assert by_size.table == {
        "parameters without embeddings": [100, 400],
        "1 kB of text": [2.4, 2.5],
        "64 kB of text": [2.2, 1.7],
    }
    assert by_text.title == (
        "From 1 kB to 64 kB of text: 2.50 → 1.70 nats a byte with 400 parameters, 2.40 → 2.20 with 100 parameters"
    )
    told = " ".join(cards.about_scaling("K", "H").split())
    assert "4 models" in told
    assert "4 times the parameters take 0.50 nats off the loss with 64 kB of text." in told
    assert "With 1 kB they add 0.10." in told
    use(scaling_run({(100, 1_000): 2.4, (100, 2_000): 2.2, (400, 1_000): 2.3, (400, 2_000): 1.9}))
    assert "With 1 kB they take 0.10 off." in " ".join(cards.about_scaling("K", "H").split())


def test_seeds_that_did_not_generalise_are_named(use):
    use(grokking_run({4: (0.0, 0.1, 1.0), 7: (0.0, 0.1, 0.2)}))
    said = cards.about_grokking("P", "N")
    assert "All 2 seeds knew every shown sum by update 10." in said
    assert "Only seed 4 (by update 20) got 99% of the other sums right." in said
    assert "After 20 updates the others stood at 20% (seed 7)." in said
    use(grokking_run({4: (0.0, 0.1, 1.0), 7: (0.0, 0.1, 0.99)}))
    said = cards.about_grokking("P", "N")
    assert "the others stood" not in said
    assert "Seed 4 (by update 20), seed 7 (by update 20) got 99% of the other sums right." in said
    use(grokking_run({4: (0.0, 0.1, 0.3), 7: (0.0, 0.1, 0.2)}))
    assert "After 20 updates the seeds stood at 30% (seed 4) and 20% (seed 7)." in cards.about_grokking(
        "P", "N"
    )


def test_leading_tokens_come_from_every_stage():
    p = np.array([[0.1, 0.7, 0.0, 0.2], [0.5, 0.1, 0.4, 0.0]])
    # the last row chooses 0, the first 1, then the last 2; shown by the last row's probability
    assert prompt.leading(p, 3).tolist() == [0, 2, 1]


@pytest.fixture(params=BUNDLED)
def stages(request):
    return cards.stages(loaded_checkpoint(request.param))


def test_stages_are_the_snapshots_by_step_and_the_bundled_checkpoint_at_one_end(stages):
    assert [stage.snapshot is None for stage in (stages[0], stages[-1])].count(True) == 1
    steps = [stage.snapshot.step for stage in stages if stage.snapshot]
    assert steps == sorted(steps)
    assert steps
    assert len({stage.loaded.revision for stage in stages}) == len(stages), (
        "or one's traces pass for another's"
    )


def test_each_stage_answers_with_its_own_weights(stages):
    traces = [capture(stage.loaded, PROMPT) for stage in stages]
    card = cards.next_token(stages, traces, 5)
    for stage, row in zip(stages, card.numbers["probabilities"], strict=True):
        with torch.no_grad():
            logits = stage.loaded.model(torch.tensor([traces[0].ids])).logits[0, 5]
        assert row == pytest.approx(logits.softmax(-1).numpy()[card.table["id"]], abs=1e-5)
    rows = card.numbers["probabilities"]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in pairwise(rows))


def test_a_proof_fails_when_a_snapshot_has_other_weights(stages):
    traces = [capture(stage.loaded, PROMPT) for stage in stages]
    swapped = [traces[-1], *traces[1:]]
    for card in (cards.next_token(stages, swapped, 5), cards.surprisal(stages, swapped)):
        assert not card.prove().passed
    assert cards.surprisal(stages, traces).prove().passed


def test_surprisal_is_the_cross_entropy_of_each_stage(stages):
    traces = [capture(stage.loaded, PROMPT) for stage in stages]
    for stage, row in zip(stages, cards.surprisal(stages, traces).numbers["nats"], strict=True):
        ids = torch.tensor([traces[0].ids])
        with torch.no_grad():
            loss = stage.loaded.model(ids, labels=ids).loss.item()
        assert row.mean() == pytest.approx(loss, abs=1e-4)


def test_a_single_token_has_no_surprisal_and_cannot_be_read_twice(stages):
    traces = [capture(stage.loaded, "a") for stage in stages]
    assert cards.next_token(stages, traces, 99).numbers, "a focus of a longer prompt is moved inside"
    with pytest.raises(ReaderError, match="two tokens"):
        cards.surprisal(stages, traces)
    with pytest.raises(ReaderError, match="two tokens"):
        cards.second_reading(stages, traces[0].ids, None)


def test_what_is_read_twice_is_a_start_and_two_equal_halves(stages):
    assert twice.doubled(stages, (5, 6, 7), None) == (0, 5, 6, 7, 5, 6, 7)
    long = twice.doubled(stages, tuple(range(1, 200)), None)
    assert long[1 : twice.LONGEST + 1] == long[twice.LONGEST + 1 :] == tuple(range(1, twice.LONGEST + 1))
    assert twice.doubled(stages, None, 3) != twice.doubled(stages, None, 4)


def test_the_second_reading_begins_after_the_token_that_nothing_announces(stages):
    ids = capture(stages[-1].loaded, PROMPT).ids
    card = cards.second_reading(stages, ids, None)
    both = torch.tensor([[0, *ids, *ids]])
    n = len(ids)
    with torch.no_grad():
        logits = stages[0].loaded.model(both).logits[0]
    each = torch.nn.functional.cross_entropy(logits[:-1], both[0, 1:], reduction="none").numpy()
    first = f"{stages[0].name}, second reading"
    assert card.table[first] == pytest.approx(each[n + 1 :], abs=1e-4)
    assert len(card.table[first]) == n - 1


def test_a_checkpoint_whose_training_was_not_recorded_has_no_stages(tiny_model):
    with pytest.raises(ReaderError, match="No snapshots"):
        cards.stages(tiny_model("qwen2"))


def test_without_kept_files_the_finished_checkpoint_stands_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(live, "snapshots", lambda run: ())
    final = loaded_checkpoint("pocket-llama")
    stages = cards.stages(final)
    traces = [capture(final, PROMPT)]
    assert [stage.name for stage in stages] == ["finished"]
    assert cards.next_token(stages, traces, 3).prove().passed
    assert "No snapshots are kept" in cards.about_snapshots()


def test_the_bundled_checkpoint_stands_where_its_run_had_it(monkeypatch):
    bundled = loaded_checkpoint("pocket-llama")
    kept = live.snapshots("pretrain-llama")
    weights = fingerprint(Path(locate("pocket-llama")) / "model.safetensors")
    other = "0" * 32
    for begun, finished, continued, name, at, said, called in (
        (
            other,
            other,
            "",
            recordings.ANOTHER,
            -1,
            "pocket-llama comes from another run",
            "pocket-llama (another run)",
        ),
        (other, weights, "", recordings.FINISHED, -1, "", "pocket-llama"),
        (
            other,
            other,
            weights,
            recordings.CONTINUED,
            -1,
            "pocket-llama was trained further from where that run ended",
            "pocket-llama (before its last stage)",
        ),
        (
            weights,
            other,
            "",
            recordings.BEGUN,
            0,
            "pocket-llama is the model that its run began with",
            "pocket-llama (trained further)",
        ),
    ):
        changed = tuple(replace(one, begun=begun, finished=finished, continued=continued) for one in kept)
        for module in (live, recordings):
            monkeypatch.setattr(module, "snapshots", lambda run, changed=changed: changed)
        stages = cards.stages(bundled)
        assert (stages[at].name, stages[at].loaded) == (name, bundled)
        assert said in cards.about_snapshots()
        assert ("The bundled pocket-llama" in cards.about_snapshots()) is bool(said)
        assert recordings.called("pocket-llama") == called


def test_update_0_is_said_to_be_trained_where_its_run_began_with_an_earlier_ones_weights(monkeypatch):
    kept = replace(live.snapshots("pretrain-llama")[0], step=0, tokens=0)
    monkeypatch.setattr(live, "snapshots", lambda run: (kept,))
    sentence = "Update 0 of pocket-llama is a model already trained on prose."
    for command, said in (("python -m x --arch llama", False), ("python -m x --init-from final", True)):
        run = replace(run_of({0: 2.2}), command=command)
        monkeypatch.setattr(live, "recording", lambda name, run=run: run)
        assert (sentence in cards.about_snapshots()) is said


def test_a_score_that_fell_again_is_told_with_its_peak():
    steps = np.arange(0.0, 50.0, 10)
    assert "it was highest, 0.80, at 30" in induction._rise(steps, np.array([0, 0.2, 0.4, 0.8, 0.5]))
    assert "highest" not in induction._rise(steps, np.array([0, 0.2, 0.4, 0.51, 0.5]))


@pytest.mark.parametrize("mix", [{"a": 0.6, "b": 0.4}, {"a": 0.3, "b": 0.7}])
def test_a_mix_of_texts_that_moves_with_the_learning_rate_is_told(use, mix):
    use(run_of({0: 2.2, 10: 1.4}, decay_start=5, decay_steps=5, mix={"a": 0.6, "b": 0.4}, mix_at_end=mix))
    told = " ".join(cards.told("a-run").split())
    assert ("(a 60% → 30%, b 40% → 70%), so the last fall" in told) is (mix["a"] == 0.3)


def test_what_a_guess_costs_is_set_beside_both_halves():
    plain, worse, worst = (induction._beside_a_guess(*costs, 9.01) for costs in ((8, 1), (12, 1), (12, 10)))
    assert plain == "A uniform guess costs 9.01 nats per token."
    assert "confidently wrong" in worse
    assert "Even the second half" not in worse
    assert "Even the second half" in worst


def test_the_beats_on_copying_open_on_the_run_where_it_shows_best():
    best = cards.clearest()
    ends = {name: cards.birth(name, log=False).table["induction score"][-1] for name in cards.RUNS}
    assert ends[best] == max(ends.values())
    assert (
        f"**{best}**, where the best score ends highest: {ends[best]:.2f} against " in cards.about_clearest()
    )


def test_as_many_snapshots_are_kept_as_is_said(monkeypatch):
    kept = [one for run in cards.RUNS.values() for one in live.snapshots(run)]
    assert len(kept) == 4
    assert "Four are kept: **pocket-llama** after updates" in cards.about_snapshots()
    monkeypatch.setattr(live, "snapshots", lambda run: kept[:1] if run == "pretrain-llama" else ())
    assert "One is kept: **pocket-llama** after update " in cards.about_snapshots()


# The stages of a bundled checkpoint

TUNED = ("fine-tuning (SFT)", "preferences (DPO)")


def shape_of(checkpoint):
    return [
        stage and (stage.number, stage.run.name, stage.own) for stage in lineage.recorded_stages(checkpoint)
    ]


def test_the_stages_that_are_recorded_and_the_gaps_between_them():
    assert shape_of("pocket-llama") == [(1, "pretrain-llama", False), None, (2, "further-llama", True)]
    assert shape_of("pocket-gpt2") == [None, (1, "induction-gpt2", True), None, (2, "further-gpt2", True)]


@pytest.mark.parametrize(("first", "second", "gaps"), [(1.2, 1.2001, []), (1.2, 1.3, [1])])
def test_a_stage_that_begins_elsewhere_than_the_one_before_ended_is_behind_a_gap(
    monkeypatch, first, second, gaps
):
    monkeypatch.setattr(lineage, "snapshots", lambda run: [])
    runs = [run_of({0: 2.2, 10: first}), run_of({0: second, 10: 0.9})]
    found = list(lineage._chain(runs, "pocket-llama"))
    assert [i for i, stage in enumerate(found) if stage is None] == gaps


def test_a_run_that_began_with_trained_weights_has_a_gap_before_it(monkeypatch):
    monkeypatch.setattr(lineage, "snapshots", lambda run: [])
    run = run_of({0: 2.2, 10: 1.2})
    assert next(lineage._chain([run], "pocket-llama")) is not None
    later = replace(run, command=f"{run.command} --init-from final")
    assert next(lineage._chain([later], "pocket-llama")) is None


@pytest.mark.parametrize("name", BUNDLED)
def test_the_last_recorded_stage_ended_with_the_bundled_weights(name):
    """They read the passage in the repository as the last snapshot of that run did."""
    loaded = loaded_checkpoint(name)
    tokenizer = Tokenizer.from_file(str(Path(locate(name)) / "tokenizer.json"))
    now = held_out_loss(loaded.model, passage_windows(tokenizer, loaded.spec.context)).loss
    stages = lineage.recorded_stages(name)
    losses = stages[-1].run.column("passage", "loss")
    assert now == pytest.approx(losses[-1], abs=1e-3)
    assert abs(losses[-1] - losses[-2]) < abs(losses[0] - losses[-1])
    assert abs(now - losses[0]) > 0.02, "another stage's weights would be told apart"
    assert (
        f"weights of **{name}** as it is bundled, at a loss of {stages[-1].after:.2f}"
        in cards.about_lineage(name)
    )


@pytest.mark.parametrize("name", BUNDLED)
def test_the_whole_curve_holds_every_recorded_loss_and_every_kept_snapshot(name):
    card = cards.whole(name)
    runs = [recording(run) for run in (recordings.RUNS[name], recordings.FURTHER[name])]
    assert len(card.table["updates"]) == sum(len(story.held_out(run, "held_out_loss")[0]) for run in runs)
    assert sum(len(line.x) for line in card.figure.data if line.mode == "lines") == len(card.table["updates"])
    assert len(card.figure.data[-1].x) == len(snapshots(runs[0].name)) == 2
    gaps = [shape for shape in card.figure.layout.shapes if shape.type == "rect"]
    assert len(gaps) == shape_of(name).count(None)
    beside = name == "pocket-llama"
    assert card.title.endswith("; stage 1 is another run, not pocket-llama's own") is beside
    total = sum(run.column("train", "tokens")[-1] for run in runs)
    assert f" and {total / 1e6:.1f} M tokens, with {'one gap' if len(gaps) == 1 else '2 gaps'}" in card.title


def test_the_table_of_stages_tells_what_the_recordings_do():
    card = cards.pipeline("pocket-llama")
    assert card.table["stage"] == ["1", "–", "2", "3", "4"]
    last, sft, dpo = (recording(name) for name in ("further-llama", "sft-llama", "dpo-llama"))
    assert card.table["training"] == ["pre-training (another run)", "no record", "pre-training", *TUNED]
    assert card.table["updates"][2:] == ["2,300", "380", "48"]
    for row, run in ((2, last), (3, sft), (4, dpo)):
        assert card.table["minutes"][row] == f"{run.seconds / 60:.0f}"
        assert float(card.table["highest rate"][row]) == pytest.approx(
            run.column("train", "lr").max(), rel=5e-3
        )
    ends = story.held_out(last, "held_out_loss")[1][-1]
    assert sft.column("log", "prose_loss")[0] == pytest.approx(ends, abs=1e-4), (
        "it began where that one ended"
    )
    assert dpo.column("log", "prose_loss")[0] == pytest.approx(sft.column("log", "prose_loss")[-1], abs=1e-4)
    assert card.table["loss"][3] == f"{ends:.2f} → {dpo.column('log', 'prose_loss')[0]:.2f}"
    assert "10% of the windows repeat something" in card.table["learns from"][2], "5, 3 and 2"


@pytest.mark.parametrize("name", BUNDLED)
def test_the_rate_falls_to_zero_at_the_end_of_every_stage(name):
    runs = [stage.run for stage in lineage.recorded_stages(name) if stage] + lineage._tunings(name)
    for run in runs:
        rates = run.column("train", "lr")
        assert rates[-1] < 0.05 * rates.max(), run.name


def test_a_checkpoint_that_nothing_tuned_says_so():
    assert cards.pipeline("pocket-gpt2").title.endswith("and no post-training")
    assert cards.pipeline("pocket-llama").title.endswith("7 of post-training")


# Steps of Pythia


@pytest.fixture
def steps(monkeypatch):
    """Three models that stand for steps of one: two snapshots of pocket-llama, then what another run made."""
    kept = [live._loaded(one.path, one.path.stat().st_mtime_ns) for one in snapshots("pretrain-llama")]
    models = dict(zip((0, 512, 143_000), [*kept, loaded_checkpoint("pocket-llama")], strict=True))
    return models.__getitem__, list(models), [t.id for t in capture(models[0], PROMPT).tokens]


def test_every_published_step_is_a_revision_that_names_allow():
    assert len(pythia.STEPS) == len(set(pythia.STEPS)) == 154
    for model in pythia.MODELS:
        for step in pythia.STEPS:
            asked = hub_names.parse(cards.name_of(model, step))
            assert (asked.repo, asked.revision, asked.file) == (model, f"step{step}", "")


def test_a_prompt_at_the_steps_of_a_model_proves_itself_and_no_altered_one(steps):
    card = cards.by_step("owner/pythia", *steps)
    answer = card.oracle.compute()
    fixed = replace(card.oracle, compute=lambda: answer)
    assert fixed.judge(card.shown).passed
    assert [what for what, altered in mutations(card.shown, fixed) if fixed.judge(altered).passed] == []
    assert card.title.startswith("pythia, mean surprisal of your prompt in nats: ")
    for mean, step in zip(answer["nats"].mean(1), steps[1], strict=True):
        assert f"{mean:.2f} (step {step:,})" in card.title


def test_the_script_of_the_steps_runs_one_model_after_the_other(monkeypatch):
    monkeypatch.chdir(ROOT)
    models = {0: loaded_checkpoint("pocket-gpt2"), 1: loaded_checkpoint("pocket-llama")}
    card = cards.by_step("owner/pythia", models.__getitem__, [0, 1], [5, 300, 17, 42])
    found = {}
    exec(card.code, found)
    np.testing.assert_allclose(found["result"]["nats"], card.shown["nats"], atol=card.atol)


def test_many_steps_are_told_by_the_first_and_the_last(steps):
    get, there, ids = steps
    longer = cards.by_step("owner/pythia", lambda step: get(there[step]), [0, 1, 2, 2], ids)
    assert " (step 0) → … → " in longer.title


def test_without_a_step_or_without_a_second_token_there_is_a_sentence(steps):
    get, there, ids = steps
    with pytest.raises(ReaderError, match="No step of owner/pythia is on this machine"):
        cards.by_step("owner/pythia", get, [], ids)
    with pytest.raises(ReaderError, match="at least two tokens"):
        cards.by_step("owner/pythia", get, there, ids[:1])


def test_what_is_said_of_pythia_is_what_can_be_done_here(monkeypatch):
    from huggingface_hub import constants

    model = pythia.MODELS[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(pythia, "is_cached", lambda name: name == f"{model}@step512")
    assert "asks before it downloads another" in cards.about_steps("x")
    assert [cards.here(one) for one in pythia.MODELS] == [[], [512], []]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert cards.about_steps("x").endswith("under *Read by*, those on this machine read your prompt.")
    monkeypatch.setattr(pythia, "public", lambda: True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert "where they can be fetched from the Hub" in cards.about_steps("x")
    assert not any(map(cards.here, pythia.MODELS))
