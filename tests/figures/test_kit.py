"""What the figures hold: the numbers they were given, marks on what has no number, and no text of the reader's raw."""

import base64
import json
import struct
import zlib

import numpy as np
import plotly.graph_objects as go
import pytest

from engine import figures as kit
from engine.figures.heads import kind_map, score_panels
from engine.figures.quantization import sizes

EVIL = "<b>x</b>$y$&z"
TOKENS = ["a", "a", EVIL, "‹F0 9F›"]


def causal(n, seed=0):
    scores = np.random.default_rng(seed).normal(size=(n, n))
    scores[np.triu_indices(n, 1)] = -np.inf
    weights = np.exp(scores)
    return weights / weights.sum(1, keepdims=True)


def hatched(figure, shape):
    """Areas of the drawn hatch polygons, by pattern, in cells."""
    areas = {}
    for trace in figure.data:
        if trace.type != "scatter" or trace.fillpattern.shape is None:
            continue
        xs, ys = list(trace.x), list(trace.y)
        total = 0.0
        for start in range(0, len(xs), 6):
            x, y = xs[start : start + 5], ys[start : start + 5]
            total += abs(sum(x[i] * y[i + 1] - x[i + 1] * y[i] for i in range(4))) / 2  # shoelace
        areas[trace.fillpattern.shape] = total
    return areas


def drawn_text(figure):
    """Everything that plotly will parse as its own markup."""
    return json.dumps(json.loads(figure.to_json()), ensure_ascii=False)


ALL = {
    "heatmap": lambda: kit.heatmap(np.eye(4), TOKENS, TOKENS, row_name=EVIL, value_name=EVIL),
    "attention_map": lambda: kit.attention_map(causal(4), TOKENS, query=1),
    "bars": lambda: kit.bars(TOKENS, [1, 2, 3, 4]),
    "grouped_bars": lambda: kit.grouped_bars(TOKENS, {EVIL: [1, 2, 3, 4], "b": [4, 3, 2, 1]}),
    "waterfall": lambda: kit.waterfall(TOKENS, [1, -2, 3, -4]),
    "lines": lambda: kit.lines([0, 1], {EVIL: [0, 1], "b": [1, 0]}),
    "curve_with_points": lambda: kit.curve_with_points([0, 1], [0, 1], [0.5], [0.5], [EVIL]),
    "histogram": lambda: kit.histogram({EVIL: [0.0, 1.0], "b": [1.0]}, marks={EVIL: 0.5}),
    "scatter2d": lambda: kit.scatter2d(np.zeros((4, 2)), TOKENS, groups=[EVIL, EVIL, "b", "b"]),
    "scatter3d": lambda: kit.scatter3d(np.zeros((4, 3)), TOKENS, groups=[EVIL, EVIL, "b", "b"]),
    "chips": lambda: kit.chips(TOKENS, ["1", "2", EVIL, "4"], details=TOKENS),
    "arcs": lambda: kit.arcs(causal(4), TOKENS),
    "tree": lambda: kit.tree([[(EVIL, 0.5), ("b", 0.3)], [("c", 0.9)]], [0, 0]),
    "kind_map": lambda: kind_map([["sink", "unclassified"]], [[0.6, 0.1]]),
    "score_panels": lambda: score_panels({EVIL: [[0.5, np.nan]]}),
    "wall": lambda: kit.wall(np.stack([[causal(4)]]), notes=[[EVIL]]),
}


@pytest.mark.parametrize("name", ALL)
def test_no_figure_lets_text_through_as_markup_or_tex(name):
    text = drawn_text(ALL[name]())
    assert "<b>x" not in text
    assert "$y$" not in text or name == "scatter3d"  # a 3-D scene draws no TeX


@pytest.mark.parametrize("name", ALL)
def test_every_figure_is_transparent_untitled_and_safe_to_scroll_past(name):
    figure = ALL[name]()
    assert isinstance(figure, go.Figure)
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.title.text is None
    assert figure.layout.dragmode == ("turntable" if name == "scatter3d" else False)
    assert figure.layout.height >= 90


def test_masked_and_broken_cells_are_hatched_and_named():
    values = np.array([[1.0, 2.0, np.nan], [np.inf, 5.0, np.nan]])
    masked = np.array([[0, 0, 1], [0, 0, 0]], bool)
    figure = kit.heatmap(values, masked=masked)
    assert hatched(figure, values.shape) == {"/": 1.0, "x": 2.0}
    assert np.isnan(figure.data[0].z).sum() == 3
    notes = " ".join(note.text for note in figure.layout.annotations)
    assert "masked" in notes
    assert "NaN" in notes


