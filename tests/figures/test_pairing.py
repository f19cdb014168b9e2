"""Two figures on one scale: equal lengths and colours mean equal numbers."""

import plotly.graph_objects as go

from engine.figures.pairing import on_one_scale


def test_lines_span_both():
    left, right = on_one_scale(
        go.Figure(go.Scatter(x=[0, 1], y=[0, 10])), go.Figure(go.Scatter(x=[0, 5], y=[-1, 2]))
    )
    assert left.layout.yaxis.range == right.layout.yaxis.range
    low, high = left.layout.yaxis.range
    assert low <= -1 < 10 <= high
    assert left.layout.xaxis.range[1] >= 5


def test_bars_begin_at_zero_and_names_stay():
    left, right = on_one_scale(go.Figure(go.Bar(x=["a", "b"], y=[3, 4])), go.Figure(go.Bar(x=["c"], y=[9])))
    assert left.layout.yaxis.range == right.layout.yaxis.range
    assert left.layout.yaxis.range[0] == 0
    assert left.layout.xaxis.range is None


def test_colours_span_both():
    left, right = on_one_scale(go.Figure(go.Heatmap(z=[[0, 1]])), go.Figure(go.Heatmap(z=[[-3, None]])))
    assert (left.data[0].zmin, left.data[0].zmax) == (right.data[0].zmin, right.data[0].zmax) == (-3, 1)


def test_a_fixed_scale_and_a_falling_axis_stay():
    make = lambda: go.Figure(go.Heatmap(z=[[0.2]], zmin=0, zmax=1), layout={"yaxis": {"range": [5, 0]}})  # noqa: E731
    left, right = on_one_scale(make(), make())
    assert (left.data[0].zmin, right.data[0].zmax) == (0, 1)
    assert left.layout.yaxis.range == (5, 0)


def test_logarithmic_axes_are_in_powers_of_ten():
    log = {"yaxis": {"type": "log"}}
    left, _ = on_one_scale(
        go.Figure(go.Scatter(x=[0, 1], y=[1, 10]), layout=log),
        go.Figure(go.Scatter(x=[0, 1], y=[1, 1000]), layout=log),
    )
    assert 3 <= left.layout.yaxis.range[1] < 3.2


def test_other_kinds_and_the_originals_stay_as_they_are():
    one, two = go.Figure(go.Bar(x=["a"], y=[3])), go.Figure(go.Heatmap(z=[[1]]))
    left, right = on_one_scale(one, two)
    assert left == one
    assert right == two
    three = go.Figure(go.Bar(x=["a"], y=[30]))
    on_one_scale(one, three)
    assert one.layout.yaxis.range is None
