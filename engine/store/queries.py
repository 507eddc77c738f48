"""What the bench asks of its database and writes to it. Every function works in the caller's session."""

from __future__ import annotations

import difflib
import hashlib
import math
import socket
import stat
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Select, Update, delete, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session, load_only
from sqlalchemy.orm.attributes import set_committed_value

from engine import batching, processes
from engine.errors import RequestError
from engine.store.models import Block, Example, ExampleSet, Measurement, Prediction, Published, Run, RunTag, Scenario

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

LIVE = ("queued", "preparing", "running")
"""The states in which a run has a process: a queued one waits for its device."""
STATUSES = ("pending", "measured", "failed", "unavailable", "cancelled")
"""The states of a measurement."""
REFERENCE_LENGTH = 4
"""The fewest characters of a run's id that may stand for it."""
CHUNK = 500
"""How many values one statement binds at most: old SQLite allows 999."""
SILENT_SECONDS = 60.0
"""How long a run may be silent whose process cannot be looked for: three times what a live one is at most."""
ELSEWHERE_SECONDS = 300.0
"""The same for a run of another host, whose clock may differ."""
SUBMITTED_SECONDS = 24 * 3600.0
"""The same for a run that a Slurm job measures: its result may come although nobody has looked for long."""
LAST_WORDS = ".ended"
"""The file in a run's log folder in which its process says how it ended, where the database cannot be written."""
WORDS_BYTES = 4096
"""What is kept free for a run's last words, so that there is room for them on a full disk."""
SEARCH_WORDS = 20
"""How many words a search looks for at most."""

FIXED_FIELDS: tuple[str, ...] = (
    "variant",
    "title",
    "model",
    "backend",
    "precision",
    "device",
    "batch_size",
    "status",
    "status_reason",
    "validity",
    "validity_reason",
    "comparison",
    "latency_mean_s",
    "latency_p50_s",
    "latency_p95_s",
    "latency_p99_s",
    "calls",
    "throughput_samples_per_s",
    "throughput_tokens_per_s",
    "throughput_padded_tokens_per_s",
    "speedup",
    "speedup_low",
    "speedup_high",
    "vram_peak_bytes",
    "vram_source",
    "ram_peak_bytes",
    "weights_bytes",
    "load_s",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "examples",
    "correct",
    "macro_f1",
    "agreement",
    "truncated",
)
"""The fields of a measurement's flat JSON that others rely on, in their order."""
FURTHER_FIELDS: tuple[str, ...] = (
    "padding",
    "order",
    "max_length",
    "options",
    "baseline",
    "published",
    "schedule",
    "device_p50_s",
    "tokenize_p50_s",
    "parameters",
    "ram_source",
    "memory",
    "accuracy_reason",
    "index_match_rate",
    "flips",
    "labels",
    "audit",
    "latency_p50_low_s",
    "latency_p50_high_s",
    "throughput_samples_per_s_low",
    "throughput_samples_per_s_high",
    "accuracy_difference",
    "accuracy_difference_low",
    "accuracy_difference_high",
    "accuracy_gained",
    "accuracy_lost",
    "accuracy_p",
    "accuracy_comparison",
    "detectable_difference",
    "nll",
    "ece",
    "quality",
    "batch_flip_rate",
    "invariance",
    "energy_j_per_1000_examples",
    "energy",
    "limit_share",
    "binds",
    "limits",
    "conditions",
)
"""What the flat JSON says beyond them, as stored."""
DERIVED_FIELDS = ("max_batch_tokens", "examples_per_call")
"""What follows from these and the run's suite: its batches' token budget, their mean number of examples."""

SCENARIO_FIELDS: tuple[str, ...] = (
    "variant",
    "status",
    "status_reason",
    "validity",
    "validity_reason",
    "p99_limit_s",
    "max_batch",
    "max_wait_s",
    "padding",
    "single_texts",
    "single_p90_s",
    "offline_texts_per_s",
    "server_texts_per_s",
    "trials",
    "conditions",
)
"""The fields of a variant's flat JSON under load, as stored; when it was measured follows them."""


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


class TimedBlock(NamedTuple):
    """The calls that one worker timed in one round; samples and tokens as in the table `block`."""

    process: int
    round: int
    started_s: float
    samples: int
    tokens: int
    padded_tokens: int
    latencies_s: np.ndarray
    """float64 [calls], seconds."""


