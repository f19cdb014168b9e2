"""Which checkpoints are accepted: harmless settings of any age are, what would make numbers up is refused by name."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine import ReaderError, capture, load
from engine.model import accepting, checking
from tests.conftest import PROMPT

ONE_SENTENCE = re.compile(r"^[^\n]{10,400}[.]$")
WEIGHTS = "model.safetensors"


@pytest.fixture
def made(tiny_folder, tmp_path):
    """A function that copies a tiny checkpoint's folder with other values in its config.json."""

    def make(name, **changes):
        target = tmp_path / "mine"
        shutil.copytree(tiny_folder(name), target)
        config = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps(config | changes))
        return target

    return make


def refusal(folder, precision="fp32"):
    with pytest.raises(ReaderError) as caught:
        load(str(folder), precision)
    assert ONE_SENTENCE.match(str(caught.value)), str(caught.value)
    return str(caught.value)


def retold(folder, change):
    """Write a folder's weights again after `change` has had its way with the dict of them."""
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


HARMLESS = {
    "output_past": True,
    "n_special": 0,
    "predict_special_tokens": True,
    "gradient_checkpointing": False,
    "finetuning_task": None,
    "pruned_heads": {},
    "torchscript": False,
    "use_bfloat16": False,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "_attn_implementation_autoset": True,
    "_attn_implementation": "flash_attention_2",
    "unsloth_version": "2025.1.1",
    "unsloth_fixed": True,
    "internal_version": 3,
    "custom_pipelines": {"text-generation": {"impl": "nowhere.Pipeline"}},
    "max_sequence_length": 4096,
    "_model_name_or_path": "/home/someone/model",
    "unk_token_id": 0,
    "transformers.js_config": {"dtype": "q4"},
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "num_labels": 1,
    "logit_softcap": 30.0,
    "head_dim_of_nothing": [1],
    "rope_interleaved": False,
    "is_causal": True,
    "sliding_window": None,
    "quantization_config": None,
}


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "qwen2", "qwen3", "neox-parallel"])
def test_settings_that_change_nothing_are_accepted_and_the_numbers_are_those_of_transformers(made, name):
    changes = dict(HARMLESS)
    if name == "llama-gqa":
        changes["pretraining_tp"] = 2
    if name in ("qwen2", "qwen3"):
        del changes["sliding_window"]
    folder = made(name, **changes)
    trace = capture(load(str(folder)), PROMPT)
    plain = shutil.copytree(folder, folder.parent / "plain")
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in changes}))
    model = AutoModelForCausalLM.from_pretrained(plain, attn_implementation="eager")
    with torch.no_grad():
        expected = model(torch.tensor([trace.ids])).logits[0]
    np.testing.assert_allclose(trace.logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("llama-gqa", "is_causal", False),
        ("neox-parallel", "head_dim", 8),
        ("qwen2", "head_dim", 32),
        ("llama-gqa", "per_layer_config", {"1": {"intermediate_size": 64}}),
        ("gpt2", "per_layer_config", {"1": {"n_inner": 64}}),
        ("llama-gqa", "transformers_weights", "other.safetensors"),
        ("llama-gqa", "sliding_window", 4),
        ("llama-gqa", "attention_chunk_size", 4),
        ("llama-gqa", "partial_rotary_factor", 0.5),
    ],
)
def test_a_setting_that_changes_the_model_though_its_class_has_no_such_field_is_refused(
    made, name, setting, value
):
    assert setting in refusal(made(name, **{setting: value}))


def test_a_head_width_that_says_what_is_so_anyway_is_accepted(made):
    assert load(str(made("neox-parallel", head_dim=16))).spec.d_head == 16


def test_a_field_under_two_names_with_two_values_is_refused(made):
    said = refusal(made("gpt2", hidden_size=128))
    assert "n_embd is 64" in said
    assert "hidden_size" in said


def test_a_field_that_the_adapter_does_not_know_is_refused_by_name(monkeypatch):
    from dataclasses import replace

    narrow = replace(
        accepting.adapter_for("llama"), neutral=frozenset({"attention_dropout", "attention_bias"})
    )
    monkeypatch.setattr(accepting, "adapter_for", lambda model_type: narrow)
    with pytest.raises(ReaderError, match="mlp_bias, pretraining_tp"):
        accepting.config_from({"model_type": "llama"}, "mine")


