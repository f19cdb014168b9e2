"""What an adapter answers about an architecture, against modules and functions of transformers."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import ReaderError, capture, load
from engine.model.adapters import adapter_for
from engine.model.head import PARTS, Head
from tests.conftest import PROMPT, TINY

WINDOWED = ("mistral", "gpt-neo")


def words(loaded, count):
    """`count` token ids, no two neighbours alike."""
    return [100 + 7 * i % 800 for i in range(count)]


@pytest.mark.parametrize("name", WINDOWED)
def test_up_to_the_window_every_query_sees_every_earlier_token(tiny_model, name):
    loaded = tiny_model(name)
    assert loaded.spec.longest == loaded.spec.window == 64 < loaded.spec.context
    trace = capture(loaded, words(loaded, 64))
    assert (trace.attention[:, :, *np.tril_indices(64)] > 0).all()


@pytest.mark.parametrize("name", WINDOWED)
def test_one_token_more_is_refused_because_it_would_not_be_seen(tiny_model, name):
    loaded = tiny_model(name)
    ids = torch.tensor([words(loaded, 65)])
    theirs = loaded.model(ids, output_attentions=True, use_cache=False).attentions
    assert any(float(layer[0, :, 64, 0].max()) == 0 for layer in theirs)
    with pytest.raises(ReaderError, match=r"the last 64 alone, .*\.$"):
        capture(loaded, words(loaded, 65))


@pytest.mark.parametrize("name", TINY)
def test_a_heads_columns_give_its_query_key_and_value(tiny_model, name):
    loaded = tiny_model(name)
    trace = capture(loaded, PROMPT)
    one = Head(loaded, trace, loaded.spec.n_layer - 1, loaded.spec.n_head - 1)
    for part in PARTS:
        weight, bias = one.projection(part)
        made = one.finish(one.normed().astype(np.float64) @ weight + bias, part)
        np.testing.assert_allclose(made, one.unrotated(part), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_the_score_scale_is_the_one_that_the_attention_module_uses(tiny_model, name):
    loaded = tiny_model(name)
    own = getattr(loaded.part("attention", 0), "scaling", 1.0)  # GPT-Neo's has none
    assert loaded.spec.score_scale == pytest.approx(own)


@pytest.mark.parametrize("name", TINY)
def test_linear_layers_are_stored_as_the_adapter_says(tiny_model, name):
    loaded = tiny_model(name)
    rows, columns = loaded.part("up_proj", 0).weight.shape
    sizes = (loaded.spec.d_model, loaded.spec.d_ff)
    assert (rows, columns) == (sizes if loaded.adapter.transposed else sizes[::-1])


@pytest.mark.parametrize("name", TINY)
def test_an_exact_copy_computes_in_the_dtype_of_its_weights(tiny_model, name):
    """In float64 the logits of two copies differ by a change that float32 would swallow."""
    from engine.model.gradients import exact_skeleton

    loaded = tiny_model(name)
    model = copy.deepcopy(exact_skeleton(loaded)).double()  # the weights too: other tests share them
    ids = torch.tensor([capture(loaded, PROMPT).ids])
    with torch.no_grad():
        before = model(ids, use_cache=False).logits
        model.get_submodule(loaded.path("q_proj" if loaded.adapter.has("q_proj") else "qkv", 0)).weight.mul_(
            1 + 1e-11
        )
        after = model(ids, use_cache=False).logits
    np.testing.assert_allclose(before.numpy(), loaded.model(ids).logits.numpy(), rtol=0, atol=1e-4)
    assert 0 < float((after - before)[:, -1].abs().max()) < 1e-9


def test_masks_that_older_versions_saved_are_no_tensors_of_another_model(tiny_folder, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    for file in tiny_folder("gpt-neo").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.h.0.attn.attention.bias"] = torch.ones(1, 1, 96, 96).tril()
    tensors["transformer.h.0.attn.attention.masked_bias"] = torch.tensor(-1e9)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert load(str(folder)).spec.n_layer == 3


def test_a_place_is_told_for_any_layer_and_from_the_block():
    adapter = adapter_for("gpt_neo")
    assert adapter.path("q_proj", "{layer}") == "transformer.h.{layer}.attn.attention.q_proj"
    assert adapter.path("block", 3) == "transformer.h.3"
    assert adapter.inside("mlp_norm") == "ln_2"
    with pytest.raises(KeyError):
        adapter.path("rotary")