def add_example_set(
    session: Session,
    set_id: str,
    dataset: str,
    label_names: Sequence[str] | None,
    texts: Sequence[str],
    labels: Iterable[int | None] | None,
    source_indices: Iterable[int],
) -> None:
    """Stores the examples of set `set_id`, in order, unless they are there already.

    texts, labels and source_indices are [examples]; labels is None where nothing is labelled.
    """
    if session.get(ExampleSet, set_id) is not None:
        return
    given = [None] * len(texts) if labels is None else labels
    rows = [
        {
            "set_id": set_id,
            "position": position,
            "source_index": int(source),
            "text_sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
            "text": text,
            "label": None if label is None else int(label),
        }
        for position, (text, label, source) in enumerate(zip(texts, given, source_indices, strict=True))
    ]
    try:
        with session.begin_nested():
            session.execute(
                insert(ExampleSet).values(
                    id=set_id,
                    dataset=dataset,
                    count=len(rows),
                    label_names=None if label_names is None else list(label_names),
                )
            )
            if rows:
                session.execute(insert(Example), rows)
    except IntegrityError:
        # Another run over the same examples stored them in between.
        if session.get(ExampleSet, set_id) is None:
            raise


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
    """What to ask for instead of `word`: the runs whose ids are nearest to it, or the most recent ones."""
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
    return session.scalars(_searched(select(func.count()).select_from(Run), search or Search())).one()


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


def measurements(session: Session, run_id: str) -> list[Measurement]:
    """The measurements of a run in the order of its suite."""
    query = select(Measurement).where(Measurement.run_id == run_id)
    return list(session.scalars(query.order_by(Measurement.position, Measurement.batch_size)))


def scenarios(session: Session, run_id: str) -> list[dict[str, Any]]:
    """What each variant of a run gave under load, as JSON-ready objects in the order of its suite."""
    rows = session.scalars(select(Scenario).where(Scenario.run_id == run_id).order_by(Scenario.id)).all()
    order = select(Measurement.variant, func.min(Measurement.position)).where(Measurement.run_id == run_id)
    at: dict[str, int] = {row[0]: row[1] for row in session.execute(order.group_by(Measurement.variant))}
    return [
        {name: plain(getattr(row, name)) for name in SCENARIO_FIELDS} | {"measured_at": _iso(row.measured_at)}
        for row in sorted(rows, key=lambda row: at.get(row.variant, len(at)))
    ]


def packed(array: ArrayLike, dtype: Literal["<f4", "<f8"]) -> bytes:
    """An array as the bytes that a column of the store holds: little-endian, in C order."""
    import numpy as np

    return np.ascontiguousarray(array, dtype).tobytes()


def new_block(
    process: int,
    round: int,
    kind: Literal["warmup", "timed"],
    started_s: float,
    samples: int,
    tokens: int,
    padded_tokens: int,
    latencies_s: ArrayLike,
) -> Block:
    """A block to append to `Measurement.blocks`; latencies_s [calls] in seconds."""
    return Block(
        process=process,
        round=round,
        kind=kind,
        started_s=started_s,
        samples=samples,
        tokens=tokens,
        padded_tokens=padded_tokens,
        latencies_s=packed(latencies_s, "<f8"),
    )


def new_prediction(logits: ArrayLike, model_labels: Sequence[str]) -> Prediction:
    """A prediction to set as `Measurement.prediction`; logits [examples, labels], stored as float32."""
    import numpy as np

    array = np.ascontiguousarray(logits, "<f4")
    rows, columns = array.shape
    if len(model_labels) != columns:
        raise ValueError(f"{columns} columns of logits for {len(model_labels)} labels")
    return Prediction(rows=rows, columns=columns, model_labels=list(model_labels), logits=array.tobytes())


def logits(session: Session, measurement_id: int) -> np.ndarray | None:
    """float32 [examples, labels]; row i is position i of the example set. None where there are none."""
    return all_logits(session, [measurement_id]).get(measurement_id)


def all_logits(session: Session, measurement_ids: Sequence[int]) -> dict[int, np.ndarray]:
    """Measurement -> its `logits`, in one query; those without any are left out."""
    import numpy as np

    query = select(Prediction.measurement_id, Prediction.logits, Prediction.rows, Prediction.columns)
    return {
        row.measurement_id: np.frombuffer(row.logits, "<f4").reshape(row.rows, row.columns).astype(np.float32)
        for row in session.execute(query.where(Prediction.measurement_id.in_(measurement_ids)))
    }


