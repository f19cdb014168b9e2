"""What the engine captures equals what transformers computes, for every architecture."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from engine import capture
from tests.conftest import BUNDLED, PROMPT, SMOLLM2, TINY, loaded_checkpoint, needs_smollm2

PUBLISHED = pytest.param((SMOLLM2, 1e-4), id=SMOLLM2, marks=[pytest.mark.smollm2, needs_smollm2])
CASES = [
    *(pytest.param((name, 1e-5), id=name) for name in TINY),
    *(pytest.param((name, 1e-4), id=name) for name in BUNDLED),
    PUBLISHED,
]


@pytest.fixture(params=CASES)
def case(request, tiny_model):
    """(loaded, trace, what transformers itself returns, tolerance)."""
    name, atol = request.param
    loaded = tiny_model(name) if name in TINY else loaded_checkpoint(name)
    trace = capture(loaded, PROMPT)
    with torch.no_grad():
        reference = loaded.model(
            torch.tensor([trace.ids]), output_hidden_states=True, output_attentions=True, use_cache=False
        )
    return loaded, trace, reference, atol


def close(ours, theirs, atol):
    """`atol` for numbers of ordinary size; in proportion to the largest where they are larger, as roundings are.

    SmolLM2's residual stream holds a few numbers above 20,000.
    """
    largest = np.abs(np.asarray(theirs)).max()
    np.testing.assert_allclose(
        np.asarray(ours), np.asarray(theirs), rtol=0, atol=atol * max(1.0, largest / 100)
    )


def test_shapes_follow_the_glossary(case):
    loaded, trace, _, _ = case
    s, seq = loaded.spec, len(trace.tokens)
    assert trace.hidden.shape == (s.n_layer + 1, seq, s.d_model)
    assert trace.attention.shape == (s.n_layer, s.n_head, seq, seq)
    assert trace.q.shape == (s.n_layer, s.n_head, seq, s.d_head)
    assert trace.k.shape == trace.v.shape == (s.n_layer, s.n_kv_head, seq, s.d_head)
    assert trace.attn_out.shape == trace.mlp_out.shape == (s.n_layer, seq, s.d_model)
    assert trace.mlp_act.shape == (s.n_layer, seq, s.d_ff)
    assert trace.logits.shape == (seq, s.vocab)
    assert (trace.q_pre is None) == (s.positions == "learned")


def test_arrays_are_read_only_float32(case):
    _, trace, _, _ = case
    arrays = [value for value in vars(trace).values() if isinstance(value, np.ndarray)]
    assert len(arrays) >= 9
    assert all(a.dtype == np.float32 and not a.flags.writeable for a in arrays)


def test_hidden_states_and_attention_are_those_transformers_returns(case):
    _, trace, reference, atol = case
    for layer, attention in enumerate(reference.attentions):
        close(trace.hidden[layer], reference.hidden_states[layer][0], atol)
        close(trace.attention[layer], attention[0], atol)
    close(trace.logits, reference.logits[0], atol)


def test_attention_is_rebuilt_from_captured_q_and_k(case):
    loaded, trace, reference, atol = case
    seq = len(trace.tokens)
    shared = loaded.spec.n_head // loaded.spec.n_kv_head
    k = np.repeat(trace.k, shared, axis=1)  # query heads of a group read the same kv_head
    scores = np.einsum("lhqd,lhkd->lhqk", trace.q, k) * loaded.spec.score_scale
    scores[..., ~np.tril(np.ones((seq, seq), dtype=bool))] = -np.inf
    rebuilt = torch.tensor(scores).softmax(-1)
    for layer, attention in enumerate(reference.attentions):
        close(rebuilt[layer], attention[0], atol)


def test_weighted_values_through_the_output_projection_are_the_attention_write(case):
    loaded, trace, _, atol = case
    v = np.repeat(trace.v, loaded.spec.n_head // loaded.spec.n_kv_head, axis=1)
    heads = np.einsum("lhqk,lhkd->lqhd", trace.attention, v)
    for layer in range(loaded.spec.n_layer):
        joined = torch.tensor(heads[layer].reshape(1, len(trace.tokens), -1))
        write = loaded.part("o_proj", layer)(joined)[0]
        close(trace.attn_out[layer], behind(loaded, "attn_norm", layer, write), atol)


def test_residual_stream_is_the_sum_of_its_writes(case):
    _, trace, _, atol = case
    close(trace.hidden[:-1] + trace.attn_out + trace.mlp_out, trace.hidden[1:], atol)


def test_final_norm_and_unembedding_give_the_logits(case):
    loaded, trace, reference, atol = case
    normed = loaded.part("final_norm")(torch.tensor(trace.hidden[-1]))
    close(loaded.part("unembedding")(normed), reference.logits[0], atol)


def test_activations_through_the_down_projection_are_the_mlp_write(case):
    loaded, trace, _, atol = case
    for layer in range(loaded.spec.n_layer):
        write = loaded.part("down_proj", layer)(torch.tensor(trace.mlp_act[layer]))
        close(behind(loaded, "mlp_norm", layer, write), trace.mlp_out[layer], atol)


def behind(loaded, norm, layer, write):
    """A write as it is added: through OLMo 2's norm behind the sublayer, else as it is."""
    return loaded.part(norm, layer)(write) if loaded.spec.norms == "behind" else write


