"""Each intervention equals the same change made by hand on a private copy of the model."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from engine import ReaderError, capture
from engine.model import interventions as iv
from tests.conftest import BUNDLED, PROMPT, SMOLLM2, loaded_checkpoint, needs_smollm2

TINY = (
    "gpt2", "llama-gqa", "qwen2", "qwen3", "neox-parallel", "neox-sequential", "mistral", "stablelm", "phi", "olmo2",
    "gpt-neo",
)  # fmt: skip
PUBLISHED = pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, needs_smollm2])
MODELS = (*BUNDLED, *TINY, PUBLISHED)
LAYER = 1


@pytest.fixture(params=MODELS)
def subject(request, tiny_model):
    name = request.param
    return tiny_model(name) if name in TINY else loaded_checkpoint(name)


class Twin:
    """A private copy of a loaded model, without the engine's hooks, to change by hand."""

    def __init__(self, loaded):
        self.loaded = loaded
        self.model = type(loaded.model)(loaded.model.config).eval()
        self.model.load_state_dict(copy.deepcopy(loaded.model.state_dict()))

    def part(self, name, layer=None):
        return self.model.get_submodule(self._path(name, layer))

    def replace(self, name, module, layer=None):
        parent, _, leaf = self._path(name, layer).rpartition(".")
        setattr(self.model.get_submodule(parent), leaf, module)

    def _path(self, name, layer):
        return self.loaded.adapter.path(name, layer)

    @torch.no_grad()
    def logits(self, ids):
        return self.model(torch.tensor([ids]), use_cache=False).logits[0].numpy()


class Zero(nn.Module):
    """A sublayer that writes nothing: (zeros, None) as attention, zeros as MLP."""

    def __init__(self, pair):
        super().__init__()
        self.pair = pair

    def forward(self, hidden_states, *args, **kwargs):
        zeros = torch.zeros_like(hidden_states)
        return (zeros, None) if self.pair else zeros


def by_hand_equals(subject, twin, *interventions):
    ids = capture(subject, PROMPT).ids
    ours = capture(subject, ids, interventions).logits
    assert np.abs(ours - capture(subject, ids).logits).max() > 1e-3, "the intervention changed nothing"
    np.testing.assert_allclose(ours, twin.logits(ids), rtol=0, atol=2e-4 * max(1.0, subject.spec.n_layer / 6))


def test_ablating_heads_is_zeroing_their_columns_of_the_output_projection(subject):
    twin, d_head = Twin(subject), subject.spec.d_head
    for layer, head in ((0, 1), (LAYER, 0)):
        projection = twin.part("o_proj", layer)
        columns = slice(head * d_head, (head + 1) * d_head)
        with torch.no_grad():
            if isinstance(projection, nn.Linear):
                projection.weight[:, columns] = 0
            else:  # Conv1D stores the transpose
                projection.weight[columns] = 0
    by_hand_equals(subject, twin, iv.AblateHeads(((0, 1), (LAYER, 0))))


def test_skipping_attention_or_mlp_is_a_sublayer_that_writes_nothing(subject):
    for name, pair, item in (("attention", True, iv.SkipAttention(LAYER)), ("mlp", False, iv.SkipMlp(LAYER))):
        twin = Twin(subject)
        twin.replace(name, Zero(pair), LAYER)
        by_hand_equals(subject, twin, item)


def test_a_skipped_sublayer_is_recorded_as_writing_nothing(subject):
    trace = capture(subject, PROMPT, [iv.SkipAttention(LAYER), iv.SkipMlp(LAYER)])
    assert not trace.attn_out[LAYER].any()
    assert not trace.mlp_out[LAYER].any()
    np.testing.assert_array_equal(trace.hidden[LAYER], trace.hidden[LAYER + 1])


@pytest.mark.parametrize(
    ("which", "part"), [("attention", "attn_norm"), ("mlp", "mlp_norm"), ("final", "final_norm")]
)
def test_skipping_a_norm_is_an_identity_in_its_place(subject, which, part):
    twin, layer = Twin(subject), None if which == "final" else LAYER
    if which == "mlp" and subject.spec.norms == "shared":
        with pytest.raises(ReaderError, match="One norm"):
            capture(subject, PROMPT, [iv.SkipNorm(which, layer)])
        return
    twin.replace(part, nn.Identity(), layer)
    by_hand_equals(subject, twin, iv.SkipNorm(which, layer))


def test_zero_positions(subject):
    twin = Twin(subject)
    if subject.spec.positions == "learned":
        with torch.no_grad():
            twin.part("positions").weight.zero_()
    else:  # every token at position 0 is rotated by nothing
        rotary = twin.part("rotary")
        plain = rotary.forward
        rotary.forward = lambda x, position_ids: plain(x, position_ids=torch.zeros_like(position_ids))
    by_hand_equals(subject, twin, iv.ZeroPositions())


