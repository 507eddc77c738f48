"""Writes a run file."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.orm import undefer

from engine import files
from engine.errors import RequestError
from engine.store import examples as store_examples
from engine.store import measurements, models, open_store, runs
from engine.store.migrations import HEAD
from engine.store.models import Block, Run
from engine.store.rows import plain
from engine.store.runfile.schema import (
    ELSEWHERE,
    FORMAT,
    KEYS,
    LOG_NAME,
    MANIFEST,
    MAX_BYTES,
    PARTS,
    SUFFIX,
    VERSION,
    column_names,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

LOG_BYTES = 60_000
"""How much of the end of each log file travels along."""


# Writing


def dump(reference: str) -> tuple[str, bytes]:
    """A name for the file of a run, and its content. Raises RequestError for a run that is under way."""
    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, reference)
        if run.status in models.LIVE:
            raise RequestError(f"run {run.id} is under way ({run.status}); export its file when it has ended")
        parts = dict(zip(PARTS, _parts(session, run), strict=True))
        name = f"{run.suite_name}-{run.id[-6:].lower()}{SUFFIX}"
    if sum(map(len, parts.values())) > MAX_BYTES or any(len(parts[part]) > PARTS[part] for part in PARTS):
        most = max(parts, key=lambda part: len(parts[part]))
        raise RequestError(f"run {run.id} is too large for a file: {most} has {len(parts[most]) // 1_000_000} MB")
    manifest = {
        "format": FORMAT,
        "version": VERSION,
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
    for row in measurements.measurements(session, run.id):
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
        found = store_examples.examples(session, run.example_set_id)
        examples = {
            "dataset": run.example_set.dataset,
            "label_names": run.example_set.label_names,
            "texts": [example.text for example in found],
            "labels": [example.label for example in found],
            "source_indices": [example.source_index for example in found],
        }
    loads = [_columns(row, KEYS) for row in run.loads]
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
    values = {name: getattr(row, name) for name in column_names(row.__table__, without)}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


def _json(value: Any) -> bytes:
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False).encode()


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
