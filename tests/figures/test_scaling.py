"""A figure drawn larger keeps its data, and everything measured in pixels grows."""

import numpy as np
import plotly.graph_objects as go
import pytest

from engine import figures
from engine.figures.scaling import scaled
from engine.figures.text import chips, tree


def a_figure():
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4], text=["a", "b"], mode="text+lines+markers"))
    figure.update_traces(textfont_size=11, marker_size=[4, 6], line_width=2)
    figure.add_annotation(text="here", x=1, y=3, xshift=10, font_size=9)
    figure.update_layout(height=300, margin={"l": 40, "r": 10, "t": 20, "b": 30})
    return figure


def test_data_stay_and_pixels_grow():
    plain, large = a_figure(), scaled(a_figure(), 2.0)
    assert list(large.data[0].x) == list(plain.data[0].x)
    assert list(large.data[0].y) == list(plain.data[0].y)
    assert large.data[0].textfont.size == 22
    assert list(large.data[0].marker.size) == [8, 12]
    assert large.data[0].line.width == 4
    assert (large.layout.annotations[0].font.size, large.layout.annotations[0].xshift) == (18, 20)
    assert large.layout.height == 600
    assert (large.layout.margin.l, large.layout.margin.b) == (80, 60)
    assert large.layout.xaxis.tickfont.size == 24
    assert plain.data[0].textfont.size == 11, "the figure itself is as it was"


def test_a_height_can_be_given():
    assert scaled(a_figure(), 1.5, 400).layout.height == 400


def test_sizes_in_an_array_grow_too():
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4], marker_size=np.array([4.0, 6.0])))
    assert np.asarray(scaled(figure, 2.0).data[0].marker.size).tolist() == [8, 12]


def test_an_arrow_keeps_its_ends_where_they_are_points_and_grows_where_they_are_pixels():
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))
    figure.add_annotation(
        x=2, y=4, ax=1, ay=3, axref="x", ayref="y", arrowwidth=2, standoff=5, startstandoff=6
    )
    figure.add_annotation(x=2, y=4, ax=10, ay=-20)
    figure.add_annotation(x=2, y=4, ax=10, ay=3, ayref="y")
    between, label, mixed = scaled(figure, 2.0).layout.annotations
    assert (between.x, between.y, between.ax, between.ay) == (2, 4, 1, 3)
    assert (between.arrowwidth, between.standoff, between.startstandoff) == (4, 10, 12)
    assert (label.ax, label.ay) == (20, -40)
    assert (mixed.ax, mixed.ay) == (20, 3)


@pytest.mark.parametrize("array", [list, np.array])
@pytest.mark.parametrize(("height", "left"), [(2000, 30), (400, 15), (200, 10)])
def test_names_of_rows_that_would_overlap_are_left_out(height, left, array):
    figure = go.Figure(go.Bar(x=list(range(30)), y=list(range(30)), orientation="h"))
    figure.update_yaxes(tickvals=array(range(30)), ticktext=array([f"block {i}" for i in range(30)]))
    large = scaled(figure, 1.0, height)
    assert len(large.layout.yaxis.tickvals) == len(large.layout.yaxis.ticktext) <= left + 1
    assert len(large.layout.yaxis.tickvals) >= left - 2


def test_a_deep_models_wall_lies_on_its_side():
    rng = np.random.default_rng(0)
    weights = np.tril(rng.random((30, 9, 5, 5)))
    figure = figures.wall(weights, marked=(3, 2))
    assert (figure.layout.xaxis.range, figure.layout.yaxis.range) == ((-0.5, 29.5), (8.5, -0.5))
    assert figure.layout.height < 500
    points = next(trace for trace in figure.data if trace.customdata is not None)
    found = {tuple(place): (x, y) for place, x, y in zip(points.customdata, points.x, points.y, strict=True)}
    assert found[3, 2] == (3, 2)
    assert found[29, 8] == (29, 8)
    upright = figures.wall(weights[:6], marked=(3, 2))
    points = next(trace for trace in upright.data if trace.customdata is not None)
    found = {tuple(place): (x, y) for place, x, y in zip(points.customdata, points.x, points.y, strict=True)}
    assert found[3, 2] == (2, 3)


def test_no_type_is_of_a_size_that_cannot_grow():
    """A size in pixels inside a text is not one of the figure's."""
    for figure in (chips(["a", "b"], ["1.5", "2"]), tree([[("a", 0.6), ("b", 0.4)]], [0])):
        assert "font-size" in figure.to_json()
        assert "px" not in scaled(figure, 2.0).to_json()
