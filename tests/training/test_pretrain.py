"""A run that was killed and continued is the run that was not; checked on a tiny model in fp32."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.training import pretrain
from engine.training.architectures import Shape, build, parameter_groups
from engine.training.checkpointing import (
    append_log,
    cut_log,
    load_state,
    read_log,
    save_snapshot,
    save_state,
    write_atomically,
)
from engine.training.plan import Plan, load_plan, parse_mix
from engine.training.tokenizer import save_tokenizer, train_tokenizer

SHAPE = ["--layers", "1", "--d-model", "64", "--heads", "2", "--kv-heads", "1", "--d-ff", "64"]
SIZES = [*SHAPE, "--vocab", "300", "--context", "32", "--batch", "4"]
WORDS = "the fox and a hen went over hill river wood until night fell but nobody knew why".split()


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from a second thread, which a busy machine makes everyone wait for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def prose(count: int, stride: int) -> str:
    """``count`` words in an order that repeats late."""
    return " ".join(WORDS[(i * i * stride + i) % len(WORDS)] for i in range(count))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "children.txt").write_text("\0".join([prose(900, 1), prose(900, 5)]), encoding="utf-8")
    (folder / "adventure.txt").write_text(prose(1500, 3), encoding="utf-8")
    (folder / "held_out.txt").write_text(prose(5000, 7), encoding="utf-8")  # over 20 000 characters
    save_tokenizer(train_tokenizer([prose(2000, 1)], 300), folder / "tokenizer", context=32)
    return folder


def arguments(corpus, out, *more: str, arch: str = "llama") -> list[str]:
    always = ["--corpus", corpus, "--tokenizer", corpus / "tokenizer", "--out", out, "--arch", arch]
    often = ["--precision", "fp32", "--save-every", "5", "--held-out-every", "100", "--device", "cpu"]
    return [*map(str, always), *SIZES, *often, *more]


def final_weights(out) -> dict[str, torch.Tensor]:
    return load_state(out / "state.pt", "cpu")["model"]


def kill_after(monkeypatch, updates: int) -> None:
    """Let ``updates`` updates happen and die in the next, as a killed process would: nothing is saved."""
    real, done = pretrain.update, []

    def update(*args):
        if len(done) == updates:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args)

    monkeypatch.setattr(pretrain, "update", update)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_killed_and_continued_gives_the_same_weights_bit_for_bit(corpus, tmp_path, monkeypatch, arch):
    more = ["--steps", "12", "--induction-from", "4"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain.main(arguments(corpus, whole, *more, arch=arch))
    with monkeypatch.context() as patch:
        kill_after(patch, 7)  # the last saved state is that of step 5
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(arguments(corpus, cut, *more, arch=arch))
    assert load_state(cut / "state.pt", "cpu")["step"] == 5
    pretrain.main(arguments(corpus, cut, *more, arch=arch))
    expected, got = final_weights(whole), final_weights(cut)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    timeless = ("step", "loss", "lr", "grad_norm", "held_out_loss", "induction_score")
    logs = [
        [
            {k: line[k] for k in timeless if k in line}
            for line in read_log(out / "log.jsonl")
            if "command" not in line
        ]
        for out in (whole, cut)
    ]
    assert logs[0] == logs[1], "no step is missing from the log or in it twice"


def test_killed_before_the_first_state_begins_again(corpus, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain.main(arguments(corpus, whole, "--steps", "4"))
    with monkeypatch.context() as patch:
        kill_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(arguments(corpus, cut, "--steps", "4"))
    pretrain.main(arguments(corpus, cut, "--steps", "4"))
    assert all(torch.equal(w, final_weights(cut)[name]) for name, w in final_weights(whole).items())


def test_a_stop_signal_saves_the_state_after_the_update_in_hand(corpus, tmp_path, monkeypatch):
    real = pretrain.update

    def update(run, loss):
        if run.step == 2:
            pretrain.signal.raise_signal(pretrain.signal.SIGTERM)
        return real(run, loss)

    before = {number: pretrain.signal.getsignal(number) for number in (2, 15)}
    monkeypatch.setattr(pretrain, "update", update)
    try:
        pretrain.main(arguments(corpus, tmp_path / "run", "--steps", "50"))
    finally:
        for number, handler in before.items():
            pretrain.signal.signal(number, handler)
    assert load_state(tmp_path / "run" / "state.pt", "cpu")["step"] == 3


def test_a_decay_branch_ends_at_zero_and_leaves_an_ordinary_checkpoint(corpus, tmp_path):
    trunk, branch = tmp_path / "trunk", tmp_path / "branch"
    pretrain.main(arguments(corpus, trunk, "--steps", "3", "--warmup", "1"))
    before = (trunk / "state.pt").read_bytes()
    order = arguments(corpus, branch, "--decay-from-now", "4", "--branch-from", str(trunk), "--warmup", "1")
    pretrain.main(order)
    assert (trunk / "state.pt").read_bytes() == before, "the trunk can go on"
    plan = load_plan(branch / "run.json")
    assert (plan.decay_start, plan.last_step) == (3, 7)
    rates = {line["step"]: line["lr"] for line in read_log(branch / "log.jsonl") if "lr" in line}
    assert [rates[step] / plan.lr for step in (3, 4, 5, 6, 7)] == pytest.approx([1, 1, 0.75, 0.5, 0.25])
    tokenizer = AutoTokenizer.from_pretrained(branch / "final")
    model = AutoModelForCausalLM.from_pretrained(branch / "final", dtype=torch.float32)
    ids = tokenizer("the fox", return_tensors="pt").input_ids
    trained = final_weights(branch)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, trained[name], atol=1e-3, rtol=1e-3)
    assert model(ids).logits.isfinite().all()
    # the same order again, as after a kill, neither moves the decay nor trains on
    pretrain.main(order)
    assert load_plan(branch / "run.json") == plan
    assert load_state(branch / "state.pt", "cpu")["step"] == 7


def test_a_run_is_not_continued_as_another_one(corpus, tmp_path):
    pretrain.main(arguments(corpus, tmp_path, "--steps", "1"))
    with pytest.raises(ValueError, match="lr"):
        pretrain.main(arguments(corpus, tmp_path, "--lr", "0.5"))


def test_the_log_says_what_was_asked_for_without_telling_where(corpus, tmp_path):
    pretrain.main(arguments(corpus, tmp_path / "run", "--steps", "1"))
    log = read_log(tmp_path / "run" / "log.jsonl")
    session = next(line for line in log if "command" in line)
    assert session["command"].startswith("python -m engine.training.pretrain --corpus ")
    assert str(tmp_path) not in json.dumps(log)
    measured = next(line for line in log if line["step"] == 1 and "held_out_loss" in line)
    assert {"induction_score", "previous_token_score", "second_half_loss"} <= set(measured)


def test_training_lowers_the_loss_it_reports(corpus, tmp_path):
    pretrain.main(arguments(corpus, tmp_path, "--steps", "30", "--warmup", "1", "--lr", "0.01"))
    losses = [line["loss"] for line in read_log(tmp_path / "log.jsonl") if "grad_norm" in line]
    assert losses[0] == pytest.approx(5.7, abs=0.2), "about ln 300 before anything is learned"
    assert losses[-1] < losses[0] - 1


def test_micro_batches_give_the_gradient_of_the_whole_batch(corpus, tmp_path):
    for name, size in (("one", "4"), ("two", "2")):
        pretrain.main(arguments(corpus, tmp_path / name, "--steps", "1", "--micro-batch", size))
    lines = [
        next(x for x in read_log(tmp_path / name / "log.jsonl") if "grad_norm" in x)
        for name in ("one", "two")
    ]
    assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], abs=1e-5)
    assert lines[0]["grad_norm"] == pytest.approx(lines[1]["grad_norm"], rel=1e-4)


def test_reported_loss_is_the_one_of_transformers():
    model = build("gpt2", Shape(vocab=50, layers=1, d_model=64, heads=2, context=16), seed=0)
    windows = torch.randint(0, 50, (3, 17), generator=torch.Generator().manual_seed(0))
    got = pretrain.loss_function("fp32", "cpu")(model, windows)
    inputs, labels = windows[:, :-1], windows[:, 1:].contiguous()
    expected = model(input_ids=inputs, labels=inputs, shift_labels=labels).loss
    torch.testing.assert_close(got, expected)


def test_a_compiler_that_fails_is_reported_and_left(monkeypatch, capsys):
    def broken(*args, **kwargs):
        def fail(*inner):
            raise RuntimeError("no compiler")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    model = build("gpt2", Shape(vocab=50, layers=1, d_model=64, heads=2, context=16), seed=0)
    loss = pretrain.loss_function("fp32", "cpu")
    windows = torch.zeros(1, 17, dtype=torch.long)
    assert pretrain.compiled(loss, model, windows) is loss
    assert "going on without it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arch", "matrices"),
    [("gpt2", 4), ("llama", 7)],
    ids=["c_attn c_proj c_fc c_proj", "q k v o gate up down"],
)
def test_muon_takes_the_matrices_in_the_blocks_and_adamw_the_rest(arch, matrices):
    model = build(
        arch, Shape(vocab=50, layers=2, d_model=64, heads=2, kv_heads=1, d_ff=64, context=16), seed=0
    )
    blocks, others = parameter_groups(model)
    assert len(blocks) == 2 * matrices
    assert all(parameter.ndim == 2 and parameter.shape[0] != 50 for parameter in blocks)
    assert len(blocks) + len(others) == len(list(model.parameters()))


def test_weights_depend_on_the_seed_and_torchs_own_stream_is_left_alone():
    shape = Shape(vocab=50, layers=1, d_model=64, heads=2, context=16)
    before = torch.random.get_rng_state()
    one, same, other = (next(build("gpt2", shape, seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})

    def die(partial):
        partial.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, die)
    assert load_state(path, "cpu") == {"step": 1}


def test_a_file_is_replaced_whole_and_never_written_over(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})
    with path.open("rb") as reader:
        before = path.read_bytes()
        save_state(path, {"step": 2})
        assert reader.read() == before, "who had it open still sees the old file"
    assert load_state(path, "cpu") == {"step": 2}


def test_a_log_cut_short_in_its_last_line_is_read_and_cut_back(tmp_path):
    log = tmp_path / "log.jsonl"
    for step in (1, 2, 3):
        append_log(log, {"step": step})
    log.write_text(log.read_text() + '{"step": 4, "lo')
    cut_log(log, step=2)
    assert [json.loads(line) for line in log.read_text().splitlines()] == [{"step": 1}, {"step": 2}]


def test_a_snapshot_holds_each_weight_once_in_fp16_and_can_be_loaded(tmp_path):
    model = build(
        "llama", Shape(vocab=50, layers=1, d_model=64, heads=2, kv_heads=1, d_ff=64, context=16), seed=0
    )
    save_snapshot(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert sum(tensor.numel() for tensor in stored.values()) == sum(p.numel() for p in model.parameters())
    back = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for name, weight in back.named_parameters():
        assert torch.equal(weight, dict(model.named_parameters())[name].half().float())


def test_a_weight_too_large_for_fp16_is_refused(tmp_path):
    model = build("gpt2", Shape(vocab=50, layers=1, d_model=64, heads=2, context=16), seed=0)
    with torch.no_grad():
        next(model.parameters())[0, 0] = 1e6
    with pytest.raises(ValueError, match="fp16"):
        save_snapshot(model, tmp_path)


def test_mix_is_normalised():
    assert parse_mix("b=3,a=1") == {"a": 0.25, "b": 0.75}


@pytest.mark.parametrize("bad", [{"arch": "bert"}, {"precision": "fp8"}, {"batch": 5, "micro_batch": 2}])
def test_impossible_plans_are_refused(bad):
    with pytest.raises(ValueError, match=r"Unknown|micro-batches"):
        Plan(**bad)
