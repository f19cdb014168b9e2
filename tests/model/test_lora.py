"""A folder with a LoRA adapter alone: its base is named, and it is merged where the base is on this machine."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine import ReaderError, capture, load
from tests.conftest import PROMPT


@pytest.fixture
def adapter(tiny_folder, tmp_path):
    """A function that saves an adapter of the tiny Llama, with matrices that are not zero and other settings."""

    def make(**settings):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_pretrained(tiny_folder("llama-gqa"))
        tuned = get_peft_model(
            model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM")
        )
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.2)
        folder = tmp_path / "tuned"
        tuned.save_pretrained(folder)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        return folder

    return make


def refusal(folder, precision="fp32"):
    with pytest.raises(ReaderError) as caught:
        load(str(folder), precision)
    return str(caught.value)


def test_it_is_merged_into_a_base_that_is_on_this_machine(adapter, tiny_folder):
    folder = adapter()
    loaded = load(str(folder))
    trace = capture(loaded, PROMPT)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder("llama-gqa"))
    ids = torch.tensor([trace.ids])
    with torch.no_grad():
        plain = base(ids).logits[0].numpy()
        expected = PeftModel.from_pretrained(base, str(folder))(ids).logits[0].numpy()
    np.testing.assert_allclose(trace.logits, expected, rtol=0, atol=1e-4)
    assert np.abs(plain - expected).max() > 0.1
    assert loaded.name == "tuned"


def test_a_base_that_is_not_here_is_named(adapter):
    assert refusal(adapter(base_model_name_or_path="someone/large-model")) == (
        "“tuned” is a LoRA adapter of “someone/large-model”, which is not on this machine; load that checkpoint first, "
        "then this folder."
    )


def test_it_runs_at_full_precisions_only(adapter):
    assert "fp32, bf16, fp16 only" in refusal(adapter(), "nf4")


@pytest.mark.parametrize("base", [None, "", 7])
def test_an_adapter_that_names_no_base(adapter, base):
    assert "does not say which checkpoint" in refusal(adapter(base_model_name_or_path=base))


def test_another_kind_of_adapter(adapter):
    assert "“IA3”" in refusal(adapter(peft_type="IA3"))


@pytest.mark.parametrize("pattern", ["^(([a-z_.0-9])+.)+[A-Z]([a-z])+$", ["q_proj", "(a+)+$"], {"q_proj": 1}])
def test_a_pattern_of_a_stranger_is_never_run(adapter, pattern):
    assert "by a pattern (target_modules)" in refusal(adapter(target_modules=pattern))


def test_an_adapter_that_does_not_fit(adapter):
    assert "does not fit its base" in refusal(adapter(target_modules=["c_attn"]))


def test_a_base_of_another_architecture(adapter, tiny_folder):
    assert "does not fit its base" in refusal(adapter(base_model_name_or_path=str(tiny_folder("gpt2"))))


def test_an_adapter_beside_full_weights_is_refused(adapter, tiny_folder, tmp_path):
    both = shutil.copytree(tiny_folder("llama-gqa"), tmp_path / "both")
    shutil.copytree(adapter(), both, dirs_exist_ok=True)
    assert "beside full weights" in refusal(both)


def test_a_pickled_adapter_is_refused(adapter):
    folder = adapter()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "pickled" in refusal(folder)


def test_a_damaged_adapter_is_refused(adapter):
    path = adapter() / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert "cut short or damaged" in refusal(path.parent)


def test_an_adapter_of_an_adapter_goes_no_further_than_one_step(adapter):
    folder = adapter()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(folder)}))
    assert "itself one" in refusal(folder)


def rewritten(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def test_a_missing_tensor_of_an_adapter_is_named_and_never_made_up(adapter):
    folder = adapter()
    lost = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    said = refusal(rewritten(folder, lambda held: {key: value for key, value in held.items() if key != lost}))
    assert f"lacks {lost}" in said


def test_renamed_tensors_of_an_adapter_are_refused(adapter):
    said = refusal(rewritten(adapter(), lambda held: {f"x.{key}": value for key, value in held.items()}))
    assert "lacks base_model." in said


def test_an_adapter_that_holds_nan_is_refused_with_its_tensor(adapter):
    def change(held):
        name = sorted(held)[0]
        held[name][0, 0] = float("nan")
        return held

    assert "holds NaN" in refusal(rewritten(adapter(), change))
