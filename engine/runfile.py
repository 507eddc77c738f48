"""One run as one file, so that a run measured on one machine opens on another.

A zip of six parts, nothing of which is code:

    manifest.json   format, version, and each part's length and sha256
    run.json        the run's columns, tags, measurements with their blocks' and predictions' heads, and scenarios
    examples.json   {} or data set, label names, texts, labels and positions in the data set, in order
    latencies.f8    float64, little-endian: every block's calls, block after block in the order of run.json
    logits.f4       float32, little-endian: every prediction's [rows, columns], one after another
    logs.json       the ends of the log's files by name

Whoever made a file may have meant harm: everything is checked before anything is stored, and nothing in it names
a place on this machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from sqlalchemy import JSON, BigInteger, Boolean, Column, Double, Integer, String, Table, Text, delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import undefer

from engine import files, history, paths
from engine.corpus import digest
from engine.errors import RequestError, one_line
from engine.store import open_store, queries
from engine.store.migrations import HEAD
from engine.store.models import Block, Measurement, Prediction, Run, Scenario, UtcDateTime

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

FORMAT, VERSION = "inference-bench run", 2
"""Without scenarios a file is one of version 1, so that an older bench can read it."""
SUFFIX = ".run.zip"
MANIFEST = "manifest.json"
PARTS = {
    "run.json": 16_000_000,
    "examples.json": 64_000_000,
    "latencies.f8": 100_000_000,
    "logits.f4": 100_000_000,
    "logs.json": 16_000_000,
}
"""What a file holds, and how long each part may be, in bytes: JSON takes up to twenty times as much once it is read."""
MAX_BYTES = 200_000_000
"""Of the file, and of all its parts together when they are unpacked."""
MAX_MANIFEST_BYTES = MAX_DIRECTORY_BYTES = 4096
MAX_DEPTH = 16
MAX_TRIALS = 100
"""Of one variant under load."""
MAX_TEXT = 100_000
"""The longest text of a column without a length of its own, in characters."""
LOG_BYTES = 60_000
"""How much of the end of each log file travels along."""
LOG_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
AHEAD = timedelta(days=1)
"""How far the clock of another machine may be ahead: a run of the future would stay the latest one."""

ELSEWHERE = (
    "pid", "process", "queued_at", "cancel_requested", "progress", "heartbeat_at", "log_path", "imported_at",
    "example_set_id",
)  # fmt: skip
"""Columns of a run that mean nothing on another machine, or that are made anew there."""
KEYS = ("id", "run_id", "measurement_id")


# What a file may hold


def _sane(time: datetime) -> datetime:
    if not EARLIEST <= time <= datetime.now(UTC) + AHEAD:
        raise ValueError("is no time at which a run was measured")
    return time


Time = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_sane)]
Line = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Bytes = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[FiniteFloat, Field(ge=1e-9, le=1e12)]
"""Seconds of a call, rates and ratios: what any machine can reach, and what a logarithm can be taken of."""
Amount = Annotated[FiniteFloat, Field(ge=0, le=1e18)]
"""Counts and seconds that are means, operations a second, shares."""
INTERVALS = (
    ("latency_p50_s", "latency_p50_low_s", "latency_p50_high_s"),
    *(
        (name, f"{name}_low", f"{name}_high")
        for name in ("throughput_samples_per_s", "speedup", "accuracy", "accuracy_difference")
    ),
)
"""Figures and the limits of their intervals."""


def _first(error: ValidationError) -> str:
    """Where the first fault is, and what; without what was found there."""
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place, what = " ".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
    return f"{place}: {what}" if place else what


def _like(kind: Any) -> Any:
    """A column of JSON that fits `kind`, and stays as it is given: the order of its keys is part of it."""
    adapter = TypeAdapter(kind)

    def check(value: Any) -> Any:
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError as error:
            raise ValueError(_first(error)) from error
        return value

    return Annotated[Any, AfterValidator(check)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Open(BaseModel):
    """A column of JSON: what the pages read in it has its type, and there may be more."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Workload(_Open):
    dataset: Line
    batch_size: list[Annotated[int, Field(gt=0)]]
    max_length: int
    padding: Line


