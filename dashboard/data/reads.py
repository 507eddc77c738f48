"""What the pages show, read from the store and cached. The only module that asks the store."""

from __future__ import annotations

import tempfile
import time
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import run_rows
from dashboard.data import answers as answers_of
from dashboard.data.answers import Answers
from dashboard.run_rows import Row
from engine import paths
from engine.errors import RequestError, one_line
from engine.jobs import slurm
from engine.measurement.summary import Raw
from engine.report import exports, load
from engine.report.load import JoinedLoad
from engine.store import Store, examples, history, interrupted, models, open_store
from engine.store import measurements as store_measurements
from engine.store.rows import LoadRow, PublishedRow
from engine.store.runfile import reading, writing
from engine.store.runs import Search, count_runs, get_run, list_runs, named_runs, run_summary, suite_names, tag_names

if TYPE_CHECKING:
    from engine.ship.plan import Shipment

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


def read_only() -> str | None:
    """Why nothing can be stored; None where it can, or where there is no database yet."""
    try:
        return store().read_only
    except RequestError:
        return None


def _current() -> Store:
    """The bench's database, in which no run counts as under way whose process has been found to be gone."""
    url, opened = paths.database_url(), store()
    if time.monotonic() - _checked_s.get(url, -INTERRUPTED_CHECK_S) >= INTERRUPTED_CHECK_S:
        _checked_s[url] = time.monotonic()
        slurm.catch_up(opened)
        with opened.session() as session:
            interrupted.mark_interrupted(session)
    return opened


def runs(search: Search = ALL, limit: int = RECENT, offset: int = 0) -> pd.DataFrame:
    """A part of the history, newest first: one row a run, with counts of its measurements by status."""
    _current()
    return _runs(paths.database_url(), search, limit, offset)


@st.cache_data(ttl=2, max_entries=64, show_spinner=False)
def _runs(url: str, search: Search, limit: int, offset: int) -> pd.DataFrame:
    columns = [
        "id", "suite", "device", "device_name", "host", "status", "status_reason", "created_at",
        "started_at", "finished_at", "notes", "tags", "imported_at", *models.STATUSES,
    ]  # fmt: skip
    with _store(url).session() as session:
        made = [
            {"suite": row.run.suite_name, **row.counts}
            | {name: getattr(row.run, name) for name in columns if name not in ("suite", *models.STATUSES)}
            for row in list_runs(session, limit=limit, search=search, offset=offset)
        ]
    return pd.DataFrame(made, columns=columns, dtype=object)


def named(limit: int) -> list[tuple[str, str, datetime]]:
    """Id, suite and time of the newest runs, and no more: where very many are offered."""
    _current()
    return _named(paths.database_url(), limit)


@st.cache_data(ttl=2, max_entries=4, show_spinner=False)
def _named(url: str, limit: int) -> list[tuple[str, str, datetime]]:
    with _store(url).session() as session:
        return named_runs(session, limit)


@st.cache_data(ttl=2, max_entries=64, show_spinner=False)
def _number(url: str, search: Search) -> int:
    with _store(url).session() as session:
        return count_runs(session, search)


def number(search: Search = ALL) -> int:
    """How many runs a search finds."""
    store()
    return _number(paths.database_url(), search)


@st.cache_data(ttl=2, max_entries=4, show_spinner=False)
def _names(url: str) -> tuple[list[str], list[str]]:
    with _store(url).session() as session:
        return suite_names(session), tag_names(session)


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
    for read in (_runs, _number, _names, _ended_measurements, _ended_loads):
        read.clear()


def resolve(reference: str) -> str:
    """The id of the run that `reference` means. Raises RequestError where there is none, or several."""
    with store().session() as session:
        return get_run(session, reference).id


def run(run_id: str) -> dict[str, Any]:
    """A run without its measurements, as it stands now."""
    with _current().session() as session:
        return run_summary(get_run(session, run_id))


def measurements(summary: dict[str, Any]) -> list[Row]:
    """The rows of a run (see `dashboard.run_rows`), given what `run` said of it.

    A run that has ended is read once; one that is under way, at most every two seconds.
    """
    url = paths.database_url()
    if summary["status"] in LIVE:
        return _live_measurements(url, summary["id"])
    return _ended_measurements(url, summary["id"], summary["status"], summary["finished_at"], summary["imported_at"])


