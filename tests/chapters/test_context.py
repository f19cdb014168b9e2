"""Chapter 14: the cache against one pass, bytes against buffers, eviction against masks."""

from collections import deque
from dataclasses import replace
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies

from engine import ReaderError, capture, tokenize
from engine.chapters import c14_context as cards
from engine.chapters.c14_context import batching, memory, sharing, speculating
from engine.chapters.c14_context import window as windowed
from engine.checkpoints.published import MODELS
from engine.evidence.oracles import sharing as again
from engine.evidence.oracles import touched
from engine.evidence.oracles.drafting import copied
from engine.model import kv_cache
from engine.model.writing import Request, written
from engine.ops.drafting import looked_up
from engine.ops.timing import Timing
from tests.conftest import BUNDLED, PROMPT, SMOLLM2, TINY, loaded_checkpoint, needs_smollm2
from tests.pages.mutations import mutations

SMALL = ("gpt2", "llama-gqa", "llama-mqa", "llama-yarn", "qwen2", "qwen3", "neox-parallel")
on_three = pytest.mark.parametrize(
    "name", [*BUNDLED, pytest.param(SMOLLM2, marks=[pytest.mark.smollm2, needs_smollm2])]
)


@pytest.mark.parametrize("name", SMALL)
def test_token_by_token_through_the_cache_gives_the_logits_of_one_pass(tiny_model, name):
    assert name in TINY
    loaded = tiny_model(name)
    trace = capture(loaded, PROMPT)
    np.testing.assert_allclose(kv_cache.decoded_logits(loaded, trace.ids), trace.logits, rtol=0, atol=1e-4)


def test_bytes_are_two_vectors_per_layer_head_and_token(loaded):
    spec = loaded.spec
    cache = kv_cache.prefill(loaded, list(range(10)))
    assert kv_cache.nbytes(cache) == 2 * spec.n_layer * spec.n_kv_head * spec.d_head * 10 * 4


def test_half_precision_halves_the_cache():
    half = kv_cache.nbytes(kv_cache.prefill(loaded_checkpoint("pocket-llama", "fp16"), [1, 2, 3]))
    full = kv_cache.nbytes(kv_cache.prefill(loaded_checkpoint("pocket-llama"), [1, 2, 3]))
    assert full == 2 * half


