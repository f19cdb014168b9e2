"""The formulas for large models hold where every tensor can be counted, and on the makers' own totals."""

import pytest

from engine.checkpoints.published import MODELS, Published, cache_bytes, parameters


def of_spec(name, spec):
    """A loaded model's dimensions in the shape of published ones, so that the formulas are checked on real tensors."""
    return Published(
        name, "loaded", spec.model_type, spec.n_layer, spec.n_head, spec.n_kv_head, spec.d_model, spec.d_ff,
        spec.vocab, spec.tied, spec.context,
    )  # fmt: skip


def test_the_formula_counts_every_parameter_of_a_loaded_model(loaded):
    assert parameters(of_spec(loaded.name, loaded.spec)) == loaded.model.num_parameters()


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "llama-mha", "qwen2"])
def test_the_formula_on_tiny_configs(tiny_model, name):
    loaded = tiny_model(name)
    assert parameters(of_spec(name, loaded.spec)) == loaded.model.num_parameters()


def test_totals_are_those_the_hub_shows_for_these_checkpoints():
    """Safetensors totals on the model pages of the Hub."""
    totals = {model.name: model.parameters for model in MODELS}
    assert totals["GPT-2"] == 124_439_808
    assert totals["SmolLM2-135M"] == 134_515_008
    assert totals["Qwen2.5-0.5B"] == 494_032_768
    assert totals["Llama-3.1-8B"] == 8_030_261_248
    assert totals["Llama-3.1-70B"] == 70_553_706_496


def test_cache_bytes_on_paper():
    assert (
        cache_bytes(n_layer=2, n_kv_head=3, d_head=4, tokens=5, bytes_per_number=2) == 2 * 2 * 3 * 4 * 5 * 2
    )
