"""Reads texts and labels from CSV, JSONL and Parquet files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import RequestError, did_you_mean, one_line
from engine.measurement.labels import listed
from engine.suite.spec import DATA_FILES, Workload


@dataclass(frozen=True)
class Columns:
    """The columns that a workload requests, as read."""

    origin: str
    """The beginning of messages: the workload, and the file or hub id."""
    columns: dict[str, list[Any]]
    lines: list[int] | None = None
    """The line that each row starts on; None for a file without lines."""
    class_names: list[str] | None = None
    """The label names that the data set itself declares."""

    def at(self, rows: list[int], shown: int = 5) -> str:
        """`rows` as a person can find them: the first few, and the number of others."""
        first = [f"{row} (line {self.lines[row]})" if self.lines else str(row) for row in rows[:shown]]
        more = f" and {len(rows) - shown} more" if len(rows) > shown else ""
        return f"row{'s' if len(rows) > 1 else ''} {', '.join(first)}{more}"


def check_file(path: Path, kind: str, origin: str) -> None:
    allowed = ", ".join(DATA_FILES)
    if path.is_dir():
        raise RequestError(f"{origin}: is a folder; name a file in it; allowed: {allowed}, or a hub id")
    if not path.exists():
        near = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise RequestError(
            f"{origin}: there is no such file; give a path beside the suite's file, or a hub id"
            + did_you_mean(path.name, near)
        )
    if kind not in DATA_FILES:
        raise RequestError(f"{origin}: the extension is {kind!r}; allowed: {allowed}")
    if not path.is_file():
        raise RequestError(f"{origin}: is not a regular file; name one that is")


def asked_columns(workload: Workload) -> dict[str, str]:
    """The columns that `workload` requests: key -> column."""
    return {"text": workload.text} | ({"label": workload.label} if workload.label is not None else {})


def check_columns(present: list[str], workload: Workload, origin: str) -> None:
    shown = listed([repr(name) for name in present]) or "none"
    twice = [name for name in dict.fromkeys(present) if present.count(name) > 1]
    if twice:
        raise RequestError(f"{origin}: two columns are named {twice[0]!r} (columns: {shown}); names must differ")
    for key, column in asked_columns(workload).items():
        if column not in present:
            raise RequestError(
                f"{origin}: has no column {column!r}, which {key} = {column!r} asks for; allowed: {shown}"
                + did_you_mean(column, present)
            )


def _decoded(path: Path, origin: str) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RequestError(
            f"{origin}: line {line} is not UTF-8 (byte 0x{raw[error.start]:02x}); save the file as UTF-8"
        ) from error


def read_csv(path: Path, origin: str, workload: Workload) -> Columns:
    text = _decoded(path, origin)
    # csv refuses fields above a process-wide limit, but a text may be as long as its file.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records: list[list[str]] = []
    lines: list[int] = []
    ended = 0
    try:
        for record in reader:
            if record:
                records.append(record)
                lines.append(ended + 1)
            ended = reader.line_num
    except csv.Error as error:
        raise RequestError(
            f"{origin}: the record that starts on line {ended + 1} is not CSV ({error}); "
            'put quotes around texts with commas, quotes or line breaks, and double the quotes inside ("")'
        ) from error
    if not records:
        raise RequestError(f"{origin}: is empty; it needs a line of column names and rows below it")
    header, rows = records[0], records[1:]
    check_columns(header, workload, origin)
    places = {column: header.index(column) for column in asked_columns(workload).values()}
    table = Columns(origin, {}, lines[1:])
    ragged = [row for row, record in enumerate(rows) if len(record) != len(header)]
    if ragged:
        raise RequestError(
            f"{origin}: {table.at(ragged)}: found {len(rows[ragged[0]])} fields, allowed {len(header)} as in "
            "the header; put quotes around texts that hold commas"
        )
    table.columns.update({column: [record[at] for record in rows] for column, at in places.items()})
    return table


def read_jsonl(path: Path, origin: str, workload: Workload) -> Columns:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    # splitlines() would also split at U+2028 and the like, which JSON strings may contain unescaped.
    for number, line in enumerate(_decoded(path, origin).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise RequestError(
                f'{origin}: line {number} is not valid JSON ({why}); give one object a line, such as {{"text": "..."}}'
            ) from error
        if not isinstance(row, dict):
            raise RequestError(
                f"{origin}: line {number} holds a JSON {type(row).__name__}; "
                'give one object a line, such as {"text": "..."}'
            )
        rows.append(row)
        lines.append(number)
    columns = asked_columns(workload).values()
    if rows:
        check_columns(list(dict.fromkeys(key for row in rows for key in row)), workload, origin)
    return Columns(origin, {column: [row.get(column) for row in rows] for column in columns}, lines)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {max(keys, key=keys.count)!r} occurs twice")
    return row


def read_parquet(path: Path, origin: str, workload: Workload) -> Columns:
    import pyarrow
    from pyarrow import parquet

    columns = list(asked_columns(workload).values())
    try:
        with parquet.ParquetFile(path) as file:
            check_columns(file.schema_arrow.names, workload, origin)
            table = file.read(columns=columns)
        return Columns(origin, {column: table.column(column).to_pylist() for column in columns})
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise RequestError(
            f"{origin}: cannot be read as Parquet ({one_line(error)}); write it again, or give CSV or JSONL"
        ) from error
