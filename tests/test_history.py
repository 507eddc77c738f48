"""Notes, tags, deletion and the file of a run, through the functions and the real command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import RequestError
from engine.store import history, models, open_store, runs
from engine.store.runfile import writing

sys.path.insert(0, str(Path(__file__).parent / "dashboard"))
from dashboard_fill import FAILED, FULL, RUNNING, SIZES, fill

Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bench's data folder, with runs of every kind."""
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    fill(f"sqlite:///{tmp_path / 'bench.sqlite'}")
    return tmp_path


@pytest.fixture
def ask(bench: Ask, data: Path) -> Ask:
    return lambda *arguments, **options: bench(*arguments, env={"BENCH_DATA_DIR": str(data)}, **options)


def logged(run_id: str, place: Path) -> Path:
    """The run's log lies at `place`."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "run.log").write_text("words")
    with open_store() as store, store.session() as session:
        session.get_one(models.Run, run_id).log_path = str(place)
    return place


def ids() -> set[str]:
    with open_store() as store, store.session() as session:
        return {row.run.id for row in runs.list_runs(session)}


def test_a_note_and_tags(data: Path) -> None:
    assert history.annotate(FULL) == (FULL, None, [])
    assert history.annotate(FULL[-4:], " first\nlook\x1b[2J ", ["Slides", "a100"]) == (
        FULL,
        "first\nlook[2J",
        ["a100", "slides"],
    )
    assert history.annotate(FULL, tag=["b"], untag=["slides", "none"]) == (FULL, "first\nlook[2J", ["a100", "b"])
    assert history.annotate(FULL, "") == (FULL, None, ["a100", "b"])
    assert history.annotate(FULL, "x" * history.NOTE_LENGTH, [f"t{n}" for n in range(18)])[1] is not None
    for note, tags, words in (
        ("x" * (history.NOTE_LENGTH + 1), [], "4,001 characters"),
        (None, ["one more"], "the tag 'one more'"),
        (None, [""], "the tag ''"),
        (None, ["x" * 41], "1 to 40"),
        (None, ["<b>"], "the tag '<b>'"),
        (None, ["one-more"], "21 tags"),
    ):
        with pytest.raises(RequestError, match=words):
            history.annotate(FULL, note, tags)
    assert len(history.annotate(FULL).tags) == 20


def test_a_deleted_run_takes_its_own_log_along(data: Path) -> None:
    place = logged(FULL, data / "logs" / FULL)
    beside = data / "logs" / "build.log"
    beside.write_text("of others")
    found = history.contents(FULL)
    assert found == (FULL, 9, 7 * 200, place, 0)
    assert history.going(found) == "9 measurements, 1,400 answers and its log go with it, for good."
    assert history.delete(FULL) == found
    assert FULL not in ids() and not place.exists() and beside.exists()
    with pytest.raises(RequestError, match="there is no run"):
        history.delete(FULL)


@pytest.mark.parametrize("kind", ["elsewhere", "all logs", "another's", "a link", "up and down"])
def test_a_log_that_is_not_its_own_stays(kind: str, data: Path, tmp_path: Path) -> None:
    logs = data / "logs"
    place = {
        "elsewhere": tmp_path / "precious" / FULL,
        "all logs": logs,
        "another's": logs / SIZES,
        "a link": tmp_path / "precious" / FULL,
        "up and down": logs / FULL / ".." / SIZES,
    }[kind]
    if kind == "up and down":
        (logs / FULL).mkdir(parents=True)
    logged(FULL, place)
    if kind == "a link":
        logs.mkdir()
        (logs / FULL).symlink_to(place)
        with open_store() as store, store.session() as session:
            session.get_one(models.Run, FULL).log_path = str(logs / FULL)
    assert history.delete(FULL).log is None
    assert FULL not in ids() and (place / "run.log").read_text() == "words"


def test_a_run_under_way_is_not_deleted(data: Path) -> None:
    with pytest.raises(RequestError, match=r"is under way \(running\); cancel it"):
        history.delete(RUNNING)
    assert RUNNING in ids()


@pytest.mark.second_tier
def test_from_the_command_line(ask: Ask, data: Path, tmp_path: Path) -> None:
    done = ask("note", FULL, "for the talk", "--tag", "Slides", "--tag", "a100")
    assert (done.returncode, done.stdout) == (0, f"{FULL} [a100, slides] for the talk\n")
    assert ask("note", FULL, "--untag", "a100").stdout == f"{FULL} [slides] for the talk\n"
    found = ask("runs", "--search", "TALK slides").stdout
    assert FULL in found and SIZES not in found and "slides" in found
    assert ask("runs", "--search", "no such word").stdout == "no run matches\n"

    file = tmp_path / "one.run.zip"
    assert ask("export", FULL, "--format", "run", "--output", file).stdout == ""
    piped = subprocess.run(
        [sys.executable, "-m", "engine", "export", FULL, "--format", "run"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        check=True,
    )
    assert piped.stdout == file.read_bytes() == writing.dump(FULL)[1]
    assert ask("import", file).stdout == f"{FULL} is already there; nothing was changed\n"
    before = ask("show", FULL).stdout

    asked = ask("delete", FULL)
    assert asked.returncode == 1 and FULL in ids()
    assert "9 measurements, 1,400 answers go with it" in asked.stderr.replace(" and", ",")
    done = ask("delete", FULL, "--yes")
    assert (done.returncode, done.stdout) == (0, f"{FULL} deleted\n")
    assert FULL not in ids()
    assert ask("import", file).stdout == f"{FULL} imported\n"
    assert ask("show", FULL).stdout == before
    assert ask("note", FULL).stdout == f"{FULL} [slides] for the talk\n"


@pytest.mark.second_tier
def test_what_is_wrong_is_one_line(ask: Ask, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.run.zip"
    broken.write_bytes(b"PK\x03\x04")
    before = ids()
    for arguments, words in (
        (["import", broken], "is not a run's file: it is no zip"),
        (["import", tmp_path], "cannot read"),
        (["import", tmp_path / "none"], "cannot read"),
        (["export", RUNNING, "--format", "run", "--output", tmp_path / "x"], "is under way"),
        (["export", FULL, "--format", "run", "--predictions"], "--predictions goes with csv or json"),
        (["export", FULL, "--format", "run", "--output", tmp_path / "no" / "x"], "cannot write"),
        (["delete", RUNNING, "--yes"], "is under way"),
        (["delete", "01ZZ", "--yes"], "there is no run"),
        (["note", FAILED, "--tag", "a b"], "the tag 'a b'"),
    ):
        done = ask(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
        assert words in done.stderr
    assert ids() == before
