"""Files that somebody changed: each is refused in one line, or can be shown and taken along like any other."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dashboard_fill import FULL
from hostile_fill import fill_hostile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dashboard import style
from dashboard.data import reads
from dashboard.export import deck, report, sheets
from dashboard.tables import load
from engine.classify import answering
from engine.errors import RequestError
from engine.report import exports
from engine.store import open_store, runs
from engine.store.runfile import schema, writing

fuzzed = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
NUMBERS = st.one_of(st.integers(-2, 9), st.integers(-(2**70), 2**70), st.floats(), st.just(1e-300), st.just(1e300))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.just("<b>" * 2000)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a run with markup wherever text may be."""
    folder = tmp_path_factory.mktemp("sent")
    fill_hostile(f"sqlite:///{folder / 'bench.sqlite'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BENCH_DATABASE_URL", raising=False)
        patch.setenv("BENCH_DATA_DIR", str(folder))
        with open_store() as store, store.session() as session:
            runs.set_tags(session, FULL, ["a-tag"])  # no file brings another kind
        return writing.dump(FULL)[1]


@pytest.fixture
def received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("BENCH_DATABASE_URL", raising=False)
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    return tmp_path


def change(draw: Callable[..., Any], value: Any) -> Any:
    """`value` with one thing somewhere in it replaced, left out or doubled."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 5)):
        place = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(min(len(value), 9))))
        how = draw(st.integers(0, 9))
        if how == 0:
            value.pop(place)
        elif how == 1 and isinstance(value, list):
            value.append(value[place])
        else:
            value[place] = change(draw, value[place])
        return value
    return draw(VALUES)


def signed(parts: dict[str, bytes]) -> bytes:
    """A file whose manifest fits its parts."""
    manifest = json.loads(parts[schema.MANIFEST])
    manifest["parts"] = {
        name: {"bytes": len(parts[name]), "sha256": hashlib.sha256(parts[name]).hexdigest()} for name in schema.PARTS
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, part in (parts | {schema.MANIFEST: json.dumps(manifest).encode()}).items():
            archive.writestr(name, part)
    return made.getvalue()


def shown_everywhere(run_id: str) -> None:
    summary = reads.run(run_id)
    measured = reads.measurements(summary)
    loads = reads.loads(summary, measured)
    report.build(summary, measured, reads.published(), loads=loads)
    load.variants(measured, loads, style.LIGHT)
    with zipfile.ZipFile(io.BytesIO(deck.build(summary, measured, reads.published(), loads=loads))) as slides:
        for name in slides.namelist():
            if name.endswith(".xlsx"):
                with zipfile.ZipFile(io.BytesIO(slides.read(name))) as book:
                    assert not re.search(b"<f>|<hyperlink", book.read("xl/worksheets/sheet1.xml")), name
    for form in ("csv", "json", "markdown", "latex"):
        exports.measurements(run_id, form)


def taken(content: bytes) -> bool:
    """Whether a file is taken; then it can be shown. Else it was refused in one line."""
    try:
        run_id = reads.import_run(content, "file").run_id
    except RequestError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 600
        print(error)
        return False
    try:
        shown_everywhere(run_id)
    finally:
        reads.delete(run_id)
    return True


def test_a_file_full_of_markup_is_taken_and_shown(hostile_run: bytes, received: Path) -> None:
    # Its suite's variants lack what a suite of ours has.
    assert taken(hostile_run)


@fuzzed
@given(drawn=st.data())
def test_any_change_of_a_run_is_refused_or_shown(drawn: st.DataObject, hostile_run: bytes, received: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(hostile_run)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = drawn.draw(st.sampled_from(["run.json", "run.json", "run.json", "examples.json", "logs.json"]))
    content = json.loads(parts[name])
    for _ in range(drawn.draw(st.integers(1, 2))):
        content = change(drawn.draw, content)
    parts[name] = json.dumps(content).encode("utf-8", "surrogatepass")
    taken(signed(parts))


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text('a,;\t"\r\n\0=é', max_size=80).map(str.encode)))
def test_any_bytes_are_a_table_or_one_line(content: bytes) -> None:
    try:
        sheet = sheets.read(content)
        texts, _ = sheets.texts(sheet, *sheets.guessed(sheet))
        answering.check_texts(texts, sheets.MAX_ROWS, sheets.MAX_BYTES)
    except RequestError as error:
        assert len(str(error).splitlines()) == 1
        return
    back = list(csv.reader(io.StringIO(sheets.written(sheet.names, sheet.rows).decode("utf-8-sig"), newline="")))
    assert not any(cell.startswith(exports.FORMULA) for row in back for cell in row)


@given(st.lists(st.text(st.characters(), max_size=40), max_size=40))
def test_any_texts_are_asked_or_refused_in_one_line(texts: list[str]) -> None:
    try:
        answering.check_texts(texts)
    except RequestError as error:
        assert len(str(error).splitlines()) == 1
