"""Post-training: masks, divergences and DPO's loss against torch; the page on the bundled family and on a pair."""

import contextlib
import copy
import gc
import io
import json
import math
import re
import time
import weakref
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest
from torch.nn import functional as F

from engine import ReaderError, load
from engine.chapters import c13_post_training as cards
from engine.chapters.c13_post_training import exam, family, masked, pairwise, recorded, templated
from engine.evidence.card import Badge
from engine.evidence.recorded import recording
from engine.figures.post_training import loss_mask, strips
from engine.model.generation import end_of_text
from engine.model.writing import Choice
from engine.tokens.chat import Rendered, special_ids, without_system
from engine.training.recording import Recording
from pages._shared import card as drawn_cards
from pages._shared import sheet
from tests.conftest import SMOLLM2, loaded_checkpoint, needs_smollm2, tiny_configs

HOME = Path(__file__).parent.parent.parent / "Home.py"
REQUEST, ANSWER = "Write one sentence about the king.", "The king rode out of the wood."
TYPED = "Say <|end|> and <|im_end|> and <|user|>, <b>$x$</b> **now** 😀"
TALK = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nAnswer.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def pair_folders(tmp_path_factory):
    """A tiny random base and a tuned sibling with a chat template of ChatML's form, as on the Hub."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root = tmp_path_factory.mktemp("pair")
    config = tiny_configs()["llama-gqa"]
    config.vocab_size = 8256
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained("engine/assets/pocket-gpt2")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    for name in ("base", "instruct"):
        if name == "instruct":
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.05)
            tokenizer.chat_template, tokenizer.eos_token = TALK, "<|im_end|>"
            model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return str(root / "base"), str(root / "instruct")


@pytest.fixture
def pair(pair_folders, monkeypatch):
    """The pair as the chapter finds it when the reader has chosen its base."""
    monkeypatch.setattr(family, "PAIRS", {pair_folders[0]: pair_folders[1]})
    return cards.family_of(pair_folders[0]).versions(keep)


keep = cache(load)


def pocket():
    return cards.family_of("pocket-llama").versions(loaded_checkpoint)


@pytest.fixture(params=["pocket", "pair"])
def versions(request):
    """Both families in turn."""
    return pocket() if request.param == "pocket" else request.getfixturevalue("pair")


def model_logits(version, ids):
    with torch.no_grad():
        return version.get().model(torch.tensor([ids])).logits[0].double()


def checked(card):
    """The card, its proof and its script tried out."""
    proof = card.prove()
    assert proof.passed, proof
    names = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(card.code, card.key, "exec"), names)
    result = names["result"]
    assert set(result) == set(card.numbers)
    for key, shown in card.numbers.items():
        value = result[key].detach().numpy() if hasattr(result[key], "detach") else result[key]
        np.testing.assert_allclose(value, shown, rtol=0, atol=card.atol, err_msg=key)
    return card


# Which versions


def test_the_family_follows_the_checkpoint():
    here = dict.fromkeys(["HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M-Instruct"], True)
    for name in here:
        found = cards.family_of(name, here.get)
        assert (found.labels, found.note, found.reference) == (("base", "instruct"), "", "base")
        alone = cards.family_of(name, lambda asked, name=name: asked == name)
        assert alone.labels == ("base", "SFT", "DPO")
        assert ({*here} - {name}).pop() in alone.note
    assert cards.family_of("pocket-llama").note == ""
    assert "No version of pocket-gpt2 from before or after tuning" in cards.family_of("pocket-gpt2").note
    assert "<b>" not in cards.family_of("/tmp/<b>folder").note


def test_a_cards_versions_need_not_be_in_memory_together(pair_folders):
    loads = []

    def get(name):
        """Loads anew each time and keeps nothing."""
        made = load(name)
        loads.append(weakref.ref(made))
        return made

    here = family.Family(dict(zip(("base", "instruct"), pair_folders, strict=True)), "base")
    both = here.versions(get)
    ids = cards.prompt_ids(both[0], ANSWER)
    held = [cards.kl(both, ids, 0), cards.favourites(both, ids, 1)]
    gc.collect()
    assert len(loads) > 2
    assert all(there() is None for there in loads)
    assert held[0].prove().passed


# The template


def test_the_template_card_shows_what_the_model_reads(versions):
    version = cards.speaker(versions[1:])
    for request in (REQUEST, TYPED, "  ⏎\n\ttabs "):
        card = checked(cards.template(version, request))
        due = cards.rendered(version, REQUEST, None).ids
        marks = special_ids(version.get().tokenizer)
        assert sum(card.numbers["special"]) == sum(id in marks for id in due)
        assert tuple(card.numbers["ids"]) == cards.rendered(version, request, None).ids


def test_a_typed_mark_that_became_special_would_fail_the_proof(versions, monkeypatch):
    version = cards.speaker(versions[1:])

    def careless(version, request, answer):
        ids = version.get().tokenizer.apply_chat_template(
            [{"role": "user", "content": request}], add_generation_prompt=True, return_dict=False
        )
        return Rendered(tuple(ids), (False,) * len(ids))

    monkeypatch.setattr(templated, "rendered", careless)
    assert cards.template(version, REQUEST).prove().passed
    mark = "<|end|>" if "SFT" in version.label else "<|im_end|>"
    assert not cards.template(version, f"Say {mark} now").prove().passed


@pytest.mark.smollm2
@needs_smollm2
@pytest.mark.parametrize("request_", [REQUEST, TYPED, "A <|im_end|>\n\n <|im_end|><|im_start|>x", "x\x04é"])
def test_the_proofs_of_a_conversation_hold_for_a_published_template(request_):
    version = family.Version("instruct", SMOLLM2, lambda: loaded_checkpoint(SMOLLM2))
    assert cards.template(version, request_).prove().passed
    for answer in (ANSWER, f"\n {TYPED} \n"):
        assert cards.loss(version, version, request_, answer).prove().passed


@pytest.mark.smollm2
@needs_smollm2
def test_a_system_turn_that_nobody_typed_is_told():
    version = family.Version("yours", SMOLLM2, lambda: loaded_checkpoint(SMOLLM2))
    assert "Before it the template writes “system⏎You␣are␣a␣helpful" in cards.template(version, REQUEST).note


def test_a_template_of_marks_alone_writes_nothing_unasked():
    version = cards.family_of("pocket-llama").versions(loaded_checkpoint)[1]
    assert "nobody typed" not in cards.template(version, REQUEST).note


def test_the_base_has_no_template_and_reads_the_bare_text(versions):
    base = versions[0]
    ids = cards.prompt_ids(base, REQUEST)
    assert base.get().tokenizer.decode(list(ids)) == REQUEST
    assert cards.prompt_ids(versions[1], REQUEST, template=False) == ids
    with pytest.raises(ReaderError, match="chat template"):
        cards.speaker([base])


# The mask


def test_exactly_the_answer_and_its_end_carry_loss(versions):
    version = cards.speaker(versions[1:])
    made = cards.rendered(version, REQUEST, ANSWER)
    tokenizer = version.get().tokenizer
    kept = [id for id, label in zip(made.ids, masked.labels(made), strict=True) if label != -100]
    assert kept[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(kept[:-1]) == ANSWER
    assert [id for id in masked.labels(made) if id != -100] == kept


def test_the_loss_is_the_mean_over_what_carries_it(versions):
    version = cards.speaker(versions[1:])
    for reader in versions:
        card = checked(cards.loss(reader, version, REQUEST, ANSWER))
        made = cards.rendered(version, REQUEST, ANSWER)
        log_p = model_logits(reader, made.ids).log_softmax(-1)
        by_hand = [-float(log_p[i - 1, made.ids[i]]) for i, c in enumerate(made.carries_loss) if c]
        assert card.numbers["loss"] == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-4)
        whole = cards.loss(reader, version, REQUEST, ANSWER, everything=True)
        each = F.cross_entropy(log_p[:-1], torch.tensor(made.ids[1:]))
        assert whole.numbers["loss"] == pytest.approx(float(each), abs=1e-4)
        assert abs(whole.numbers["loss"] - card.numbers["loss"]) > 1e-3


def test_a_shifted_mask_would_fail_the_proof(pair, monkeypatch):
    version = pair[1]
    right = cards.rendered(version, REQUEST, ANSWER)
    card = cards.loss(version, version, REQUEST, ANSWER)
    assert card.prove().passed
    wrong = Rendered(right.ids, (*right.carries_loss[1:], False))
    monkeypatch.setattr(masked, "rendered", lambda *asked: wrong)
    assert not cards.loss(version, version, REQUEST, ANSWER).prove().passed


def _labels(made):
    return [id if counted else -100 for id, counted in zip(made.ids, made.carries_loss, strict=True)]


def test_the_mask_figure_hatches_what_is_left_out():
    figure = loss_mask(["a", "<b>", "c", "d"], [1.0, 2.0, 4.0], [False, False, True, True], 3.0)
    out, counted, mean = figure.data
    assert list(out.x) == [1]
    assert out.marker.pattern.shape == "/"
    assert list(counted.x) == [2, 3]
    assert list(counted.y) == [2.0, 4.0]
    assert list(mean.x) == [1.5, 3.5]
    assert "<b>" not in str(out.customdata)


# Divergence from the base


def test_kl_is_that_of_the_tuned_version_from_the_base(versions):
    ids = cards.prompt_ids(versions[0], ANSWER)
    card = checked(cards.kl(versions, ids, 1))
    base, *tuned = (model_logits(version, ids).log_softmax(-1) for version in versions)
    for version, log_p in zip(versions[1:], tuned, strict=True):
        forward = (log_p.exp() * (log_p - base)).sum(-1).numpy()
        backward = (base.exp() * (base - log_p)).sum(-1).numpy()
        np.testing.assert_allclose(card.numbers[version.label], forward, atol=2e-5)
        assert np.abs(forward - backward).max() > 2e-4
        ratio = (log_p - base)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()
        np.testing.assert_allclose(card.table[f"ln {version.label}/base of this token"][1:], ratio, atol=1e-4)
    same = cards.kl((versions[0], versions[0]), ids, 0)
    assert np.max(same.numbers["base"]) < 1e-12


def test_favourites_hold_the_first_choice_of_every_version(versions):
    ids = cards.rendered(cards.speaker(versions[1:]), TYPED, ANSWER).ids
    for focus in (0, len(ids) - 1):
        card = checked(cards.favourites(versions, ids, focus))
        for version in versions:
            p = model_logits(version, ids)[focus].softmax(-1)
            assert int(p.argmax()) in card.table["id"]
            np.testing.assert_allclose(card.numbers[version.label], p[card.table["id"]], atol=1e-4)


def test_a_text_of_one_token_is_compared_too(versions):
    ids = cards.prompt_ids(versions[0], "a")
    assert len(ids) == 1
    assert checked(cards.kl(versions, ids, 0)).numbers[versions[1].label][0] > 0


# DPO


def asked_pair(versions, policy=-1, reference=1, answers=(ANSWER, "No king at all!"), beta=0.1):
    return cards.pair(
        versions[policy], versions[reference], cards.speaker(versions[1:]), REQUEST, answers, beta
    )


def test_dpo_is_the_papers_formula_on_the_models_own_logits(versions):
    sides = versions[-1], versions[0]
    four, card = map(
        checked, cards.preference(cards.pair(*sides, versions[1], REQUEST, (ANSWER, "No king!"), 0.3))
    )
    logs = {}
    for side in sides:
        for name, answer in (("chosen", ANSWER), ("rejected", "No king!")):
            made = cards.rendered(versions[1], REQUEST, answer)
            log_p = model_logits(side, made.ids).log_softmax(-1)
            logs[side.label, name] = sum(
                float(log_p[i - 1, made.ids[i]]) for i, c in enumerate(made.carries_loss) if c
            )
    assert four.numbers["log_probabilities"] == pytest.approx(list(logs.values()), abs=1e-3)
    policy, reference = (side.label for side in sides)
    margin = 0.3 * (
        (logs[policy, "chosen"] - logs[reference, "chosen"])
        - (logs[policy, "rejected"] - logs[reference, "rejected"])
    )
    assert card.numbers["margin"] == pytest.approx(margin, abs=1e-3)
    assert card.numbers["loss"] == pytest.approx(math.log1p(math.exp(-margin)), abs=1e-3)
    push = 0.3 / (1 + math.exp(margin))
    assert card.numbers["gradient"] == pytest.approx([-push, push], abs=1e-4)


def test_swapping_the_answers_turns_the_margin_round(pair):
    there = cards.preference(asked_pair(pair, reference=0))[1]
    back = cards.preference(asked_pair(pair, reference=0, answers=("No king at all!", ANSWER)))[1]
    assert abs(there.numbers["margin"]) > 1e-3
    assert there.numbers["margin"] == pytest.approx(-back.numbers["margin"])
    checked(there)


def test_the_reference_against_itself_is_indifferent(versions):
    four, curve = cards.preference(asked_pair(versions, policy=1, reference=1))
    assert list(four.numbers["rewards"]) == [0, 0]
    assert curve.numbers["loss"] == pytest.approx(math.log(2))
    assert "is indifferent" in curve.title
    checked(four)


def test_the_tokens_parts_add_up_to_the_rewards(pair):
    card = checked(cards.preference(asked_pair(pair, reference=0), by_token=True)[0])
    rewards = cards.preference(asked_pair(pair, reference=0))[0].numbers["rewards"]
    parts = np.array(card.table["part of the reward"])
    chosen = np.array(card.table["answer"]) == "chosen"
    sums = [parts[chosen].sum(), parts[~chosen].sum()]
    assert sums == pytest.approx(rewards, abs=1e-6)
    assert chosen.sum() == sum(asked_pair(pair).chosen.carries_loss)


def test_a_step_along_the_push_raises_the_margin(pair):
    import copy

    pushed = asked_pair(pair, reference=0)
    model = copy.deepcopy(pair[1].get().model).requires_grad_(True)

    def log_probability(made):
        rows = model(torch.tensor([made.ids])).logits[0, :-1].double()
        return -F.cross_entropy(rows, torch.tensor(_labels(made)[1:]), ignore_index=-100, reduction="sum")

    chosen, rejected = (log_probability(made) for made in pushed.answers)
    push = cards.preference(pushed)[1].numbers["gradient"][1]
    (push * (rejected - chosen)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-4 * parameter.grad
        after = [float(log_probability(made)) for made in pushed.answers]
    assert after[0] - after[1] > float(chosen.detach() - rejected.detach())


def test_a_wrong_slope_would_fail_the_proof(pair, monkeypatch):
    plain = pairwise.dpo

    def wrong(*values):
        found = plain(*values)
        return type(found)(found.chosen_reward, found.rejected_reward, found.margin, found.loss, -found.push)

    monkeypatch.setattr(pairwise, "dpo", wrong)
    assert not cards.preference(asked_pair(pair, reference=0))[1].prove().passed


def test_a_shifted_answer_would_fail_the_proofs_of_its_reward(pair, monkeypatch):
    plain = pairwise.rendered

    def shifted(*asked):
        right = plain(*asked)
        return Rendered(right.ids, (*right.carries_loss[1:], False))

    monkeypatch.setattr(pairwise, "rendered", shifted)
    for by_token in (False, True):
        first, curve = cards.preference(asked_pair(pair, reference=0), by_token)
        assert not first.prove().passed
        assert not curve.prove().passed


def test_two_equal_answers_are_refused(pair):
    with pytest.raises(ReaderError, match="the same"):
        asked_pair(pair, answers=(ANSWER, ANSWER))


@pytest.mark.parametrize("text", ["", "  \n", "a" * 601])
def test_texts_that_cannot_be_read_are_refused(text):
    with pytest.raises(ReaderError):
        cards.checked(text, "request")


# Written answers


def written(tasks):
    return [list(cards.writing(one))[-1] for one in tasks]


@pytest.mark.parametrize("seed", [None, 5])
def test_answers_are_those_of_transformers(versions, seed):
    tasks = [cards.task(version, TYPED, 12, seed, 0.7) for version in versions]
    texts = written(tasks)
    assert all(cards.ready(one) for one in tasks)
    assert [cards.begun(one) for one in tasks] == texts
    card = checked(cards.answers("answers", tasks, texts))
    for one, choices in zip(tasks, texts, strict=True):
        assert card.numbers[f"{one.label}, id"] == [choice.id for choice in choices]
    other = [cards.task(version, TYPED, 12, 6, 0.7) for version in versions]
    assert written(other) != texts


def test_a_text_that_another_seed_or_temperature_wrote_fails_the_proof(pair):
    task = cards.task(pair[1], REQUEST, 8, 5, 0.7)
    [choices] = written([task])
    assert cards.answers("answers", [task], [choices]).prove().passed
    for wrong in (cards.task(pair[1], REQUEST, 8, 6, 0.7), cards.task(pair[1], REQUEST, 8, 5, 1.4)):
        assert not cards.answers("answers", [wrong], [choices]).prove().passed
    over = (*choices[:-1], replace(choices[-1], end=not choices[-1].end))
    assert not cards.answers("answers", [task], [over]).prove().passed


def test_with_and_without_template_differ_in_what_is_read_alone(versions):
    tasks = cards.with_and_without(versions[1], REQUEST, 8, None, 1.0)
    labels = [one.label for one in tasks]
    assert labels in (["template", "no template"], ["template", "no system", "no template"])
    assert len({one.request.ids for one in tasks}) == len(tasks)
    assert len({replace(one.request, ids=()) for one in tasks}) == 1
    checked(cards.answers("without", tasks, written(tasks)))


SYSTEM = r"<\|im_start\|>system\n.*?<\|im_end\|>\n"


def without_turn(tokenizer, request):
    """By hand: the template's text, its system turn cut out of it, encoded by the tokenizer."""
    turns = [{"role": "user", "content": request}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    cut, count = re.subn(SYSTEM, "", text, flags=re.DOTALL)
    assert count == 1
    return tuple(tokenizer.encode(cut, add_special_tokens=False))


def test_a_system_turn_that_nobody_asked_for_is_left_out_alone(pair):
    whole, without, bare = cards.with_and_without(pair[1], REQUEST, 8, 5, 0.7)
    assert without.request.ids == without_turn(pair[1].get().tokenizer, REQUEST)
    assert whole.request.ids[-len(without.request.ids) :] == without.request.ids
    assert bare.request.ids == cards.prompt_ids(pair[0], REQUEST)


@pytest.mark.smollm2
@needs_smollm2
def test_a_published_template_is_read_without_its_system_turn():
    version = family.Version("yours", SMOLLM2, lambda: loaded_checkpoint(SMOLLM2))
    for request in (REQUEST, "system", "What is 2 + 2?\n"):
        _, without, _ = cards.with_and_without(version, request, 4, None, 1.0)
        assert without.request.ids == without_turn(version.get().tokenizer, request)
    tasks = cards.with_and_without(version, REQUEST, 4, None, 1.0)
    checked(cards.answers("without", tasks, written(tasks)))


def test_a_template_without_a_system_turn_has_none_to_leave_out():
    version = cards.family_of("pocket-llama").versions(loaded_checkpoint)[1]
    labels = [one.label for one in cards.with_and_without(version, REQUEST, 4, None, 1.0)]
    assert labels == ["template", "no template"]


@pytest.mark.parametrize(
    ("start", "kept"),
    [("<|im_end|>", True), ("A text that begins everything. ", False)],
)
def test_only_a_mark_that_begins_every_text_stays_before_a_request(pair, start, kept):
    """Another template of the same form, with something before its system turn."""
    tokenizer = copy.deepcopy(pair[1].get().tokenizer)
    own = without_turn(tokenizer, REQUEST)
    tokenizer.chat_template = start + TALK
    found = without_system(tokenizer, REQUEST)
    assert found == ((tokenizer.convert_tokens_to_ids(start), *own) if kept else None)


def test_a_template_that_takes_one_request_only_has_no_third_text(pair):
    tokenizer = copy.deepcopy(pair[1].get().tokenizer)
    tokenizer.chat_template = "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}" + TALK
    assert without_system(tokenizer, REQUEST) is None


def test_the_title_says_which_answers_ended(pair):
    task = cards.task(pair[1], REQUEST, 4, 0, 1.0)
    choices = written([task])[0]
    over = (*choices[:2], replace(choices[2], end=True))
    open_, closed = (replace(c, end=False) for c in choices), over
    card = cards.answers("answers", [task, task], [tuple(open_), closed])
    assert card.title == "Ended by itself: instruct after 3 tokens; cut off: instruct after 4"
    at_once = cards.answers("answers", [task], [(replace(choices[0], end=True),)])
    assert at_once.title == "Ended by itself: instruct after 1 token"
    assert cards.words(task, closed) == task.version.get().tokenizer.decode([c.id for c in over[:2]])
    with pytest.raises(ReaderError):
        cards.answers("answers", [], [])


def test_the_rule_judges_requests_that_it_knows(pair):
    task = cards.task(pair[1], REQUEST, 4, 0, 1.0)
    choices = written([task])[0]
    said = cards.judgement(REQUEST, task, choices)
    assert said.startswith("0 of 1 words, ends properly: no")
    assert cards.judgement("What is two and three?", task, choices) == ""


def test_strips_leave_empty_what_was_not_written():
    figure = strips([("a", [("x", 0.5), ("<i>", 0.25)]), ("b", [("y", 1.0)])])
    [heat] = figure.data
    assert np.isnan(heat.z[1][1])
    assert [heat.zmin, heat.zmax] == [0, 1]
    assert "<i>" not in str(heat.customdata)


# Questions


RIGHT = {
    "writing": "The King was old.",
    "What is two and three?": "It is Five!",
    "What is 17 plus 25?": "That makes forty-two.",
    "What is the capital of France?": "It is paris, of course",
    "How many legs does a spider have?": "8",
    "Write the word lantern three times.": "Lantern, lantern,\nlantern",
    "Write one sentence without the letter e.": "A dog ran to a barn.",
    "Answer with one word: is snow white or black?": " White.",
}
WRONG = {
    "writing": "The kingdom was old.",
    "What is two and three?": "It is fifty-five times 15",
    "What is 17 plus 25?": "1425",
    "What is the capital of France?": "comparison",
    "How many legs does a spider have?": "eighteen, or 88",
    "Write the word lantern three times.": "lantern lantern lanterns",
    "Write one sentence without the letter e.": "The dog ran to a barn.",
    "Answer with one word: is snow white or black?": "Snow is white.",
}


@pytest.mark.parametrize("question", cards.QUESTIONS, ids=lambda question: question.request)
def test_a_question_is_marked_by_its_pattern(question):
    key = question.kind if question.kind == "writing" else question.request
    assert question.passed(RIGHT[key])
    assert not question.passed(WRONG[key])
    assert not question.passed("")


def test_marks_count_the_answers_that_pass(pair, monkeypatch):
    some = (cards.QUESTIONS[1], exam.Question("any", "Say a.", "anything", r"\A.+\Z"))
    monkeypatch.setattr(exam, "QUESTIONS", some)
    monkeypatch.setattr(exam, "LENGTH", 5)
    told = []
    result = cards.examine(pair, 3, 2, lambda share, what: told.append((share, what)))
    card = checked(cards.marks(pair, result, 3))
    assert {label: list(found) for label, found in card.numbers.items()} == {
        "base": [0, 2],
        "instruct": [0, 2],
    }
    assert len(result.written) == 2 * 2 * 2
    wrong = exam.Marks(result.passed[:, ::-1] + [[0, 1], [0, 0]], result.tries, result.written)
    assert not cards.marks(pair, wrong, 3).prove().passed
    assert told[0][0] == 0
    assert told[-1][0] < 1
    assert any("instruct" in what for _, what in told)


def test_one_question_names_the_versions_whose_answer_passes(pair):
    question = exam.Question("any", "Say a.", "anything", r"\A.+\Z")
    tasks = cards.ask(pair, question, 0)
    assert "Found in the answer of base and instruct" in cards.answered(question, tasks, written(tasks)).title
    never = exam.Question("any", "Say a.", "nothing", r"\A\Z")
    assert "no version" in cards.answered(never, tasks, written(tasks)).title


# Recorded runs


def run_of(name, settings, tables):
    return Recording(
        name, "python -m engine.training.x", "2025-01-31", {"torch": "2"}, "a machine", 1.0, settings, tables
    )


@pytest.fixture
def runs(monkeypatch):
    """Recordings with numbers of this test's own."""
    log = [
        {"step": s, "held_out_loss": 3.0 - s, "prose_loss": 2.0 + s, "accuracy": s / 2, "margin": float(s),
         "chosen_moved": -1.0 * s, "rejected_moved": -3.0 * s}
        for s in (0, 1)
    ]  # fmt: skip
    train = [{"step": s, "loss": 3.5 - s, "train_accuracy": 0.5, "train_margin": 0.1} for s in (0, 1)]
    measured = [
        {"version": v, "kind": k, "requests": 2, "answers": 4, "words": None if k == "continue" else i / 4,
         "ends": i / 4, "length": 0.5, "fresh": 1.0, "score": i / 3, "tokens": 20.0, "score_error": 0.01,
         "bits_per_character": 1.4 + i, "prose_loss": 3.0}
        for i, v in enumerate(("base", "SFT", "DPO")) for k in ("all", "continue")
    ]  # fmt: skip
    held = {"kind": "scene", "request": "Write a scene with: fox", "chosen": "A fox.", "rejected": "No."}
    found = {
        "sft-llama": run_of("sft-llama", {"steps": 2}, {"train": train, "log": log}),
        "dpo-llama": run_of(
            "dpo-llama", {"beta": 0.2, "pairs": 1200, "steps": 2}, {"train": train, "log": log, "pairs": [held]}
        ),
        "post-training": run_of(
            "post-training", {"temperature": 0.7}, {"measured": measured, "requests": [{"request": "Continue: A."}]}
        ),
    }  # fmt: skip
    monkeypatch.setattr(recorded, "recording", found.__getitem__)


def test_the_curves_are_the_recordings(runs):
    card = cards.sft()
    assert "3.00 → 2.00 nats per token on held-out answers, 2.00 → 3.00 on plain prose" in card.title
    assert card.table["held-out answers"] == [3.0, 2.0]
    assert card.badge is Badge.RECORDED
    for quantity, values in {"ranking": [0.5, 0.5], "margin": [0, 1], "loss": [3, 2]}.items():
        assert cards.dpo(quantity).table["held-out pairs"] == values
    assert cards.dpo("log-probabilities").table["rejected"] == [0, -3]
    assert "β = 0.2" in cards.dpo("margin").note


def test_a_tie_of_the_ranking_counts_as_half_and_its_error_is_that_of_a_share():
    card = cards.dpo("ranking")
    pairs, ends = recorded.recording("dpo-llama").settings["held_out_pairs"], card.table["held-out pairs"]
    assert ends[0] == 0.5
    error = (ends[-1] * (1 - ends[-1]) / pairs) ** 0.5
    assert f"held-out pairs 0.50 → {ends[-1]:.2f} (±{error:.2f}, {pairs} pairs)" in card.title


def test_what_the_score_gained_and_what_it_cost_are_the_recordings(runs, monkeypatch):
    assert (
        "From SFT to DPO the score goes from 0.33 to 0.67, and no part of it falls." in cards.about_reward()
    )
    run = recorded.recording("post-training")
    rows = [dict(row) for row in run.table("measured")]
    for row in rows:
        row["fresh"] = {"base": 1.0, "SFT": 0.9, "DPO": 0.2}[row["version"]]
    changed = replace(run, tables={**run.tables, "measured": rows})
    monkeypatch.setattr(recorded, "recording", lambda name: changed)
    said = cards.about_reward()
    assert "“words used” goes from 25% to 50%, while “no repetition” falls from 90% to 20%" in said
    assert "reward hacking" in said


def test_an_empty_answer_is_not_judged():
    version = cards.family_of("pocket-llama").versions(loaded_checkpoint)[1]
    one = cards.task(version, "Write one sentence about the king.", 4, 0, 0.7)
    end = Choice(next(iter(end_of_text(version.get()))), 1.0, 0.0, (), True)
    assert cards.judgement("Write one sentence about the king.", one, (end,)).startswith(
        "Nothing was written"
    )


def test_where_the_bundled_versions_come_from_is_told_of_them_alone():
    assert "small matrices of rank 32" in cards.about_origin(cards.family_of("pocket-llama"))
    assert cards.about_origin(family.Family({"base": "a", "instruct": "b"}, "base")) == ""


def test_the_measured_shares_are_the_recordings(runs):
    assert cards.kinds() == ["all", "continue"]
    card = cards.measured("all")
    assert card.title.endswith("base 0.00, SFT 0.33, DPO 0.67")
    assert card.table["words used"] == [0, 0.25, 0.5]
    assert "words used" not in cards.measured("continue").table


def test_the_bundled_family_offers_what_was_recorded(runs):
    here = cards.family_of("pocket-llama")
    assert cards.requests(here) == ["Continue: A."]
    assert cards.pairs(here) == [("Write a scene with: fox", "A fox.", "No.")]
    assert cards.beta(here) == 0.2


def test_another_family_has_requests_of_its_own(runs):
    other = family.Family({"base": "a", "instruct": "b"}, "base")
    assert cards.requests(other) == list(recorded.REQUESTS)
    assert cards.beta(other) == 0.1
    [(_, chosen, rejected)] = cards.pairs(other)
    assert chosen != rejected


# The page


def test_the_page_compares_a_pair_when_its_base_is_chosen(pair_folders, monkeypatch, runs):
    monkeypatch.setattr(family, "PAIRS", {pair_folders[0]: pair_folders[1]})
    monkeypatch.setattr(sheet, "browserless", True)
    seen = []
    monkeypatch.setattr(drawn_cards, "listeners", [seen.append])
    app = AppTest.from_file(str(HOME), default_timeout=120)
    app.query_params["checkpoint"] = pair_folders[0]
    app = app.switch_page("pages/13_Post_Training.py").run()
    assert [error.message for error in app.exception] == []
    drawn = {card.key: card for card in seen}
    assert {"answers", "template", "without", "loss", "kl", "favourites", "four", "dpo-loss", "exam"} <= set(
        drawn
    )
    assert {"base, id", "instruct, drawn with"} <= set(drawn["answers"].numbers)
    assert set(drawn["kl"].numbers) == {"instruct", "ln instruct/base"}
    assert "<|im_start|>" in drawn["template"].table["token"]
    assert json.dumps(pair_folders[0])[1:-1] in drawn["dpo-loss"].code
    assert all(card.prove().passed for card in seen if card.badge is Badge.LIVE)


def test_all_questions_are_asked_on_request(pair_folders, monkeypatch, runs):
    monkeypatch.setattr(family, "PAIRS", {pair_folders[0]: pair_folders[1]})
    monkeypatch.setattr(exam, "LENGTH", 2)
    monkeypatch.setattr(sheet, "browserless", True)
    seen = []
    monkeypatch.setattr(drawn_cards, "listeners", [seen.append])
    app = AppTest.from_file(str(HOME), default_timeout=120)
    app.query_params["checkpoint"] = pair_folders[0]
    app = app.switch_page("pages/13_Post_Training.py").run()
    [button] = [one for one in app.button if one.label == "Ask all questions"]
    app = button.click().run()
    waited = time.monotonic() + 60
    while "marks" not in {card.key for card in seen} and time.monotonic() < waited:
        time.sleep(0.5)
        app = app.run()
    assert [error.message for error in app.exception] == []
    [marks, *_] = [card for card in seen if card.key == "marks"]
    assert marks.table["answers asked of each"] == [3] * len(cards.QUESTIONS)


def test_the_page_says_what_it_shows_instead():
    app = AppTest.from_file(str(HOME), default_timeout=120)
    app = app.switch_page("pages/13_Post_Training.py").run()
    [about] = [block.value for block in app.markdown if "before or after tuning is known here" in block.value]
    assert all(not line.startswith(" ") for line in about.splitlines())  # four spaces would be code


def test_the_first_request_shown_asks_for_one_sentence_where_there_is_one():
    assert (
        cards.simple(["Continue: a", "Write one sentence about the king.", "b"])
        == "Write one sentence about the king."
    )
    assert cards.simple(["Continue: a", "b"]) == "Continue: a"


def test_the_two_trainings_are_as_long_as_their_recordings_say():
    fine, preferred = (recording(name) for name in ("sft-llama", "dpo-llama"))
    said = cards.about_length()
    assert (
        f"Fine-tuning made {int(fine.column('train', 'step')[-1])} updates in {fine.seconds / 60:.0f} min"
        in said
    )
    assert f"preference tuning {int(preferred.column('train', 'step')[-1])} updates in 1 minute;" in said