class _Protocol(_Open):
    rounds: int
    processes: int


class _Named(_Open):
    name: Line


class _Suite(_Named):
    title: Line | None = None
    workload: _Workload
    protocol: _Protocol
    variant: list[_Named] = []


class _Environment(_Open):
    threads: int | None = None
    preparing_s: Amount | None = None
    host: dict[str, Any] | None = None
    python: dict[str, Any] | None = None
    distributions: dict[str, Any] | None = None


class _Rate(_Open):
    operations_per_s: FiniteFloat | None = None
    median_operations_per_s: FiniteFloat | None = None
    bytes_per_s: FiniteFloat | None = None
    median_bytes_per_s: FiniteFloat | None = None
    repeats: int | None = None


class _Product(_Rate):
    ways: list[_Rate]


class _Ceilings(_Open):
    products: dict[str, _Product] | None = None
    copied: _Rate | None = Field(None, alias="copy")
    host_to_device: _Rate | None = None


class _Labels(_Strict):
    mapping: list[Count] | None
    how: Line | None
    reason: Line | None
    model_labels: list[Line]


class _Operator(_Strict):
    name: Line
    calls: Amount
    seconds: Amount


class _Rest(_Strict):
    operators: Count
    calls: Amount
    seconds: Amount


class _NoOperators(_Strict):
    reason: Line


class _Operators(_Strict):
    """Of a profile, as `engine.operators.facts` has it."""

    reason: None
    by: Literal["operators", "kernels", "launches"]
    calls: Count
    shape: list[Count]
    wall_s: Amount
    seconds: Amount
    top: list[_Operator]
    rest: _Rest
    kinds: dict[Literal["attention", "products", "quantising", "copies", "elementwise", "other"], Amount]


class _Audit(_Open):
    operators: _Operators | _NoOperators | None = None
    settings: dict[str, Any] | None = None
    wrong: list[Line] | None = None
    deviations: list[Line] | None = None


class _Figure(_Open):
    bytes: Bytes | None = None


class _Memory(_Open):
    ram_peak: _Figure | None = None
    ram_after_imports: _Figure | None = None
    vram_peak: _Figure | None = None
    torch_allocated_peak_bytes: Bytes | None = None
    torch_reserved_peak_bytes: Bytes | None = None


class _Way(_Open):
    examples: Count
    changed: Count


class _Limit(_Open):
    sentence: Line
    operations_per_s: Amount | None = None
    compute_dtype: Line | None = None
    ceiling_operations_per_s: Amount | None = None
    compute_share: Amount | None = None
    bytes_per_call: Amount | None = None
    bandwidth_share: Amount | None = None
    traffic_share: Amount | None = None
    reason: Line | None = None


class _Score(_Open):
    precision: FiniteFloat | None
    recall: FiniteFloat | None
    f1: FiniteFloat | None
    support: Count


class _Flag(_Open):
    sentence: Line


class _Quality(_Open):
    names: list[Line] | None = None
    confusion: list[list[Count]] | None = None
    labels: list[_Score] | None = None
    flags: list[_Flag] | None = None

    @model_validator(mode="after")
    def _square(self) -> _Quality:
        names = len(self.names or [])
        lengths = [len(line) for line in self.confusion or []]
        if (self.labels is not None and len(self.labels) != names) or lengths not in ([], [names] * names):
            raise ValueError(f"the figures by label do not fit {names} names")
        return self


class _Trial(_Strict):
    """As `engine.scenarios.Trial` has it."""

    rate_per_s: Positive
    texts: Count
    late: Count
    answered: Count
    p99_s: Positive
    mean_batch: Positive
    holds: bool


