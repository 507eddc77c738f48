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
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import (
    BaseModel,
    ValidationError,
)
from sqlalchemy import delete, insert
from sqlalchemy.exc import IntegrityError

from engine import paths
from engine.errors import RequestError, one_line
from engine.store import examples as store_examples
from engine.store import history, open_store, runs
from engine.store.models import Block, Load, Measurement, Prediction, Run
from engine.store.past import fact_columns, planned_columns
from engine.store.runfile.schema import (
    CONTROL,
    ELSEWHERE,
    FORMAT,
    KEYS,
    LOG_NAME,
    MANIFEST,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DIRECTORY_BYTES,
    MAX_MANIFEST_BYTES,
    PARTS,
    VERSION,
    ExamplesPart,
    Manifest,
    RunPart,
    column_names,
    first_fault,
)
from engine.suite.corpus import digest

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

# Reading


class BadFileError(RequestError):
    """It is not the file of a run."""


class Imported(NamedTuple):
    """The result of importing a file."""

    run_id: str
    new: bool
    """False where the run was there already: then nothing was changed."""


class _Content(NamedTuple):
    """A file's content, checked."""

    run: Any
    examples: ExamplesPart | None
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
        raise BadFileError(f"{where} is not a run's file: {_shown(first_fault(error))}") from error
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
        manifest = Manifest.model_validate(said)
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
    run: Any = RunPart.model_validate(_clean(_parsed(parts["run.json"])))
    said = _parsed(parts["examples.json"])
    examples = ExamplesPart.model_validate(said) if said else None
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


def _check_prediction(row: Any, prediction: Any, examples: ExamplesPart | None) -> None:
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
        store_examples.add_example_set(
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
    runs.set_tags(session, run.id, run.tags)
    call, value = 0, 0
    for row in run.measurements:
        if row.experiment is None:
            # A file before version 3.
            columns: dict[str, Any] = planned_columns(run.suite, row.variant, row.batch_size) | fact_columns(
                row.validity, row.validity_reason, row.accuracy_reason
            )
            for name, column in columns.items():
                setattr(row, name, column)
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
        session.execute(insert(Load), [{"run_id": run.id, **_values(s, Load, KEYS)} for s in run.scenarios])


def _values(checked: BaseModel, model: Any, without: Sequence[str]) -> dict[str, Any]:
    """A row's columns as the database takes them."""
    return {name: getattr(checked, name, None) for name in column_names(model.__table__, without)}


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
