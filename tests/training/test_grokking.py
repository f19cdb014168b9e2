"""The modular-addition model on a tiny table."""

import math

import pytest
import torch
from torch.nn import functional as F

from engine.training import grokking
from engine.training.grokking import (
    GrokkingConfig,
    OneLayerTransformer,
    addition_table,
    cross_entropy,
    first_step,
    grokking_recording,
    loss_and_accuracy,
    split_indices,
    train_one,
    weight_norm,
)
from engine.training.recording import load_recording

TINY = GrokkingConfig(prime=7, d_model=16, heads=2, d_ff=32, train_share=0.6, steps=60, log_every=20, lr=1e-2)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from a second thread, which a busy machine makes everyone wait for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_table_holds_every_sum_once():
    tokens, answers = addition_table(5)
    assert len({tuple(row) for row in tokens.tolist()}) == 25
    for (a, b, equals), answer in zip(tokens.tolist(), answers.tolist(), strict=True):
        assert equals == 5
        assert answer == (a + b) % 5


def test_split_is_a_partition():
    train, validation = split_indices(100, 0.3, generator())
    assert len(train) == 30
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(100))


def test_attention_is_the_one_of_torch():
    model = OneLayerTransformer(TINY, generator())
    tokens = addition_table(7)[0][:5]
    residual = model.embed[tokens] + model.position
    q, k, v = (
        (residual @ weight).unflatten(-1, (2, 8)).transpose(1, 2)
        for weight in (model.w_q, model.w_k, model.w_v)
    )
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)[:, -1]
    last = residual[:, -1] + mixed @ model.w_o
    last = last + torch.relu(last @ model.w_in) @ model.w_out
    torch.testing.assert_close(model(tokens), last @ model.unembed)


def test_an_untrained_model_is_near_chance():
    model = OneLayerTransformer(TINY, generator())
    with torch.no_grad():
        model.unembed.zero_()
    loss, _ = loss_and_accuracy(model, *addition_table(7))
    assert loss == pytest.approx(math.log(7))


def test_training_fits_the_training_sums_and_logs_what_it_says():
    rows = train_one(TINY, seed=0)
    assert [row["step"] for row in rows] == [0, 20, 40, 60]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 4
    assert rows[-1]["train_accuracy"] > 0.9
    assert all(0 <= row["validation_accuracy"] <= 1 for row in rows)


def test_a_run_depends_on_its_seed_alone():
    one, same, other = (train_one(TINY, seed)[-1]["train_loss"] for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_weight_decay_is_what_keeps_the_norm_down():
    free = GrokkingConfig(**{**vars(TINY), "weight_decay": 0.0})
    assert train_one(TINY, 0)[-1]["weight_norm"] < train_one(free, 0)[-1]["weight_norm"]


def test_weight_norm_on_paper():
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
        model.bias.fill_(12.0)
    assert weight_norm(model) == pytest.approx(13)


def test_tiny_losses_are_not_lost():
    logits = torch.tensor([[30.0, 0.0]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-30)), rel=1e-6)
    assert F.cross_entropy(logits, torch.tensor([0])).item() == 0, "what float32 makes of it"


def test_first_step_at_a_level():
    rows = [{"step": 0, "x": 0.1}, {"step": 5, "x": 0.9}, {"step": 9, "x": 0.8}]
    assert first_step(rows, "x", 0.85) == 5
    assert first_step(rows, "x", 0.95) is None


def test_recording_holds_every_seed(monkeypatch):
    recording = grokking_recording(TINY, [3, 4], "python -m engine.training.grokking", verbose=False)
    assert {row["seed"] for row in recording.table("runs")} == {3, 4}
    assert [row["seed"] for row in recording.table("summary")] == [3, 4]
    assert recording.settings["prime"] == 7


def test_command_writes_a_recording_that_can_be_read(tmp_path, capsys):
    out = tmp_path / "grokking.json"
    sizes = [
        "--prime",
        "5",
        "--steps",
        "2",
        "--log-every",
        "1",
        "--d-model",
        "8",
        "--d-ff",
        "8",
        "--heads",
        "2",
    ]
    grokking.main(["--out", str(out), "--seeds", "0", *sizes])
    recording = load_recording("grokking", tmp_path)
    assert str(tmp_path) not in recording.command
    assert list(recording.column("runs", "step")) == [0, 1, 2]
