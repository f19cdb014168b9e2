"""Instruction tuning: what is trained and what is not, loss on answers only, resuming, the folder that is left."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch.nn import functional as F
from transformers import AutoTokenizer, GenerationConfig

from engine.model import lora
from engine.tokens.chat import END, Rendered
from engine.training import sft
from engine.training.checkpointing import load_state, read_log
from engine.training.fine_tuning import (
    Batches,
    FineTuningPlan,
    begin,
    open_plan,
    padded,
    token_losses,
    update,
)
from engine.training.instructions import load_examples
from engine.training.lora import save_lora, special_token_ids, trained, with_lora, write_tokenizer


@pytest.fixture(autouse=True)
def small_sets(monkeypatch):
    monkeypatch.setattr(sft, "LATER", 12)
    monkeypatch.setattr(sft, "HELD_OUT", 8)


def arguments(tiny, out, *more: str) -> list[str]:
    always = ["--base", tiny.base, "--corpus", tiny.corpus, "--out", out, "--device", "cpu"]
    sizes = ["--examples", "40", "--steps", "6", "--rank", "4", "--batch-tokens", "300", "--warmup", "1"]
    often = ["--precision", "fp32", "--save-every", "2", "--measure-every", "3"]
    return [*map(str, always), *sizes, *often, *more]


@pytest.fixture(scope="module")
def finished(tiny_base, tmp_path_factory):
    """The --out of a finished run."""
    out = tmp_path_factory.mktemp("sft")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "LATER", 12)
        patch.setattr(sft, "HELD_OUT", 8)
        sft.main(arguments(tiny_base, out))
    return out


@pytest.fixture
def adapted(tiny_base, tmp_path):
    """A tiny model with an adapter whose every matrix and row differs from zero, and its tokenizer."""
    write_tokenizer(tiny_base.base, tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    model = with_lora(sft.load_base(tiny_base.base), tokenizer, 4, 8, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model, tokenizer


def ids_of(tokenizer) -> torch.Tensor:
    text = "The old fox saw a hen in the wood."
    return torch.tensor([[*special_token_ids(tokenizer), *tokenizer.encode(text, add_special_tokens=False)]])


def test_trained_are_lora_pairs_on_all_linear_layers_and_three_rows(adapted):
    model, _ = adapted
    names = list(trained(model))
    for layer in range(2):
        for part in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
            assert sum(f"layers.{layer}." in n and f"{part}.lora_" in n for n in names) == 2, part
    (rows,) = [p for n, p in trained(model).items() if "lora_" not in n]
    assert rows.shape == (3, 32)
    assert len(names) == 2 * 7 * 2 + 1


def test_merged_weights_give_the_logits_of_the_adapter_beside_the_base(adapted, tiny_base, tmp_path):
    model, tokenizer = adapted
    save_lora(model, tmp_path / "tokenizer", "engine/assets/tiny", tmp_path / "final")
    ids = ids_of(tokenizer)
    beside = PeftModel.from_pretrained(sft.load_base(tiny_base.base), str(tmp_path / "final")).eval()
    merged = lora.merged(sft.load_base(tiny_base.base), tmp_path / "final", torch.float32)
    plain = sft.load_base(tiny_base.base)
    with torch.no_grad():
        expected, got, base = (m(input_ids=ids).logits for m in (beside, merged, plain))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert (got - base).abs().max() > 0.1, "the adapter does something"
    assert type(merged) is type(plain)
    with torch.no_grad():  # stored in fp16: close to what was trained
        torch.testing.assert_close(got, model.eval()(input_ids=ids).logits, atol=0.02, rtol=0.02)


def test_merging_changes_no_embedding_row_but_the_three_and_keeps_it_tied(adapted, tiny_base, tmp_path):
    model, tokenizer = adapted
    save_lora(model, tmp_path / "tokenizer", "engine/assets/tiny", tmp_path / "final")
    merged = lora.merged(sft.load_base(tiny_base.base), tmp_path / "final", torch.float32)
    before = sft.load_base(tiny_base.base).get_input_embeddings().weight
    after = merged.get_input_embeddings().weight
    changed = (before != after).any(-1).nonzero().flatten().tolist()
    assert changed == special_token_ids(tokenizer)
    assert merged.get_output_embeddings().weight is after
    bf16 = lora.merged(sft.load_base(tiny_base.base), tmp_path / "final", torch.bfloat16)
    assert {p.dtype for p in bf16.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in bf16.parameters())


def test_the_loss_is_that_of_the_answers_tokens_alone(adapted):
    model, _ = adapted
    rows = [
        Rendered((0, 5, 6, 7, 8), (False, False, False, True, True)),
        Rendered((0, 9, 10), (False, False, True)),
    ]
    ids, targets = padded(rows, 6, 0, "cpu")
    losses = token_losses("fp32", "cpu")(model, ids, targets)
    for row, got in zip(rows, losses, strict=True):
        log_p = F.log_softmax(model(input_ids=torch.tensor([row.ids])).logits[0], dim=-1)
        for i in range(5):
            trains = i + 1 < len(row.ids) and row.carries_loss[i + 1]
            expected = -log_p[i, row.ids[i + 1]] if trains else torch.zeros(())
            torch.testing.assert_close(got[i], expected, atol=1e-5, rtol=1e-5)


def test_what_a_request_says_has_no_gradient_through_its_own_prediction(adapted):
    """Changing a request's token that nothing answers to leaves the loss of an answer before it as it is."""
    model, _ = adapted
    losses = token_losses("fp32", "cpu")
    first = padded([Rendered((0, 5, 6, 7, 8), (False, False, True, False, False))], 5, 0, "cpu")
    other = padded([Rendered((0, 5, 6, 9, 3), (False, False, True, False, False))], 5, 0, "cpu")
    torch.testing.assert_close(losses(model, *first), losses(model, *other))