class _Conditions(_Open):
    seconds: Amount | None = None
    others_cpu_share: Amount | None = None


class _UnderLoad(_Strict):
    """What every row of a variant under load keeps to, beyond its columns."""

    @model_validator(mode="after")
    def _whole(self) -> _UnderLoad:
        row: Any = self
        figures = (row.single_texts, row.single_p90_s, row.offline_texts_per_s)
        if row.status != "measured":
            if row.trials or any(value is not None for value in (*figures, row.server_texts_per_s, row.validity)):
                raise ValueError("a variant that failed under load has no figures")
            return self
        if None in figures or row.validity is None or not row.trials:
            raise ValueError("a variant that was measured under load lacks a figure")
        held = max((trial["rate_per_s"] for trial in row.trials if trial["holds"]), default=None)
        if row.server_texts_per_s != held:
            raise ValueError("server_texts_per_s is not the highest rate that held")
        return self


class _Figures(_Strict):
    """What every measurement keeps to, beyond its columns."""

    @model_validator(mode="after")
    def _whole(self) -> _Figures:
        for names in INTERVALS:
            value, low, high = (getattr(self, name) is not None for name in names)
            if low != high or (low and not value) or (value and not low and names[0] == "accuracy_difference"):
                raise ValueError(f"{names[0]} lacks a limit of its interval, or the limits their figure")
        return self


