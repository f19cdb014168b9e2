"""Attention in blocks is attention: same logits and gradients as torch's own kernel, whatever the window's length."""

import pytest
import torch
from torch.nn import functional as F

from engine.training.architectures import ARCHITECTURES, Shape, build
from engine.training.attention import BLOCKED, BLOCKS, causal_blocks

SHAPE = Shape(vocab=50, layers=2, d_model=32, heads=4, kv_heads=2, d_ff=48, context=24)


def logits_and_gradients(model, ids, attention):
    model.set_attn_implementation(attention)
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=ids, use_cache=False).logits
    F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("seq", [1 + BLOCKS, 2 * BLOCKS, 23, 24])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_model_with_blocks_is_the_model(arch, seq):
    model = build(arch, SHAPE, seed=0).train()
    ids = torch.randint(0, SHAPE.vocab, (3, seq), generator=torch.Generator().manual_seed(seq))
    logits, gradients = logits_and_gradients(model, ids, "sdpa")
    blocked, blocked_gradients = logits_and_gradients(model, ids, BLOCKED)
    torch.testing.assert_close(blocked, logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(blocked_gradients, gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seq", [2, BLOCKS - 1, 9, 17])
def test_query_heads_share_keys_and_values_as_torch_has_it(seq):
    generator = torch.Generator().manual_seed(seq)
    query, key, value = (torch.randn(2, heads, seq, 8, generator=generator) for heads in (6, 2, 2))
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    got, weights = causal_blocks(torch.nn.Identity(), query, key, value, None)
    torch.testing.assert_close(got, expected.transpose(1, 2))
    assert weights is None


def test_what_it_cannot_do_is_refused():
    x = torch.zeros(1, 1, 4, 8)
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    for arguments in ((x, x, x, mask), (x[:, :, :1], x, x, None), (x, x, x, None, 1.0, 0.1)):
        with pytest.raises(ValueError, match="whole windows"):
            causal_blocks(torch.nn.Identity(), *arguments)