@st.cache_data(ttl=2, max_entries=8, show_spinner=False)
def _live_measurements(url: str, run_id: str) -> list[Row]:
    return _read_measurements(url, run_id)


@st.cache_data(max_entries=64, show_spinner=False)
def _ended_measurements(
    url: str, run_id: str, status: str, finished_at: str | None, imported_at: str | None
) -> list[Row]:
    return _read_measurements(url, run_id)


def _read_measurements(url: str, run_id: str) -> list[Row]:
    with _store(url).session() as session:
        return run_rows.build(store_measurements.rows(session, run_id))


def loads(summary: dict[str, Any], measured: Sequence[Row]) -> list[JoinedLoad]:
    """What a run's variants gave under a service's load (`engine.report.load.joined`), given its summary and rows."""
    url, run_id = paths.database_url(), summary["id"]
    if summary["status"] in LIVE:
        found = _live_loads(url, run_id)
    else:
        found = _ended_loads(url, run_id, summary["status"], summary["finished_at"], summary["imported_at"])
    return load.joined(found, measured)


@st.cache_data(ttl=2, max_entries=8, show_spinner=False)
def _live_loads(url: str, run_id: str) -> list[LoadRow]:
    return _read_loads(url, run_id)


@st.cache_data(max_entries=64, show_spinner=False)
def _ended_loads(url: str, run_id: str, status: str, finished_at: str | None, imported_at: str | None) -> list[LoadRow]:
    return _read_loads(url, run_id)


def _read_loads(url: str, run_id: str) -> list[LoadRow]:
    with _store(url).session() as session:
        return store_measurements.loads(session, run_id)


@st.cache_data(ttl=60, max_entries=4, show_spinner=False)
def _published(url: str) -> list[PublishedRow]:
    with _store(url).session() as session:
        return store_measurements.published(session)


def published() -> list[PublishedRow]:
    """What others reported."""
    return _published(paths.database_url())


def export(run_id: str, form: str) -> str:
    """A run as CSV, JSON or Markdown text."""
    return exports.measurements(run_id, form)


def predictions(run_id: str, form: str) -> str:
    """Every answer of a run as CSV or JSON text. Raises RequestError where there are none."""
    return exports.predictions(run_id, form)


def run_file(run_id: str) -> bytes:
    """A run as one file, to be imported elsewhere. Raises RequestError where it is under way."""
    return writing.dump(run_id)[1]


def import_run(content: bytes, called: str) -> reading.Imported:
    """Stores the run of a file. Raises RequestError, with what is wrong."""
    done = reading.load(content, called)
    _forget()
    return done


def logs(summary: dict[str, Any]) -> dict[str, str]:
    """The ends of a run's log files by name; empty where there are none on this machine."""
    return writing.log_tails(summary["log_path"])


def raws(run_id: str, ids: tuple[int, ...]) -> dict[int, Raw]:
    """The timed blocks of these measurements of a run, in one query. Read only: all readers share them.

    For measured rows alone: their raw values are final.
    """
    return _raws(paths.database_url(), run_id, ids)


@st.cache_resource(max_entries=32, show_spinner=False)
def _raws(url: str, run_id: str, ids: tuple[int, ...]) -> dict[int, Raw]:
    # The run's id is part of the key, as SQLite gives a deleted measurement's id to another.
    with _store(url).session() as session:
        found = store_measurements.all_blocks(session, ids)
    return {key: Raw(blocks) for key, blocks in found.items()}