def latencies(session: Session, measurement_id: int, kind: Literal["warmup", "timed"] = "timed") -> list[TimedBlock]:
    """The blocks of a measurement by process and round."""
    return all_latencies(session, [measurement_id], kind)[measurement_id]


def all_latencies(
    session: Session, measurement_ids: Sequence[int], kind: Literal["warmup", "timed"] = "timed"
) -> dict[int, list[TimedBlock]]:
    """Measurement -> its `latencies`, in one query; an empty list for those without any."""
    import numpy as np

    query = (
        select(
            Block.measurement_id,
            Block.process,
            Block.round,
            Block.started_s,
            Block.samples,
            Block.tokens,
            Block.padded_tokens,
            Block.latencies_s,
        )
        .where(Block.measurement_id.in_(measurement_ids), Block.kind == kind)
        .order_by(Block.process, Block.round, Block.id)
    )
    found: dict[int, list[TimedBlock]] = {measurement_id: [] for measurement_id in measurement_ids}
    for row in session.execute(query):
        found[row.measurement_id].append(
            TimedBlock(
                row.process,
                row.round,
                row.started_s,
                row.samples,
                row.tokens,
                row.padded_tokens,
                np.frombuffer(row.latencies_s, "<f8").astype(np.float64),
            )
        )
    return found


def examples(session: Session, set_id: str) -> list[Example]:
    """The examples of a set in order: element i belongs to row i of the logits."""
    return list(session.scalars(select(Example).where(Example.set_id == set_id).order_by(Example.position)))


def example_labels(session: Session, set_id: str) -> np.ndarray | None:
    """int64 [examples], without reading a text; None where an example has no label, or there are none."""
    import numpy as np

    query = select(Example.label).where(Example.set_id == set_id).order_by(Example.position)
    labels = session.scalars(query).all()
    return None if not labels or None in labels else np.array(labels, np.int64)


def examples_at(session: Session, set_id: str, positions: Sequence[int] | np.ndarray) -> list[Example]:
    """The examples at `positions` of a set, in that order; a position that the set has not is left out."""
    found: dict[int, Example] = {}
    for start in range(0, len(positions), CHUNK):
        chunk = [int(position) for position in positions[start : start + CHUNK]]
        query = select(Example).where(Example.set_id == set_id, Example.position.in_(chunk))
        found |= {example.position: example for example in session.scalars(query)}
    return [found[position] for position in map(int, positions) if position in found]


def positions_with(session: Session, set_id: str, words: Sequence[str]) -> np.ndarray:
    """int64 [found]: positions of the set's texts that contain every one of `words`, ascending.

    Case is ignored as the database ignores it: in SQLite that of ASCII letters alone.
    """
    import numpy as np

    query = select(Example.position).where(Example.set_id == set_id).order_by(Example.position)
    for word in words:
        query = query.where(Example.text.icontains(word, autoescape=True))
    return np.array(session.scalars(query).all(), np.int64)


def published(session: Session) -> list[Published]:
    """What others reported, study by study, in their order."""
    return list(session.scalars(select(Published).order_by(Published.study, Published.id)))


def flat(measurement: Measurement) -> dict[str, Any]:
    """A measurement as one JSON-ready object: FIXED_FIELDS in order, then FURTHER_FIELDS and DERIVED_FIELDS.

    None where something is not known; a number that JSON cannot write (not finite) counts as such.
    """
    found = {name: plain(getattr(measurement, name)) for name in FIXED_FIELDS + FURTHER_FIELDS}
    how = batching.of_suite(measurement.run.suite, measurement.variant, measurement.batch_size)
    rate, call_s = measurement.throughput_samples_per_s, measurement.latency_mean_s
    per_call = None if rate is None or call_s is None else rate * call_s
    return found | dict(zip(DERIVED_FIELDS, (how.max_batch_tokens, plain(per_call)), strict=True))


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
        "created_at": _iso(run.created_at),
        "started_at": _iso(run.started_at),
        "finished_at": _iso(run.finished_at),
        "heartbeat_at": _iso(run.heartbeat_at),
        "pid": run.pid,
        "cancel_requested": bool(run.cancel_requested),
        "example_set_id": run.example_set_id,
        "environment": plain(run.environment),
        "ceilings": plain(run.ceilings),
        "log_path": run.log_path,
        "notes": run.notes,
        "tags": run.tags,
        "imported_at": _iso(run.imported_at),
        "foreign": run.foreign,
    }


