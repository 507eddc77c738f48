"""What several pages show alike: the choice of a run, a chart that leaves as an image, the state of a run."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial, wraps
from typing import Any, ParamSpec

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard import data, door, drawing, findings, link, scorecard, style
from dashboard.export import images
from dashboard.figures import base, keeping
from dashboard.frame import Row, baseline_of, rows_of
from engine import jobs, paths
from engine.errors import RequestError, one_line
from engine.store.queries import Search
from engine.units import duration, megabytes

CHOICE = "run_choice"
PARAMETER = "run"
FORMAT = "image_format"
DRAWN = "drawn_charts"
CHART = "chart_"
"""The keys of charts begin so."""
EVERY = "all charts"
Given = ParamSpec("Given")
Charts = dict[str, tuple[str, go.Figure, str]]
LIVE_SECONDS = 2.0
RUN = "app_pages/run.py"
RUNS = "app_pages/runs.py"
OLDER = ""
"""What stands for the runs that the choice of a run does not offer."""
DISTILBERT_BASE_BYTES = 267_800_000
"""The weights of distilbert-base-uncased with a classifier, in FP32."""
STATES = {
    "queued": "… queued",
    "preparing": "… preparing",
    "running": "▶ running",
    "finished": "✓ finished",
    "failed": "✗ failed",
    "cancelled": "◌ cancelled",
    "interrupted": "⚡ interrupted",
}


def behind_the_door() -> None:
    """Ends a page that is served without the door: whoever comes would see all of it, and do what it can do."""
    if not door.stands():
        st.error("Nothing is shown here: this server asks nobody for a token. Start it with `python -m dashboard`.")
        st.stop()


def look() -> style.Theme:
    """The theme that the reader's browser shows."""
    return style.theme(st.context.theme.type)


def history() -> pd.DataFrame:
    """The newest runs; where there are none, says how to get one and ends the page."""
    try:
        runs = data.runs()
    except RequestError as error:
        if "no database at" not in str(error):
            st.error(findings.literal(f"The database cannot be read: {one_line(error)}"))
            st.stop()
        runs = pd.DataFrame()
    if runs.empty:
        st.header("No runs yet")
        st.write("Measure the demo's variants on this machine; this page shows them as soon as they are there.")
        st.page_link(RUN, label="Measure a suite on this machine")
        st.caption("Or from a terminal:")
        st.code("python -m engine run demo", language="bash")
        st.caption("`python -m engine suites` lists what else there is to run.")
        st.stop()
    return runs


def label(run: dict[str, Any]) -> str:
    """A run in one line of a list."""
    return (
        f"{run['suite']} · {run['device_name']} · {when(run['created_at'])} · "
        f"{STATES.get(run['status'], run['status'])} · …{run['id'][-6:]}"
    )


def when(time: datetime | str | None) -> str:
    """A time in UTC, to the minute."""
    if time is None:
        return "–"
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return f"{time:%Y-%m-%d %H:%M} UTC"


def choose_run(search: bool = True) -> str:
    """The id of the chosen run: the URL's, else this session's, else the newest finished one.

    Offers the newest ones; where there are more, `search` leads on to the page that finds them. Ends the page with
    what to do where there are no runs, or the reason where the URL names a run that is not there.
    """
    if st.session_state.pop("find_run", False):
        st.switch_page(RUNS)
    runs = history()
    known = {row["id"]: row for row in runs.to_dict("records")}
    asked = wanted()
    if asked:
        try:
            chosen = asked if asked in known else data.resolve(asked)
        except RequestError as error:
            st.warning(findings.literal(one_line(error)))
            if st.button("Show the newest run"):
                st.query_params.pop(PARAMETER, None)
                st.session_state.pop("chosen_run", None)
                st.rerun()
            st.stop()
        # Another page starts with an empty URL.
        go_to_run(chosen)
    else:
        chosen = newest_finished(runs)
    if chosen not in known:
        known[chosen] = data.run(chosen)
    options = list(known)
    if search and len(runs) == data.RECENT and (number := data.number()) > data.RECENT:
        options.append(OLDER)
    st.session_state[CHOICE] = chosen
    st.selectbox(
        "Run",
        options,
        format_func=lambda run_id: label(known[run_id]) if run_id else f"All {number:,} runs, with a search …",
        key=CHOICE,
        on_change=_remember,
        label_visibility="collapsed",
    )
    return chosen


