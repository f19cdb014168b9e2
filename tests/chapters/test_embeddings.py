"""Chapter 2: neighbours, components, analogies, drift and positions against torch, transformers and sums on paper."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from engine import ReaderError, Token, capture
from engine.chapters import c02_embeddings as cards
from engine.chapters.c02_embeddings import analogies, map, matrix, nearest, scoring, sentences
from engine.chapters.c02_embeddings.matrix import Table
from engine.checkpoints.catalogue import ASSETS
from engine.evidence.oracle import Oracle
from engine.evidence.oracles import embedding as again
from engine.figures import scatter2d
from engine.figures.embeddings import ranked, spread_labels
from engine.ops import embeddings as ops
from tests.conftest import PROMPT, loaded_checkpoint
from tests.pages.mutations import mutations

RIVER, MONEY = "They sat in the green grass on the bank", "He kept all of his money in the bank"
RIVERS = (RIVER, "The boat drifted down the river to the bank")
MONEYS = (MONEY, "She took all of her gold to the bank")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_rows(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).numpy()


def rows_of(loaded):
    return loaded.model.get_input_embeddings().weight.detach().double()


def test_cosine_on_paper():
    assert ops.cosine([3, 4], [[4, 3], [-3, -4], [-4, 3], [0, 0]]).tolist() == [0.96, -1, 0, 0]


def test_ranks_and_neighbours_leave_out_what_they_are_told():
    scores = np.array([0.2, 0.9, 0.5, 0.9, 0.1])
    assert ops.nearest(scores, 3).tolist() == [1, 3, 2]
    assert ops.nearest(scores, 3, without=[1]).tolist() == [3, 2, 0]
    assert (ops.rank(scores, 1), ops.rank(scores, 2), ops.rank(scores, 2, without=[3])) == (1, 3, 2)


def test_components_are_the_eigenvectors_of_the_covariance():
    rows = random_rows(40, 7) @ np.diag([5, 3, 2, 1, 1, 0.5, 0.1])
    found = ops.pca(rows, 3)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    np.testing.assert_allclose(found.shares, values[::-1][:3] / values.sum(), atol=1e-12)
    for i in range(3):
        assert abs(found.directions[i] @ vectors[:, -1 - i]) == pytest.approx(1)
    np.testing.assert_allclose(found.scores, (rows - rows.mean(0)) @ found.directions.T, atol=1e-12)
    assert ((found.directions**3).sum(1) > 0).all()


def test_components_of_points_on_a_line():
    found = ops.pca([[0, 0, 1], [3, 4, 1]], 3)
    np.testing.assert_allclose(found.shares, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found.scores, [[-2.5, 0, 0], [2.5, 0, 0]], atol=1e-12)
    assert ops.pca([[1, 2]], 3).scores.tolist() == [[0, 0, 0]]


def test_a_map_that_loses_an_axis_loses_the_neighbour_that_lay_on_it():
    points = np.array([[0, 0, 0], [3, 0, 0], [0.1, 0, 9], [3, 1, 0]], float)
    assert ops.nearest_kept(points, points, range(4)) == 1
    assert ops.nearest_kept(points, points[:, :2], [0, 1, 3]) == pytest.approx(2 / 3)


def test_similarity_by_distance_on_paper():
    angles = np.arange(5) * np.pi / 6
    found = ops.by_distance(np.stack([np.cos(angles), np.sin(angles)], 1), 3)
    np.testing.assert_allclose(found, np.cos(np.arange(4) * np.pi / 6)[:, None].repeat(3, 1), atol=1e-12)


def test_the_table_is_the_models_input_embedding(loaded):
    found, rows = cards.table(loaded), rows_of(loaded)
    np.testing.assert_allclose(found.rows([5, 77, 8191]), rows[[5, 77, 8191]])
    np.testing.assert_allclose(found.norms, rows.norm(dim=-1), atol=1e-12)
    expected = F.cosine_similarity(rows, rows[1470][None])
    np.testing.assert_allclose(found.cosines(rows[1470])[0], expected, atol=1e-12)
    np.testing.assert_allclose(again.cosines(loaded, rows[1470])[0], expected, atol=1e-12)
    assert cards.table(loaded) is found


def test_a_place_is_kept_only_where_rounding_leaves_it_open():
    scores = torch.tensor([0.3, 0.9, 0.9 - 1e-12, 0.5], dtype=torch.float64)
    assert [again.place(scores, 2, shown) for shown in (1, 2, 3)] == [1, 2, 1]
    assert again.place(scores, 3, 2) == 3
    assert again.place(scores, 3, 1, without=[1, 2]) == 1


def test_rows_that_no_token_has_are_left_out(loaded):
    class Short:
        def __len__(self):
            return 5000

    found = Table(dataclasses.replace(loaded, tokenizer=Short()))
    assert found.count == 5000
    assert found.cosines(np.ones(found.d_model)).shape == (1, 5000)


def test_neighbours_are_the_largest_cosines_of_the_whole_vocabulary(loaded):
    token = cards.pieces(loaded, " king")[0]
    card = cards.neighbours(loaded, token, 12)
    rows = rows_of(loaded)
    values, ids = F.cosine_similarity(rows, rows[token.id][None]).topk(13)
    assert ids[0] == token.id
    assert card.table["id"] == ids[1:].tolist()
    np.testing.assert_allclose(card.table["cosine"], values[1:], atol=1e-12)
    assert dict(zip(card.table["token"], card.table["other spelling"], strict=True))["␣queen"] is False


def test_the_usual_cosine_is_that_of_the_same_row_with_all_others(loaded):
    token = cards.pieces(loaded, " king")[0]
    rows = rows_of(loaded)
    others = torch.cat([rows[: token.id], rows[token.id + 1 :]])
    cosines = F.cosine_similarity(others, rows[token.id][None])
    for card in (cards.against_all(loaded, token), cards.neighbours(loaded, token)):
        assert card.shown["mean"] == pytest.approx(float(cosines.mean()), abs=1e-12)
        assert float((cosines < card.shown["most"]).double().mean()) == pytest.approx(
            0.99, abs=2 / len(cosines)
        )
        assert matrix.signed(card.shown["most"]) in card.title
    assert (
        cards.against_all(loaded, token).shown["nearest"] == cards.neighbours(loaded, token).shown["ids"][0]
    )


def test_the_word_with_the_nearest_neighbour_is_found_by_comparing_all(loaded):
    trace, rows = capture(loaded, "The cat and The king saw red, 12"), F.normalize(rows_of(loaded))
    cosines = {}
    for i, token in enumerate(trace.tokens):
        word = token.bytes.decode().strip().lower()
        order = (rows @ rows[token.id]).sort(descending=True)
        names = loaded.tokenizer.batch_decode(order.indices[:50, None])
        others = [
            v for v, name in zip(order.values.tolist(), names, strict=False) if name.strip().lower() != word
        ]
        if word.isalpha():
            cosines[i] = others[0]
    assert cards.closest(loaded, trace.tokens) == max(cosines, key=cosines.__getitem__)
    assert cards.closest(loaded, capture(loaded, "12 !").tokens) is None


def test_spellings_differ_in_case_and_space_only(loaded):
    token = cards.pieces(loaded, " the")[0]
    found = {t.display for t in nearest.spellings(loaded, token)}
    assert {"␣the", "the", "␣The", "The"} <= found
    assert {text.strip("␣").lower() for text in found} == {"the"}
    king, word, more = (Token(0, "", raw, raw.decode()) for raw in (b" King", b"king", b"kings"))
    assert nearest.plain(king) == nearest.plain(word) != nearest.plain(more)
    assert [nearest.plain(Token(0, "", text.encode(), "")) for text in (" ", " ·")] == [" ", "·"]


def test_the_proof_of_neighbours_fails_for_others(loaded, monkeypatch):
    token = cards.pieces(loaded, " king")[0]
    monkeypatch.setattr(
        nearest, "nearest", lambda scores, count, without: ops.nearest(scores, count + 1, without)[1:]
    )
    assert not cards.neighbours(loaded, token).prove().passed


def test_a_map_begins_with_the_prompts_tokens_around_the_focus(loaded):
    tokens = capture(loaded, " ".join(f"{n} {w}" for n, w in enumerate("abcdefghijklmnopqrstuvwxyz"))).tokens
    ids, prompt = map.points(loaded, tokens, 40, 2)
    assert prompt == map.MOST_TOKENS
    assert tokens[40].id in ids[:prompt]
    assert set(ids[:prompt]) <= {t.id for t in tokens}
    assert len(set(ids)) == len(ids) > prompt


def test_labels_of_a_map_do_not_cover_each_other():
    figure = spread_labels(
        scatter2d(
            [[0, 0], [0.01, 0.01], [0.02, 0], [0, 0.02], [1, 1]] * 2, ["a longer word"] * 10, equal=True
        )
    )
    shown = [text for text in figure.data[0].text if text]
    assert 1 < len(shown) < 10


def test_a_label_stands_only_where_it_is_free_on_a_phone_and_in_a_wide_window():
    """Side by side in a wide window, one over the other on a phone: there is no second line to put them on."""
    labels = ["w" * 12] * 12
    figure = spread_labels(scatter2d([[x, 0] for x in range(12)], labels, equal=True))
    shown = [text for text in figure.data[0].text if text]
    assert len(shown) < 280 / (12 * 7) * 3, "three lines of labels, as wide as a phone"


def test_the_list_has_seven_categories_of_six():
    groups = json.loads((ASSETS / "texts" / "analogies.json").read_text("utf-8"))
    assert len(groups) == 7
    for group in groups:
        assert len(group["words"]) == 6
        for a, b, c, d in group["words"]:
            assert d not in (a, b, c)


def test_analogies_with_a_word_of_several_tokens_are_skipped_and_named(loaded):
    kept, skipped = cards.usable(loaded)
    assert len(kept) + len(skipped) == 42
    for analogy in (*kept, *skipped):
        lengths = [len(loaded.tokenizer(f" {word}")["input_ids"]) for word in analogy.words]
        assert (max(lengths) == 1) == (analogy in kept)
    note = cards.score(loaded).note
    assert all(f"{analogy.question} = {analogy.words[3]}" in note for analogy in skipped)


def test_ranks_of_analogies_by_a_sorted_list(loaded):
    found, rows = scoring.scored(loaded), rows_of(loaded)
    for i in (0, 3, len(found.analogies) - 1):
        a, b, c, d = found.ids[i].tolist()
        for way, vector in enumerate((rows[a] - rows[b] + rows[c], None, rows[a], rows[c])):
            target = rows[a] - rows[b] + rows[c] if vector is None else vector
            order = F.cosine_similarity(rows, target[None]).argsort(descending=True).tolist()
            if way != 1:
                order = [id for id in order if id not in (a, b, c)]
            assert found.ranks[way, i] == order.index(d) + 1
            if way == 0:
                assert found.answers[i] == order[0]


def test_failures_are_shown_with_the_rank(loaded):
    card = cards.failures(loaded, "male and female")
    ranks = card.table["rank of the expected word"]
    assert max(ranks) > 1
    points = next(trace for trace in card.figure.data if trace.mode == "markers+text")
    assert list(points.x) == ranks
    assert f"{sum(rank > 1 for rank in ranks)} of {len(ranks)} fail" in card.title


def test_a_wrong_rank_fails_its_proof(loaded, monkeypatch):
    found = scoring.scored(loaded)
    wrong = found.ranks.copy()
    wrong[0, 0] += 1
    monkeypatch.setattr(scoring, "scored", lambda _: dataclasses.replace(found, ranks=wrong))
    assert not cards.score(loaded).prove().passed
    assert not cards.failures(loaded, found.analogies[0].category).prove().passed


@pytest.mark.parametrize("words", [("king", "", "woman", "queen"), ("king", "zxqvjk", "woman", "queen")])
def test_own_words_have_to_be_one_token_each(loaded, words):
    with pytest.raises(ReaderError, match=r"one token|all four"):
        cards.one(loaded, words)


def test_ordinals():
    ends = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 112: "112th", 1021: "1,021st"}
    assert {number: analogies.ordinal(number) for number in ends} == ends


def test_ranked_points_are_escaped():
    figure = ranked(["<b>a</b>"], ["<i>x</i>"], [3], worst=100)
    assert "<b>" not in figure.layout.yaxis.ticktext[0]
    assert figure.layout.yaxis.ticktext[0].count("<i>") == 1


def test_a_word_is_found_whole_and_last(loaded):
    trace = capture(loaded, "The bank, the banker and the other bank stood")
    position = sentences.find(trace, "bank")
    text = "".join(token.bytes.decode() for token in trace.tokens[: position + 1])
    assert text.endswith("other bank")
    with pytest.raises(ReaderError, match="not in every"):
        sentences.find(trace, "ban")
    with pytest.raises(ReaderError, match="give a word"):
        sentences.find(trace, " ")


def drifted(loaded, one, other, word="bank", centred=False):
    read = ([capture(loaded, text) for text in texts] for texts in (one, other))
    return cards.drift(loaded, *read, word, centred)


def test_a_word_drifts_as_the_hidden_states_say(loaded):
    card = drifted(loaded, RIVERS, MONEYS)
    states = [
        torch.stack(
            loaded.model(torch.tensor([capture(loaded, text).ids]), output_hidden_states=True).hidden_states[
                :-1
            ]
        )[:, 0, -1]
        for text in (*RIVERS, *MONEYS)
    ]
    cosines = {
        pair: F.cosine_similarity(states[pair[0]], states[pair[1]], dim=-1) for pair in np.ndindex(4, 4)
    }
    same = (cosines[0, 1] + cosines[2, 3]) / 2
    other = (cosines[0, 2] + cosines[0, 3] + cosines[1, 2] + cosines[1, 3]) / 4
    np.testing.assert_allclose(card.shown[sentences.SAME][:-1], same.detach(), atol=1e-5)
    np.testing.assert_allclose(card.shown[sentences.OTHER][:-1], other.detach(), atol=1e-5)


def test_what_comes_after_a_word_leaves_it_alone(loaded):
    card = drifted(loaded, [f"{RIVER} and sang"], [f"{RIVER} because of rain"])
    np.testing.assert_allclose(card.shown[sentences.OTHER], 1, atol=1e-5)


def entering(loaded, texts):
    """What enters every block, (layer, token, d_model) for each text."""
    return [
        torch.stack(
            loaded.model(torch.tensor([capture(loaded, text).ids]), output_hidden_states=True).hidden_states[
                :-1
            ]
        )[:, 0].double()
        for text in texts
    ]


def test_without_the_mean_of_all_tokens_but_the_first_the_cosines_are_torchs(loaded):
    card = drifted(loaded, [RIVER], MONEYS, centred=True)
    states = entering(loaded, (RIVER, *MONEYS))
    mean = torch.cat([state[:, 1:] for state in states], 1).mean(1)
    one, two, three = (state[:, -1] - mean for state in states)
    np.testing.assert_allclose(
        card.shown[sentences.SAME][:-1], F.cosine_similarity(two, three, dim=-1).detach(), atol=1e-5
    )
    other = (F.cosine_similarity(one, two, dim=-1) + F.cosine_similarity(one, three, dim=-1)) / 2
    np.testing.assert_allclose(card.shown[sentences.OTHER][:-1], other.detach(), atol=1e-5)
    assert "without the mean vector, after" in card.title


def test_a_mean_vector_needs_two_tokens_behind_the_first(loaded):
    for text in ("bank", "my bank", "my own bank"):
        read = [capture(loaded, text)]
        count = 1 + (len(set(read[0].ids[1:])) > 1)
        assert [card.key for card in cards.senses(loaded, read, read, "bank")] == ["drift", "centred"][:count]


def test_without_a_second_sentence_or_a_second_token_there_is_no_line_for_it(loaded):
    card = drifted(loaded, ["bank"], ["bank"])
    different = len(set(capture(loaded, "bank").ids)) > 1
    assert list(card.shown) == [sentences.OTHER, *([sentences.DIFFERENT] if different else [])]
    assert "nan" not in card.title
    assert card.prove().passed


def test_a_sense_needs_a_sentence(loaded):
    with pytest.raises(ReaderError, match="at least one sentence"):
        drifted(loaded, [], [MONEY])


def test_gpt2_adds_its_position_rows_and_llama_adds_nothing(loaded):
    trace = capture(loaded, PROMPT)
    card = cards.added(loaded, trace)
    extra = np.array(card.table["added for the position"])
    if loaded.spec.positions == "learned":
        expected = loaded.model.transformer.wpe.weight[: len(trace.ids)].norm(dim=-1)
        np.testing.assert_allclose(extra, expected, atol=1e-4)
    else:
        assert (extra == 0).all()
        assert "no position vectors" in card.title
        assert "chapter 10" in card.note


def test_position_vectors_are_not_invented_for_rope():
    for make in (lambda m: cards.curve(m, 2, 0), lambda m: cards.similarity(m, False, 0)):
        with pytest.raises(ReaderError, match="chapter 10"):
            make(loaded_checkpoint("pocket-llama"))


def test_mean_similarity_by_distance_is_torchs():
    model = loaded_checkpoint("pocket-gpt2")
    rows = model.model.transformer.wpe.weight.double()
    card = cards.similarity(model, True, 7)
    rows = rows - rows.mean(0)
    assert card.table["mean"][16] == pytest.approx(float(F.cosine_similarity(rows[:-16], rows[16:]).mean()))
    mine = card.table["position 7 with those after it"]
    assert mine[3] == pytest.approx(float(F.cosine_similarity(rows[7], rows[10], dim=0)))


def every_card(model, prompt=PROMPT):
    trace = capture(model, prompt)
    last = len(trace.tokens) - 1
    made = [
        cards.row(model, trace, last),
        cards.against_all(model, trace.tokens[0]),
        cards.neighbours(model, trace.tokens[last]),
        cards.forms(model, trace.tokens[0]),
        cards.token_map(model, trace.tokens, last, 1, 3),
        cards.token_map(model, trace.tokens, 0, 8, 2),
        cards.one(model, ("king", "man", "woman", "queen")),
        cards.score(model),
        *(cards.failures(model, kind) for kind in cards.categories(model)[:2]),
        drifted(model, RIVERS, MONEYS),
        drifted(model, RIVERS, MONEYS, centred=True),
        cards.added(model, trace),
    ]
    if model.spec.positions == "learned":
        made += [cards.curve(model, 2, last), cards.curve(model, 3, 0)]
        made += [cards.similarity(model, False, last), cards.similarity(model, True, 0)]
    return made


@pytest.mark.parametrize("words", [("king", "man", "woman", "queen")])
def test_no_altered_figure_of_a_hidden_choice_proves_itself(words):
    model = loaded_checkpoint("pocket-gpt2")
    token = cards.pieces(model, " king")[0]
    made = [cards.forms(model, token), cards.score(model), cards.failures(model, "male and female")]
    made += [
        cards.one(model, words),
        cards.added(model, capture(model, PROMPT)),
        cards.similarity(model, False, 3),
    ]
    for card in made:
        assert untold(card) == [], card.key


def untold(card):
    """Alterations of a card that its proof does not tell from the truth."""
    answer = card.oracle.compute()
    once = Oracle(card.oracle.claim, lambda: answer, card.oracle.tolerance)
    return [what for what, altered in mutations(card.shown, once) if once.judge(altered).passed]


def check(made, execute):
    for card in made:
        proof = card.prove()
        assert proof.passed, (card.key, proof)
        if not execute:
            continue
        names = {}
        exec(compile(card.code, card.key, "exec"), names)
        assert set(names["result"]) == set(card.numbers)
        for key, value in names["result"].items():
            ours, theirs = np.asarray(card.numbers[key], float), np.asarray(torch.as_tensor(value), float)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=card.atol, err_msg=f"{card.key} {key}")


def test_every_card_proves_itself_and_its_script_agrees(loaded, monkeypatch):
    plain, once = transformers.AutoModelForCausalLM.from_pretrained, {}

    def load(source, **options):
        return once[source] if source in once else once.setdefault(source, plain(source, **options))

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    check(every_card(loaded), execute=True)


@pytest.mark.parametrize("prompt", ["a", "😀 café"])
def test_a_short_prompt_and_incomplete_letters(loaded, prompt):
    trace = capture(loaded, prompt)
    check(
        [
            cards.row(loaded, trace, 0),
            cards.neighbours(loaded, trace.tokens[0]),
            cards.forms(loaded, trace.tokens[0]),
            cards.token_map(loaded, trace.tokens, 0, 1, 3),
            cards.added(loaded, trace),
        ],
        execute=False,
    )


@pytest.mark.parametrize("name", ["gpt2-relu-wide", "neox-parallel"])
def test_every_card_on_other_architectures(name, tiny_model):
    check(every_card(tiny_model(name)), execute=False)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_what_a_forward_pass_leaves_at_lower_precision(precision):
    model = loaded_checkpoint("pocket-gpt2", precision)
    trace = capture(model, PROMPT)
    check([cards.row(model, trace, 3), cards.added(model, trace), drifted(model, [RIVER], MONEYS)], False)