def test_a_map_without_gaps_has_no_hatch():
    figure = kit.heatmap(np.ones((2, 2)))
    assert hatched(figure, (2, 2)) == {}
    assert not any("masked" in note.text for note in figure.layout.annotations)


def test_attention_is_drawn_on_a_fixed_scale_and_its_future_is_masked():
    figure = kit.attention_map(causal(5) * 0.1, list("abcde"))
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 1)
    assert hatched(figure, (5, 5)) == {"/": 10.0}  # 5·4/2


def test_signed_values_are_on_a_scale_symmetric_about_zero():
    trace = kit.heatmap([[-1.0, 3.0]], kind="diverging").data[0]
    assert (trace.zmin, trace.zmax) == (-3, 3)
    axis = kit.bars(["a", "b"], [-1.0, 3.0], signed=True).layout.xaxis
    assert axis.range[0] == -axis.range[1]


def test_the_scale_survives_nothing_but_gaps():
    assert kit.heatmap([[np.nan]]).data[0].zmax == 1
    assert kit.heatmap([[0.0]], kind="diverging").data[0].zmax == 1
    assert kit.bars([], []).layout.xaxis.range[1] > 0


def test_repeated_tokens_keep_their_own_places():
    axis = kit.attention_map(causal(4), TOKENS).layout.xaxis
    assert list(axis.tickvals) == [0, 1, 2, 3]
    assert list(axis.ticktext)[:2] == ["a", "a"]


@pytest.mark.parametrize("count", [1, 24, 25, 128])
def test_ticks_stay_few_enough_for_a_phone(count):
    axis = kit.attention_map(causal(count), ["token"] * count).layout.xaxis
    assert len(axis.tickvals) <= 24
    assert axis.tickvals[0] == 0
    assert list(axis.range) == [-0.5, count - 0.5]


def test_a_waterfall_ends_at_the_sum():
    trace = kit.waterfall(["a", "b", "c"], [1.0, -4.0, 2.5]).data[0]
    assert list(trace.base) == [0.0, 1.0, -3.0, 0.0]
    assert trace.x[-1] == -0.5


def test_a_histogram_counts_finite_values_only():
    figure = kit.histogram({"a": [0.0, 0.1, 0.9, np.nan, np.inf]}, bins=2, span=(0.0, 1.0))
    assert list(figure.data[0].y) == [2, 1]
    shares = kit.histogram({"a": [0.0, 0.1, 0.9, np.nan]}, bins=2, span=(0.0, 1.0), share=True)
    assert list(shares.data[0].y) == pytest.approx([2 / 3, 1 / 3])


def test_arcs_show_the_large_weights_of_one_query():
    weights = np.array([[1.0, 0, 0], [0.3, 0.7, 0], [0.02, 0.9, 0.08]])
    assert len(kit.arcs(weights, list("abc"), query=2, least=0.05).data) == 2
    assert len(kit.arcs(weights, list("abc"), least=0.05).data) == 5
    assert "no weight" in kit.arcs(np.zeros((2, 2)), list("ab")).data[0].text[0]


def pixels(figure):
    """The image of a wall, decoded by hand: height, width, RGBA."""
    raw = base64.b64decode(figure.layout.images[0].source.split(",")[1])
    width, height = struct.unpack(">II", raw[16:24])
    start = raw.index(b"IDAT") + 4
    length = struct.unpack(">I", raw[start - 8 : start - 4])[0]
    lines = np.frombuffer(zlib.decompress(raw[start : start + length]), np.uint8).reshape(height, -1)
    assert (lines[:, 0] == 0).all()
    return lines[:, 1:].reshape(height, width, 4)


def test_a_wall_puts_every_weight_where_it_belongs():
    weights = np.zeros((2, 3, 2, 2))
    weights[:, :, 0, 0] = 1
    weights[1, 2, 1] = [0.25, 0.75]
    weights[0, 1, 1] = [0.5, 0.5]
    image = pixels(kit.wall(weights))
    panel = image.shape[0] // 2
    assert image.shape[1] == 3 * panel
    quarter, three = panel // 4, 3 * panel // 4

    def opacity(layer, head, query, key):
        return image[layer * panel + (quarter, three)[query], head * panel + (quarter, three)[key], 3]

    assert opacity(0, 0, 0, 0) == 255
    assert opacity(1, 2, 1, 0) == 64
    assert opacity(1, 2, 1, 1) == 191
    assert opacity(0, 1, 1, 0) == 128
    assert image[quarter, three].tolist() == [128, 128, 128, 56]  # the future: grey, neither 0 nor a weight


