"""What the pages show, read from the store and cached. The only module that asks the store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import disagreements, frame
from dashboard.disagreements import Answers
from engine import exports, jobs, paths
from engine.store import Store, open_store, queries

LIVE = ("queued", "preparing", "running")
"""The states of a run that may still change by itself."""
LISTED = 1000
"""How many runs the history holds at most."""
INTERRUPTED_CHECK_S = 30.0
LOG_BYTES = 60_000

_checked_s: dict[str, float] = {}


@st.cache_resource(show_spinner=False, max_entries=4)
def _store(url: str) -> Store:
    return open_store(url, create=False)


def store() -> Store:
    """The bench's database. Raises RequestError where there is none yet."""
    return _store(paths.database_url())


def runs() -> pd.DataFrame:
    """The history, newest first: one row a run, with counts of its measurements by status."""
    url = paths.database_url()
    opened = store()
    if time.monotonic() - _checked_s.get(url, -INTERRUPTED_CHECK_S) >= INTERRUPTED_CHECK_S:
        _checked_s[url] = time.monotonic()
        with opened.session() as session:
            queries.mark_interrupted(session)
        jobs.close_abandoned()
    return _runs(url)


@st.cache_data(ttl=2, max_entries=4, show_spinner=False)
def _runs(url: str) -> pd.DataFrame:
    columns = [
        "id", "suite", "title", "device", "device_name", "host", "status", "status_reason", "created_at",
        "started_at", "finished_at", "notes", *queries.STATUSES,
    ]  # fmt: skip
    with _store(url).session() as session:
        made = [
            {
                "id": row.run.id,
                "suite": row.run.suite_name,
                "title": (row.run.suite or {}).get("title") or row.run.suite_name,
                "device": row.run.device,
                "device_name": row.run.device_name,
                "host": row.run.host,
                "status": row.run.status,
                "status_reason": row.run.status_reason,
                "created_at": row.run.created_at,
                "started_at": row.run.started_at,
                "finished_at": row.run.finished_at,
                "notes": row.run.notes,
                **row.counts,
            }
            for row in queries.list_runs(session, limit=LISTED)
        ]
    return pd.DataFrame(made, columns=columns, dtype=object)


def resolve(reference: str) -> str:
    """The id of the run that `reference` means. Raises RequestError where there is none, or several."""
    with store().session() as session:
        return queries.get_run(session, reference).id


def run(run_id: str) -> dict[str, Any]:
    """A run without its measurements, as it stands now."""
    with store().session() as session:
        return queries.run_summary(queries.get_run(session, run_id))


def measurements(summary: dict[str, Any]) -> pd.DataFrame:
    """The frame of a run (see `dashboard.frame`), given what `run` said of it.

    A run that has ended is read once; one that is under way, at most every two seconds.
    """
    url = paths.database_url()
    if summary["status"] in LIVE:
        return _live_measurements(url, summary["id"])
    return _ended_measurements(url, summary["id"], summary["status"], summary["finished_at"])


@st.cache_data(ttl=2, max_entries=8, show_spinner=False)
def _live_measurements(url: str, run_id: str) -> pd.DataFrame:
    return _read_measurements(url, run_id)


@st.cache_data(max_entries=64, show_spinner=False)
def _ended_measurements(url: str, run_id: str, status: str, finished_at: str | None) -> pd.DataFrame:
    return _read_measurements(url, run_id)


def _read_measurements(url: str, run_id: str) -> pd.DataFrame:
    with _store(url).session() as session:
        return frame.build([queries.flat(row) | {"id": row.id} for row in queries.measurements(session, run_id)])


@st.cache_data(ttl=60, max_entries=4, show_spinner=False)
def _published(url: str) -> pd.DataFrame:
    with _store(url).session() as session:
        made = [
            {column.name: getattr(row, column.name) for column in row.__table__.columns}
            for row in queries.published(session)
        ]
    return pd.DataFrame(made, dtype=object)


def published() -> pd.DataFrame:
    """What others reported: the columns of the table `published`."""
    return _published(paths.database_url())


def export(run_id: str, form: str) -> str:
    """A run as CSV, JSON or Markdown text."""
    return exports.measurements(run_id, form)


def predictions(run_id: str, form: str) -> str:
    """Every answer of a run as CSV or JSON text. Raises RequestError where there are none."""
    return exports.predictions(run_id, form)


def logs(summary: dict[str, Any]) -> dict[str, str]:
    """The ends of a run's log files by name; empty where there are none on this machine."""
    if not summary["log_path"]:
        return {}
    place = Path(summary["log_path"])
    files = sorted(place.glob("*")) if place.is_dir() else [place]
    return {file.name: _tail(file) for file in files if file.is_file()}


def _tail(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - LOG_BYTES))
            return opened.read().decode("utf-8", errors="replace")
    except OSError as error:
        return f"cannot be read: {error}"


def answers(summary: dict[str, Any], rows: list[frame.Row]) -> Answers:
    """What the measured `rows` of a run answer to each of its examples; no text is read for it."""
    measured = [row for row in rows if row["status"] == "measured"]
    key = (summary["status"], summary["finished_at"], *(row["id"] for row in measured))
    return _answers(paths.database_url(), summary["id"], key, measured)


@st.cache_data(max_entries=32, show_spinner=False)
def _answers(url: str, run_id: str, key: tuple[Any, ...], _rows: list[frame.Row]) -> Answers:
    with _store(url).session() as session:
        example_set = queries.get_run(session, run_id).example_set
        truth = queries.example_labels(session, example_set.id) if example_set else None
        found = [queries.logits(session, row["id"]) for row in _rows]
        return disagreements.build(_rows, found, truth, example_set.label_names if example_set else None)


@st.cache_data(max_entries=128, show_spinner=False)
def _positions(url: str, set_id: str, words: tuple[str, ...]) -> np.ndarray:
    with _store(url).session() as session:
        return queries.positions_with(session, set_id, words)


def positions_with(set_id: str, words: tuple[str, ...]) -> np.ndarray:
    """int64 [found]: positions of the texts of a set that contain every one of `words`."""
    return _positions(paths.database_url(), set_id, words)


def examples_at(set_id: str, positions: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
    """position, source_index and text of some examples of a set, in the order of `positions`."""
    with store().session() as session:
        return [
            {"position": e.position, "source_index": e.source_index, "text": e.text}
            for e in queries.examples_at(session, set_id, positions)
        ]
