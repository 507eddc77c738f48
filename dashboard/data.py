"""What the pages show, read from the store and cached. The only module that asks the store."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import frame
from engine import exports, history, paths, runfile
from engine.store import Store, open_store, queries
from engine.store.queries import Search

LIVE = ("queued", "preparing", "running")
"""The states of a run that may still change by itself."""
RECENT = 30
"""How many runs the choice of a run offers."""
INTERRUPTED_CHECK_S = 5.0

ALL = Search()

_checked_s: dict[str, float] = {}


@st.cache_resource(show_spinner=False, max_entries=4)
def _store(url: str) -> Store:
    return open_store(url, create=False)


def store() -> Store:
    """The bench's database. Raises RequestError where there is none yet."""
    return _store(paths.database_url())


def _current() -> Store:
    """The bench's database, in which no run counts as under way whose process has been found to be gone."""
    url, opened = paths.database_url(), store()
    if time.monotonic() - _checked_s.get(url, -INTERRUPTED_CHECK_S) >= INTERRUPTED_CHECK_S:
        _checked_s[url] = time.monotonic()
        with opened.session() as session:
            queries.mark_interrupted(session)
    return opened


def runs(search: Search = ALL, limit: int = RECENT, offset: int = 0) -> pd.DataFrame:
    """A part of the history, newest first: one row a run, with counts of its measurements by status."""
    _current()
    return _runs(paths.database_url(), search, limit, offset)


@st.cache_data(ttl=2, max_entries=64, show_spinner=False)
def _runs(url: str, search: Search, limit: int, offset: int) -> pd.DataFrame:
    columns = [
        "id", "suite", "device", "device_name", "host", "status", "status_reason", "created_at",
        "started_at", "finished_at", "notes", "tags", "imported_at", *queries.STATUSES,
    ]  # fmt: skip
    with _store(url).session() as session:
        made = [
            {"suite": row.run.suite_name, **row.counts}
            | {name: getattr(row.run, name) for name in columns if name not in ("suite", *queries.STATUSES)}
            for row in queries.list_runs(session, limit=limit, search=search, offset=offset)
        ]
    return pd.DataFrame(made, columns=columns, dtype=object)


@st.cache_data(ttl=2, max_entries=64, show_spinner=False)
def _number(url: str, search: Search) -> int:
    with _store(url).session() as session:
        return queries.count_runs(session, search)


def number(search: Search = ALL) -> int:
    """How many runs a search finds."""
    store()
    return _number(paths.database_url(), search)


@st.cache_data(ttl=2, max_entries=4, show_spinner=False)
def _names(url: str) -> tuple[list[str], list[str]]:
    with _store(url).session() as session:
        return queries.suite_names(session), queries.tag_names(session)


def names() -> tuple[list[str], list[str]]:
    """The suites and the tags of all runs."""
    store()
    return _names(paths.database_url())


def annotate(run_id: str, note: str, tags: list[str]) -> None:
    """A run's note and tags are these. Raises RequestError where they cannot be."""
    had = run(run_id)["tags"]
    history.annotate(run_id, note, tags, set(had) - {history.as_tag(tag) for tag in tags})
    _forget()


def contents(run_id: str) -> history.Contents:
    """What would go with a run."""
    return history.contents(run_id)


def delete(run_id: str) -> None:
    """Deletes a run that has ended. Raises RequestError where it cannot be."""
    history.delete(run_id)
    _forget()


def _forget() -> None:
    """What was read of the history before it was changed here."""
    for read in (_runs, _number, _names, _ended_measurements):
        read.clear()


def resolve(reference: str) -> str:
    """The id of the run that `reference` means. Raises RequestError where there is none, or several."""
    with store().session() as session:
        return queries.get_run(session, reference).id


def run(run_id: str) -> dict[str, Any]:
    """A run without its measurements, as it stands now."""
    with _current().session() as session:
        return queries.run_summary(queries.get_run(session, run_id))


def measurements(summary: dict[str, Any]) -> pd.DataFrame:
    """The frame of a run (see `dashboard.frame`), given what `run` said of it.

    A run that has ended is read once; one that is under way, at most every two seconds.
    """
    url = paths.database_url()
    if summary["status"] in LIVE:
        return _live_measurements(url, summary["id"])
    return _ended_measurements(url, summary["id"], summary["status"], summary["finished_at"], summary["imported_at"])


@st.cache_data(ttl=2, max_entries=8, show_spinner=False)
def _live_measurements(url: str, run_id: str) -> pd.DataFrame:
    return _read_measurements(url, run_id)


@st.cache_data(max_entries=64, show_spinner=False)
def _ended_measurements(
    url: str, run_id: str, status: str, finished_at: str | None, imported_at: str | None
) -> pd.DataFrame:
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


def run_file(run_id: str) -> bytes:
    """A run as one file, to be imported elsewhere. Raises RequestError where it is under way."""
    return runfile.dump(run_id)[1]


def import_run(content: bytes, called: str) -> runfile.Imported:
    """Stores the run of a file. Raises RequestError, with what is wrong."""
    done = runfile.load(content, called)
    _forget()
    return done


def logs(summary: dict[str, Any]) -> dict[str, str]:
    """The ends of a run's log files by name; empty where there are none on this machine."""
    return runfile.log_tails(summary["log_path"])
