"""The history and the choice of a run by AppTest: found in SQL, a page at a time; noted, tagged, deleted, imported."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dashboard_fill import CANCELLED, FULL, RUNNING, SIZES, START
from sqlalchemy import event, select
from streamlit.testing.v1 import AppTest
from test_pages import page, text

from dashboard.controls import run_choice
from dashboard.data import reads
from engine.errors import RequestError
from engine.store import history, interrupted, measurements, models, open_store
from engine.store.runfile import reading, writing

OLD = "01H00000000000000000000000"


@pytest.fixture
def own(filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a copy of the filled database, to be changed."""
    shutil.copy(filled.removeprefix("sqlite:///"), tmp_path / "bench.sqlite")
    monkeypatch.delenv("BENCH_DATABASE_URL", raising=False)
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def many(own: Path) -> list[str]:
    """60 failed runs more, newer than all others: their ids, the newest first; and OLD, a finished one before all."""
    with open_store() as store, store.session() as session:
        like = session.get_one(models.Run, FULL)
        names = [column.name for column in models.Run.__table__.columns if column.name not in ("id", "created_at")]
        kept = {name: getattr(like, name) for name in names}
        made = [f"01K{number:023}" for number in range(60)]
        for number, run_id in enumerate(made):
            when = START + timedelta(minutes=number)
            session.add(models.Run(**kept | {"id": run_id, "created_at": when, "status": "failed"}))
        session.add(models.Run(**kept | {"id": OLD, "created_at": START - timedelta(days=9), "notes": "the first"}))
    return made[::-1]


def table(test: AppTest) -> list[str]:
    return list(test.dataframe[0].value["Run"])


def test_the_history_comes_a_page_at_a_time(many: list[str]) -> None:
    test = page("runs")
    assert table(test) == many[:25] and "68 runs, the newest first" in text(test)
    test.session_state["page"] = 3
    test.run()
    assert table(test)[:10] == many[50:] and table(test)[-1] == OLD and not test.exception
    # A search begins on its own first page.
    test.text_input(key="search").set_value("FIRST").run()
    assert table(test) == [OLD] and "1 run," in text(test) and not test.exception
    test.text_input(key="search").set_value("").run()
    assert table(test) == many[:25]


@pytest.mark.parametrize("asked", ["99", "0", "-1", "many", ""])
def test_a_page_that_is_not_there_is_no_error(asked: str, many: list[str]) -> None:
    test = AppTest.from_file(str(Path(reads.__file__).parents[1] / "app.py"), default_timeout=60).run()
    test.query_params["page"] = asked
    for key, value in (("suites", "none"), ("states", "odd"), ("tags", "<b>")):
        test.query_params[key] = value
    test.switch_page("app_pages/runs.py").run()
    assert not test.exception and table(test) == many[:25]


def test_suite_state_and_tag_narrow_it(own: Path) -> None:
    history.annotate(SIZES, tag=["slides"])
    history.annotate(FULL, tag=["slides", "a100"])
    test = page("runs")
    test.multiselect(key="tags").set_value(["slides"]).run()
    assert table(test) == [SIZES, FULL]
    test.multiselect(key="tags").set_value(["slides", "a100"]).run()
    assert table(test) == [FULL]
    test.multiselect(key="tags").set_value([])
    test.multiselect(key="states").set_value(["cancelled", "running"]).run()
    assert table(test) == [RUNNING, CANCELLED]
    assert "All suites" in [box.placeholder for box in test.multiselect]


def test_no_page_sends_every_run_to_the_browser(many: list[str]) -> None:
    for name in ("overview", "runs"):
        test = page(name, OLD)
        options = test.selectbox(key=run_choice.CHOICE).options
        assert len(options) == reads.RECENT + 1 + (name == "overview")
        assert test.session_state[run_choice.CHOICE] == OLD
        assert any("…000000" in option for option in options)
    # The newest finished run is found although 60 newer ones failed.
    test = page()
    assert test.session_state[run_choice.CHOICE] == SIZES
    assert test.selectbox(key=run_choice.CHOICE).options[-1] == "All 68 runs, with a search …"
    test.selectbox(key=run_choice.CHOICE).set_value(run_choice.OLDER).run()
    assert not test.exception and test.header[0].value == "Runs"


