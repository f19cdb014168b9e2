"""Held-out loss against transformers' own, samples, and the recording of a run."""

import math

import pytest
import torch

from engine.training.architectures import Shape, build
from engine.training.evaluate import (
    draw_sample,
    evaluate,
    load_checkpoint,
    next_token_candidates,
    sample_ids,
)
from engine.training.held_out import HeldOutLoss, held_out_loss, held_out_passages, held_out_windows
from engine.training.record_run import evaluation_tables, measured_rows, spread, train_rows
from engine.training.tokenizer import train_tokenizer

TEXT = "once upon a time a fox met a hen and the hen was not at home " * 20
SHAPE = Shape(vocab=300, layers=2, d_model=64, heads=2, kv_heads=1, d_ff=64, context=32)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from a second thread, which a busy machine makes everyone wait for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT], 300)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return build(request.param, SHAPE, seed=0).eval()


@pytest.fixture(scope="module")
def eager(model):
    model.set_attn_implementation("eager")
    return model


def test_held_out_loss_is_the_one_of_transformers(model, tokenizer):
    held_out = held_out_windows([TEXT, TEXT[:100]], tokenizer, 32)
    result = held_out_loss(model, held_out, batch=3)
    nats = predicted = 0.0
    for window in held_out.windows:
        count = len(window) - 1
        nats += model(input_ids=window[None], labels=window[None]).loss.item() * count
        predicted += count
    assert result.predicted == predicted
    assert result.nats == pytest.approx(nats, rel=1e-5)
    assert result.characters == len(TEXT) + 100


def test_windows_cover_each_passage_without_overlap(tokenizer):
    long, short = ([int(i) for i in tokenizer.encode(passage).ids] for passage in (TEXT, TEXT[:100]))
    size = next(size for size in (32, 31) if len(long) % size != 1)
    windows = [window.tolist() for window in held_out_windows([TEXT, TEXT[:100]], tokenizer, size).windows]
    assert [token for window in windows for token in window] == long + short
    assert windows[0] == long[:size]
    assert windows[-1] == short[len(short) // size * size :], "a passage begins a window of its own"


def test_a_last_token_alone_is_left_out_as_nothing_predicts_it(tokenizer):
    count = len(tokenizer.encode(TEXT).ids)
    windows = held_out_windows([TEXT], tokenizer, count - 1).windows
    assert [len(window) for window in windows] == [count - 1]


def test_a_passage_is_30_000_characters_from_character_20_000_on(tmp_path):
    books = ["a" * 20_000 + "b" * 30_000 + "c", "d" * 20_500]
    (tmp_path / "held_out.txt").write_text("\0".join(books), encoding="utf-8")
    assert held_out_passages(tmp_path) == ["b" * 30_000, "d" * 500]


def test_units_on_paper():
    # 8 tokens at ln 4 nats (2 bits) each over 16 characters: perplexity 4 and 1 bit per character
    result = HeldOutLoss(nats=8 * math.log(4), predicted=8, characters=16)
    assert result.loss == pytest.approx(math.log(4))
    assert result.perplexity == pytest.approx(4)
    assert result.bits_per_character == pytest.approx(1)


def test_greedy_sample_is_the_one_of_generate(model, tokenizer):
    prompt = torch.tensor(tokenizer.encode("once upon a time").ids)
    expected = model.generate(prompt[None], max_new_tokens=12, do_sample=False, eos_token_id=None)[
        0, len(prompt) :
    ]
    assert sample_ids(model, prompt, 12, temperature=0, seed=0).tolist() == expected.tolist()


def test_a_sample_depends_on_its_seed_alone(model, tokenizer):
    one = draw_sample(model, tokenizer, "a fox", seed=1, count=12)
    torch.rand(3)  # torch's own stream has no say
    assert draw_sample(model, tokenizer, "a fox", seed=1, count=12) == one
    assert draw_sample(model, tokenizer, "a fox", seed=2, count=12).text != one.text


def test_a_sample_may_outgrow_the_context(model, tokenizer):
    assert len(sample_ids(model, torch.arange(30), 10, temperature=1, seed=0)) == 10


def test_candidates_are_the_largest_probabilities_in_order(model, tokenizer):
    got = next_token_candidates(model, tokenizer, "a hen", count=300)
    ids = torch.tensor([tokenizer.encode("a hen").ids])
    expected = model(input_ids=ids).logits[0, -1].softmax(-1)
    assert [c.rank for c in got] == list(range(1, 301))
    assert sum(c.probability for c in got) == pytest.approx(1, abs=1e-4)
    assert got[0].probability == pytest.approx(expected.max().item(), rel=1e-4)
    assert got[0].token == tokenizer.decode([int(expected.argmax())])


def test_an_evaluation_becomes_rows_with_their_step(eager, tokenizer):
    held_out = held_out_windows([TEXT], tokenizer, 32)
    tables = evaluation_tables([(7, evaluate(eager, tokenizer, held_out, prompts=["a fox"]))])
    assert len(tables["heads"]) == 4
    assert {(row["layer"], row["head"]) for row in tables["heads"]} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert [row["rank"] for row in tables["candidates"]] == [1, 2, 3, 4, 5]
    assert {row["step"] for rows in tables.values() for row in rows} == {7}


def test_a_checkpoint_is_read_with_attention_weights_in_fp32(eager, tmp_path):
    eager.half().save_pretrained(tmp_path)
    eager.float()
    loaded = load_checkpoint(tmp_path)
    out = loaded(input_ids=torch.arange(5)[None], output_attentions=True)
    assert out.logits.dtype == torch.float32
    assert out.attentions[1].shape == (1, 2, 5, 5)


def test_thinned_log_keeps_every_nth_update_and_the_last():
    fields = ("step", "tokens", "seconds", "loss", "lr", "grad_norm")
    log = [dict.fromkeys(fields, step) for step in range(100)] + [{"step": 100, "first_half_loss": 1.0}]
    rows = train_rows(log, most=10)
    assert [row["step"] for row in rows] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99]
    assert measured_rows(log)[0]["held_out_loss"] is None
    assert measured_rows(log)[0]["first_half_loss"] == 1.0


def test_spread_keeps_the_ends():
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread([1, 2], 4) == [1, 2]
