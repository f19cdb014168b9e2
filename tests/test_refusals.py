"""What the engine cannot stand for is refused in one sentence, never guessed."""

import json
import re

import pytest

from engine import ReaderError, load
from engine.model.adapters import SUPPORTED, adapter_for
from tests.conftest import tiny_configs

ONE_SENTENCE = re.compile(r"^[^\n]{10,300}[.]$")


def edited(tiny_folder, tmp_path, name, **changes):
    """A copy of a tiny checkpoint's folder with other values in its config.json."""
    target = tmp_path / name
    target.mkdir()
    for file in tiny_folder(name).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return str(target)


def refusal(*args, **kwargs):
    with pytest.raises(ReaderError) as caught:
        load(*args, **kwargs)
    assert ONE_SENTENCE.match(str(caught.value)), str(caught.value)
    return str(caught.value)


def test_every_supported_type_has_an_adapter_of_its_name():
    assert [adapter_for(name).model_type for name in SUPPORTED] == list(SUPPORTED)
    assert {config.model_type for config in tiny_configs().values()} == set(SUPPORTED)


def test_an_unknown_architecture(tiny_folder, tmp_path):
    assert "bloom" in refusal(edited(tiny_folder, tmp_path, "gpt2", model_type="bloom"))


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "reorder_and_upcast_attn", True),
        ("gpt2", "add_cross_attention", True),
        ("qwen2", "use_sliding_window", True),
        ("stablelm", "use_parallel_residual", True),
        ("stablelm", "qk_layernorm", True),
        ("phi", "qk_layernorm", True),
    ],
)
def test_a_known_attribute_with_a_value_that_changes_the_arithmetic(
    tiny_folder, tmp_path, name, attribute, value
):
    assert attribute in refusal(edited(tiny_folder, tmp_path, name, **{attribute: value}))


def test_an_unsupported_rope_variant(tiny_folder, tmp_path):
    factors = [1.0] * 8
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": factors,
        "original_max_position_embeddings": 32, "factor": 2.0,
    }  # fmt: skip
    assert "longrope" in refusal(edited(tiny_folder, tmp_path, "llama-gqa", rope_parameters=rope))


def test_an_unknown_precision():
    assert "fp7" in refusal("pocket-gpt2", precision="fp7")


def test_a_hub_checkpoint_is_not_fetched_unasked():
    assert "not on this machine" in refusal("openai-community/gpt2-not-there")
