"""Queries about runs: add, find, search, tag, delete."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, Select, delete, exists, func, insert, or_, select
from sqlalchemy.orm import Session, load_only

from engine.errors import RequestError
from engine.store.interrupted import mark_interrupted
from engine.store.models import (
    LIVE,
    STATUSES,
    ExampleSet,
    Measurement,
    Run,
    RunTag,
)
from engine.store.rows import iso, plain

if TYPE_CHECKING:
    pass

REFERENCE_LENGTH = 4
"""The fewest characters of a run's id that may stand for it."""
SEARCH_WORDS = 20
"""How many words a search looks for at most."""


class RunRow(NamedTuple):
    """A run, and how many of its measurements are in each of STATUSES."""

    run: Run
    """Its suite, environment and ceilings are read only when they are asked for, in the session."""
    counts: dict[str, int]


class Search(NamedTuple):
    """Which runs of the history are meant; what is empty asks for nothing."""

    words: str = ""
    """Each of them is part of the id, suite, device, host, state, its reason, note or a tag; capitals do not count."""
    suites: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    """The run has all of these."""


def add_run(session: Session, run: Run) -> Run:
    """Stores `run` with the measurements in it."""
    session.add(run)
    session.flush()
    return run


def get_run(session: Session, reference: str) -> Run:
    """The run that `reference` means: its id, at least 4 characters of its beginning or end, or "latest".

    Raises RequestError, with the ids nearest to it, where there is none or more than one.
    """
    word = reference.strip().upper()
    newest = select(Run).order_by(Run.created_at.desc(), Run.id.desc())
    if word == "LATEST":
        run = session.scalars(newest.limit(1)).first()
        if run is None:
            raise RequestError("there are no runs yet; run `python -m engine run demo` first")
        return run
    run = session.get(Run, word)
    if run is not None:
        return run
    found: Sequence[Run] = ()
    if len(word) >= REFERENCE_LENGTH:
        part = or_(Run.id.startswith(word, autoescape=True), Run.id.endswith(word, autoescape=True))
        found = session.scalars(newest.where(part).limit(6)).all()
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(map(_shown, found[:5])) + (", ..." if len(found) > 5 else "")
        raise RequestError(f"run {reference!r} could be any of {several}; give more characters")
    raise RequestError(f"there is no run {reference!r}; {_suggestions(session, word)}")


def _suggestions(session: Session, word: str) -> str:
    """Suggestions in place of `word`: the runs with the most similar ids, or the most recent ones."""
    newest = select(Run).options(load_only(Run.suite_name, Run.created_at))
    recent = session.scalars(newest.order_by(Run.created_at.desc(), Run.id.desc()).limit(200)).all()
    if not recent:
        return "there are none yet: run `python -m engine run demo` first"
    near = difflib.get_close_matches(word, [run.id for run in recent], n=3, cutoff=0.8)
    if near:
        return "did you mean " + " or ".join(_shown(run) for run in recent if run.id in near) + "?"
    hint = f" (at least {REFERENCE_LENGTH} characters are needed)" if len(word) < REFERENCE_LENGTH else ""
    return f'the most recent: {", ".join(_shown(run) for run in recent[:3])}; or "latest"{hint}'


def _shown(run: Run) -> str:
    return f"{run.id} ({run.suite_name}, {run.created_at:%Y-%m-%d %H:%M} UTC)"


def list_runs(
    session: Session, limit: int = 50, suite: str | None = None, search: Search | None = None, offset: int = 0
) -> list[RunRow]:
    """The newest runs first, with counts of their measurements by status; three queries, however many there are."""
    wanted = select(Run).options(
        load_only(
            Run.suite_name, Run.device, Run.device_name, Run.host, Run.status, Run.status_reason, Run.created_at,
            Run.started_at, Run.finished_at, Run.notes, Run.imported_at, Run.example_set_id,
        )
    )  # fmt: skip
    if suite is not None:
        wanted = wanted.where(Run.suite_name == suite)
    wanted = _searched(wanted, search or Search())
    runs = session.scalars(wanted.order_by(Run.created_at.desc(), Run.id.desc()).limit(limit).offset(offset)).all()
    found = {run.id: RunRow(run, dict.fromkeys(STATUSES, 0)) for run in runs}
    counted = (
        select(Measurement.run_id, Measurement.status, func.count())
        .where(Measurement.run_id.in_(found))
        .group_by(Measurement.run_id, Measurement.status)
    )
    for run_id, status, number in session.execute(counted):
        found[run_id].counts[status] = number
    return list(found.values())


