"""What the pages show, read from the store and cached. The only module that asks the store."""

from __future__ import annotations

import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import frame
from engine import batching, exports, jobs, paths
from engine.store import Store, open_store, queries
from engine.summary import Block, Raw

if TYPE_CHECKING:
    from engine.shipping import Shipment

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


def rates(summary: dict[str, Any], rows: list[frame.Row]) -> dict[int, list[np.ndarray]]:
    """The samples/s of each round, by measurement id, of the rows whose rounds were those of the workload's rows.

    One float64 [rounds] array a process, NaN for a round without a block. `rows`: one batch size of an ended run, with
    the variants that keep a batching of their own, whose rounds belong to the largest batch size.
    """
    of = {row["id"]: batching.experiment(summary["spec"], row["variant"], row["batch_size"]) for row in rows}
    base = frame.baseline_of(rows)
    same = [row["id"] for row in rows if frame.usable(row) and (base is None or of[row["id"]] == of[base["id"]])]
    return _rates(paths.database_url(), summary["id"], summary["status"], summary["finished_at"], tuple(same))


@st.cache_data(max_entries=64, show_spinner=False)
def _rates(
    url: str, run_id: str, status: str, finished_at: str | None, measurement_ids: tuple[int, ...]
) -> dict[int, list[np.ndarray]]:
    with _store(url).session() as session:
        return {
            found: Raw(
                [
                    Block(b.process, b.round, b.started_s, b.latencies_s, b.samples, b.tokens, b.padded_tokens)
                    for b in queries.latencies(session, found)
                ]
            ).rates()
            for found in measurement_ids
        }


def shipment(summary: dict[str, Any], variant: str, batch_size: int) -> tuple[Shipment, dict[str, str]]:
    """What a variant's folder would hold, and the sha256 of each of its files. Raises RequestError, in one line."""
    url, ended = paths.database_url(), summary["finished_at"]
    return _shipment(url, summary["id"], summary["status"], ended, variant, batch_size)


# Files may change or go: what was found is looked at again after a minute.
@st.cache_data(ttl=60, max_entries=16, show_spinner=False)
def _shipment(
    url: str, run_id: str, status: str, finished_at: str | None, variant: str, batch_size: int
) -> tuple[Shipment, dict[str, str]]:
    from engine import shipping

    found = shipping.plan(run_id, variant, batch_size)
    return found, found.checksums()


def shipped_zip(run_id: str, variant: str, batch_size: int, name: str) -> bytes:
    """The variant's folder, made and checked, as a zip file whose one folder is `name`."""
    from engine import shipping

    with tempfile.TemporaryDirectory(prefix="ship-") as place:
        shipping.ship(run_id, variant, Path(place) / name, batch_size)
        # Weights do not get smaller.
        packed = Path(place) / "packed.zip"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted((Path(place) / name).rglob("*")):
                archive.write(file, file.relative_to(place))
        return packed.read_bytes()
