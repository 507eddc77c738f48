"""Tables as CSV: write downloads and read uploads. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.classify.answering import blank
from engine.errors import RequestError, one_line
from engine.report.exports import safe

MAX_BYTES = 5_000_000
MAX_ROWS = 1000
MAX_COLUMNS = 200
TEXT_NAMES = ("text", "sentence", "headline", "title", "content", "body", "description", "review", "message")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "topic")


@dataclass(frozen=True)
class Sheet:
    """An uploaded table."""

    names: list[str]
    """One name per column, all different."""
    rows: list[list[str]]
    """Every row is as long as `names`."""

    def column(self, name: str) -> list[str]:
        at = self.names.index(name)
        return [row[at] for row in self.rows]


def written(head: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file in UTF-8. Texts that look like formulas begin with an apostrophe, so that no spreadsheet runs them.

    The file begins with a byte order mark (BOM), without which Excel does not recognise UTF-8.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerows([safe(cell) for cell in row] for row in (head, *rows))
    return out.getvalue().encode("utf-8-sig", "replace")


def read(content: bytes) -> Sheet:
    """Read a CSV file in UTF-8 whose first line names its columns. Empty lines are skipped.

    The delimiter is comma, semicolon or tab, whichever is the commonest in the first line. Raises RequestError with one
    line for any other file, and beyond MAX_BYTES, MAX_ROWS or MAX_COLUMNS.
    """
    if len(content) > MAX_BYTES:
        raise RequestError(f"the file has {len(content) / 1e6:.1f} MB; allowed: up to {MAX_BYTES / 1e6:.0f} MB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"the file is not UTF-8 (byte {error.start:,}); save it as UTF-8 and try again") from None
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    csv.field_size_limit(max(csv.field_size_limit(), MAX_BYTES))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    try:
        for row in reader:
            if any(map(str.strip, row)):
                rows.append(row)
            if len(rows) > MAX_ROWS + 1:
                raise RequestError(f"the file has more than {MAX_ROWS:,} rows; allowed: up to {MAX_ROWS:,}")
    except csv.Error as error:
        raise RequestError(f"line {reader.line_num} is not CSV: {one_line(error)}") from None
    if len(rows) < 2:
        raise RequestError("the file has no rows; its first line names the columns, the next ones hold texts")
    if len(rows[0]) > MAX_COLUMNS:
        raise RequestError(f"the file has {len(rows[0]):,} columns; allowed: up to {MAX_COLUMNS}")
    names = _names(rows[0])
    width = len(names)
    wide = next((number for number, row in enumerate(rows[1:], 1) if len(row) > width), None)
    if wide is not None:
        raise RequestError(
            f"row {wide} has {len(rows[wide])} cells, the first line names {width} columns; "
            "put texts with commas in quotes"
        )
    return Sheet(names, [row + [""] * (width - len(row)) for row in rows[1:]])


def _names(cells: Sequence[str]) -> list[str]:
    """The names of the columns. An empty name becomes "column N"; a repeated name gets its number."""
    names: list[str] = []
    for number, cell in enumerate(cells, 1):
        name = " ".join(cell.split())[:80] or f"column {number}"
        names.append(name if name not in names else f"{name} ({number})")
    return names


def guessed(sheet: Sheet) -> tuple[str, str | None]:
    """Guess the names of the column with the texts and of the column with the labels; None if no column has labels.

    Columns are recognised by name. If no name fits the texts, the column with the longest cells is taken.
    """
    plain = {name.casefold().strip(): name for name in reversed(sheet.names)}
    text = next((plain[name] for name in TEXT_NAMES if name in plain), None)
    if text is None:
        text = max(sheet.names, key=lambda name: sum(map(len, sheet.column(name))))
    label = next((plain[name] for name in LABEL_NAMES if name in plain and plain[name] != text), None)
    return text, label


def texts(sheet: Sheet, text: str, label: str | None) -> tuple[list[str], list[str] | None]:
    """The texts of column `text` without blank cells, and their labels. Raises RequestError if no text is left."""
    cells = sheet.column(text)
    filled = [index for index, cell in enumerate(cells) if not blank(cell)]
    if not filled:
        raise RequestError(f"column {text!r} holds no text; choose another one")
    labels = None if label is None else sheet.column(label)
    return [cells[i] for i in filled], None if labels is None else [labels[i].strip() for i in filled]