def named_runs(session: Session, limit: int) -> list[tuple[str, str, datetime]]:
    """Id, suite and time of the newest runs, the newest first."""
    wanted = select(Run.id, Run.suite_name, Run.created_at).order_by(Run.created_at.desc(), Run.id.desc())
    return [(run, suite, created) for run, suite, created in session.execute(wanted.limit(limit))]


def live_runs(session: Session) -> list[Run]:
    """The runs that are under way, then those that wait in the order of their turns; what is gone is marked first."""
    mark_interrupted(session)
    asked = func.coalesce(Run.queued_at, Run.created_at)
    found = session.scalars(select(Run).where(Run.status.in_(LIVE)).order_by(Run.status == "queued", asked, Run.id))
    # Where the database cannot be written, what has been found to be interrupted is among them.
    return [run for run in found if run.status in LIVE]


def count_runs(session: Session, search: Search | None = None) -> int:
    """How many runs a search finds."""
    return int(session.scalars(_searched(select(func.count()).select_from(Run), search or Search())).one())


def suite_names(session: Session) -> list[str]:
    """Of all runs, in the order of the alphabet."""
    return list(session.scalars(select(Run.suite_name).distinct().order_by(Run.suite_name)))


def tag_names(session: Session) -> list[str]:
    """Of all runs, in the order of the alphabet."""
    return list(session.scalars(select(RunTag.tag).distinct().order_by(RunTag.tag)))


def _searched(query: Select[Any], search: Search) -> Select[Any]:
    for word in search.words.split()[:SEARCH_WORDS]:
        places = (
            Run.id, Run.suite_name, Run.device, Run.device_name, Run.host, Run.status, Run.status_reason, Run.notes,
        )  # fmt: skip
        holds: list[ColumnElement[bool]] = [place.icontains(word, autoescape=True) for place in places]
        query = query.where(or_(*holds, _tagged(RunTag.tag.icontains(word, autoescape=True))))
    if search.suites:
        query = query.where(Run.suite_name.in_(search.suites))
    if search.states:
        query = query.where(Run.status.in_(search.states))
    for tag in search.tags:
        query = query.where(_tagged(RunTag.tag == tag))
    return query


def _tagged(which: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(RunTag.run_id == Run.id, which)


def set_tags(session: Session, run_id: str, tags: Iterable[str]) -> None:
    """The run has these tags, and no others."""
    session.execute(delete(RunTag).where(RunTag.run_id == run_id))
    rows = [{"run_id": run_id, "tag": tag} for tag in sorted(set(tags))]
    if rows:
        session.execute(insert(RunTag), rows)


def delete_run(session: Session, run_id: str) -> bool:
    """Deletes an ended run with all that it gave, and its examples where no other run has them.

    False where the run is under way or not there: then nothing is deleted.
    """
    set_id = session.scalars(select(Run.example_set_id).where(Run.id == run_id)).first()
    gone = session.execute(
        delete(Run).where(Run.id == run_id, Run.status.not_in(LIVE)).execution_options(synchronize_session=False)
    )
    if not gone.rowcount:  # type: ignore[attr-defined]
        return False
    if set_id is not None:
        unused = ~exists().where(Run.example_set_id == set_id)
        session.execute(
            delete(ExampleSet).where(ExampleSet.id == set_id, unused).execution_options(synchronize_session=False)
        )
    return True


def asked_here() -> ColumnElement[bool]:
    """Which runs are not `Run.foreign`: those alone say anything of this machine."""
    return or_(Run.imported_at.is_(None), Run.queued_at.is_not(None))


def run_summary(run: Run) -> dict[str, Any]:
    """A run as one JSON-ready object, without its measurements; times are ISO 8601 in UTC."""
    return {
        "id": run.id,
        "suite": run.suite_name,
        "suite_path": run.suite_path,
        "spec": plain(run.suite),
        "device": run.device,
        "device_name": run.device_name,
        "host": run.host,
        "status": run.status,
        "status_reason": run.status_reason,
        "progress": plain(run.progress),
        "created_at": iso(run.created_at),
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
        "heartbeat_at": iso(run.heartbeat_at),
        "pid": run.pid,
        "cancel_requested": bool(run.cancel_requested),
        "example_set_id": run.example_set_id,
        "environment": plain(run.environment),
        "ceilings": plain(run.ceilings),
        "log_path": run.log_path,
        "notes": run.notes,
        "tags": run.tags,
        "imported_at": iso(run.imported_at),
        "foreign": run.foreign,
    }
