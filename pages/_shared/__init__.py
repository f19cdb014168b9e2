"""The page frame: the only code, with Home.py and the chapters, that knows streamlit.

Importing it is cheap: torch, transformers and plotly come in when a figure is first drawn.
"""

from pages._shared.frame import chapter
from pages._shared.landing import Station, home
from pages._shared.scene import Step
from pages._shared.view import Beat, View

__all__ = ["Beat", "Station", "Step", "View", "chapter", "home"]
