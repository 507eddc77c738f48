"""Loads data/published: results somebody else reported, as facts in JSON files.

A file is an object with `rows`, a list of objects; what all rows share may stand beside `rows`
instead. The keys are the columns of the table `published`. A row's remark is added to the shared one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from engine import paths
from engine.errors import RequestError, did_you_mean, one_line
from engine.store.models import Published

TABLE: Table = Published.__table__  # type: ignore[assignment]
COLUMNS = {column.name: column for column in TABLE.columns if column.name != "id"}
DEFAULTS: dict[str, Any] = {"baseline": False, "accuracy_meaningful": True}


def read(folder: Path = paths.PUBLISHED) -> list[dict[str, Any]]:
    """The rows of all files in `folder`, as columns of `published`.

    Raises RequestError with the file, the row and the key where one is wrong.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError(f"cannot read {file}: {one_line(error)}; mend it or remove it") from error
        if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
            raise RequestError(f"{file}: rows: missing; a list of objects is required")
        shared = {key: value for key, value in content.items() if key != "rows"}
        for number, own in enumerate(content["rows"], 1):
            where = f"{file}: row {number}"
            if not isinstance(own, dict):
                raise RequestError(f"{where}: found {own!r}; an object is required")
            row = _row(shared, own, where)
            key = (row["study"], row["title"])
            if key in rows:
                raise RequestError(f"{where}: {'/'.join(key)} is there twice; titles of one study must differ")
            rows[key] = row
    return list(rows.values())


def sync(engine: Engine, folder: Path = paths.PUBLISHED) -> bool:
    """Makes the table say what the files in `folder` say; returns whether it had to change.

    Studies that no file speaks of are left alone.
    """
    wanted = read(folder)
    for attempt in (1, 2):
        try:
            return _sync(engine, wanted)
        except IntegrityError:
            # Another process inserted the same rows in between; now they are there to compare with.
            if attempt == 2:
                raise
    return False


def _sync(engine: Engine, wanted: list[dict[str, Any]]) -> bool:
    studies = {row["study"] for row in wanted}
    with engine.begin() as connection:
        stored = {
            (row["study"], row["title"]): dict(row)
            for row in connection.execute(select(TABLE).where(TABLE.c.study.in_(studies))).mappings()
        }
        changed = False
        for row in wanted:
            old = stored.pop((row["study"], row["title"]), None)
            if old is None:
                connection.execute(insert(TABLE).values(row))
            elif any(old[name] != value for name, value in row.items()):
                connection.execute(update(TABLE).where(TABLE.c.id == old["id"]).values(row))
            else:
                continue
            changed = True
        if stored:
            gone = [old["id"] for old in stored.values()]
            connection.execute(delete(TABLE).where(TABLE.c.id.in_(gone)))
            changed = True
    return changed


def _row(shared: dict[str, Any], own: dict[str, Any], where: str) -> dict[str, Any]:
    """One row with every column. Raises RequestError for an unknown, missing or mistyped key."""
    given = DEFAULTS | shared | own
    remarks = [part["remark"] for part in (shared, own) if part.get("remark")]
    row = dict.fromkeys(COLUMNS) | given
    for key, value in given.items():
        if key not in COLUMNS:
            allowed = list(COLUMNS)
            hint = did_you_mean(key, allowed)
            raise RequestError(f"{where}: {key}: unknown key; allowed: {', '.join(allowed)}{hint}")
        kind = COLUMNS[key].type.python_type
        fits = isinstance(value, int | float if kind is float else kind)
        # To Python, true is a number too.
        if value is not None and (not fits or isinstance(value, bool) != (kind is bool)):
            raise RequestError(f"{where}: {key}: found {value!r}; should be {kind.__name__}")
    for key, column in COLUMNS.items():
        if row[key] is None and not column.nullable:
            raise RequestError(f"{where}: {key}: missing; this key is required")
    return row | {"remark": " ".join(remarks) or None}
