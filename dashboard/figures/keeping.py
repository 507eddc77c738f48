"""Figures that were drawn before: whoever opens a page again, or goes back to it, waits for none of them twice.

Plotly checks every value that it is given, which takes most of the time that a page takes on the server.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ParamSpec

import plotly.graph_objects as go
from plotly.io.json import to_json_plotly

from dashboard.figures import base
from dashboard.style import Theme

MOST = 96
"""How many figures are kept: those that were asked for last."""
Given = ParamSpec("Given")
Key = tuple[str, bytes]

_lock = threading.Lock()
_figures: OrderedDict[Key, go.Figure] = OrderedDict()
_texts: OrderedDict[tuple[int, str, str], tuple[go.Figure, str]] = OrderedDict()


def kept(make: Callable[Given, go.Figure]) -> Callable[Given, go.Figure]:
    """`make`, which has to be pure, with its newest figures kept. Several have the same figure: nobody changes it."""

    @functools.wraps(make)
    def made(*given: Given.args, **named: Given.kwargs) -> go.Figure:
        # Of all that is drawn: what is equal may come out different and is drawn anew, never the other way round.
        key = (make.__qualname__, hashlib.blake2b(pickle.dumps((given, named), 5)).digest())
        figure = _get(_figures, key)
        return _put(_figures, key, make(*given, **named)) if figure is None else figure

    return made


def json_of(figure: go.Figure, look: Theme, source: str) -> str:
    """The signed figure as Plotly's script takes it."""
    key = (id(figure), look.name, source)
    found = _get(_texts, key)
    # A figure that is held here has its id for itself.
    if found is None or found[0] is not figure:
        found = _put(_texts, key, (figure, to_json_plotly(base.signed(figure.to_dict(), look, source))))
    return str(found[1])


def _get(among: OrderedDict[Any, Any], key: Any) -> Any:
    with _lock:
        if key in among:
            among.move_to_end(key)
        return among.get(key)


def _put(among: OrderedDict[Any, Any], key: Any, value: Any) -> Any:
    with _lock:
        among[key] = value
        while len(among) > MOST:
            among.popitem(last=False)
    return value