def test_reading_a_page_takes_as_many_statements_whatever_the_number_of_runs(many: list[str]) -> None:
    seen: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    engine = reads.store().engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        reads._forget()
        assert len(reads.runs(limit=25)) == 25
        listed = len(seen)
        reads.runs(limit=1)
        assert len(seen) - listed <= listed <= 6
        assert not any("environment" in statement for statement in seen if "LIMIT" in statement)
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_a_note_and_tags_are_saved_and_found(own: Path) -> None:
    test = noting(FULL)
    test.text_area(key=f"note_{FULL}").set_value("For the *talk* <b>")
    test.multiselect(key=f"tags_{FULL}").set_value(["Slides", "a100"])
    save(test)
    assert not test.exception and not test.error
    assert history.annotate(FULL) == (FULL, "For the *talk* <b>", ["a100", "slides"])
    shown = test.dataframe[0].value.set_index("Run").loc[FULL]
    assert (shown["Note"], list(shown["Tags"])) == ("For the *talk* <b>", ["a100", "slides"])
    assert "For the *talk* <b>" in [element.value for element in test.text]
    test.multiselect(key=f"tags_{FULL}").set_value(["a100"])
    save(test)
    assert history.annotate(FULL).tags == ["a100"]
    test.multiselect(key=f"tags_{FULL}").set_value(["no tag"])
    save(test)
    assert "the tag 'no tag'" in test.error[0].value.replace("\\", "") and history.annotate(FULL).tags == ["a100"]


def noting(run_id: str) -> AppTest:
    """The page with the form of a run's note and tags open."""
    test = page("runs", run_id)
    test.session_state["remarks"] = True
    return test.run()


def save(test: AppTest) -> None:
    next(button for button in test.button if button.label == "Save").click().run()


def test_all_that_is_stored_of_a_measurement_is_there(database: str) -> None:
    test = page("runs", FULL, "Fields")
    stored = {row.name: row for row in reads.measurements(reads.run(FULL))}
    names = test.selectbox(key="audit_variant").options
    assert len(names) == 9
    test.selectbox(key="audit_variant").set_value(names[-1]).run()
    shown = json.loads(test.code[0].value)
    assert not test.exception and shown["variant"] == stored[names[-1]].variant and "latency_p50_s" in shown


