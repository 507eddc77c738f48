"""How a variant looks everywhere: hue says technique, marker says runtime, hollow says dominated or not valid.

The hues are Okabe and Ito's, chosen to be told apart without colour vision; the baseline is always slate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import plotly.graph_objects as go

if TYPE_CHECKING:
    from engine.suite.spec import Suite

FONT = '"Source Sans", "Source Sans 3", "Source Sans Pro", "Helvetica Neue", Arial, sans-serif'
IMAGE_WIDTH, IMAGE_HEIGHT, IMAGE_SCALE = 1120, 630, 2
"""A downloaded chart: 16:9, in CSS pixels, and how many image pixels one of them becomes."""


@dataclass(frozen=True)
class Mark:
    """How one variant is drawn."""

    color: str
    symbol: str
    """A Plotly marker symbol."""
    technique: str
    runtime: str


@dataclass(frozen=True)
class Theme:
    """Colours of one appearance, the same as in .streamlit/config.toml."""

    name: str
    background: str
    text: str
    muted: str
    line: str
    grid: str
    accent: str
    hues: Mapping[str, str]


TECHNIQUES: dict[str, str] = {
    "baseline": "baseline",
    "runtime": "another runtime",
    "four-bit": "4-bit weights",
    "eight-bit": "8-bit integers",
    "half": "16-bit or TF32",
    "model": "another model",
    "options": "other options",
}
"""Key -> what a legend calls it."""

LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#111820",
    muted="#5d6875",
    line="#9aa4af",
    grid="#e8ebee",
    accent="#1f5f8b",
    hues={
        "baseline": "#4a5868",
        "runtime": "#0072b2",
        "four-bit": "#e69f00",
        "eight-bit": "#d55e00",
        "half": "#56b4e9",
        "model": "#009e73",
        "options": "#cc79a7",
    },
)
# The darkest hues are lifted on a dark ground; their order in lightness stays.
DARK = Theme(
    name="dark",
    background="#12161b",
    text="#e3e7ec",
    muted="#9aa5b1",
    line="#65707c",
    grid="#262d35",
    accent="#5aa9d6",
    hues={
        "baseline": "#a3afbd",
        "runtime": "#2f95d6",
        "four-bit": "#e69f00",
        "eight-bit": "#e8701a",
        "half": "#7cc8f2",
        "model": "#12b688",
        "options": "#d58bb4",
    },
)
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}

RUNTIME_SYMBOLS = {"pytorch": "circle", "onnxruntime": "diamond", "bitsandbytes": "square"}
SHADE_STEP = 0.28
"""How far one shade of a hue is from the next on the way to black or white, where there is room."""
FURTHEST_SHADE = 0.75
"""Beyond it a hue could not be told."""
LEAST_CONTRAST = 2.0
"""Of a shade with the background."""
OTHER_SYMBOLS = ("triangle-up", "triangle-down", "pentagon", "hexagon", "star")


def theme(name: str | None) -> Theme:
    """The theme called `name`; light where nobody knows."""
    return THEMES.get(name or "", LIGHT)


class Marked(Protocol):
    """What a variant's mark follows from: a row, or whatever else stands for a variant."""

    @property
    def variant(self) -> str: ...
    @property
    def model(self) -> str | None: ...
    @property
    def backend(self) -> str | None: ...
    @property
    def precision(self) -> str | None: ...
    @property
    def baseline(self) -> bool: ...


@dataclass(frozen=True)
class OfSuite:
    """A variant of a suite, which has no row yet, as `Marked`."""

    variant: str
    model: str
    backend: str
    precision: str
    baseline: bool

    @classmethod
    def all(cls, suite: Suite) -> list[OfSuite]:
        """Every variant of a suite, in its order."""
        return [cls(v.name, v.model, v.backend, v.precision, v.name == suite.baseline) for v in suite.variant]


