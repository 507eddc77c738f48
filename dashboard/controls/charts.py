"""Charts on a page: drawn once, with their tables, downloads and the button that saves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, ParamSpec

import plotly.graph_objects as go
import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard import style
from dashboard.controls import drawing, link
from dashboard.controls.run_choice import CHOICE
from dashboard.controls.widgets import LIVE_SECONDS, look
from dashboard.data import reads
from dashboard.export import images
from dashboard.figures import base, keeping
from engine import paths

FORMAT = "image_format"
DRAWN = "drawn_charts"
CHART = "chart_"
"""The keys of charts begin so."""
EVERY = "all charts"
Given = ParamSpec("Given")
Charts = dict[str, tuple[str, go.Figure, str]]


def chart(figure: go.Figure, key: str, file_name: str, alt: str | None = None, source: str | None = None) -> None:
    """Shows a figure as it is, with a button that saves it at slide size; `save_charts` offers it in other formats.

    `source`: the line that only a saved chart shows, where it is not about the chosen run.
    """
    source = source or _source()
    _drawn()[key] = (file_name, figure, source)
    drawing.draw(
        keeping.json_of(figure, look(), source),
        figure.layout.height + base.SOURCE_HEIGHT,
        f"{CHART}{key}",
        image_config(file_name, st.session_state.get(FORMAT) or "PNG", figure),
        alt or images.words(figure)[0],
    )


def table_and_charts(charts: str) -> tuple[Any, Any]:
    """Places for a table and, beside it or below in a narrow window, for charts whose keys begin with `charts`."""
    # A grid drops columns one by one: without this, a window of 1024 px shows both in a part of its width.
    st.html(
        "<style>@media (max-width:1214px){[data-testid=stGridCell]:has(.ib-card),"
        f"[data-testid=stGridCell]:has([class*=st-key-{CHART}{charts}]){{grid-column:1/-1 !important}}}}</style>"
    )
    grid = st.grid(8, min_column_width=120)
    return grid.cell(column_span=5), grid.cell(column_span=3)


def stem(summary: dict[str, Any]) -> str:
    """The beginning of the names of the files that are taken from a run."""
    return f"{summary['suite']}-{summary['id'][-6:].lower()}"


def _source() -> str:
    """Device, n and id of the chosen run."""
    run_id = st.session_state.get(CHOICE)
    return _source_of(paths.database_url(), run_id) if run_id else "Inference Bench"


# Read once for all charts of a page: a frame out of the cache is copied each time.
@st.cache_data(ttl=LIVE_SECONDS, max_entries=64, show_spinner=False)
def _source_of(url: str, run_id: str) -> str:
    summary = reads.run(run_id)
    return base.source(summary, reads.measurements(summary))


def _drawn() -> Charts:
    """Key -> file name, figure and source of the charts that this run of the page has drawn so far."""
    now = get_script_run_ctx()
    if now is None:
        return {}
    began, charts = st.session_state.get(DRAWN) or (None, {})
    # Streamlit begins every run of a page with cursors of its own; a fragment adds to the charts of the page.
    if began is not now.cursors and not now.fragment_ids_this_run:
        charts = {}
        st.session_state[DRAWN] = (now.cursors, charts)
    return charts


def charts_fragment(show: Callable[Given, None]) -> Callable[Given, None]:
    """A fragment that draws every chart of its page: a choice made in it runs nothing of what stands above it."""

    @wraps(show)
    def shown(*given: Given.args, **named: Given.kwargs) -> None:
        if (now := get_script_run_ctx()) is not None:
            st.session_state[DRAWN] = (now.cursors, {})
        show(*given, **named)

    return st.fragment(shown)


@st.fragment
def save_charts(file_stem: str) -> None:
    """Offers the charts that the page has drawn until here as files; nothing is made before the click."""
    drawn = dict(_drawn())
    if not drawn:
        return
    with st.popover("Save charts"):
        options = [*drawn, EVERY]
        # By hand in the URL: what a chart is called changes with its figures.
        if link.moved("save_chart"):
            st.session_state["save_chart"] = st.query_params.get("save_chart")
        if st.session_state.get("save_chart") not in options:
            st.session_state["save_chart"] = options[0]
        chosen = st.selectbox(
            "Chart",
            options,
            format_func=lambda key: images.words(drawn[key][1])[0] if key in drawn else f"{EVERY} in one zip",
            key="save_chart",
        )
        link.remember("save_chart", chosen, options[0])
        forms = [form.upper() for form in images.FORMS]
        form = st.segmented_control(
            "Format", forms, default="HTML", required=True, key="save_form", bind="query-params"
        ).lower()
        wanted = [drawn[chosen]] if chosen in drawn else list(drawn.values())
        why_not = images.chrome().reason if form in images.IMAGES else None
        name = f"{wanted[0][0]}.{form}" if chosen in drawn else f"{file_stem}-charts-{form}.zip"
        st.download_button(
            f"Save {name}",
            data=partial(saved, wanted, form, look()),
            file_name=name,
            mime=images.FORMS[form] if chosen in drawn else "application/zip",
            on_click="ignore",
            disabled=why_not is not None,
            key="save_charts",
        )
        st.caption(
            f"Not here: {why_not}. The camera at each chart saves PNG and SVG without one."
            if why_not
            else "HTML is interactive and works without a network; images are 16:9, the size of a slide."
        )


def saved(charts: Sequence[tuple[str, go.Figure, str]], form: str, theme: style.Theme) -> bytes:
    """Charts with their sources as one file, or as a zip of several."""
    return images.files([(name, base.sign(figure, theme, source)) for name, figure, source in charts], form)


def image_config(file_name: str, image_format: str, figure: go.Figure) -> dict[str, Any]:
    """Plotly's configuration: one button, a picture 16:9 whatever the window's size."""
    return {
        "displaylogo": False,
        "displayModeBar": "hover",
        "modeBarButtons": [["toImage"]],
        "scrollZoom": False,
        "doubleClick": False,
        "toImageButtonOptions": {
            "format": image_format.lower(),
            "filename": file_name,
            "width": style.IMAGE_WIDTH,
            "height": style.IMAGE_HEIGHT,
            "scale": style.IMAGE_SCALE if image_format == "PNG" else 1,
        },
    }
