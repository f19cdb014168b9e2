"""Colours on both papers, with the arithmetic of WCAG, CIE Lab and a published model of colour blindness."""

import itertools
import tomllib
from pathlib import Path

import numpy as np
import pytest

from engine.figures import theme

PAPERS = (theme.LIGHT_PAPER, theme.DARK_PAPER)

# Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def rgb(color):
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def linear(srgb):
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    dim, bright = sorted(float(linear(rgb(c)) @ SRGB_TO_XYZ[1]) for c in (a, b))
    return (bright + 0.05) / (dim + 0.05)


def lab(light):
    xyz = SRGB_TO_XYZ @ np.clip(light, 0, 1) / SRGB_TO_XYZ.sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def on_paper(rgba, paper):
    """Lab of an "rgba(r,g,b,a)" colour printed on a paper."""
    *channels, alpha = (float(x) for x in rgba[5:-1].split(","))
    return lab(linear(alpha * np.array(channels) / 255 + (1 - alpha) * rgb(paper)))


def along(scale, place):
    """The colour of a plotly scale at `place`, interpolated the way plotly does (RGBA, each channel)."""
    parts = [(p, np.array([float(x) for x in c[5:-1].split(",")])) for p, c in scale]
    low = [item for item in parts if item[0] <= place][-1]
    high = next(item for item in parts if item[0] >= place)
    share = 0 if high[0] == low[0] else (place - low[0]) / (high[0] - low[0])
    mixed = low[1] + share * (high[1] - low[1])
    return "rgba(" + ",".join(str(x) for x in mixed) + ")"


def test_the_contrast_formula_agrees_with_wcag():
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)  # WCAG's well known near miss


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("concept", theme.COLORS)
def test_every_concept_has_contrast_on_both_papers(concept, paper):
    assert contrast(theme.COLORS[concept], paper) >= 3


@pytest.mark.parametrize("paper", PAPERS)
def test_ends_of_the_diverging_map_and_frames_have_contrast(paper):
    assert contrast(theme.NEGATIVE, paper) >= 3
    assert contrast(theme.POSITIVE, paper) >= 3
    assert contrast(theme.NEUTRAL, paper) >= 3


@pytest.mark.parametrize(
    "vision", [np.eye(3), PROTANOPIA, DEUTERANOPIA], ids=["all cones", "protanopia", "deuteranopia"]
)
def test_concepts_stay_apart_in_every_vision(vision):
    seen = {name: lab(vision @ linear(rgb(color))) for name, color in theme.COLORS.items()}
    distances = {
        pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(seen, 2)
    }
    assert min(distances.values()) > 12, min(distances, key=distances.get)  # 2.3 is just noticeable


def test_query_key_and_value_are_okabe_and_ito():
    assert [theme.COLORS[name] for name in ("query", "key", "value")] == ["#0072B2", "#D55E00", "#009E73"]


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("concept", theme.COLORS)
def test_sequential_maps_change_evenly_and_in_one_direction(concept, paper):
    scale = theme.sequential(concept)
    seen = np.array([on_paper(along(scale, place), paper) for place in np.linspace(0, 1, 21)])
    lightness = np.diff(seen[:, 0])
    assert (np.sign(lightness) == np.sign(lightness[0])).all()
    steps = np.linalg.norm(np.diff(seen, axis=0), axis=1)
    assert steps.max() < 1.9 * steps.min()
    assert np.linalg.norm(seen[-1] - seen[0]) > 38  # the ends are far apart


@pytest.mark.parametrize("paper", PAPERS)
def test_the_diverging_map_is_the_paper_in_the_middle_and_balanced(paper):
    scale = theme.diverging()
    assert on_paper(along(scale, 0.5), paper) == pytest.approx(lab(linear(rgb(paper))))
    for reach in (0.1, 0.3, 0.5):
        below, above = (on_paper(along(scale, 0.5 + s * reach), paper) for s in (-1, 1))
        assert abs(below[0] - above[0]) < 3  # equally light: neither sign shouts
        assert np.linalg.norm(below - above) > 40 * reach  # and unmistakable


def test_the_streamlit_theme_uses_these_papers_and_colours():
    config = tomllib.loads(Path(".streamlit/config.toml").read_text())
    assert config["theme"]["light"]["backgroundColor"] == theme.LIGHT_PAPER
    assert config["theme"]["dark"]["backgroundColor"] == theme.DARK_PAPER
    assert config["theme"]["chartCategoricalColors"] == [theme.COLORS[name] for name in theme.CYCLE]
    assert config["client"]["showSidebarNavigation"] is False
    assert "fontFaces" not in config["theme"]
    for paper in ("light", "dark"):
        colors = config["theme"][paper]
        assert contrast(colors["textColor"], colors["backgroundColor"]) >= 7
        assert contrast(colors["linkColor"], colors["backgroundColor"]) >= 4.5


def test_an_unknown_concept_is_refused():
    with pytest.raises(KeyError):
        theme.color("colour of magic")