def test_queries_before_rope_come_from_the_projection_of_the_normalised_stream(case):
    """`x·Wᵀ`, with GPT-2's Conv1D storing W transposed, from the weights themselves."""
    loaded, trace, _, atol = case
    for layer in range(loaded.spec.n_layer):
        normed = torch.tensor(trace.hidden[layer])
        if loaded.spec.norms != "behind":
            normed = loaded.part("attn_norm", layer)(normed)
        ours = (trace.q if trace.q_pre is None else trace.q_pre)[layer]
        close(ours, _queries(loaded, layer, normed), atol)


def _queries(loaded, layer, normed):
    """head, seq, d_head queries from weight matrices."""
    n_head, d_head = loaded.spec.n_head, loaded.spec.d_head
    if loaded.adapter.qkv == "split":
        fused = loaded.part("qkv", layer)
        width = n_head * d_head
        q = normed @ fused.weight[:, :width] + fused.bias[:width]
    elif loaded.adapter.qkv == "interleaved":
        fused = loaded.part("qkv", layer)
        rows = [head * 3 * d_head + i for head in range(n_head) for i in range(d_head)]
        q = normed @ fused.weight[rows].T + fused.bias[rows]
    else:
        projection = loaded.part("q_proj", layer)
        q = F.linear(normed, projection.weight, projection.bias)
    if loaded.adapter.qk_norm == "width":
        q = loaded.part("q", layer)(q)
    q = q.view(len(normed), n_head, d_head)
    if loaded.adapter.qk_norm == "head":
        q = loaded.part("q", layer)(q)
    return q.transpose(0, 1)


def test_rope_of_the_model_turns_q_pre_into_q(case):
    loaded, trace, _, atol = case
    if trace.q_pre is None:
        pytest.skip("learned positions: nothing to rotate")
    seq = len(trace.tokens)
    cos, sin = loaded.part("rotary")(torch.tensor(trace.hidden[:1]), torch.arange(seq)[None])
    turned = cos.shape[-1]
    q = torch.tensor(trace.q_pre)
    half = turned // 2
    swapped = torch.cat([-q[..., half:turned], q[..., :half]], -1)
    expected = torch.cat([q[..., :turned] * cos[0] + swapped * sin[0], q[..., turned:]], -1)
    close(trace.q, expected, atol)


def test_specs_tell_architectures_apart():
    gpt2, llama = (loaded_checkpoint(name).spec for name in BUNDLED)
    assert (gpt2.positions, gpt2.norm, gpt2.gated) == ("learned", "LayerNorm", False)
    assert (llama.positions, llama.norm, llama.gated) == ("rotary", "RMSNorm", True)
    assert llama.n_kv_head < llama.n_head
    assert gpt2.n_kv_head == gpt2.n_head