def technique(row: Marked, baseline: Marked | None) -> str:
    """What a variant changes over its baseline, as a key of TECHNIQUES."""
    if row.baseline:
        return "baseline"
    if baseline is not None and row.model != baseline.model:
        return "model"
    precision = row.precision
    if baseline is None or precision != baseline.precision:
        if precision in ("nf4", "fp4"):
            return "four-bit"
        if precision == "int8":
            return "eight-bit"
        if precision in ("fp16", "bf16", "tf32"):
            return "half"
    if baseline is not None and row.backend != baseline.backend:
        return "runtime"
    return "options"


def marks(rows: Iterable[Marked], look: Theme) -> dict[str, Mark]:
    """Variant -> mark. Variants of one technique on one runtime get shades of the same hue."""
    first: dict[str, Marked] = {}
    for row in rows:
        first.setdefault(row.variant, row)
    baseline = next((row for row in first.values() if row.baseline), None)
    symbols = dict(RUNTIME_SYMBOLS)
    alike: dict[tuple[str, str], list[str]] = {}
    for name, row in first.items():
        runtime = row.backend or ""
        if runtime not in symbols:
            spare = len(symbols) - len(RUNTIME_SYMBOLS)
            symbols[runtime] = OTHER_SYMBOLS[spare % len(OTHER_SYMBOLS)]
        alike.setdefault((technique(row, baseline), runtime), []).append(name)
    found: dict[str, Mark] = {}
    for (kind, runtime), names in alike.items():
        colors = shades(look.hues[kind], len(names), look.background)
        found |= {name: Mark(c, symbols[runtime], kind, runtime) for name, c in zip(names, colors, strict=True)}
    return {name: found[name] for name in first}


def shades(color: str, count: int, background: str) -> list[str]:
    """`count` shades of a "#rrggbb" hue: itself, darker, lighter, darker still; none sinks into the background."""
    least = min(LEAST_CONTRAST, contrast(color, background))
    step = SHADE_STEP
    while True:
        reached = range(1, int(FURTHEST_SHADE / step) + 1)
        mixed = [color, *(_mixed(color, end, step * times) for times in reached for end in (0, 255))]
        seen = [shade for shade in mixed if contrast(shade, background) >= least]
        if len(seen) >= count:
            return seen[:count]
        step *= 0.9


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two "#rrggbb" colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted(_luminance(color) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in _channels(color))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(color: str) -> tuple[int, int, int]:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


def _mixed(color: str, end: int, share: float) -> str:
    return "#" + "".join(f"{round(c + (end - c) * share):02x}" for c in _channels(color))


def fade(color: str, alpha: float) -> str:
    """A "#rrggbb" colour as rgba with `alpha`."""
    red, green, blue = _channels(color)
    return f"rgba({red},{green},{blue},{alpha})"


def template(look: Theme) -> go.layout.Template:
    """A Plotly template that says everything itself: Streamlit's default paints with placeholder colours."""
    axis = {
        "showgrid": True,
        "gridcolor": look.grid,
        "gridwidth": 1,
        "zeroline": False,
        "linecolor": look.line,
        "ticks": "",
        "tickfont": {"size": 13, "color": look.muted},
        "title": {"font": {"size": 13, "color": look.muted}, "standoff": 8},
        "automargin": True,
        "fixedrange": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": look.text},
            "paper_bgcolor": look.background,
            "plot_bgcolor": look.background,
            "colorway": list(look.hues.values()),
            "title": {
                "font": {"size": 16, "color": look.text, "weight": 600},
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 6, "l": 2},
            },
            "margin": {"l": 8, "r": 16, "t": 64, "b": 64},
            "xaxis": axis,
            "yaxis": axis,
            "showlegend": False,
            "hovermode": "closest",
            "hoverlabel": {
                "bgcolor": look.background,
                "bordercolor": look.line,
                "font": {"family": FONT, "size": 13, "color": look.text},
                "align": "left",
            },
            "dragmode": False,
        }
    )
