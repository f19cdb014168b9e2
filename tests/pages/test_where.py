"""The drawing at the head of a chapter lights the parts that it is about, and says which."""

import pytest

from pages._shared import where


def test_a_part_that_is_none_is_refused():
    with pytest.raises(ValueError, match="brain"):
        where.drawing(("brain",))