@pytest.mark.parametrize(
    "changes",
    [
        {"n_layer": "three"},
        {"n_embd": [64]},
        {"n_head": 0},
        {"n_head": 5},
        {"dtype": "save"},
        {"torch_dtype": "int8"},
    ],
)
def test_values_that_make_no_config_are_refused(made, changes):
    refusal(made("gpt2", **changes))


QUANTIZED = [
    ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}, "GPTQ"),
    ({"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}}, "AWQ"),
    (
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}},
        "compressed-tensors",
    ),
    ({"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}, "FP8"),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
    ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
    ({"quantization_config": {"quant_method": "hqq"}}, "hqq"),
    ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
    (
        {"quantization": {"group_size": 64, "bits": 4}, "quantization_config": {"group_size": 64, "bits": 4}},
        "MLX",
    ),
    ({"torch_dtype": "float8_e4m3fn"}, "FP8"),
]


@pytest.mark.parametrize(("changes", "format"), QUANTIZED)
def test_weights_that_another_tool_quantized_are_refused_by_its_name(made, changes, format):
    said = refusal(made("llama-gqa", **changes))
    assert f"({format})" in said
    assert "take the original" in said


@pytest.mark.parametrize(("file", "format"), [("quantize_config.json", "GPTQ"), ("quant_config.json", "AWQ")])
def test_an_export_is_known_by_its_files(made, file, format):
    folder = made("llama-gqa")
    (folder / file).write_text("{}")
    assert f"({format})" in refusal(folder)


def test_packed_weights_without_a_word_in_the_config_are_refused(made):
    folder = made("llama-gqa")
    retold(
        folder,
        lambda held: {k: v.to(torch.int8) if k.endswith("up_proj.weight") else v for k, v in held.items()},
    )
    assert "I8" in refusal(folder)


def test_a_missing_tensor_is_named_and_never_made_up(made):
    folder = made("llama-gqa")
    lost = "model.layers.1.mlp.up_proj.weight"
    retold(folder, lambda held: {key: value for key, value in held.items() if key != lost})
    assert refusal(folder) == (
        "“mine” lacks the tensor model.layers.1.mlp.up_proj.weight, and nothing is made up instead."
    )


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_a_prefix_on_all_names_is_told(made, name):
    folder = made(name)
    retold(folder, lambda held: {f"_orig_mod.{key}": value for key, value in held.items()})
    said = refusal(folder)
    assert "“_orig_mod.…”" in said
    assert "lacks the tensors" in said


def test_one_layer_more_in_the_config_than_in_the_file(made):
    assert "model.layers.3." in refusal(made("llama-gqa", num_hidden_layers=4))


def test_one_layer_less_in_the_config_than_in_the_file(made):
    said = refusal(made("llama-gqa", num_hidden_layers=2))
    assert "model.layers.2." in said
    assert "no place" in said


def test_millions_of_layers_are_refused_at_once(made):
    assert "10,000,000 layers" in refusal(made("llama-gqa", num_hidden_layers=10**7))


def test_another_shape_is_named(made):
    assert "another shape" in refusal(made("llama-gqa", intermediate_size=96))


@pytest.mark.parametrize("architecture", ["LlamaForSequenceClassification", "LlamaForTokenClassification"])
def test_a_classifier_is_refused_by_its_architecture(made, architecture):
    said = refusal(made("llama-gqa", architectures=[architecture]))
    assert architecture in said


def test_a_reward_head_in_the_place_of_the_unembedding_is_refused_by_its_tensors(made):
    folder = made("llama-mha")

    def change(held):
        held["score.weight"] = held.pop("lm_head.weight")[:1].clone()
        return held

    retold(folder, change)
    assert "lm_head.weight" in refusal(folder)


def test_a_score_head_beside_tied_weights_is_refused_by_its_name(made):
    folder = made("llama-gqa")
    retold(folder, lambda held: held | {"score.weight": torch.zeros(1, 64)})
    assert "score.weight" in refusal(folder)


def test_leftovers_of_older_versions_are_no_reason_to_refuse(made):
    folder = made("gpt2")
    mask = torch.ones(96, 96, dtype=torch.uint8).tril().view(1, 1, 96, 96)
    retold(folder, lambda held: held | {f"transformer.h.{i}.attn.bias": mask.clone() for i in range(3)})
    assert load(str(folder)).spec.n_layer == 3


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_refused_with_their_tensor(made, poison, precision):
    folder = made("llama-gqa")

    def change(held):
        held["model.layers.2.self_attn.o_proj.weight"][3, 5] = poison
        return held

    retold(folder, change)
    assert refusal(folder, precision) == (
        "The tensor model.layers.2.self_attn.o_proj.weight of “mine” holds NaN or infinity, so nothing can be computed."
    )


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows(made):
    folder = made("llama-gqa")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(
        {"id": 8192, "content": "<tool_call>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": False}
    )  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = refusal(folder)
    assert "“<tool_call>” is 8,192" in said
    assert "8,192 rows" in said


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"model": {"type": "BPE"}}', '{"version": "1.0", "model": null}']
)
def test_a_tokenizer_that_cannot_be_read(made, text):
    folder = made("llama-gqa")
    (folder / "tokenizer.json").write_text(text)
    assert "tokenizer" in refusal(folder).lower()