def test_what_cannot_be_written_is_one_line(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RequestError("the database bench.sqlite is read-only; make it writable")

    monkeypatch.setattr(history, "annotate", full)
    monkeypatch.setattr(history, "delete", full)
    test = noting(FULL)
    save(test)
    assert not test.exception and "is read-only" in test.error[0].value
    test.button(key="delete").click().run()
    test.button(key="delete_now").click().run()
    assert not test.exception and "is read-only" in test.error[0].value and FULL in table(test)


def test_a_run_is_deleted_after_a_question(own: Path) -> None:
    test = page("runs", FULL)
    test.button(key="delete").click().run()
    assert "9 measurements and 1,400 answers go with it, for good." in text(test).replace("\\", "")
    assert len(table(test)) == 7
    test.button(key="delete_now").click().run()
    assert not test.exception and FULL not in table(test)
    assert "…00000A is deleted" in test.toast[0].value.replace("\\", "")
    assert test.session_state[run_choice.CHOICE] == SIZES and "run" not in test.query_params
    test.run()
    assert not test.toast, "said once"


def test_a_run_under_way_cannot_be_deleted(own: Path) -> None:
    test = page("runs", RUNNING)
    assert test.button(key="delete").disabled


def test_an_imported_run_is_shown_on_every_page(own: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_DATABASE_URL")
    content = writing.dump(FULL)[1]
    before = [replace(row, id=0) for row in reads.measurements(reads.run(FULL))]
    monkeypatch.setenv("BENCH_DATA_DIR", str(own / "other"))
    said = text(page("runs"))
    assert "No runs yet" in said
    test = page("runs")
    upload(test, content)
    assert not test.exception and test.session_state[run_choice.CHOICE] == FULL
    assert "…00000A is imported" in test.toast[0].value.replace("\\", "")
    assert [replace(row, id=0) for row in reads.measurements(reads.run(FULL))] == before
    assert "Imported" in text(page("runs", FULL, "Environment"))
    upload(test, content)
    assert "already here" in test.toast[0].value
    upload(test, content[:-9])
    assert "is not a run's file" in test.error[0].value.replace("\\", "") and not test.exception
    for name in ("overview", "runs"):
        assert not page(name, FULL).exception


def upload(test: AppTest, content: bytes) -> None:
    test.get("file_uploader")[0].set_value(("a.run.zip", content, "application/zip")).run()


HOSTILE = "</script><script>alert(1)</script> **x** =cmd|' /C calc'!A0 [a](http://example.org) :red[x] $x$"


def test_what_an_imported_run_says_is_text(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store() as store, store.session() as session:
        run = session.get_one(models.Run, SIZES)
        run.device_name = run.host = run.suite_path = run.notes = HOSTILE
        for row in session.scalars(select(models.Measurement).where(models.Measurement.run_id == SIZES)):
            row.title = row.model = f"{row.variant} {HOSTILE}"
            row.audit = {"settings": {HOSTILE: HOSTILE}, "wrong": [HOSTILE], "deviations": [HOSTILE]}
            row.limits = {"sentence": HOSTILE}
    content = writing.dump(SIZES)[1]
    monkeypatch.setenv("BENCH_DATA_DIR", str(own / "other"))
    reading.load(content)
    for name in ("overview", "roofline", "load", "runs"):
        test = page(name, SIZES)
        assert not test.exception
        for element in test.get("html"):
            assert "<script>" not in str(getattr(element.proto, "body", ""))
        for element in (*test.markdown, *test.caption, *test.header, *test.error):
            assert "**x**" not in element.value and ":red[x]" not in element.value, element.value


def test_what_was_read_is_forgotten_with_its_run(own: Path) -> None:
    """Measurements of a run that was deleted and imported again have other numbers."""
    content = writing.dump(FULL)[1]
    first = reads.measurements(reads.run(FULL))
    history.delete(FULL)
    reading.load(content)
    with open_store() as store, store.session() as session:
        numbers = [row.id for row in measurements.measurements(session, FULL)]
    assert [row.id for row in reads.measurements(reads.run(FULL))] == numbers != [row.id for row in first]


def test_who_follows_a_run_learns_that_its_process_is_gone(own: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    seen = datetime.now(UTC) - timedelta(seconds=2 * interrupted.SILENT_SECONDS)
    with open_store() as store, store.session() as session:
        run = session.get_one(models.Run, RUNNING)
        run.host, run.pid, run.heartbeat_at, run.created_at = socket.gethostname(), process.pid, seen, seen
    assert reads.run(RUNNING)["status"] == "interrupted"
    assert "was interrupted" in text(page(run=RUNNING))


def test_no_cell_that_can_be_saved_as_csv_is_a_formula(own: Path) -> None:
    history.annotate(FULL, note="=1+1", tag=["-1+1", "+a:b", "plain"])
    shown = page("runs", FULL).dataframe[0].value.set_index("Run")
    assert shown.loc[FULL, "Note"] == "'=1+1"
    # A list is saved as its parts with commas between.
    assert sorted(shown.loc[FULL, "Tags"]) == ["'+a:b", "'-1+1", "plain"]