def test_shuffled_positions(subject):
    twin = Twin(subject)
    ids = capture(subject, PROMPT).ids
    order = iv.ShufflePositions(seed=3).order(len(ids))
    assert sorted(order.tolist()) == list(range(len(ids)))
    if subject.spec.positions == "learned":
        with torch.no_grad():
            twin.part("positions").weight[: len(ids)] = twin.part("positions").weight[order]
    else:
        rotary = twin.part("rotary")
        plain = rotary.forward
        rotary.forward = lambda x, position_ids: plain(x, position_ids=order[None])
    by_hand_equals(subject, twin, iv.ShufflePositions(seed=3))


def test_without_the_causal_mask_attention_is_full(subject):
    """Feeding a full mask to transformers: every key is allowed. GPT-Neo's mask cannot be fed: it is refused."""
    if subject.spec.own_mask:
        with pytest.raises(ReaderError, match="built in"):
            capture(subject, PROMPT, [iv.NoCausalMask()])
        return
    twin = Twin(subject)
    ids = capture(subject, PROMPT).ids
    ours = capture(subject, ids, [iv.NoCausalMask()])
    with torch.no_grad():
        theirs = twin.model(
            torch.tensor([ids]), attention_mask=torch.zeros(1, 1, len(ids), len(ids)), use_cache=False
        )
    np.testing.assert_allclose(ours.logits, theirs.logits[0].numpy(), rtol=0, atol=2e-4)
    assert ours.attention[0, :, 0, 1:].max() > 0


def test_clamping_a_neuron_moves_the_mlp_write_along_its_output_direction(subject):
    plain, value = capture(subject, PROMPT), 3.0
    clamped = capture(subject, PROMPT, [iv.ClampNeuron(LAYER, 5, value)])
    projection = subject.part("down_proj", LAYER)
    weight = projection.weight.T if isinstance(projection, nn.Linear) else projection.weight  # d_ff, d_model
    change = (value - plain.mlp_act[LAYER, :, 5])[:, None] * weight[5].numpy()
    if subject.spec.norms == "behind":
        before = projection(torch.tensor(plain.mlp_act[LAYER]))
        change = subject.part("mlp_norm", LAYER)(before + torch.tensor(change)).numpy() - plain.mlp_out[LAYER]
    np.testing.assert_allclose(clamped.mlp_out[LAYER], plain.mlp_out[LAYER] + change, rtol=0, atol=1e-4)
    assert np.abs(clamped.logits - plain.logits).max() > 1e-3


def test_keeping_the_top_neurons_keeps_the_largest_and_only_those(subject):
    plain = capture(subject, PROMPT)
    kept = capture(subject, PROMPT, [iv.KeepTopNeurons(4, layers=(0,))])
    magnitude = np.abs(plain.mlp_act[0])
    threshold = np.sort(magnitude, axis=-1)[:, -4][:, None]
    np.testing.assert_array_equal(kept.mlp_act[0], np.where(magnitude >= threshold, plain.mlp_act[0], 0))


@pytest.mark.parametrize("around", ["attention", "mlp"])
def test_dropping_a_residual_path_leaves_only_what_the_sublayers_write(subject, around):
    if subject.spec.parallel and around == "mlp":
        with pytest.raises(ReaderError):
            capture(subject, PROMPT, [iv.DropResidual(LAYER, around)])
        return
    trace = capture(subject, PROMPT, [iv.DropResidual(LAYER, around)])
    expected = trace.mlp_out[LAYER] + (trace.attn_out[LAYER] if around == "attention" else 0)
    np.testing.assert_allclose(trace.hidden[LAYER + 1], expected, rtol=0, atol=1e-4)
    assert np.abs(trace.logits - capture(subject, PROMPT).logits).max() > 1e-3


@pytest.mark.parametrize(
    "item",
    [
        iv.AblateHeads(((0, 99),)),
        iv.AblateHeads(((99, 0),)),
        iv.SkipMlp(99),
        iv.ClampNeuron(0, 10**6, 1.0),
        iv.SkipNorm("mlp"),
        iv.KeepTopNeurons(-1),
    ],
)
def test_what_the_model_does_not_have_is_refused_in_one_sentence(loaded, item):
    with pytest.raises(ReaderError, match=r"^[^\n]+\.$"):
        capture(loaded, PROMPT, [item])


def test_an_intervention_leaves_the_shared_model_as_it_was(loaded):
    before = capture(loaded, PROMPT).logits
    capture(loaded, PROMPT, [iv.NoCausalMask(), iv.ZeroPositions(), iv.SkipMlp(0), iv.ClampNeuron(1, 2, 9.0)])
    np.testing.assert_array_equal(before, capture(loaded, PROMPT).logits)
