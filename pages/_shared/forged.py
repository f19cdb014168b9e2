"""What a browser says of a control is read in one place, and what no such control could say counts as not said.

Streamlit reads a value before the page runs, to know whether it has changed, and lets an error there end the run.
"""

import logging
from typing import Any

from streamlit.runtime.state.session_state import Serialized, Value, WStates

from pages._shared import state

SENTENCE = "A control was sent a value that it cannot have; it is as it usually is."

_LOG = logging.getLogger(__name__)

_plain = WStates.__getitem__

_ALIKE = ({"int_value", "double_value"}, {"int_array_value", "double_array_value"})
"""Browsers send a whole number as such to a control of numbers, whatever Streamlit says of the control."""


def refuse() -> None:
    """From now on, in every session of this process. Calling it again changes nothing."""
    WStates.__getitem__ = _read  # type: ignore[method-assign]


def _read(states: WStates, widget: str) -> Any:
    """The value of a control; what it says when nobody has touched it, where its browser sent what it cannot say."""
    sent = states.states.get(widget)
    control = states.widget_metadata.get(widget)
    if not isinstance(sent, Serialized) or control is None:
        return _plain(states, widget)
    kind = sent.value.WhichOneof("value")
    try:
        if kind in (None, control.value_type) or any({kind, control.value_type} <= some for some in _ALIKE):
            return _plain(states, widget)
    except Exception:  # of any kind: what is in it is the browser's
        pass
    _LOG.warning("A control that takes a %s was sent a %s that it cannot have.", control.value_type, kind)
    untouched = control.deserializer(None)
    states.states[widget] = Value(untouched)
    state.notify(SENTENCE)
    return untouched
