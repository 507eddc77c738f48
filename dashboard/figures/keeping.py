"""Cache of drawn figures: a page that is opened again does not wait for its figures again.

Plotly checks every value of a figure. These checks take most of a page's time on the server.
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
"""The most figures in the cache. Beyond it, the least recently used figure is removed."""
Given = ParamSpec("Given")
Key = tuple[str, bytes]

_lock = threading.Lock()
_figures: OrderedDict[Key, go.Figure] = OrderedDict()
_texts: OrderedDict[tuple[int, str, str], tuple[go.Figure, str]] = OrderedDict()


def kept(make: Callable[Given, go.Figure]) -> Callable[Given, go.Figure]:
    """Decorator: cache the newest figures of `make`, which has to be pure.

    Callers share a cached figure and must not change it.
    """

    @functools.wraps(make)
    def made(*given: Given.args, **named: Given.kwargs) -> go.Figure:
        # Equal arguments may pickle differently and are then drawn again; different ones never share a key.
        key = (make.__qualname__, hashlib.blake2b(pickle.dumps((given, named), 5)).digest())
        figure = _get(_figures, key)
        return _put(_figures, key, make(*given, **named)) if figure is None else figure

    return made


def json_of(figure: go.Figure, look: Theme, source: str) -> str:
    """The signed figure as JSON for Plotly's script."""
    key = (id(figure), look.name, source)
    cached = _get(_texts, key)
    # The cache holds the figure too, so no other figure can take over its id.
    if cached is None or cached[0] is not figure:
        cached = _put(_texts, key, (figure, to_json_plotly(base.signed(figure.to_dict(), look, source))))
    return str(cached[1])


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