def test_batches_are_full_and_each_sequence_comes_once_an_epoch():
    lengths = list(np.random.default_rng(0).integers(5, 97, 200))
    batches = Batches(lengths, tokens=480, seed=3, buckets=(48, 96))
    epoch = [batches.at(step) for step in range(batches.per_epoch)]
    members = [i for _, group in epoch for i in group]
    assert len(set(members)) == len(members) > 180
    for length, group in epoch:
        assert len(group) * length == 480
        assert all(length - 48 < lengths[i] <= length for i in group)
    again = [batches.at(step) for step in range(batches.per_epoch, 2 * batches.per_epoch)]
    assert [list(g) for _, g in again] != [list(g) for _, g in epoch], "another order"
    fresh = Batches(lengths, tokens=480, seed=3, buckets=(48, 96))
    assert all(np.array_equal(fresh.at(7)[1], batches.at(7)[1]) for _ in range(2))


def test_too_few_or_too_long_sequences_are_refused():
    with pytest.raises(ValueError, match="too few"):
        Batches([5], tokens=480, seed=0)
    with pytest.raises(ValueError, match="more than"):
        Batches([5000], tokens=480, seed=0)


def test_killed_and_continued_gives_the_same_adapter_bit_for_bit(finished, tiny_base, tmp_path, killed):
    killed(lambda: sft.main(arguments(tiny_base, tmp_path)))
    assert load_state(tmp_path / "state.pt", "cpu")["step"] == 2
    sft.main(arguments(tiny_base, tmp_path))
    expected, got = (load_state(out / "state.pt", "cpu")["lora"] for out in (finished, tmp_path))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    timeless = ("step", "loss", "lr", "held_out_loss", "prose_loss")
    logs = [
        [
            {k: line[k] for k in timeless if k in line}
            for line in read_log(out / "log.jsonl")
            if "command" not in line
        ]
        for out in (finished, tmp_path)
    ]
    assert logs[0] == logs[1]


def test_a_run_leaves_a_folder_that_loads_and_ends_with_its_end_token(finished, tiny_base):
    final = finished / "final"
    names = {path.name for path in final.iterdir()}
    assert names == {
        "adapter_config.json", "adapter_model.safetensors", "generation_config.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(final)
    assert tokenizer.eos_token == END
    assert GenerationConfig.from_pretrained(final).eos_token_id == [tokenizer.eos_token_id, 0]
    config = json.loads((final / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "engine/assets/tiny-llama"
    assert str(tiny_base.base.parent) not in json.dumps(config)
    merged = lora.merged(sft.load_base(tiny_base.base), final, torch.float32)
    saved = load_state(finished / "state.pt", "cpu")["lora"]
    (rows,) = [tensor for name, tensor in saved.items() if "lora_" not in name]
    got = merged.get_input_embeddings().weight[special_token_ids(tokenizer)]
    torch.testing.assert_close(got, rows, atol=1e-3, rtol=1e-3)


def test_an_update_changes_the_adapter_and_nothing_of_the_base(adapted, tiny_base):
    model, tokenizer = adapted
    run = begin(FineTuningPlan(steps=2, lr=0.1, rank=4, alpha=8, warmup=0), model, "cpu")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    ids, targets = padded([Rendered(tuple(ids_of(tokenizer)[0].tolist()), (True,) * 13)], 13, 0, "cpu")
    update(run, token_losses("fp32", "cpu")(model, ids, targets).sum())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in trained(model)), name


def test_tuning_lowers_the_loss_it_reports(tiny_base, tmp_path):
    sft.main(arguments(tiny_base, tmp_path, "--lr", "0.02", "--steps", "30", "--measure-every", "30"))
    measured = [line["held_out_loss"] for line in read_log(tmp_path / "log.jsonl") if "held_out_loss" in line]
    assert len(measured) == 2
    assert measured[1] < measured[0] - 0.3


def test_the_set_of_a_run_is_kept_and_split(finished):
    sets = [load_examples(finished / f"{name}.jsonl") for name in ("train", "later", "held_out")]
    assert [len(rows) for rows in sets] == [40, 12, 8]
    assert {e.answer for e in sets[0]}.isdisjoint(e.answer for e in sets[1])
    assert {e.source for e in sets[2]} == {"held_out"}


def test_the_log_says_what_was_asked_for_without_telling_where(finished, tiny_base):
    log = read_log(finished / "log.jsonl")
    (session,) = [line for line in log if "command" in line]
    assert session["command"].startswith("python -m engine.training.sft --base tiny-llama --corpus ")
    assert str(tiny_base.corpus) not in json.dumps(log)


def test_a_run_is_not_continued_as_another_one(tmp_path):
    plan = FineTuningPlan(steps=5, lr=1e-3, rank=4, alpha=8)
    assert open_plan(tmp_path / "plan.json", plan) == open_plan(tmp_path / "plan.json", plan)
    with pytest.raises(ValueError, match="another plan"):
        open_plan(tmp_path / "plan.json", FineTuningPlan(steps=5, lr=2e-3, rank=4, alpha=8))


@pytest.mark.parametrize("bad", [{"precision": "fp8"}, {"steps": 0}, {"hold": 5}])
def test_impossible_plans_are_refused(bad):
    with pytest.raises(ValueError, match=r"Unknown|at least one"):
        FineTuningPlan(**{"steps": 5, "lr": 1e-3, "rank": 4, "alpha": 8, **bad})
