"""The bundled tuned checkpoints load as any other: adapters merged into the base, the end token, the script."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from engine import ReaderError, capture, load
from engine.checkpoints.catalogue import BUNDLED, CATALOGUE, TUNED, folder, known, locate
from engine.checkpoints.hub import is_cached
from engine.evidence.script import preamble
from engine.model.generation import end_of_text, generate
from engine.tokens.chat import END, render, special_ids
from tests.conftest import PROMPT, loaded_checkpoint

each = pytest.mark.parametrize("name", [checkpoint.name for checkpoint in TUNED])


@each
def test_merged_weights_give_the_logits_of_the_adapter_beside_the_base(name):
    loaded = loaded_checkpoint(name)
    base = AutoModelForCausalLM.from_pretrained("engine/assets/pocket-llama", dtype=torch.float32)
    beside = PeftModel.from_pretrained(base, str(folder(name))).eval()
    ids = torch.tensor([render(loaded.tokenizer, "Write a scene with: fox", "The fox ran.").ids])
    with torch.no_grad():
        expected, got = (model(input_ids=ids).logits for model in (beside, loaded.model))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@each
def test_only_the_three_special_rows_of_the_embedding_differ_from_the_base(name):
    loaded, base = loaded_checkpoint(name), loaded_checkpoint("pocket-llama")
    before, after = (m.model.get_input_embeddings().weight for m in (base, loaded))
    changed = set((before != after).any(-1).nonzero().flatten().tolist())
    assert changed == special_ids(loaded.tokenizer) - {loaded.tokenizer.bos_token_id}
    assert loaded.model.get_output_embeddings().weight is after
    assert loaded.spec == base.spec


@each
def test_what_is_generated_ends_at_the_end_token(name):
    loaded = loaded_checkpoint(name)
    assert loaded.tokenizer.convert_tokens_to_ids(END) in end_of_text(loaded)
    ids = render(loaded.tokenizer, "Write one sentence about the fox.", None).ids
    steps = list(generate(loaded, ids, 120, seed=0, temperature=0.7))
    assert steps[-1].end, "it answers in fewer than 120 tokens"
    assert [step.id for step in steps if step.id in end_of_text(loaded)] == [steps[-1].id]


@each
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_preamble_rebuilds_a_tuned_model(name, precision):
    loaded = load(name, precision)
    trace = capture(loaded, PROMPT)
    names: dict = {}
    exec(preamble(loaded, trace.ids), names)
    assert "engine" not in preamble(loaded).replace("'engine/assets", "")
    with torch.no_grad():
        logits = names["model"](names["ids"]).logits[0].float().numpy()
    np.testing.assert_allclose(logits, trace.logits, rtol=0, atol=1e-4 if precision == "fp32" else 0.05)
    assert names["model"].generation_config.eos_token_id == loaded.model.generation_config.eos_token_id


@each
@pytest.mark.parametrize("precision", ["int8", "nf4", "fp4"])
def test_quantized_precisions_are_refused_in_a_sentence(name, precision):
    with pytest.raises(ReaderError, match="fp32, bf16, fp16"):
        load(name, precision)


def test_tuned_checkpoints_are_named_but_not_listed(monkeypatch):
    bundled = {checkpoint.name for checkpoint in BUNDLED}
    for checkpoint in TUNED:
        assert checkpoint.base in bundled
        assert checkpoint.name not in CATALOGUE
        assert is_cached(checkpoint.name)
        assert locate(checkpoint.name) == str(folder(checkpoint.name)) == checkpoint.location
    monkeypatch.setenv("ANATOMY_PUBLIC", "1")
    assert not any(known(checkpoint.name) for checkpoint in TUNED)


def test_an_adapter_that_is_not_complete_is_refused_in_a_sentence(tmp_path):
    from engine.model import lora

    for file in Path(TUNED[0].location).iterdir():
        if file.name != "adapter_model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ReaderError, match=r"adapter_model\.safetensors is missing"):
        lora.check_folder(tmp_path, "x")