def outputs(run_id: str, ids: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Measurement -> int64 [examples], each answer as the index of the largest logit. Read only, as `raws`."""
    return _outputs(paths.database_url(), run_id, ids)


@st.cache_resource(max_entries=32, show_spinner=False)
def _outputs(url: str, run_id: str, ids: tuple[int, ...]) -> dict[int, np.ndarray]:
    with _store(url).session() as session:
        return {key: logits.argmax(axis=1) for key, logits in store_measurements.all_logits(session, ids).items()}


def labels(set_id: str) -> np.ndarray | None:
    """int64 [examples] of an example set; None where it is not labelled. Read only, as `raws`."""
    return _labels(paths.database_url(), set_id)


@st.cache_resource(max_entries=16, show_spinner=False)
def _labels(url: str, set_id: str) -> np.ndarray | None:
    with _store(url).session() as session:
        return examples.example_labels(session, set_id)


def answers(summary: dict[str, Any], rows: list[run_rows.Row]) -> Answers:
    """What the measured `rows` of a run answer to each of its examples; no text is read for it."""
    measured = [row for row in rows if row.status == "measured"]
    key = (summary["status"], summary["finished_at"], *(row.id for row in measured))
    return _answers(paths.database_url(), summary["id"], key, measured)


@st.cache_data(max_entries=32, show_spinner=False)
def _answers(url: str, run_id: str, key: tuple[Any, ...], _rows: list[run_rows.Row]) -> Answers:
    with _store(url).session() as session:
        example_set = get_run(session, run_id).example_set
        truth = examples.example_labels(session, example_set.id) if example_set else None
        found = store_measurements.all_logits(session, [row.id for row in _rows])
        logits = [found.get(row.id) for row in _rows]
        return answers_of.build(_rows, logits, truth, example_set.label_names if example_set else None)


@st.cache_data(max_entries=128, show_spinner=False)
def _positions(url: str, set_id: str, words: tuple[str, ...]) -> np.ndarray:
    with _store(url).session() as session:
        return examples.positions_with(session, set_id, words)


def positions_with(set_id: str, words: tuple[str, ...]) -> np.ndarray:
    """int64 [found]: positions of the texts of a set that contain every one of `words`."""
    return _positions(paths.database_url(), set_id, words)


def examples_at(set_id: str, positions: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
    """position, source_index and text of some examples of a set, in the order of `positions`."""
    with store().session() as session:
        return [
            {"position": e.position, "source_index": e.source_index, "text": e.text}
            for e in examples.examples_at(session, set_id, positions)
        ]


def rates(summary: dict[str, Any], rows: list[run_rows.Row]) -> dict[int, list[np.ndarray]]:
    """The samples/s of each round, by measurement id, of the rows whose rounds were those of the workload's rows.

    One float64 [rounds] array a process, NaN for a round without a block. `rows`: one batch size of an ended run, with
    the variants that keep a batching of their own, whose rounds belong to the largest batch size.
    """
    base = run_rows.baseline_of(rows)
    peers = [row for row in rows if base is None or row.experiment == base.experiment]
    same = [row.id for row in peers if run_rows.usable(row)]
    return {found: raw.rates() for found, raw in raws(summary["id"], tuple(same)).items()}


def shipment(summary: dict[str, Any], variant: str, batch_size: int) -> tuple[Shipment, dict[str, str]]:
    """What a variant's folder would hold, and the sha256 of each of its files. Raises RequestError, in one line."""
    url, ended = paths.database_url(), summary["finished_at"]
    return _shipment(url, summary["id"], summary["status"], ended, variant, batch_size)


# Files may change or go: what was found is looked at again after a minute.
@st.cache_data(ttl=60, max_entries=16, show_spinner=False)
def _shipment(
    url: str, run_id: str, status: str, finished_at: str | None, variant: str, batch_size: int
) -> tuple[Shipment, dict[str, str]]:
    from engine.ship import plan

    found = plan.plan(run_id, variant, batch_size)
    return found, found.checksums()


def shipped_zip(run_id: str, variant: str, batch_size: int, name: str) -> bytes:
    """The variant's folder, made and checked, as a zip file whose one folder is `name`."""
    from engine.ship import folder

    with tempfile.TemporaryDirectory(prefix="ship-") as place:
        folder.ship(run_id, variant, Path(place) / name, batch_size)
        # Weights do not get smaller.
        packed = Path(place) / "packed.zip"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted((Path(place) / name).rglob("*")):
                archive.write(file, file.relative_to(place))
        return packed.read_bytes()


def trace(run_id: str, variant: str, batch_size: int) -> bytes | None:
    """The trace of a profiled measurement, gzipped JSON; None where none was made on this machine."""
    from engine.run import profiling

    file = profiling.trace_file(run_id, variant, batch_size)
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RequestError(f"cannot read {file}: {one_line(error)}") from error


def make_trace(run_id: str, variant: str, batch_size: int) -> bytes:
    """Profiles a measurement in a worker of its own and returns its trace. Raises RequestError, in one line."""
    from engine.run import profiling

    return profiling.profile(run_id, variant, batch_size).file.read_bytes()
