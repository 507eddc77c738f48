"""Opening the database: what it makes, what it refuses, and how it says so."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from engine.errors import RequestError
from engine.machine.file_systems import file_system, journal, journal_mode
from engine.store import Store, open_store, translate_errors
from engine.store.interrupted import mark_interrupted
from engine.store.migrations import HEAD
from engine.store.models import Published, Run
from engine.store.runs import get_run
from engine.store.schema import schema_revision


def refusal(url: str, **options: bool) -> str:
    """The one line with which opening `url` is refused."""
    with pytest.raises(RequestError) as caught:
        open_store(url, **options).close()
    message = str(caught.value)
    assert "\n" not in message
    return message


def digests(folder: Path) -> dict[str, str]:
    """Every file's content; SQLite's scratch files, which any reader makes, left out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def test_a_new_database_has_its_folder_its_tables_and_the_published_rows(url: str, file: Path) -> None:
    with open_store(url) as store, store.session() as session:
        assert session.scalars(select(Published)).all()
        assert session.scalars(select(Run)).all() == []
    assert file.exists()
    assert not list(file.parent.glob("*.bak"))


def test_a_database_that_another_process_makes_meanwhile_is_not_a_strangers(url: str, file: Path) -> None:
    """A database server has no lock to share: its tables may appear between two questions about them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url)

    questions: list[str] = []

    def make_once(connection: object, cursor: object, statement: str, *_: object) -> None:
        questions.append(statement)
        if len(questions) == 1:
            open_store(url).close()

    event.listen(engine, "after_cursor_execute", make_once)
    revision, strangers = schema_revision(engine)
    engine.dispose()
    assert questions and file.exists(), "the other process has made it"
    assert revision in (None, HEAD) and not strangers


def test_the_default_is_the_local_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_DATABASE_URL", raising=False)
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "elsewhere"))
    open_store().close()
    assert (tmp_path / "elsewhere" / "bench.sqlite").exists()
    monkeypatch.setenv("BENCH_DATABASE_URL", f"sqlite:///{tmp_path}/other.sqlite")
    open_store().close()
    assert (tmp_path / "other.sqlite").exists()


def test_a_session_commits_at_its_end(store: Store, new_run: Callable[..., Run]) -> None:
    run = new_run()
    with store.session() as session:
        session.add(run)
    assert run.suite_name == "demo"
    with store.session() as session:
        assert session.get(Run, run.id) is not None


def test_a_session_rolls_back_on_an_error(store: Store, new_run: Callable[..., Run]) -> None:
    run = new_run()
    with pytest.raises(KeyError), store.session() as session:
        session.add(run)
        session.flush()
        raise KeyError("stop")
    with store.session() as session:
        assert session.get(Run, run.id) is None


def test_every_connection_has_the_pragmas(store: Store) -> None:
    with store.engine.connect() as one, store.engine.connect() as two:
        for connection in (one, two):
            found = {
                name: connection.execute(text(f"PRAGMA {name}")).scalar()
                for name in ("foreign_keys", "journal_mode", "busy_timeout", "synchronous")
            }
            mode = journal_mode(Path(str(store.url.database))).lower()
            assert found == {
                "foreign_keys": 1,
                "journal_mode": mode,
                "busy_timeout": 30_000,
                "synchronous": 2,
            }


def test_only_what_says_so_does_not_wait_for_the_disk(store: Store) -> None:
    waiting, mode = [], journal_mode(Path(str(store.url.database)))
    for durable in (True, False, True):
        with store.session(durable=durable) as session:
            waiting.append(session.execute(text("PRAGMA synchronous")).scalar() == 2)
    assert waiting == [True, mode != "WAL", True]


MOUNTS = r"""
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/local xfs rw 0 0
user@host: /mnt/my\040disk fuse.sshfs rw 0 0
/dev/sdc1 /scratch ext4 rw 0 0
scratch@tcp:/scratch /scratch lustre rw 0 0
//server/share /share cifs rw 0 0
gpfs /gpfs gpfs rw 0 0
beegfs_nodev /beegfs beegfs rw 0 0
10.0.0.1:/ /ceph ceph rw 0 0
mirror /mirror fuse rw 0 0
/dev/sdd1 /stick fuseblk rw 0 0
AFS /afs afs rw 0 0
""".lstrip()


@pytest.mark.parametrize(
    ("place", "mode"),
    [
        ("/var/bench.sqlite", "WAL"),
        ("/home/me/bench.sqlite", "TRUNCATE"),
        ("/home/local/bench.sqlite", "WAL"),
        ("/home2/bench.sqlite", "WAL"),
        ("/mnt/my disk/bench.sqlite", "TRUNCATE"),
        ("/scratch/bench.sqlite", "TRUNCATE"),
        ("/share/bench.sqlite", "TRUNCATE"),
        ("/gpfs/bench.sqlite", "TRUNCATE"),
        ("/beegfs/bench.sqlite", "TRUNCATE"),
        ("/ceph/bench.sqlite", "TRUNCATE"),
        ("/mirror/bench.sqlite", "TRUNCATE"),
        ("/stick/bench.sqlite", "WAL"),
        ("/afs/cell/bench.sqlite", "TRUNCATE"),
    ],
)
def test_journal_mode_follows_the_file_system(tmp_path: Path, place: str, mode: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert journal_mode(Path(place), mounts) == mode


def test_journal_mode_where_no_mounts_are_listed(tmp_path: Path) -> None:
    assert journal_mode(tmp_path / "bench.sqlite", tmp_path / "missing") == "WAL"


def test_journal_mode_looks_behind_links(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/ {os.path.realpath(tmp_path)}/far nfs rw 0 0\n")
    assert journal_mode(tmp_path / "near" / "bench.sqlite", mounts) == "TRUNCATE"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder behind FUSE, as sshfs mounts one."""
    far, near = tmp_path / "far", tmp_path / "near"
    far.mkdir()
    near.mkdir()
    if shutil.which("bindfs") is None:
        pytest.skip("there is no bindfs")
    done = subprocess.run(["bindfs", str(far), str(near)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting by FUSE is not allowed: {done.stderr.strip()}")
    yield near
    subprocess.run(["umount", "--lazy", str(near)], check=True)


def test_a_mounted_folder_is_written_with_the_safe_journal(elsewhere: Path, new_run: Callable[..., Run]) -> None:
    file = elsewhere / "bench.sqlite"
    assert file_system(file) in ("fuse", "fuse.bindfs")
    said, slower = journal(file)
    assert slower and said.startswith("journal mode TRUNCATE, as WAL is unsafe on a network file system (fuse")
    with open_store(f"sqlite:///{file}") as store:
        with store.session() as session:
            session.add(new_run())
        with store.engine.connect() as connection:
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "truncate"
    assert not list(elsewhere.glob("*-wal"))


def test_a_tmpfs_is_local(tmp_path: Path, mount: Callable) -> None:
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path)
    assert journal(tmp_path / "bench.sqlite") == ("journal mode WAL, as tmpfs is local", False)


def test_opening_an_up_to_date_database_imports_little(store: Store, url: str, python: Callable) -> None:
    code = """
import sys
from engine.store import open_store
open_store(sys.argv[1]).close()
print([name for name in ("alembic", "filelock", "numpy", "pydantic", "psutil") if name in sys.modules])
"""
    output, errors = python(code, url).communicate(timeout=60)
    assert output.strip() == "[]", errors


def test_processes_that_open_a_new_database_at_once(tmp_path: Path, python: Callable) -> None:
    code = """
import sys, time
from alembic import command
from engine.store import open_store
from engine.store.measurements import published
print("ready", flush=True)
while time.time() < float(open(sys.argv[2]).read() or "inf"):
    time.sleep(0.001)
with open_store(sys.argv[1]) as store, store.session() as session:
    print(len(published(session)))
"""
    start = tmp_path / "start"
    start.write_text("")
    url = f"sqlite:///{tmp_path}/bench.sqlite"
    programs = [python(code, url, start) for _ in range(4)]
    for program in programs:
        assert program.stdout.readline() == "ready\n"
    start.write_text(str(time.time() + 0.3))
    for program in programs:
        output, errors = program.communicate(timeout=120)
        assert (program.returncode, output) == (0, "5\n"), errors
    with closing(sqlite3.connect(tmp_path / "bench.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM published").fetchone() == (5,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_database_in_memory(new_run: Callable[..., Run]) -> None:
    with open_store("sqlite://") as store:
        with store.session() as session:
            session.add(new_run())
        with store.session() as session:
            assert len(session.scalars(select(Run)).all()) == 1


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with open_store("sqlite:///bench.sqlite") as store:
        store.engine.dispose()
        monkeypatch.chdir(tmp_path / "other")
        with store.session() as session:
            assert session.scalars(select(Published)).all()
    assert not list((tmp_path / "other").iterdir())


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    open_store("sqlite:///~/bench.sqlite").close()
    assert (tmp_path / "home" / "bench.sqlite").exists()
    assert not (tmp_path / "~").exists()


def test_create_off_refuses_what_is_not_there(url: str, file: Path) -> None:
    message = refusal(url, create=False)
    assert message == f"no database at {file}; run `python -m engine run demo` first"
    assert not file.parent.exists()


def test_create_off_refuses_an_empty_file(url: str, file: Path) -> None:
    file.parent.mkdir()
    file.touch()
    assert str(file) in refusal(url, create=False)
    assert file.read_bytes() == b""


def test_create_off_refuses_a_database_in_memory() -> None:
    assert "no database at sqlite://" in refusal("sqlite://", create=False)


def test_create_off_opens_what_is_there(store: Store, url: str) -> None:
    with open_store(url, create=False) as again, again.session() as session:
        assert session.scalars(select(Published)).all()


def test_an_unknown_revision_is_left_as_it_is(url: str, file: Path) -> None:
    open_store(url).close()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    before = digests(file.parent)
    message = refusal(url)
    assert str(file) in message
    assert "9999" in message
    assert "update the bench" in message
    assert digests(file.parent) == before


def test_an_unknown_revision_in_an_unfinished_wal_is_left_as_it_is(url: str, file: Path, python: Callable) -> None:
    open_store(url).close()
    code = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("UPDATE alembic_version SET version_num = '9999'")
connection.commit()
os._exit(0)
"""
    python(code, file).communicate(timeout=60)
    wal = file.with_name(file.name + "-wal")
    before, journal = digests(file.parent), wal.read_bytes()
    assert "9999" in refusal(url)
    assert digests(file.parent) == before
    assert wal.read_bytes() == journal


def test_somebody_elses_database_is_left_as_it_is(url: str, file: Path) -> None:
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
        connection.commit()
    before = digests(file.parent)
    assert "tables that this bench did not make" in refusal(url)
    assert digests(file.parent) == before


def test_a_crash_in_truncate_mode_is_mended(url: str, file: Path, python: Callable) -> None:
    open_store(url).close()
    code = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA journal_mode=TRUNCATE")
connection.execute("PRAGMA cache_size=2")
connection.execute("UPDATE published SET remark = hex(zeroblob(20000))")
os._exit(0)
"""
    python(code, file).communicate(timeout=60)
    assert file.with_name(file.name + "-journal").stat().st_size > 0
    with open_store(url) as store, store.session() as session:
        assert "0000" not in str(session.scalars(select(Published.remark)).first())


def test_a_file_that_is_no_database(url: str, file: Path) -> None:
    file.parent.mkdir()
    file.write_text("shopping list\n" * 100)
    before = digests(file.parent)
    assert refusal(url).startswith(f"the file {file} is not a database; move it away")
    assert digests(file.parent) == before


def test_a_damaged_database(url: str, file: Path) -> None:
    open_store(url).close()
    content = bytearray(file.read_bytes())
    content[100:4096] = b"\xff" * 3996
    file.write_bytes(content)
    message = refusal(url)
    assert str(file) in message
    assert "damaged" in message


def test_a_folder_in_the_files_place(url: str, file: Path) -> None:
    file.mkdir(parents=True)
    assert f"{file} is a folder" in refusal(url)


def test_a_file_in_the_folders_place(url: str, file: Path) -> None:
    file.parent.write_text("")
    message = refusal(url)
    assert f"cannot make the folder {file.parent}" in message
    assert "BENCH_DATA_DIR" in message


def test_a_read_only_folder(tmp_path: Path, mount: Callable) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    if os.geteuid() == 0:
        mount("-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", folder)
    else:
        folder.chmod(0o555)
    message = refusal(f"sqlite:///{folder}/bench.sqlite")
    assert f"the folder {folder} of the database is read-only" in message
    assert "cannot make the folder" in refusal(f"sqlite:///{folder}/deeper/bench.sqlite")


def test_a_read_only_file(url: str, file: Path, mount: Callable) -> None:
    open_store(url).close()
    if os.geteuid() == 0:
        mount("--bind", file, file)
        mount("-o", "remount,bind,ro", file)
    else:
        file.chmod(0o444)
    assert f"the database {file} is read-only; make it writable" in refusal(url)


@pytest.mark.parametrize("journal", ["wal", "truncate"])
def test_what_cannot_be_written_can_be_read(
    url: str, file: Path, mount: Callable, new_run: Callable, journal: str
) -> None:
    with open_store(url) as store, store.session() as session:
        session.add(new_run(variants=("fp32",), host=socket.gethostname(), status="running", pid=None))
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
    if os.geteuid() == 0:
        mount("--bind", file.parent, file.parent)
        mount("-o", "remount,bind,ro", file.parent)
    else:
        file.parent.chmod(0o555)
    before = digests(file.parent)
    with open_store(url, create=False) as store:
        assert store.read_only == f"the database {file} is read-only: nothing can be stored in it"
        with store.session() as session:
            assert mark_interrupted(session, silent_s=-1)
            run = get_run(session, "latest")
            assert run.status == "interrupted", "told all the same"
        with pytest.raises(RequestError, match="is read-only; make it"), store.session() as session:
            get_run(session, "latest").notes = "no"
    assert digests(file.parent) == before and {path.name for path in file.parent.iterdir()} == set(before)


def test_an_older_database_that_cannot_be_written_is_refused(url: str, file: Path, mount: Callable) -> None:
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript((Path(__file__).parent / "schemas" / "0003.sql").read_text(encoding="utf-8"))
    if os.geteuid() == 0:
        mount("--bind", file.parent, file.parent)
        mount("-o", "remount,bind,ro", file.parent)
    else:
        file.parent.chmod(0o555)
    assert "has the older schema 0003, which cannot be brought up to date there; copy" in refusal(url, create=False)


def test_what_lies_in_a_journal_alone_is_not_left_out(url: str, file: Path, mount: Callable, python: Callable) -> None:
    open_store(url).close()
    code = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("UPDATE published SET remark = 'the last'")
connection.commit()
os._exit(0)
"""
    python(code, file).communicate(timeout=60)
    file.with_name(file.name + "-shm").unlink()
    if os.geteuid() == 0:
        mount("--bind", file.parent, file.parent)
        mount("-o", "remount,bind,ro", file.parent)
    else:
        file.parent.chmod(0o555)
    with open_store(url, create=False) as store, store.session() as session:
        assert store.read_only and set(session.scalars(select(Published.remark))) == {"the last"}
        place = Path(store._copy.name)
        assert place.is_dir()
    assert not place.exists()


def test_writing_to_a_database_opened_read_only(store: Store, file: Path, new_run: Callable) -> None:
    with open_store(f"sqlite:///file:{file}?mode=ro&uri=true") as reader:
        with reader.session() as session:
            assert session.scalars(select(Published)).all()
        with pytest.raises(RequestError, match=f"{file} is read-only"), reader.session() as session:
            session.add(new_run())


def test_a_locked_database(store: Store, url: str, file: Path, new_run: Callable) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with open_store(url + "?timeout=0.2") as hasty:
            with hasty.session() as session:
                assert session.scalars(select(Published)).all()
            with pytest.raises(RequestError) as caught, hasty.session() as session:
                session.add(new_run())
    assert str(caught.value).startswith(f"the database {file} has been locked by another process for 0.2 s")


def test_a_disk_that_fills_during_a_run(tmp_path: Path, mount: Callable, new_run: Callable) -> None:
    mount("-t", "tmpfs", "-o", "size=600k", "tmpfs", tmp_path)
    file = tmp_path / "bench.sqlite"
    with open_store(f"sqlite:///{file}") as store:
        kept = []

        def fill() -> None:
            for _ in range(200):
                run = new_run(notes="x" * 10_000)
                with store.session() as session:
                    session.add(run)
                kept.append(run.id)

        with pytest.raises(RequestError) as caught:
            fill()
        assert str(caught.value).startswith(f"the disk of the database {file} is full; free some space")
        assert kept
        with store.session() as session:
            assert session.scalars(select(Run.id).order_by(Run.created_at)).all() == kept


def test_a_new_database_on_a_full_disk(tmp_path: Path, mount: Callable) -> None:
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path)
    message = refusal(f"sqlite:///{tmp_path}/bench.sqlite")
    assert message.startswith(f"the disk of the database {tmp_path}/bench.sqlite is full")


def test_a_disk_that_was_full_before(tmp_path: Path, mount: Callable) -> None:
    mount("-t", "tmpfs", "-o", "size=400k", "tmpfs", tmp_path)
    url = f"sqlite:///{tmp_path}/bench.sqlite"
    open_store(url).close()
    with (
        pytest.raises(OSError, match="No space left"),
        (tmp_path / "ballast").open("wb", buffering=0) as ballast,
    ):
        while True:
            ballast.write(b"x" * 4096)
    assert refusal(url).startswith(f"the disk of the database {tmp_path}/bench.sqlite is full")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("bench.sqlite", ["not a database URL", "sqlite:///"]),
        ("postgresql//me:secret@host/bench", ["not a database URL", ":***@host"]),
        ("postgresql+psycopg//me:a/secret:b@host/bench", ["not a database URL", ":***@host"]),
        ("postgresql+psycopg//host/bench?password=secret", ["not a database URL", "password=***"]),
        ("postgresql+psycopg://me:secret@host:port/bench", ["not a database URL", ":***@host"]),
        ("nonsense://host/bench?user=me&sslpassword=secret", ["unknown kind", "user=me"]),
        ("nonsense://host/bench", ["unknown kind", "nonsense", "allowed: sqlite"]),
        ("sqlite:///bench.sqlite?timeout=soon", ["timeout is not a number"]),
    ],
)
def test_a_url_that_cannot_be(url: str, words: list[str]) -> None:
    message = refusal(url)
    assert [word for word in words if word not in message] == []
    assert "secret" not in message


@pytest.mark.parametrize(("driver", "package"), [("psycopg2", "psycopg2-binary"), ("psycopg", "'psycopg[binary]'")])
def test_a_missing_driver(driver: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As an import is refused that would fail.
    monkeypatch.setitem(sys.modules, driver, None)
    message = refusal(f"postgresql+{driver}://me:secret@host/bench")
    assert f"needs the Python package {driver}, which is missing; install it: pip install {package}" in message
    assert "secret" not in message


def test_translate_errors_leaves_mistakes_alone(store: Store, new_run: Callable) -> None:
    with pytest.raises(OperationalError, match="no such table"), store.session() as session:
        session.execute(text("SELECT * FROM nowhere"))
    run = new_run()
    with store.session() as session:
        session.add(run)
    with pytest.raises(IntegrityError), store.session() as session:
        session.add(new_run(id=run.id))


def test_translate_errors_names_the_bench_database_by_default(
    file: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATABASE_URL", url)
    file.parent.mkdir()
    file.write_text("shopping list\n" * 100)
    with (
        pytest.raises(RequestError, match=f"the file {file} is not a database"),
        translate_errors(),
        closing(sqlite3.connect(file)) as connection,
    ):
        connection.execute("SELECT * FROM run")