COLUMNS: dict[str, Any] = {
    "id": Annotated[str, StringConstraints(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$")],
    "run.status": Literal["finished", "failed", "cancelled", "interrupted"],
    "run.suite": _like(_Suite),
    "run.environment": _like(_Environment),
    "run.ceilings": _like(_Ceilings),
    "run.notes": Annotated[str, StringConstraints(max_length=history.NOTE_LENGTH)],
    "measurement.status": Literal["pending", "measured", "failed", "unavailable", "cancelled"],
    "measurement.validity": Literal["valid", "unstable", "invalid"],
    "measurement.comparison": Literal["better", "worse", "no_difference"],
    "measurement.accuracy_comparison": Literal["better", "worse", "no_difference"],
    "measurement.schedule": Literal["interleaved", "sequential"],
    "measurement.labels": _like(_Labels),
    "measurement.audit": _like(_Audit),
    "measurement.memory": _like(_Memory),
    "measurement.invariance": _like(dict[str, _Way]),
    "measurement.limits": _like(_Limit),
    "measurement.quality": _like(_Quality),
    "measurement.conditions": _like(list[dict[str, Any]]),
    "measurement.batch_size": Annotated[int, Field(gt=0, lt=2**31)],
    **{
        f"measurement.{name}": Positive
        for name in (
            "latency_mean_s", "latency_p50_s", "latency_p95_s", "latency_p99_s", "latency_p50_low_s",
            "latency_p50_high_s", "throughput_samples_per_s", "throughput_samples_per_s_low",
            "throughput_samples_per_s_high", "speedup", "speedup_low", "speedup_high",
        )
    },
    "scenario.status": Literal["measured", "failed"],
    "scenario.validity": Literal["valid", "unstable"],
    "scenario.p99_limit_s": Positive,
    "scenario.max_batch": Annotated[int, Field(gt=0, lt=2**31)],
    "scenario.max_wait_s": Amount,
    "scenario.single_p90_s": Positive,
    "scenario.offline_texts_per_s": Positive,
    "scenario.server_texts_per_s": Positive,
    "scenario.trials": _like(Annotated[list[_Trial], Field(max_length=MAX_TRIALS)]),
    "scenario.conditions": _like(_Conditions),
    "prediction.model_labels": list[Line],
    # Warm-up comes before round 0.
    "block.round": Annotated[int, Field(ge=-1, lt=2**31)],
    "block.kind": Literal["warmup", "timed"],
}  # fmt: skip
"""What a column may hold beyond what its type in the database says."""


def _kind(table: str, column: Column[Any]) -> Any:
    known = COLUMNS.get(f"{table}.{column.name}", COLUMNS.get(column.name))
    if known is not None:
        return known
    kind = column.type
    if isinstance(kind, UtcDateTime):
        return Time
    if isinstance(kind, Boolean):
        return bool
    if isinstance(kind, Double):
        return FiniteFloat
    if isinstance(kind, Integer):
        return Annotated[int, Field(ge=0, lt=2**63 if isinstance(kind, BigInteger) else 2**31)]
    if isinstance(kind, String) and not isinstance(kind, Text):
        return Annotated[str, StringConstraints(max_length=kind.length)]
    if isinstance(kind, Text):
        return Line
    assert isinstance(kind, JSON), column
    return dict[str, Any]


def _names(table: Table, without: Iterable[str] = ()) -> list[str]:
    left_out = {*without, "latencies_s", "logits"}
    return [column.name for column in table.columns if column.name not in left_out]


def _model(model: Any, without: Iterable[str], base: type[_Strict] = _Strict, **further: Any) -> type[BaseModel]:
    """A pydantic model of a table's columns; one that may be NULL may be missing."""
    table = model.__table__
    fields: dict[str, Any] = {}
    for name in _names(table, without):
        column = table.columns[name]
        kind = _kind(table.name, column)
        fields[name] = (kind | None, None) if column.nullable else (kind, ...)
    return create_model(model.__name__, __base__=base, **fields, **further)


_Block = _model(Block, KEYS, calls=(Count, ...))
_Prediction = _model(Prediction, KEYS)
_Measurement = _model(
    Measurement,
    KEYS,
    _Figures,
    blocks=(list[_Block], []),  # type: ignore[valid-type]
    prediction=(_Prediction | None, None),
)
_Scenario = _model(Scenario, KEYS, _UnderLoad)
_Run = _model(
    Run,
    ELSEWHERE,
    tags=(list[Line], []),
    measurements=(list[_Measurement], []),  # type: ignore[valid-type]
    scenarios=(list[_Scenario], []),  # type: ignore[valid-type]
)


class _Examples(_Strict):
    dataset: Line
    label_names: list[Line] | None
    texts: list[str]
    labels: list[Count | None]
    source_indices: list[Count]

    @model_validator(mode="after")
    def _fitting(self) -> _Examples:
        if not len(self.texts) == len(self.labels) == len(self.source_indices):
            raise ValueError(f"{len(self.texts)} texts, {len(self.labels)} labels")
        known = [label for label in self.labels if label is not None]
        if len(known) not in (0, len(self.texts)):
            raise ValueError("some examples have a label and some have none")
        if known and max(known) >= len(self.label_names or []):
            raise ValueError(f"a label {max(known)} of {len(self.label_names or [])} names")
        if any(CONTROL.search(name) for name in self.label_names or []):
            raise ValueError("a label's name holds a control character")
        for text in self.texts:
            # What no database can hold. A text is otherwise as it is: its hash and the answers depend on it.
            if "\0" in text:
                raise ValueError("a text holds a null character")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError("a text holds half of a character") from error
        return self


class _Part(_Strict):
    bytes: Annotated[int, Field(ge=0, le=MAX_BYTES)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class _Manifest(_Strict):
    format: Literal["inference-bench run"]
    version: Literal[1, 2]
    db_schema: Annotated[str, Field(alias="schema", max_length=32)]
    parts: dict[Literal["run.json", "examples.json", "latencies.f8", "logits.f4", "logs.json"], _Part]


# Writing


def dump(reference: str) -> tuple[str, bytes]:
    """A name for the file of a run, and its content. Raises RequestError for a run that is under way."""
    with open_store(create=False) as store, store.session() as session:
        run = queries.get_run(session, reference)
        if run.status in queries.LIVE:
            raise RequestError(f"run {run.id} is under way ({run.status}); export its file when it has ended")
        parts = dict(zip(PARTS, _parts(session, run), strict=True))
        version = VERSION if run.scenarios else 1
        name = f"{run.suite_name}-{run.id[-6:].lower()}{SUFFIX}"
    if sum(map(len, parts.values())) > MAX_BYTES or any(len(parts[part]) > PARTS[part] for part in PARTS):
        most = max(parts, key=lambda part: len(parts[part]))
        raise RequestError(f"run {run.id} is too large for a file: {most} has {len(parts[most]) // 1_000_000} MB")
    manifest = {
        "format": FORMAT,
        "version": version,
        "schema": HEAD,
        "parts": {
            part: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for part, content in parts.items()
        },
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in {MANIFEST: _json(manifest), **parts}.items():
            # The same run makes the same file, byte for byte.
            archive.writestr(zipfile.ZipInfo(part, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return name, made.getvalue()


def write(reference: str, file: Path) -> None:
    """Writes the file of a run, whole or not at all. Raises RequestError."""
    files.write(file, dump(reference)[1])


def _parts(session: Session, run: Run) -> tuple[bytes, ...]:
    rows, latencies, logits = [], [], []
    for row in queries.measurements(session, run.id):
        made = _columns(row, KEYS)
        query = select(Block).where(Block.measurement_id == row.id).order_by(Block.id)
        blocks = session.scalars(query.options(undefer(Block.latencies_s))).all()
        made["blocks"] = [_columns(block, KEYS) | {"calls": len(block.latencies_s) // 8} for block in blocks]
        latencies += [block.latencies_s for block in blocks]
        made["prediction"] = None if row.prediction is None else _columns(row.prediction, KEYS)
        logits += [] if row.prediction is None else [row.prediction.logits]
        rows.append(made)
    examples = {}
    if run.example_set_id is not None and run.example_set is not None:
        found = queries.examples(session, run.example_set_id)
        examples = {
            "dataset": run.example_set.dataset,
            "label_names": run.example_set.label_names,
            "texts": [example.text for example in found],
            "labels": [example.label for example in found],
            "source_indices": [example.source_index for example in found],
        }
    loads = [_columns(row, KEYS) for row in run.scenarios]
    return (
        _json(
            _columns(run, ELSEWHERE)
            | {"tags": run.tags, "measurements": rows}
            | ({"scenarios": loads} if loads else {})
        ),
        _json(examples),
        b"".join(latencies),
        b"".join(logits),
        _json({name: text for name, text in log_tails(run.log_path).items() if LOG_NAME.fullmatch(name)}),
    )


def _columns(row: Any, without: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in _names(row.__table__, without)}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


def _json(value: Any) -> bytes:
    return json.dumps(queries.plain(value), separators=(",", ":"), allow_nan=False).encode()


def log_tails(log_path: str | None) -> dict[str, str]:
    """The ends of a run's log files by name; empty where there are none on this machine."""
    if not log_path:
        return {}
    place = Path(log_path)
    files = sorted(place.glob("*")) if place.is_dir() else [place]
    return {file.name: _tail(file) for file in files if file.is_file()}


def _tail(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - LOG_BYTES))
            return opened.read().decode("utf-8", errors="replace")
    except OSError as error:
        return f"cannot be read: {error}"


# Reading


class BadFileError(RequestError):
    """It is not the file of a run."""


class Imported(NamedTuple):
    """What became of a file."""

    run_id: str
    new: bool
    """False where the run was there already: then nothing was changed."""


class _Content(NamedTuple):
    """A file's content, checked."""

    run: Any
    examples: _Examples | None
    latencies: bytes
    logits: bytes
    logs: dict[str, str]


def load(source: Path | bytes, called: str | None = None, awaited: str | None = None) -> Imported:
    """Stores the run of a file in the bench's database, unless it is there.

    `called` names the file in messages; `awaited` is the run that it has to be: its row goes, unless that came as a
    file, too. All is stored or nothing; a run comes as one that has ended, without the process and the paths of the
    machine that measured it. Raises BadFileError, with what is wrong, and RequestError where it cannot be stored.
    """
    where = called or (str(source) if isinstance(source, Path) else "the file")
    try:
        size = source.stat().st_size if isinstance(source, Path) else len(source)
        if size > MAX_BYTES:
            raise ValueError(f"it is too large; allowed are {MAX_BYTES // 1_000_000} MB")
        content = _checked(_unpacked(source.read_bytes() if isinstance(source, Path) else source))
    except OSError as error:
        raise RequestError(f"cannot read {where}: {one_line(error)}") from error
    except ValidationError as error:
        raise BadFileError(f"{where} is not a run's file: {_shown(_first(error))}") from error
    except (ValueError, RecursionError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise BadFileError(f"{where} is not a run's file: {_shown(one_line(error))}") from error
    run_id = content.run.id
    if awaited not in (None, run_id):
        raise BadFileError(f"{where} is run {run_id}, not {awaited}")
    log = paths.local_data() / "logs" / run_id if content.logs else None
    with open_store() as store:
        try:
            with store.session() as session:
                there = session.get(Run, run_id)
                if there is not None and not (awaited and _make_way(session, there, content.run)):
                    return Imported(run_id, False)
                asked = None if there is None else there.queued_at or there.created_at
                _store(session, content, log, asked)
        except IntegrityError:
            # Another process was faster.
            with store.session() as session:
                if session.get(Run, run_id) is None:
                    raise
            return Imported(run_id, False)
    _keep_logs(run_id, content.logs)
    return Imported(run_id, True)


def _make_way(session: Session, there: Run, run: Any) -> bool:
    """Deletes the row of an awaited run, whose note and tags `run` keeps; False where another process did so."""
    run.notes, run.tags = there.notes or run.notes, sorted({*there.tags, *run.tags})
    waiting = delete(Run).where(Run.id == run.id, Run.imported_at.is_(None))
    waiting = waiting.execution_options(synchronize_session=False)
    session.expunge(there)
    return bool(session.execute(waiting).rowcount)  # type: ignore[attr-defined]


def _unpacked(content: bytes) -> dict[str, bytes]:
    """The parts of a file, as long and with the hashes that its manifest says. Raises ValueError."""
    # The end of a zip as `dump` writes it. zipfile itself would first make an object of each of millions of entries.
    end, zip64 = content[-22:], content[-42:-38] == b"PK\6\7"
    if end[:4] != b"PK\5\6" or zip64 or int.from_bytes(end[12:16], "little") > MAX_DIRECTORY_BYTES:
        raise ValueError("it is no zip of a few parts, or it is cut off")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if sorted(entry.filename for entry in entries) != sorted((MANIFEST, *PARTS)):
            raise ValueError(f"it has to hold {MANIFEST}, {', '.join(PARTS)}, and nothing else")
        if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
            raise ValueError("its compression is not deflate")
        if any(entry.flag_bits & 1 for entry in entries):
            raise ValueError("it is encrypted")
        if sum(entry.file_size for entry in entries) > MAX_BYTES:
            raise ValueError(f"unpacked it has more than {MAX_BYTES // 1_000_000} MB")
        raw = _read(archive, MANIFEST, MAX_MANIFEST_BYTES)
        said = _parsed(raw)
        version = said.get("version") if isinstance(said, dict) and said.get("format") == FORMAT else None
        if isinstance(version, int) and version > VERSION:
            raise ValueError(
                f"its format is {version}, which a newer bench wrote (this one knows {VERSION}); update the bench"
            )
        manifest = _Manifest.model_validate(said)
        if len(manifest.parts) != len(PARTS):
            raise ValueError(f"{MANIFEST} does not name every part")
        parts: dict[str, bytes] = {}
        for name, part in manifest.parts.items():
            if part.bytes > PARTS[name]:
                raise ValueError(f"{name} has more than {PARTS[name] // 1_000_000} MB")
            parts[name] = _read(archive, name, part.bytes)
            if len(parts[name]) != part.bytes or hashlib.sha256(parts[name]).hexdigest() != part.sha256:
                raise ValueError(f"{name} is damaged: it is not what {MANIFEST} says")
        return parts


def _read(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A part of at most `limit` bytes, whatever its head claims. Raises ValueError."""
    import zlib

    try:
        with archive.open(name) as opened:
            content = opened.read(limit + 1)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{name} is damaged: {error}") from error
    if len(content) > limit:
        raise ValueError(f"{name} is longer than it may be")
    return content


def _parsed(content: bytes) -> Any:
    """JSON with finite numbers that fit into 64 bits, and without surrogates. Raises ValueError."""

    def refused(word: str) -> float:
        raise ValueError(f"the number {word[:20]} is not allowed")

    def whole(digits: str) -> int:
        return int(digits) if len(digits) < 20 and abs(int(digits)) < 2**63 else int(refused(digits))

    def real(digits: str) -> float:
        return number if math.isfinite(number := float(digits)) else refused(digits)

    return json.loads(content.decode(), parse_constant=refused, parse_int=whole, parse_float=real)


def _clean(value: Any, depth: int = 0) -> Any:
    """`value` with each control character replaced, so that no terminal obeys it. Raises ValueError where too deep."""
    if depth > MAX_DEPTH:
        raise ValueError(f"run.json is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        return value if value.isprintable() else CONTROL.sub("\ufffd", value)
    if isinstance(value, list):
        return [_clean(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item, depth + 1) for key, item in value.items()}
    return value


def _shown(text: str) -> str:
    return str(_clean(" ".join(text.split()))[:300])


def _checked(parts: dict[str, bytes]) -> _Content:
    """The content of a file's parts, which fit each other. Raises ValueError."""
    run: Any = _Run.model_validate(_clean(_parsed(parts["run.json"])))
    said = _parsed(parts["examples.json"])
    examples = _Examples.model_validate(said) if said else None
    if examples is not None:
        examples.dataset = _clean(examples.dataset)
    run.notes = history.as_note(run.notes or "")
    run.tags = [history.as_tag(tag) for tag in run.tags]
    if len(run.tags) > history.TAGS:
        raise ValueError(f"{len(run.tags)} tags; allowed are {history.TAGS}")
    names = [(row.variant, row.batch_size) for row in run.measurements]
    if len(set(names)) != len(names):
        raise ValueError("a variant has two measurements at one batch size")
    loaded = [row.variant for row in run.scenarios]
    if len(set(loaded)) != len(loaded) or not set(loaded) <= {name for name, _ in names}:
        raise ValueError("scenarios are not of one variant each that the run has")
    predictions = [(row, row.prediction) for row in run.measurements if row.prediction is not None]
    for row, prediction in predictions:
        _check_prediction(row, prediction, examples)
    calls = sum(block.calls for row in run.measurements for block in row.blocks)
    if len(parts["latencies.f8"]) != calls * 8:
        raise ValueError(f"latencies.f8 does not hold the {calls:,} calls of run.json")
    latencies = np.frombuffer(parts["latencies.f8"], "<f8")
    if not (np.isfinite(latencies) & (latencies >= 0)).all():
        raise ValueError("latencies.f8 holds a latency that is not a number of seconds")
    values = sum(prediction.rows * prediction.columns for _, prediction in predictions)
    if len(parts["logits.f4"]) != values * 4:
        raise ValueError(f"logits.f4 does not hold the {values:,} values of run.json")
    logs = _parsed(parts["logs.json"])
    plain = isinstance(logs, dict) and all(
        isinstance(text, str) and LOG_NAME.fullmatch(name) for name, text in logs.items()
    )
    if not plain:
        raise ValueError("logs.json does not hold texts by the plain name of a file")
    return _Content(run, examples, parts["latencies.f8"], parts["logits.f4"], logs)


def _check_prediction(row: Any, prediction: Any, examples: _Examples | None) -> None:
    """Raises ValueError where the answers do not fit the examples, the model's labels, or the data set's."""
    number = 0 if examples is None else len(examples.texts)
    if prediction.rows != number:
        raise ValueError(f"{prediction.rows:,} answers of {row.variant} to {number:,} examples")
    outputs = prediction.columns
    if outputs < 1 or len(prediction.model_labels) != outputs:
        raise ValueError(f"{outputs} outputs of {row.variant}, {len(prediction.model_labels)} labels")
    if row.labels is None:
        return
    known = len((examples.label_names if examples else None) or [])
    mapping = row.labels["mapping"]
    fits = mapping is None or (len(mapping) == outputs and all(index < known or not known for index in mapping))
    if not fits or len(row.labels["model_labels"]) != outputs:
        raise ValueError(f"the labels of {row.variant} do not fit its {outputs} outputs")


def _store(session: Session, content: _Content, log: Path | None, asked: datetime | None) -> None:
    """`asked`: when the run was asked for here; None where it was not."""
    run = content.run
    set_id = None
    if content.examples is not None:
        found = content.examples
        labels = [label for label in found.labels if label is not None] or None
        # Never what the file says: a set of this name may come to be shared with runs that are measured here.
        set_id = digest(found.label_names, found.texts, labels)
        queries.add_example_set(
            session, set_id, found.dataset, found.label_names, found.texts, found.labels, found.source_indices
        )
    session.execute(
        insert(Run).values(
            **_values(run, Run, ELSEWHERE),
            cancel_requested=False,
            queued_at=asked,
            imported_at=datetime.now(UTC),
            example_set_id=set_id,
            log_path=None if log is None else str(log),
        )
    )
    queries.set_tags(session, run.id, run.tags)
    call, value = 0, 0
    for row in run.measurements:
        made = session.execute(insert(Measurement).values(run_id=run.id, **_values(row, Measurement, KEYS)))
        key = made.inserted_primary_key[0]  # type: ignore[attr-defined]
        blocks = []
        for block in row.blocks:
            raw = content.latencies[call * 8 : (call + block.calls) * 8]
            blocks.append({"measurement_id": key, "latencies_s": raw, **_values(block, Block, KEYS)})
            call += block.calls
        if blocks:
            session.execute(insert(Block), blocks)
        if row.prediction is not None:
            size = row.prediction.rows * row.prediction.columns
            raw = content.logits[value * 4 : (value + size) * 4]
            values = _values(row.prediction, Prediction, KEYS)
            session.execute(insert(Prediction).values(measurement_id=key, logits=raw, **values))
            value += size
    if run.scenarios:
        session.execute(insert(Scenario), [{"run_id": run.id, **_values(s, Scenario, KEYS)} for s in run.scenarios])


def _values(checked: BaseModel, model: Any, without: Sequence[str]) -> dict[str, Any]:
    """A row's columns as the database takes them."""
    return {name: getattr(checked, name, None) for name in _names(model.__table__, without)}


def _keep_logs(run_id: str, logs: dict[str, str]) -> None:
    """Writes the ends of a log among this bench's own, unless a log of this run is there. Raises RequestError."""
    if not logs:
        return
    folder = paths.local_folder("logs") / run_id
    try:
        folder.mkdir()
        for name, text in logs.items():
            (folder / name).write_text(text, encoding="utf-8", errors="replace")
    except FileExistsError:
        pass
    except OSError as error:
        raise RequestError(f"run {run_id} is imported, its log is not: {one_line(error)}") from error
