"""Arrays and labels in, plotly Figures out. Labels are plain text: the functions here escape them."""

from engine.figures.bars import bars, grouped_bars, waterfall
from engine.figures.heat import attention_map, heatmap
from engine.figures.points import scatter2d, scatter3d
from engine.figures.series import curve_with_points, histogram, lines
from engine.figures.text import arcs, chips, tree
from engine.figures.theme import COLORS
from engine.figures.wall import wall

__all__ = [
    "COLORS",
    "arcs",
    "attention_map",
    "bars",
    "chips",
    "curve_with_points",
    "grouped_bars",
    "heatmap",
    "histogram",
    "lines",
    "scatter2d",
    "scatter3d",
    "tree",
    "wall",
    "waterfall",
]