def test_kept_keys_on_paper():
    kept = kv_cache.kept_keys(seq=5, window=2, first=1)
    assert kept.astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 1, 1, 0],
        [1, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("name", SMALL)
def test_masking_keys_equals_dropping_them_from_the_cache(tiny_model, name):
    loaded, ids = tiny_model(name), list(range(5, 29))
    masked = kv_cache.masked_logits(loaded, ids, kv_cache.kept_keys(len(ids), 6, 2))
    np.testing.assert_allclose(kv_cache.evicting_logits(loaded, ids, 6, 2), masked, rtol=0, atol=1e-4)
    assert np.abs(masked - capture(loaded, ids).logits).max() > 1e-3


def test_a_window_reads_only_the_end_of_the_text(loaded):
    ids = [token.id for token in tokenize(loaded, PROMPT)]
    found = kv_cache.remembered(loaded, ids, target=7, windows=[3, len(ids)])
    for window, probability in zip([3, len(ids)], found, strict=True):
        expected = torch.tensor(capture(loaded, ids[-window:]).logits[-1]).softmax(-1)[7]
        assert probability == pytest.approx(float(expected), abs=1e-6)


def test_latency_measures_every_context_it_was_asked_for(loaded):
    shares = []
    measured = kv_cache.latencies(loaded, [1, 2, 3], [4, 9], lambda share, what: shares.append(share))
    assert [m.context for m in measured] == [4, 9]
    assert shares == [0.0, 0.5]
    assert all(
        len(m.cached.milliseconds) == 5 and m.cached.low <= m.cached.median <= m.cached.high for m in measured
    )


def test_the_measured_card_proves_itself_too(loaded):
    measured = kv_cache.latencies(loaded, [1, 2, 3], [4, 9], lambda share, what: None)
    card = cards.work_per_step(loaded, measured, 512)
    assert card.prove().passed
    names = {}
    exec(card.code, names)
    np.testing.assert_allclose(names["result"]["stepwise"], card.numbers["stepwise"], rtol=0, atol=card.atol)


@pytest.fixture(scope="module", params=BUNDLED)
def batches(request):
    """A bundled checkpoint, the ids of the prompt, and a measured step of every batch size after it."""
    loaded = loaded_checkpoint(request.param)
    ids = [token.id for token in tokenize(loaded, PROMPT)]
    return loaded, ids, batching.measure(loaded, ids, lambda share, what: None, repeats=3)


def test_a_row_of_a_batch_gives_the_logits_of_its_text_alone(batches):
    loaded, ids, found = batches
    assert len(set(found.following)) == max(batching.ROWS) == len(found.logits)
    for following, row in zip(found.following, found.logits, strict=True):
        alone = capture(loaded, [*ids, following]).logits[-1, : batching.KEPT]
        np.testing.assert_allclose(row, alone, rtol=0, atol=1e-4)


def test_a_step_of_every_batch_size_is_timed_and_proves_itself(batches):
    loaded, ids, found = batches
    card = cards.batched(loaded, ids, found)
    assert [len(step.milliseconds) for step in found.steps] == [3] * len(batching.ROWS)
    assert card.table["cache (bytes)"] == [found.held * rows for rows in batching.ROWS]
    answer = card.oracle.compute()
    once = type(card.oracle)("c", lambda: answer, card.oracle.tolerance)
    assert once.judge(card.shown).passed
    assert [what for what, shown in mutations(card.shown, once) if once.judge(shown).passed] == []
    names = {}
    exec(card.code, names)
    np.testing.assert_allclose(names["result"]["logits"], card.numbers["logits"], rtol=0, atol=card.atol)


def test_the_times_of_a_batch_are_those_of_its_repeats():
    steps = tuple(Timing((time, time + 1, time + 2)) for time in (9.0, 9.0, 9.0, 19.0, 39.0))
    found = batching.Batches((1,), tuple(range(16)), steps, np.zeros((16, 100), np.float32), 8)
    assert found.milliseconds.tolist() == [10, 10, 10, 20, 40]
    assert found.per_second.tolist() == [100, 200, 400, 400, 400]


@pytest.mark.parametrize("name", SMALL)
def test_the_weights_that_a_step_reads_are_those_that_its_operations_are_given(tiny_model, name):
    loaded = tiny_model(name)
    read = batching._weights(loaded)
    assert read == touched.weights_read(loaded.model, [5])
    table = loaded.model.get_input_embeddings().weight
    shared = table is loaded.model.get_output_embeddings().weight
    assert read <= loaded.nbytes - (0 if shared else table.nbytes)


def test_a_prompt_that_fills_the_context_is_measured_too(tiny_model):
    loaded = tiny_model("gpt2")
    ids = list(range(loaded.spec.context))
    assert batching.measure(loaded, ids, lambda share, what: None, repeats=1).ids == tuple(ids[2:])


def last(steps):
    """What an iterator gives last."""
    return deque(steps, maxlen=1)[0]


@pytest.mark.parametrize("name", SMALL)
def test_a_text_has_the_same_cache_where_another_begins_alike_and_blocks_follow_from_it(tiny_model, name):
    loaded = tiny_model(name)
    found = last(sharing.begin(loaded, list(range(5, 18)), 3, 6))
    assert found.prompt == tuple(range(5, 18))
    assert len({text[0] for text in found.texts}) == 3
    card = cards.shared(loaded, found, 6, 4)
    assert card.shown["equal"] == [13, 13]
    answer = card.oracle.compute()
    once = type(card.oracle)("c", lambda: answer, card.oracle.tolerance)
    assert once.judge(card.shown).passed
    assert [what for what, shown in mutations(card.shown, once) if once.judge(shown).passed] == []


def test_a_request_takes_its_own_first_token_and_goes_on_greedily(loaded):
    ids = [token.id for token in tokenize(loaded, PROMPT)]
    found = last(sharing.begin(loaded, ids, 2, 5))
    order = capture(loaded, ids).logits[-1].argsort()[::-1]
    for first, text in zip(order, found.texts, strict=False):
        batch = torch.tensor([[*ids, int(first)]])
        whole = loaded.model.generate(
            batch, attention_mask=torch.ones_like(batch), max_new_tokens=4, do_sample=False
        )
        assert list(text) == whole[0, len(ids) :].tolist()


def test_blocks_on_paper():
    none, empty, own, common = sharing.Slot
    assert sharing._slots([7, 3], 3, 2).tolist() == [
        [common, common, own, own, own, own, own, empty],
        [common, common, own, empty, none, none, none, none],
    ]
    assert sharing._slots([7, 3], 1, 2)[:, :2].tolist() == [[own, own]] * 2
    assert (sharing._slots([9, 5], 3, 4) == again.paged([9, 5], 3, 4)).all()


def test_a_prompt_that_fills_no_page_shares_none(loaded):
    found = last(sharing.begin(loaded, [5, 6, 7], 2, 4))
    card = cards.shared(loaded, found, 4, 16)
    assert "none is shared" in card.title
    assert card.shown["bytes"][0] == card.shown["bytes"][1]
    assert card.prove().passed


@pytest.mark.parametrize("tokens", range(1, 70))
def test_the_usual_pages_show_sharing_and_waste(tokens):
    size, length = cards.usual_size(tokens), cards.usual_length(tokens)
    assert size in cards.SIZES
    assert tokens < 4 or tokens // size >= 2
    assert (tokens + length) % size


def test_a_prompt_that_fills_the_context_makes_room_for_what_is_written(tiny_model):
    loaded = tiny_model("gpt2")
    ids = list(range(loaded.spec.context))
    found = last(sharing.begin(loaded, ids, 2, 6))
    assert found.prompt == tuple(ids[:-6])
    assert cards.shared(loaded, found, 6, 16).prove().passed


REPEATING = "The king met the queen. The king met the queen. The king"


def proved(card):
    """An oracle with its answer computed once, which the card passes and no altered one does."""
    answer = card.oracle.compute()
    once = type(card.oracle)("c", lambda: answer, card.oracle.tolerance)
    assert once.judge(card.shown).passed
    assert [what for what, shown in mutations(card.shown, once) if once.judge(shown).passed] == []


def test_what_followed_the_same_tokens_is_a_draft():
    assert looked_up([1, 2, 3, 9, 1, 2, 3], 2) == (9, 1)
    assert looked_up([3, 8, 2, 3, 7, 1, 2, 3], 1) == (7,), "the longest ending counts, then the last place"
    assert looked_up([5, 6, 5, 7, 5], 3) == (7, 5)
    assert looked_up([1, 2, 3], 4) == ()
    assert looked_up([4, 4], 4) == (4,)
    assert looked_up([4], 4) == ()
    assert looked_up([4, 5, 4], 0) == ()


@settings(max_examples=200)
@given(strategies.lists(strategies.integers(0, 3), min_size=1, max_size=12), strategies.integers(0, 5))
def test_a_draft_is_found_by_comparing_windows_too(ids, count):
    assert list(looked_up(ids, count)) == copied(ids, count, 3)


@pytest.mark.parametrize(
    ("best", "kept", "own"),
    [([7, 8, 9, 5], 3, 5), ([7, 8, 1, 5], 2, 1), ([1, 8, 9, 5], 0, 1), ([7, 2, 9, 5], 1, 2)],
)
def test_a_draft_stays_up_to_the_first_token_that_the_model_would_not_write(best, kept, own):
    found = speculating._judged((7, 8, 9), best, frozenset())
    assert (found.accepted, found.own) == (kept, own)
    assert found.written == (*(7, 8, 9)[:kept], own)


def test_nothing_is_written_after_an_accepted_token_that_ends_the_text():
    found = speculating._judged((7, 8, 9), [7, 8, 9, 5], frozenset({8}))
    assert (found.accepted, found.own, found.written) == (2, None, (7, 8))


def wrong_half_the_time(best):
    """A drafter that knows the text, and spoils every third token."""
    return lambda ids, count: tuple(
        id if place % 3 else id + 1 for place, id in list(enumerate(best))[len(ids) : len(ids) + count]
    )


@pytest.mark.parametrize("name", SMALL)
def test_drafts_change_no_token_however_good_or_bad(tiny_model, name):
    loaded, ids = tiny_model(name), list(range(5, 18))
    batch = torch.tensor([ids])
    plain = loaded.model.generate(
        batch, attention_mask=torch.ones_like(batch), max_new_tokens=12, do_sample=False
    )[0].tolist()
    for draft in (looked_up, wrong_half_the_time(plain), lambda ids, count: (3,) * count):
        rounds = last(cards.speculate(loaded, ids, 12, 4, draft))
        assert [id for one in rounds for id in one.written] == plain[len(ids) :]
    assert (
        sum(one.accepted for one in last(cards.speculate(loaded, ids, 12, 4, wrong_half_the_time(plain)))) > 3
    )


@on_three
def test_a_text_that_repeats_is_written_in_fewer_passes_than_tokens(name):
    subject = loaded_checkpoint(name)
    ids = [token.id for token in tokenize(subject, cards.ECHO)]
    rounds = last(cards.speculate(subject, ids, 20, 4, looked_up))
    text = [id for one in rounds for id in one.written]
    assert text == [choice.id for choice in written(subject, Request(tuple(ids), 20))]
    accepted, drafted = sum(one.accepted for one in rounds), sum(len(one.drafted) for one in rounds)
    assert 0 < accepted < drafted
    assert len(rounds) == len(text) - accepted <= 0.7 * len(text)
    proved(cards.speculative(subject, ids, rounds, 20, 4))


def test_another_checkpoint_with_the_same_vocabulary_drafts(loaded):
    drafter = loaded_checkpoint(cards.PARTNERS[loaded.name])
    cards.same_tokens(loaded, drafter)
    ids = [token.id for token in tokenize(loaded, REPEATING)]
    rounds = last(cards.speculate(loaded, ids, 12, 3, cards.by_model(drafter)))
    for text, one in zip(accumulate((r.written for r in rounds), initial=tuple(ids)), rounds, strict=False):
        batch = torch.tensor([text])
        whole = drafter.model.generate(
            batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=max(1, len(one.drafted)),
            do_sample=False,
        )
        assert list(one.drafted) == whole[0, len(text) :].tolist()[: len(one.drafted)]
    card = cards.speculative(loaded, ids, rounds, 12, 3, drafter)
    proved(card)
    names = {}
    exec(card.code, names)
    assert names["result"] == {"text": card.numbers["text"], "accepted": card.numbers["accepted"]}


@pytest.mark.parametrize("name", [name for name in TINY if "mistral" in name] or SMALL[:1])
def test_a_text_that_fills_the_window_takes_drafts_and_batches_too(tiny_model, name):
    loaded = tiny_model(name)
    ids = [5 + place % 7 for place in range(loaded.spec.longest)]
    begun = cards.beginning(loaded, ids, 8)
    for draft in (looked_up, lambda ids, count: (3,) * count):
        rounds = last(cards.speculate(loaded, begun, 8, 4, draft))
        assert sum(len(one.written) for one in rounds) <= 8
        card = cards.speculative(loaded, begun, rounds, 8, 4)
        assert draft is not looked_up or card.prove().passed
    assert batching.measure(loaded, ids, lambda share, what: None, repeats=1).ids == tuple(ids[2:])


def test_a_checkpoint_with_other_tokens_cannot_draft(loaded):
    other = replace(loaded, tokenizer=SimpleNamespace(get_vocab=lambda: {"a": 0}))
    with pytest.raises(ReaderError, match="other tokens"):
        cards.same_tokens(loaded, other)


def test_a_one_token_prompt_has_a_card(loaded):
    assert cards.same_answers(loaded, capture(loaded, "")).title
    assert cards.held_bytes(loaded, capture(loaded, "")).prove().passed


@on_three
def test_a_column_of_the_cache_is_the_same_however_many_follow(name):
    subject = loaded_checkpoint(name)
    trace = capture(subject, PROMPT)
    few, all_of_them = (cards.growing(subject, trace, n).shown for n in (4, len(trace.ids)))
    assert few["key lengths"].tolist() == all_of_them["key lengths"][:, :4].tolist()
    assert few["bytes"] * len(trace.ids) == all_of_them["bytes"] * 4


@pytest.mark.parametrize("name", SMALL)
def test_a_growing_cache_proves_itself_and_no_altered_one(tiny_model, name):
    subject = tiny_model(name)
    card = cards.growing(subject, capture(subject, PROMPT), 7)
    assert card.prove().passed, card.prove()
    answer = card.oracle.compute()
    for what, shown in mutations(card.shown, card.oracle):
        assert not type(card.oracle)("c", lambda: answer, card.oracle.tolerance).judge(shown).passed, what


@on_three
def test_the_words_about_length_are_those_of_the_checkpoint(name):
    subject = loaded_checkpoint(name)
    said = cards.about_length(subject)
    assert f"{subject.spec.context:,} tokens" in said
    assert ("cannot read more" in said) is (subject.spec.positions == "learned")
    ids = torch.zeros((1, subject.spec.context + 1), dtype=torch.long)
    if subject.spec.positions == "learned":
        with pytest.raises(IndexError):
            subject.model(ids)


def test_no_model_is_shown_with_more_tokens_than_it_reads(loaded):
    card = cards.large_models(loaded, 131072, 2)
    assert card.prove().passed
    known = {model.name: model.context for model in MODELS} | {loaded.name: loaded.spec.context}
    for name, tokens in zip(memory._rows(loaded, 131072), card.table["tokens"], strict=True):
        assert tokens == min(131072, known[name.name])
    short = f"which is shorter: {loaded.name} {loaded.spec.context:,}, GPT-2 1,024, SmolLM2-135M 8,192"
    assert short in card.note
    assert "Llama" not in card.note.split(" tokens.")[0]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([0.001, 0.364], "364 times more probable than reading the last 4"),
        ([0.0001, 0.8754], "8,750 times more probable"),
        ([0.2, 0.1], "2 times less probable"),
    ],
)
def test_what_reading_more_changes_is_said_in_plain_numbers(found, said):
    assert said in windowed._gain("x", [4, 95], found)


def test_a_text_of_one_token_changes_nothing_yet(loaded):
    tokens = tokenize(loaded, "a")[-1:]
    card = cards.forgotten(loaded, tokens, tokens[0])
    assert card.title.startswith("This text has 1 token:")


@pytest.mark.parametrize(
    ("means", "said"),
    [((3.0, 6.0, 3.5), "wins back 83%"), ((3.0, 6.0, 6.1), "does not help"), ((3.0, 2.9, 2.9), "")],
)
def test_what_the_first_tokens_win_back_is_said(means, said):
    found = windowed._won_back(4, *means)
    assert said in found
    assert bool(found) is bool(said)