def wanted() -> str | None:
    """The run that the URL asks for, else the one that this session chose."""
    return st.query_params.get(PARAMETER) or st.session_state.get("chosen_run")


def newest_finished(runs: pd.DataFrame) -> str:
    """Of all runs, of which these are the newest; the newest of all where none has finished."""
    finished = runs[runs["status"] == "finished"]
    if finished.empty and len(runs) == data.RECENT:
        finished = data.runs(Search(states=("finished",)), limit=1)
    return str((runs if finished.empty else finished)["id"].iloc[0])


def _remember() -> None:
    if st.session_state[CHOICE] == OLDER:
        st.session_state["find_run"] = True
    else:
        go_to_run(st.session_state[CHOICE])


def go_to_run(run_id: str) -> None:
    """Make `run_id` the chosen run of this session and its URL."""
    st.session_state["chosen_run"] = run_id
    st.query_params[PARAMETER] = run_id


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


def sentences(shown: Sequence[str], unshown: Sequence[str]) -> None:
    """What a run shows, and what was looked for in vain; of more than are read at once the rest on demand."""
    most = findings.MANY
    if shown:
        st.html(scorecard.sentences(shown[:most]))
    if len(shown) > most:
        with st.expander(f"{len(shown) - most} more"):
            st.html(scorecard.sentences(shown[most:]))
    if len(unshown) > most:
        with st.expander(f"{len(unshown)} looked for, and not shown"):
            st.html(scorecard.sentences(unshown, muted=True))
    elif unshown:
        st.caption("Looked for, and not shown:")
        st.html(scorecard.sentences(unshown, muted=True))


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
    summary = data.run(run_id)
    return base.source(summary, rows_of(data.measurements(summary)))


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


def small_models(rows: Sequence[Row]) -> None:
    """Says plainly what the demo's models are, and leads on to suites whose models are not small."""
    baseline = baseline_of(rows)
    size = "."
    if baseline is not None and baseline["weights_bytes"]:
        size = (
            f": {megabytes(baseline['weights_bytes'])} MB of weights, DistilBERT-base "
            f"{megabytes(DISTILBERT_BASE_BYTES)}."
        )
    # In one line with its links at 1440 px: the first screen has no room for two.
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(
            f"**The demo's models are small and made here**{size} They show how the bench works, not how fast "
            "DistilBERT is.",
            width="content",
        )
        for suite, about in (("shapes", "true sizes"), ("agnews", "real models")):
            st.page_link(RUN, label=f":primary[→ {suite}], {about}", query_params={"suite": suite})


def state_of(summary: dict[str, Any]) -> None:
    """Says in one line what is special about a run that did not simply finish; follows a live one."""
    status, reason = summary["status"], summary["status_reason"]
    because = findings.literal(f": {reason.rstrip('.')}." if reason else ".")
    if status in data.LIVE:
        _follow(summary["id"])
    elif status == "failed":
        st.error(f"This run failed{because}")
    elif status == "cancelled":
        st.info(f"This run was cancelled{because}")
    elif status == "interrupted":
        st.warning(f"This run was interrupted{because}")
    # A finished run has a reason where variants failed. Only where it was begun are its models and its device, and what
    # a file says of that is its sender's word.
    here = summary["host"] == socket.gethostname() and not summary["foreign"]
    if status not in data.LIVE and reason and here:
        _resume(summary["id"])


def _resume(run_id: str) -> None:
    """Offers to go on with a run that lacks something."""
    if st.button("Measure what is missing", key="resume", help="What is measured stays as it is."):
        try:
            jobs.resume(run_id)
        except RequestError as error:
            st.error(findings.literal(one_line(error)))
        else:
            st.switch_page(RUN, query_params={PARAMETER: run_id})


@st.fragment(run_every=LIVE_SECONDS)
def _follow(run_id: str) -> None:
    now = data.run(run_id)
    if now["status"] not in data.LIVE:
        st.rerun()
    progress = now["progress"] or {}
    text = progress.get("text") or now["status"]
    left = progress.get("seconds_left")
    remaining = f" · about {duration(left)} left" if left else ""
    st.progress(
        min(max(progress.get("done") or 0.0, 0.0), 1.0),
        text=findings.literal(f"This run is under way: {progress.get('phase') or now['status']}: {text}{remaining}"),
    )