def plain(value: Any) -> Any:
    """`value` as JSON can write it: a number that is not finite is None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _iso(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat(timespec="milliseconds")


def mark_interrupted(session: Session, silent_s: float = SILENT_SECONDS) -> list[str]:
    """Closes runs whose process ended without a word; returns their ids.

    On this machine a process that is gone is seen at once, whatever the clock says. One that cannot be looked for from
    here (on another host, in another container, before this machine was started) counts as gone when it has given no
    sign of life for `silent_s` seconds, or ELSEWHERE_SECONDS where the clock is another host's. Its runs become
    interrupted, and their pending measurements cancelled, with the reason. Where the database cannot be written, the
    runs are still read so in this session.
    """
    now = datetime.now(UTC)
    closed = []
    for run in session.scalars(select(Run).where(Run.status.in_(LIVE))).all():
        reason = _ended(run, now, silent_s)
        if reason is None:
            continue
        sign = run.heartbeat_at or run.started_at or run.created_at
        found = {"status": "interrupted", "status_reason": reason, "finished_at": run.finished_at or sign}
        try:
            # It may have ended properly, or gone on by another process, since it was read.
            same = (Run.id == run.id, Run.status.in_(LIVE), Run.pid.is_not_distinct_from(run.pid))
            if not session.execute(_quietly(update(Run).where(*same).values(**found))).rowcount:  # type: ignore[attr-defined]
                session.refresh(run)
                continue
            pending = update(Measurement).where(Measurement.run_id == run.id, Measurement.status == "pending")
            session.execute(_quietly(pending.values(status="cancelled", status_reason=reason)))
        except OperationalError:
            if session.get_bind().dialect.name != "sqlite":
                raise
        for name, value in found.items():
            set_committed_value(run, name, value)
        # A session forgets what nobody holds, and would read it anew.
        session.info.setdefault("interrupted", []).append(run)
        closed.append(run.id)
    return closed


def _quietly(statement: Update) -> Update:
    return statement.execution_options(synchronize_session=False)


def _ended(run: Run, now: datetime, silent_s: float) -> str | None:
    """Why a live run's process counts as gone; None where it does not."""
    sign = run.heartbeat_at or run.started_at or run.created_at
    age_s = (now - sign).total_seconds()
    seen = f"last sign of life {sign:%Y-%m-%d %H:%M:%S} UTC"
    if run.host != socket.gethostname():
        submitted = run.host.startswith(processes.SUBMITTED)
        silent_s = SUBMITTED_SECONDS if submitted else ELSEWHERE_SECONDS
        return None if age_s <= silent_s else f"{run.host} no longer says anything of it; {seen}"
    found = processes.lives(run.pid, run.process)
    anew = found is None and processes.restarted(run.process)
    # After a restart the clock may be behind what it was.
    age_s = abs(age_s) if anew else age_s
    if found or ((found is None or run.process is None) and age_s <= silent_s):
        return None
    if words := last_words(run.log_path):
        return words
    who = "its process" if run.pid is None else f"its process {run.pid}"
    how = "while it was queued" if run.status == "queued" else "without finishing"
    how += ", as the machine was started anew" if anew else ""
    return f"{who} on {run.host} ended {how}; {seen}"


def last_words(log_path: str | None) -> str | None:
    """What a run's process wrote of its end where it could not write to the database; None where it did not."""
    if not log_path:
        return None
    for file in (Path(log_path) / LAST_WORDS, words_elsewhere(Path(log_path).name)):
        with suppress(OSError):
            about = file.lstat()
            # Among everybody's temporary files any user may have put one of that name.
            mine = about.st_uid == processes.user() or file.name == LAST_WORDS
            if stat.S_ISREG(about.st_mode) and mine and (words := file.read_bytes()[:WORDS_BYTES].strip()):
                return words.decode(errors="replace")
    return None


def words_elsewhere(run_id: str) -> Path:
    """Where they are if the data folder's file system takes nothing any more."""
    return Path(tempfile.gettempdir()) / f"inference-bench-{run_id}{LAST_WORDS}"
