"""Examples: a local CSV, Parquet or JSONL file, or a hub data set; with or without labels.

Every row of the data set is checked before any is chosen, so that whether a file is accepted does
not depend on `examples` or `seed`. Rows are counted from 0, as they are read; blank lines are none.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import RequestError, did_you_mean, one_line
from engine.labels import Names, listed, normalise
from engine.spec import DATA_FILES, Suite, Workload

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True, eq=False)
class Corpus:
    """The examples of one workload, in the order in which every variant sees them."""

    dataset: str
    """As the suite names it."""
    label_names: list[str] | None
    texts: list[str]
    labels: np.ndarray | None
    """int64 [n]: index into `label_names`; None where unlabelled."""
    source_indices: np.ndarray
    """int64 [n]: the row in the data set as read, from 0."""
    digest: str
    """sha256 (hex) over label names, texts and labels in order, wherever they were read from."""

    def __len__(self) -> int:
        return len(self.texts)


def load(suite: Suite, workload: Workload, offline: bool = False, where: str = "workload") -> Corpus:
    """The examples of `workload`: shuffled by its seed, the first `examples` of them (0: all).

    `offline` reads hub data sets from the local cache alone. `where` names the workload in messages.
    Raises RequestError where the data cannot be read, or any row of it cannot be used.
    """
    table = _read(suite, workload, offline, where)
    texts = table.columns[workload.text]
    _check_texts(table, workload.text)
    names, labels = _labels(table, workload)
    rows = len(texts)
    if workload.examples > rows:
        raise RequestError(
            f"{table.origin}: examples = {workload.examples}, but there are {rows}; "
            f"allowed: 1 to {rows}, or 0 for all of them"
        )
    chosen = np.random.default_rng(workload.seed).permutation(rows)[: workload.examples or rows]
    texts = [texts[row] for row in chosen]
    if labels is not None:
        labels = labels[chosen]
    return Corpus(
        workload.dataset,
        names,
        texts,
        labels,
        chosen.astype(np.int64),
        digest(names, texts, None if labels is None else labels.tolist()),
    )


@dataclass(frozen=True)
class _Table:
    """The columns that a workload asks for, as read."""

    origin: str
    """What messages begin with: the workload, and the file or hub id."""
    columns: dict[str, list[Any]]
    lines: list[int] | None = None
    """The line that each row starts on, where the file has lines."""
    class_names: list[str] | None = None
    """The label names that the data set itself declares."""

    def at(self, rows: list[int], shown: int = 5) -> str:
        """`rows` as a reader finds them: the first few, and how many more."""
        first = [f"{row} (line {self.lines[row]})" if self.lines else str(row) for row in rows[:shown]]
        more = f" and {len(rows) - shown} more" if len(rows) > shown else ""
        return f"row{'s' if len(rows) > 1 else ''} {', '.join(first)}{more}"


def _read(suite: Suite, workload: Workload, offline: bool, where: str) -> _Table:
    try:
        path = suite.locate(workload.dataset)
        if path is None:
            table = _read_hub(suite, workload, offline, f"{where}: {workload.dataset}")
        else:
            origin = f"{where}: {path}"
            # As the suite spells it: `path` has followed links, and what a cache links to has no extension.
            kind = Path(workload.dataset).suffix.lower()
            _check_file(path, kind, origin)
            read = {".csv": _read_csv, ".parquet": _read_parquet}.get(kind, _read_jsonl)
            table = read(path, origin, workload)
    except OSError as error:
        raise RequestError(
            f"{where}: cannot read {workload.dataset} ({one_line(error)}); make it readable, or name another"
        ) from error
    if not table.columns[workload.text]:
        raise RequestError(f"{table.origin}: has no rows; give it at least one example")
    return table


def _check_file(path: Path, kind: str, origin: str) -> None:
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


def _wanted(workload: Workload) -> dict[str, str]:
    """The columns that `workload` asks for: key -> column."""
    return {"text": workload.text} | ({"label": workload.label} if workload.label is not None else {})


def _check_columns(present: list[str], workload: Workload, origin: str) -> None:
    shown = listed([repr(name) for name in present]) or "none"
    twice = [name for name in dict.fromkeys(present) if present.count(name) > 1]
    if twice:
        raise RequestError(f"{origin}: two columns are named {twice[0]!r} (columns: {shown}); names must differ")
    for key, column in _wanted(workload).items():
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


def _read_csv(path: Path, origin: str, workload: Workload) -> _Table:
    text = _decoded(path, origin)
    # csv refuses long fields by a limit of the whole process; a text may be as long as its file.
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
        raise RequestError(f"{origin}: is empty; needs a line of column names and rows below it")
    header, rows = records[0], records[1:]
    _check_columns(header, workload, origin)
    places = {column: header.index(column) for column in _wanted(workload).values()}
    table = _Table(origin, {}, lines[1:])
    ragged = [row for row, record in enumerate(rows) if len(record) != len(header)]
    if ragged:
        raise RequestError(
            f"{origin}: {table.at(ragged)}: found {len(rows[ragged[0]])} fields, allowed {len(header)} as in "
            "the header; put quotes around texts that hold commas"
        )
    table.columns.update({column: [record[at] for record in rows] for column, at in places.items()})
    return table


def _read_jsonl(path: Path, origin: str, workload: Workload) -> _Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    # Not splitlines(): JSON strings may hold U+2028 and the like as they are.
    for number, line in enumerate(_decoded(path, origin).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise RequestError(
                f'{origin}: line {number} is not valid JSON ({why}); needs one object a line, such as {{"text": "..."}}'
            ) from error
        if not isinstance(row, dict):
            raise RequestError(
                f"{origin}: line {number} holds a JSON {type(row).__name__}; "
                'needs one object a line, such as {"text": "..."}'
            )
        rows.append(row)
        lines.append(number)
    columns = _wanted(workload).values()
    if rows:
        _check_columns(list(dict.fromkeys(key for row in rows for key in row)), workload, origin)
    return _Table(origin, {column: [row.get(column) for row in rows] for column in columns}, lines)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {max(keys, key=keys.count)!r} occurs twice")
    return found


def _read_parquet(path: Path, origin: str, workload: Workload) -> _Table:
    import pyarrow
    from pyarrow import parquet

    columns = list(_wanted(workload).values())
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(file.schema_arrow.names, workload, origin)
            found = file.read(columns=columns)
        return _Table(origin, {column: found.column(column).to_pylist() for column in columns})
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise RequestError(
            f"{origin}: cannot be read as Parquet ({one_line(error)}); write it again, or give CSV or JSONL"
        ) from error


def _read_hub(suite: Suite, workload: Workload, offline: bool, origin: str) -> _Table:
    if not _HUB_ID.fullmatch(workload.dataset):
        raise RequestError(f"{origin}: is neither a file nor a hub id; allowed: {', '.join(DATA_FILES)}, or OWNER/NAME")
    import datasets

    fetch = f"run `python -m engine fetch {suite.reference}` where there is a network"
    try:
        with _offline(offline):
            # With hf://, a folder of the same name in the working directory is not taken for the data set.
            builder = datasets.load_dataset_builder(
                f"hf://datasets/{workload.dataset}", name=workload.config, revision=workload.revision
            )
            _check_revision(builder, workload.revision, origin, fetch)
            builder.download_and_prepare()
            found = builder.as_dataset(split=workload.split)
    except RequestError:
        raise
    except ConnectionError as error:
        raise RequestError(
            f"{origin}: is not in the local cache, and the hub cannot be reached ({one_line(error)}); {fetch}"
        ) from error
    except Exception as error:
        # Whatever `datasets` or the server raises: an unknown id or configuration, a format it cannot read.
        raise RequestError(
            f"{origin}: cannot be loaded ({type(error).__name__}: {one_line(error)}); "
            f"check dataset, config, revision and split; where the hub cannot be reached, {fetch}"
        ) from error
    _check_columns(found.column_names, workload, origin)
    feature = found.features[workload.label] if workload.label is not None else None
    return _Table(
        origin,
        found.select_columns(list(_wanted(workload).values()))[:],
        class_names=list(feature.names) if isinstance(feature, datasets.ClassLabel) else None,
    )


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Keeps `datasets` from the network; its variable in the environment counts at its import only."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or wanted
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _check_revision(builder: Any, revision: str | None, origin: str, fetch: str) -> None:
    """Refuses another revision than the one asked for: without the hub, `datasets` takes any cached one."""
    from datasets.packaged_modules.cache.cache import Cache

    if revision and isinstance(builder, Cache) and not builder.hash.startswith(revision):
        raise RequestError(
            f"{origin}: the hub cannot be reached, and the local cache holds commit {builder.hash}, "
            f"not known to be revision {revision!r}; set revision to that commit, or {fetch}"
        )


def _check_texts(table: _Table, column: str) -> None:
    values = table.columns[column]
    faults = {row: fault for row, value in enumerate(values) if (fault := _fault(value))}
    if faults:
        first, kind = next(iter(faults.items()))
        rows = [row for row, fault in faults.items() if fault == kind]
        raise RequestError(
            f"{table.origin}: column {column!r}: {table.at(rows)}: found {kind} ({_shown(values[first])}); "
            "allowed: text; mend these rows or drop them"
        )


def _fault(value: Any) -> str | None:
    """What keeps `value` from being the text or the label name of an example."""
    if value is None:
        return "no value"
    if not isinstance(value, str):
        return "no string"
    if _blank(value):
        return "an empty text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "a lone surrogate, which is no Unicode text"
    return None


def _blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _labels(table: _Table, workload: Workload) -> tuple[list[str] | None, np.ndarray | None]:
    """Label names and int64 [rows] of indices into them; (None, None) where unlabelled."""
    if workload.label is None:
        return None, None
    values = table.columns[workload.label]
    begin = f"{table.origin}: column {workload.label!r}"
    missing = [row for row, value in enumerate(values) if value is None or _blank(value)]
    if missing:
        raise RequestError(
            f"{begin}: {table.at(missing)}: found no label; label these rows or drop them, "
            "or leave `label` out to compare by agreement"
        )
    # Not isinstance(): a bool is an int.
    odd = [row for row, value in enumerate(values) if type(value) is not int and _fault(value)]
    if odd:
        raise RequestError(
            f"{begin}: {table.at(odd)}: found {_shown(values[odd[0]])}; allowed: whole numbers from 0, or names"
        )
    distinct = list(dict.fromkeys(values))
    names = _label_names(table, workload, distinct, begin)
    indices = _indices(distinct, names)
    unknown = [row for row, value in enumerate(values) if indices[value] is None]
    if unknown:
        found = values[unknown[0]]
        raise RequestError(
            f"{begin}: {table.at(unknown)}: found {_shown(found)}; "
            f"allowed: {listed(names)}, or their numbers 0 to {len(names) - 1}" + did_you_mean(str(found), names)
        )
    return names, np.array([indices[value] for value in values], dtype=np.int64)


def _label_names(table: _Table, workload: Workload, distinct: list[int | str], begin: str) -> list[str]:
    """The declared names, else the data set's own, else the sorted strings of the column."""
    declared, own = workload.labels, table.class_names
    if declared and own:
        here, there = [normalise(name) for name in declared], [normalise(name) for name in own]
        if len(here) != len(there) or (here != there and sorted(here) == sorted(there)):
            raise RequestError(
                f"{begin}: labels = {declared} does not fit the names that the data set declares: "
                f"{listed(own)}; give as many in the same order, or leave `labels` out"
            )
        return declared
    if declared or own:
        return declared or own or []
    numbers = [value for value in distinct if _number(value) is not None]
    shown = listed([str(number) for number in sorted(numbers, key=int)])
    if len(numbers) == len(distinct) or any(isinstance(value, int) for value in distinct):
        raise RequestError(
            f"{begin}: the labels are numbers ({shown}) without names; "
            "declare the names in the order of the numbers: labels = [...]"
        )
    return sorted(str(value) for value in distinct)


def _indices(distinct: list[int | str], names: list[str]) -> dict[int | str, int | None]:
    """Each label's index into `names`; None where it is none of them.

    Whether "1" is a name or a number is decided for the column as a whole.
    """
    numbers = {value: number for value in distinct if (number := _number(value)) is not None}
    if len(numbers) == len(distinct) and not all(value in names for value in distinct):
        found: dict[int | str, int | None] = dict(numbers)
    else:
        finder = Names(names)
        found = {value: finder.find(value) if isinstance(value, str) else value for value in distinct}
    return {value: index if index is not None and 0 <= index < len(names) else None for value, index in found.items()}


def _number(value: int | str) -> int | None:
    """`value` as a whole number, also where a file spells it in digits."""
    if isinstance(value, int):
        return value
    return int(value) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value) else None


def digest(names: list[str] | None, texts: list[str], labels: list[int] | None) -> str:
    """What names a set of examples: sha256 (hex) over label names, texts and labels in order."""
    content = [names, texts, labels]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