def test_a_wall_of_long_texts_keeps_thin_diagonals():
    weights = np.zeros((1, 1, 128, 128))
    weights[0, 0, np.arange(128), np.maximum(np.arange(128) - 1, 0)] = 1
    figure = kit.wall(weights)
    image = pixels(figure)
    assert image.shape[0] < 160
    assert (image[..., 3] == 255).sum() >= 64
    assert len(figure.to_json()) < 30_000


def test_a_wall_of_gpt2s_size_is_small_enough_to_send():
    weights = np.stack([[causal(128, seed=12 * i + j) for j in range(12)] for i in range(12)])
    assert len(kit.wall(weights).to_json()) < 1_500_000


def test_wall_points_know_their_layer_and_head():
    figure = kit.wall(np.stack([[causal(3)] * 3] * 2), marked=(1, 2))
    assert [list(c) for c in figure.data[0].customdata] == [[i, j] for i in range(2) for j in range(3)]
    assert (figure.layout.shapes[0].x0, figure.layout.shapes[0].y0) == (1.5, 0.5)


def marks(figure):
    """The marks that a click can choose: what each carries, by its place."""
    (trace,) = (trace for trace in figure.data if trace.customdata is not None)
    assert trace.selectedpoints is None
    return {
        (x, y): (tuple(c), text)
        for x, y, c, text in zip(trace.x, trace.y, trace.customdata, trace.text, strict=True)
    }


def test_every_cell_of_a_map_of_kinds_can_be_chosen():
    kinds = np.array([["sink", "induction", "previous"], ["sink", "unclassified", "duplicate"]])
    figure = kind_map(kinds, np.arange(6.0).reshape(2, 3) / 10, marked=(1, 2))
    found = marks(figure)
    assert {place: chosen for place, (chosen, _) in found.items()} == {
        (head, layer): (layer, head) for layer in range(2) for head in range(3)
    }
    assert found[1, 0][1] == "layer 0, head 1: induction<br>largest score <b>0.1</b>"
    assert [(s.x0, s.x1, s.y0, s.y1) for s in figure.layout.shapes] == [(1.5, 2.5, 0.5, 1.5)]


def test_every_cell_of_the_score_panels_stands_for_the_head_whose_value_it_shows():
    scores = {
        "first": np.arange(6.0).reshape(2, 3),
        "second": np.array([[1, np.nan, 3], [4, 5, 6.0]]),
        "third": np.full((2, 3), 0.25),
    }
    figure = score_panels(scores, marked=(1, 0))
    sheet, found = np.array(figure.data[0].z), marks(figure)
    assert len(found) == 18
    for (column, row), ((layer, head), text) in found.items():
        value = scores[text.split("<br>")[1].split()[0]][layer, head]
        np.testing.assert_equal(sheet[row, column], np.float32(value))
        assert text.startswith(f"layer {layer}, head {head}<br>")
        assert text.endswith("<b>not a number</b>" if np.isnan(value) else f"<b>{value:.6g}</b>")
    assert np.isfinite(sheet).sum() == 17
    frames = [shape for shape in figure.layout.shapes if shape.x1 - shape.x0 == 1]
    assert [found[s.x0 + 0.5, s.y0 + 0.5][0] for s in frames] == [(1, 0)] * 3


def test_a_figure_that_answers_a_click_still_stands_still_when_dragged():
    figure = kit.wall(np.stack([[causal(3)] * 3] * 2))
    assert figure.layout.xaxis.fixedrange
    assert figure.layout.yaxis.fixedrange
    assert figure.layout.clickmode == "event+select"
    assert figure.layout.hoverdistance == -1  # the nearest mark, however far


def test_numbers_beside_dots_keep_apart_and_equal_ones_are_printed_once():
    found = sizes(["three", "two"], {"a": [2.0, 5.0], "b": [1.0, 7.0], "c": [4.0, 5.0]}, x_name="x")
    assert [one.textposition[0] for one in found.data] == ["top center", "middle left", "middle right"]
    assert [one.text[1] for one in found.data] == ["5", "7", ""]
    assert [one.textposition[1] for one in found.data[:2]] == ["middle left", "middle right"]


def test_a_number_that_all_dots_of_a_row_have_stands_once():
    found = sizes(["one"], {"a": [3.0], "b": [3.0]}, x_name="x")
    assert [one.text[0] for one in found.data] == ["3", ""]


@pytest.mark.parametrize(("layers", "heads"), [(8, 10), (12, 12), (30, 9), (24, 14)])
def test_scores_of_four_kinds_are_no_taller_than_a_window(layers, heads):
    scores = {kind: np.full((layers, heads), 0.5) for kind in "abcd"}
    assert score_panels(scores, (layers - 1, heads - 1)).layout.height <= 760
