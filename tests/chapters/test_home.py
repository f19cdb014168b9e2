"""The landing page's stations against transformers, and the question that it asks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import capture
from engine.chapters import home
from engine.chapters.home.questions import ASKED
from tests.conftest import PROMPT, SMOLLM2, loaded_checkpoint, needs_smollm2
from tests.pages.mutations import mutations

published = pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, needs_smollm2])
each = pytest.mark.parametrize("name", ["pocket-gpt2", "pocket-llama", published])


@each
def test_what_is_read_off_between_the_blocks_is_transformers_own_hidden_state(name):
    loaded = loaded_checkpoint(name)
    trace = capture(loaded, PROMPT)
    card = home.blocks(loaded, trace)
    with torch.no_grad():
        out = loaded.model(torch.tensor([trace.ids]), output_hidden_states=True)
        early = loaded.part("unembedding")(
            loaded.part("final_norm")(torch.stack(out.hidden_states[:-1])[:, 0, -1])
        )
        p = torch.cat([early, out.logits[0, -1:]]).double().softmax(-1)
    assert card.shown["guess"].tolist() == p.argmax(-1).tolist()
    np.testing.assert_allclose(card.shown["guessed"], p.max(-1).values, atol=1e-4)
    assert len(card.shown["guess"]) == loaded.spec.n_layer + 1


@each
def test_the_title_says_when_the_favourite_stays(name):
    loaded = loaded_checkpoint(name)
    card = home.blocks(loaded, capture(loaded, PROMPT))
    names, after = card.table["favourite"], home.settled(card.shown["guess"])
    assert after > 0
    assert card.shown["guess"][after - 1] != card.shown["guess"][-1]
    assert set(card.shown["guess"][after:].tolist()) == {card.shown["guess"][-1]}
    assert f"“{names[0]}” before the first block; “{names[-1]}” leads for good after {after} of" in card.title


@pytest.mark.parametrize(
    ("guess", "after"), [([7], 0), ([7, 7, 7], 0), ([1, 7, 7], 1), ([7, 1, 7], 2), ([7, 7, 1], 2)]
)
def test_a_favourite_leads_for_good_from_the_last_change_on(guess, after):
    assert home.settled(guess) == after


@pytest.mark.parametrize("name", ["pocket-gpt2", "pocket-llama"])
def test_the_blocks_prove_themselves_and_no_altered_figure_does(name):
    loaded = loaded_checkpoint(name)
    card = home.blocks(loaded, capture(loaded, PROMPT))
    assert card.prove().passed
    names = {}
    exec(card.code, names)
    assert names["result"]["guess"].tolist() == card.shown["guess"].tolist()
    np.testing.assert_allclose(names["result"]["guessed"], card.shown["guessed"], atol=card.atol)
    assert card.oracle is not None
    survived = [what for what, shown in mutations(card.shown, card.oracle) if card.oracle.judge(shown).passed]
    assert not survived


def test_the_question_about_the_rest_follows_the_figure_and_is_not_asked_near_a_border():
    loaded = loaded_checkpoint("pocket-gpt2")
    card = home.next_token(loaded, capture(loaded, PROMPT))
    for rest, answer in ((0.05, "less than 10%"), (0.4, "25% to 50%"), (0.8, "more than 50%")):
        asked = ASKED["next"]([replace(card, shown={**card.shown, "all others": rest})])
        assert asked is not None
        assert asked.answer == answer
    assert ASKED["next"]([replace(card, shown={**card.shown, "all others": 0.251})]) is None
