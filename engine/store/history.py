"""Notes on stored runs, tags, and deletion."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine import paths
from engine.errors import RequestError, one_line

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from engine.store.models import Run

NOTE_LENGTH = 4000
TRACES = "profiles"
"""The folder of what `engine.run.profiling` makes, a folder a run."""
TAGS = 20
"""How many tags a run has at most."""
_TAG = re.compile(r"[\w.:/+-]{1,40}")


class Remarks(NamedTuple):
    """The note and tags of a run."""

    run_id: str
    note: str | None
    tags: list[str]


class Contents(NamedTuple):
    """What is stored of a run, and would be deleted with it."""

    run_id: str
    measurements: int
    answers: int
    log: Path | None
    """Its folder under this bench's own logs; None where there is none."""
    unused_examples: int
    """Those that no other run has."""


def as_tag(word: str) -> str:
    """`word` as a tag: in small letters. Raises RequestError where it is none."""
    tag = word.strip().lower()
    if not _TAG.fullmatch(tag):
        raise RequestError(f"the tag {word[:60]!r}: allowed are 1 to 40 letters, digits and . _ - : / + without blanks")
    return tag


def as_note(text: str) -> str | None:
    """`text` as a note, without control characters; None where it is empty. Raises RequestError where it is too long.

    Also used for what comes from a file.
    """
    note = "".join(sign for sign in text if sign.isprintable() or sign in "\n\t").strip()
    if len(note) > NOTE_LENGTH:
        raise RequestError(f"the note has {len(note):,} characters; allowed are {NOTE_LENGTH:,}")
    return note or None


def annotate(reference: str, note: str | None = None, tag: Iterable[str] = (), untag: Iterable[str] = ()) -> Remarks:
    """Sets a run's note (None leaves it, "" clears it), adds tags and takes others away; returns what is there then.

    Raises RequestError where there is no such run, where a tag is none, or where the database cannot be written.
    """
    from engine.store import open_store, runs

    add, remove = [as_tag(word) for word in tag], {as_tag(word) for word in untag}
    said = None if note is None else as_note(note)
    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, reference)
        tags = sorted((set(run.tags) | set(add)) - remove)
        if len(tags) > TAGS:
            raise RequestError(f"run {run.id} would have {len(tags)} tags; allowed are {TAGS}")
        if note is not None:
            run.notes = said
        if tags != run.tags:
            runs.set_tags(session, run.id, tags)
        return Remarks(run.id, run.notes, tags)


def contents(reference: str) -> Contents:
    """What would be deleted with a run. Raises RequestError if there is no such run."""
    from engine.store import open_store, runs

    with open_store(create=False) as store, store.session() as session:
        return _contents(session, runs.get_run(session, reference))


def delete(reference: str) -> Contents:
    """Deletes a run with its measurements, answers, traces and log; returns what went.

    Its examples go where no other run has them. A log that lies elsewhere than in this bench's own folder of
    logs stays. Raises RequestError where there is no such run, where it is under way, or where the database
    cannot be written.
    """
    from engine.store import interrupted, models, open_store, runs

    with open_store(create=False) as store, store.session() as session:
        interrupted.mark_interrupted(session)
        run = runs.get_run(session, reference)
        found = _contents(session, run)
        if run.status in models.LIVE or not runs.delete_run(session, run.id):
            raise RequestError(f"run {run.id} is under way ({run.status}); cancel it, then delete it")
    for what, folder in (("log", found.log), ("traces", paths.local_data() / TRACES / found.run_id)):
        if folder is not None and folder.is_dir():
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise RequestError(f"run {found.run_id} is deleted, its {what} not: {one_line(error)}") from error
    with suppress(OSError):
        interrupted.words_elsewhere(found.run_id).unlink(missing_ok=True)
    return found


def _contents(session: Session, run: Run) -> Contents:
    from sqlalchemy import exists, func, select

    from engine.store.models import ExampleSet, Measurement, Prediction, Run

    answers = (
        select(func.count(Measurement.id), func.coalesce(func.sum(Prediction.rows), 0))
        .outerjoin(Prediction, Prediction.measurement_id == Measurement.id)
        .where(Measurement.run_id == run.id)
    )
    number, answered = session.execute(answers).one()
    others = exists().where(Run.example_set_id == run.example_set_id, Run.id != run.id)
    unused = select(ExampleSet.count).where(ExampleSet.id == run.example_set_id, ~others)
    return Contents(run.id, number, int(answered), log_folder(run), session.scalar(unused) or 0)


def going(found: Contents) -> str:
    """A sentence that lists what would be deleted with a run."""
    parts = [_counted(found.measurements, "measurement"), _counted(found.answers, "answer")]
    if found.unused_examples:
        parts.append(f"{_counted(found.unused_examples, 'text')} that no other run has")
    if found.log is not None:
        parts.append("its log")
    return f"{', '.join(parts[:-1])} and {parts[-1]} go with it, for good."


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def log_folder(run: Run) -> Path | None:
    """The run's log where it is a folder of its own, named after it, among this bench's logs. Links are followed."""
    if not run.log_path:
        return None
    place = Path(run.log_path).resolve()
    mine = place.name == run.id and place.parent == (paths.local_data() / "logs").resolve()
    return place if mine and place.is_dir() else None