@pytest.mark.parametrize(
    ("break_it", "identity"),
    [
        (lambda m: setattr(m.model.layers[1].self_attn, "scaling", 1.0), "softmax of q·k in layer 1"),
        (lambda m: m.model.layers[1].mlp.register_forward_hook(lambda *a: a[-1] * 2, prepend=True), None),
        (lambda m: m.model.layers[1].register_forward_hook(lambda *a: a[-1] * 1.5), "leaves it"),
        (
            lambda m: m.lm_head.register_forward_hook(lambda *a: 30 * torch.tanh(a[-1] / 30)),
            "do not give its logits",
        ),
        (lambda m: m.model.norm.register_forward_hook(lambda *a: a[-1] + 1), None),
    ],
)
def test_the_identities_hold_or_the_one_that_failed_is_named(made, break_it, identity):
    """Changes that every captured number follows are no lie; one that slips in between the captured numbers is."""
    loaded = load(str(made("llama-mha")))
    break_it(loaded.model)
    if identity is None:
        checking.check_identities(loaded)
    else:
        with pytest.raises(ReaderError, match=identity):
            checking.check_identities(loaded)


def test_attention_that_is_not_the_softmax_of_q_and_k_is_refused(made, monkeypatch):
    from transformers.models.llama import modeling_llama

    true = modeling_llama.eager_attention_forward

    def softcapped(module, query, key, value, mask, **options):
        return true(module, query * 3, key, value, mask, **options)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", softcapped)
    assert "softmax of q·k in layer 0" in refusal(made("llama-gqa"))


def test_logits_that_do_not_follow_from_the_last_residual_are_refused(made, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaModel

    true = LlamaModel.forward

    def changed(self, *arguments, **options):
        output = true(self, *arguments, **options)
        output.last_hidden_state = output.last_hidden_state * 2
        return output

    monkeypatch.setattr(LlamaModel, "forward", changed)
    assert "do not give its logits" in refusal(made("llama-gqa"))


def test_a_folder_is_called_by_its_last_part_and_two_of_one_name_are_told_apart(tiny_folder, tmp_path):
    first, second = (
        shutil.copytree(tiny_folder(name), tmp_path / name / "mine") for name in ("llama-gqa", "gpt2")
    )
    one, other = load(str(first)), load(str(second))
    assert one.name == other.name == "mine"
    assert (one.asked, other.asked) == (str(first), str(second))
    assert one.revision != other.revision  # caches of traces know models by name and revision


@pytest.mark.parametrize("named", [5, {"a": 1}, [], None, "LlamaForCausalLM", [1, "LlamaForCausalLM"]])
def test_architectures_that_are_no_list_of_names_are_no_crash(made, named):
    assert load(str(made("llama-gqa", architectures=named))).spec.n_layer == 3


@pytest.mark.parametrize("changes", [{"rope_theta": 0}, {"rope_theta": 5e5}, {"partial_rotary_factor": 0.5}])
def test_rope_settings_that_contradict_each_other_are_refused(made, changes):
    assert next(iter(changes)) in refusal(made("llama-gqa", **changes))


@pytest.mark.parametrize("theta", [0, -5, float("nan"), "ten"])
def test_a_base_of_rope_that_is_none(made, theta):
    refusal(made("llama-gqa", rope_parameters={"rope_type": "default", "rope_theta": theta}))


@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": -3}, {"num_attention_heads": 0}, {"hidden_size": 10**7}, {"vocab_size": 10**9}],
)
def test_absurd_sizes_take_no_memory(made, changes):
    said = refusal(made("llama-gqa", **changes))
    assert "alloc" not in said
    assert "modulo" not in said
