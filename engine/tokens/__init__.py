"""Text and tokens: tokenizers, vocabulary pieces, merges, chat templates, and escapers for what is shown."""

from pathlib import Path

ASSETS = Path(__file__).parent.parent / "assets"
