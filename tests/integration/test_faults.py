"""Faults, injected for real: each ends in a truthful state with its reason, and nothing measured is lost."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine import paths
from engine.store import interrupted, measurements, models, open_store, runs
from engine.store.rows import row_of

pytestmark = pytest.mark.second_tier

REPOSITORY = Path(__file__).resolve().parents[2]
FOR_EVER = {"rounds": 1_000_000, "min_calls": 1, "max_seconds": 600.0, "block_seconds": 0.005}
CLOCK = """
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset_s(void) {
    long found = 0;
    FILE *file = fopen(getenv("CLOCK_FILE"), "r");
    if (file) {
        if (fscanf(file, "%ld", &found) != 1) found = 0;
        fclose(file);
    }
    return found;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += offset_s();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec, now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}
"""
"""The system's clock, so many seconds away as the file CLOCK_FILE says: for the processes that load this alone."""


@pytest.fixture
def suite(shaped_models, write_suite, tmp_path):
    """suite(*names of variants, **keys of the protocol): light variants, the first of them the baseline; its file."""

    def make(*names: str, **protocol: Any) -> Path:
        wide = {"model": shaped_models["wide"], "backend": "onnxruntime"}
        variants = [{"name": name, **wide} for name in names]
        return write_suite(tmp_path, variants, name="faults", protocol=FOR_EVER | protocol)

    return make


@pytest.fixture
def small_disk(tmp_path):
    """An empty data folder on a disk of 24 MB of its own; skips where mounting is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], check=False).returncode:
        pytest.skip("mounting is not allowed")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def failing_disk(tmp_path, wait_until):
    """A data folder on an ext4 of its own, and what befalls it: fail() makes it read-only as after an error of the
    disk, cut() takes it away with all that the disk had not been made to keep, as a power cut does. mend() mounts it
    anew.

    `remount,ro` itself is refused while a file is open for writing.
    """
    place, image = tmp_path / "disk", tmp_path / "disk.img"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(64_000_000)
    mount = ["mount", "-o", "loop,errors=remount-ro", image, place]
    for command in (["mkfs.ext4", "-q", "-F", image], mount):
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError as error:
            pytest.skip(f"no disk can be made here: {error}")
        if done.returncode:
            pytest.skip(f"no disk can be made here: {done.stderr.strip()}")

    def unmounted() -> bool:
        done = subprocess.run(["umount", place], capture_output=True, text=True)
        assert done.returncode == 0 or "busy" in done.stderr, done.stderr
        return done.returncode == 0

    def mend() -> None:
        # A killed process is a zombie at once, but its threads let go of their files when each of them ends.
        wait_until(unmounted, 30, lambda: f"{place} stays in use")
        subprocess.run(mount, check=True)

    try:
        loop = subprocess.run(["findmnt", "-no", "SOURCE", place], capture_output=True, text=True).stdout.strip()
        switch = Path("/sys/fs/ext4") / Path(loop).name / "trigger_fs_error"
        if not switch.exists():
            pytest.skip("this kernel's ext4 cannot be told to fail")
        yield SimpleNamespace(place=place, fail=lambda: switch.write_text("1"), cut=lambda: cut(place), mend=mend)
    finally:
        # Whoever still has a file open: a test that failed.
        subprocess.run(["umount", "--lazy", place], check=True)


EXT4_SHUTDOWN, WITHOUT_FLUSHING = 0x8004587D, struct.pack("I", 2)
"""An ioctl of Linux and its argument: the file system is gone from now on, and nothing more is written for it."""


def cut(place: Path) -> None:
    opened = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(opened, EXT4_SHUTDOWN, WITHOUT_FLUSHING)
    except OSError as error:
        pytest.skip(f"this kernel's ext4 cannot be cut off: {error}")
    finally:
        os.close(opened)


def stored(url: str | None = None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The newest run as its row stands, and variant -> its measurement."""
    with open_store(url, create=False) as store, store.session() as session:
        run = runs.get_run(session, "latest")
        found = {row.variant: row.to_json() for row in measurements.rows(session, run.id)}
        return runs.run_summary(run), found


def rounds(url: str | None = None) -> int:
    """How many blocks of the newest run are stored."""
    with open_store(url, create=False) as store, store.session() as session:
        run = runs.get_run(session, "latest")
        ids = [row.id for row in measurements.measurements(session, run.id)]
        return sum(map(len, measurements.all_blocks(session, ids).values()))


def test_whatever_ends_a_worker_is_the_reason_of_its_variant_alone(suite, live, is_gone, tmp_path):
    names = {"crashed": signal.SIGSEGV, "terminated": signal.SIGTERM, "interrupted": signal.SIGINT,
             "hung": signal.SIGSTOP}  # fmt: skip
    file = tmp_path / "run.json"
    run = live("run", suite("fp32", *names, deadline_seconds=6.0, max_seconds=20.0), "--device", "cpu", "--json", file)
    run.wait_for("timing: round", 240)
    workers = run.workers()
    for name, number in names.items():
        os.kill(workers[name], number)
    assert run.end(240) == 1, run.said
    rows = {row["variant"]: row for row in json.loads(file.read_text())["measurements"]}
    for name, number in names.items():
        assert rows[name]["status"] == "failed" and rows[name]["calls"] > 0
        said = "gave no answer for 6 s while timing a block of calls" if name == "hung" else f"ended by {number.name}"
        assert said in rows[name]["status_reason"]
    assert rows["fp32"]["status"] == "measured"
    assert all(map(is_gone, workers.values())), "the one that was stopped too"


def test_a_worker_that_gets_no_memory_is_measured_without_the_others(suite, live, wait_until, tmp_path):
    file = tmp_path / "run.json"
    run = live("run", suite("fp32", "hungry", max_seconds=1.0), "--device", "cpu", "--json", file)
    run.wait_for("loading: starting", 240)
    pid = wait_until(lambda: run.workers().get("hungry"), 60)
    now = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (now + 2_000_000, now + 2_000_000))
    assert run.end(240) == 0, run.said
    rows = {row["variant"]: row for row in json.loads(file.read_text())["measurements"]}
    assert {row["status"] for row in rows.values()} == {"measured"}
    assert {row["schedule"] for row in rows.values()} == {"sequential"}, "they did not fit beside each other"


def test_memory_is_the_reason_where_the_system_ends_a_worker_for_it(suite, live, wait_until):
    group = Path(f"/sys/fs/cgroup/memory/inference-bench-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no group of processes can be limited here: {error}")
    try:
        run = live("run", suite("fp32", "hungry", processes=1), "--device", "cpu")
        run.wait_for("loading: starting", 240)
        pid = wait_until(lambda: run.workers().get("hungry"), 60)
        # While it loads: what it has by then is not counted, so only one that still asks for memory is ended for it.
        (group / "memory.limit_in_bytes").write_text("100000")
        (group / "cgroup.procs").write_text(str(pid))
        # The other is dropped with it, and both are measured one by one, each in a turn of its own.
        wait_until(lambda: "process 1 of 2" in run.said, 120, lambda: run.said)
        log = Path(stored()[0]["log_path"])
        assert log.is_dir()
        run.process.send_signal(signal.SIGINT)
        assert run.end(60) == 130
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 30)
        group.rmdir()


def test_no_worker_outlives_its_runner_not_even_a_stopped_one(suite, live, wait_until, is_gone, bench):
    run = live("run", suite("fp32", "stopped"), "--device", "cpu")
    run.wait_for("timing: round", 240)
    workers = run.workers()
    os.kill(workers["stopped"], signal.SIGSTOP)
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    wait_until(lambda: all(map(is_gone, workers.values())), 10, lambda: "a worker outlived its runner")
    # At once, without a minute's silence.
    assert "interrupted: its process" in bench("show", "latest").stdout
    row, measured = stored()
    assert row["status"] == "interrupted" and f"process {run.process.pid}" in row["status_reason"]
    assert all(found["status"] == "cancelled" and found["status_reason"] for found in measured.values())


def test_a_full_disk_ends_a_run_with_that_reason_and_what_it_measured_is_kept(
    suite, live, bench, small_disk, wait_until
):
    env, url = {"BENCH_DATA_DIR": str(small_disk)}, f"sqlite:///{small_disk}/bench.sqlite"
    run = live("run", suite("fp32", max_seconds=15.0), "--device", "cpu", env=env)
    run.wait_for("timing: round", 240)
    wait_until(lambda: rounds(url) >= 3, 60)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    assert run.end(120) == 2, run.said
    assert "is full; free some space" in run.said and "Traceback" not in run.said
    shown = bench("show", "latest", env=env)
    assert shown.returncode == 0, shown.stderr
    assert "is full; free some space" in shown.stdout, "told although nothing can be written"
    ballast.unlink()
    assert bench("show", "latest", env=env).returncode == 0
    row, measured = stored(url)
    assert row["status"] in ("failed", "interrupted") and "is full; free some space" in row["status_reason"]
    assert measured["fp32"]["status"] == "cancelled" and measured["fp32"]["status_reason"]
    assert rounds(url) >= 3
    with closing(sqlite3.connect(small_disk / "bench.sqlite")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert not list(small_disk.rglob("*.draft")) + list(small_disk.rglob("*.partial"))
    before = rounds(url)
    done = bench("resume", "latest", env=env)
    assert done.returncode == 0, done.stderr
    row, measured = stored(url)
    assert row["status"] == "finished" and measured["fp32"]["status"] == "measured" and rounds(url) > before


def test_a_file_system_that_turns_read_only_ends_a_run_with_that_reason_and_it_goes_on_later(
    suite, live, bench, failing_disk, wait_until
):
    place = failing_disk.place
    env, url = {"BENCH_DATA_DIR": str(place / "data")}, f"sqlite:///{place}/data/bench.sqlite"
    run = live("run", suite("fp32", "other", max_seconds=15.0), "--device", "cpu", env=env)
    run.wait_for("timing: round", 240)
    wait_until(lambda: rounds(url) >= 6, 60)
    before = rounds(url)
    # What the disk has not taken yet, of the last seconds, is lost to it whoever wrote it.
    subprocess.run(["sync", "-f", place], check=True)
    failing_disk.fail()
    assert run.end(120) == 2, run.said
    assert "bench.sqlite is read-only; make it and its folder writable" in run.said and "Traceback" not in run.said
    shown = bench("show", "latest", env=env)
    assert shown.returncode == 0 and "is read-only; make it" in shown.stdout, "told although nothing can be written"
    failing_disk.mend()
    assert "is read-only; make it" in bench("show", "latest", env=env).stdout
    row, measured = stored(url)
    assert row["status"] == "interrupted" and "is read-only" in row["status_reason"] and rounds(url) >= before
    assert {one["status"] for one in measured.values()} == {"cancelled"}
    with closing(sqlite3.connect(place / "data" / "bench.sqlite")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    done = bench("resume", "latest", env=env)
    assert done.returncode == 0, done.stderr
    row, measured = stored(url)
    assert row["status"] == "finished" and {one["status"] for one in measured.values()} == {"measured"}
    assert rounds(url) > before and not interrupted.words_elsewhere(row["id"]).exists()


def test_a_power_cut_takes_nothing_that_was_finished_and_the_run_goes_on_after_it(
    suite, live, bench, failing_disk, wait_until, is_gone, tmp_path
):
    place = failing_disk.place
    env, url = {"BENCH_DATA_DIR": str(place / "data")}, f"sqlite:///{place}/data/bench.sqlite"

    def answers() -> dict[str, list[Any]]:
        """Of each finished run, by the store: what its measurements are, with every call."""
        with open_store(url, create=False) as store, store.session() as session:
            return {
                found.run.id: [
                    (
                        row_of(row).to_json(),
                        [block.latencies_s.tolist() for block in measurements.blocks(session, row.id)],
                    )
                    for row in measurements.measurements(session, found.run.id)
                ]
                for found in runs.list_runs(session)
                if found.run.status == "finished"
            }

    # A dashboard has the database open: who leaves it then moves nothing from the WAL into it.
    open_store(url).close()
    dashboard = sqlite3.connect(place / "data" / "bench.sqlite")
    dashboard.execute("SELECT count(*) FROM run").fetchone()
    written = lambda: (place / "data" / "bench.sqlite").stat().st_mtime_ns  # noqa: E731
    empty = written()
    done = bench("run", suite("fp32", rounds=6, max_seconds=20.0), "--device", "cpu", env=env)
    assert done.returncode == 0, done.stderr
    assert bench("note", "latest", "--tag", "kept", env=env).returncode == 0
    before = answers()
    assert len(before) == 1 and written() == empty, "it is in the WAL alone"
    run = live("run", suite("fp32", max_seconds=20.0), "--device", "cpu", env=env)
    run.wait_for("timing: round", 240)
    workers = run.workers()
    failing_disk.cut()
    run.kill()
    dashboard.close()
    for pid in workers.values():
        wait_until(lambda pid=pid: is_gone(pid), 30)
    failing_disk.mend()
    # The machine comes back two minutes later, with another boot.
    with open_store(url) as store, store.session() as session:
        session.get_one(models.Run, stored(url)[0]["id"]).heartbeat_at -= timedelta(minutes=2)
    (tmp_path / "boot_id").write_text("11111111-2222-3333-4444-555555555555\n")
    boot_id = "/proc/sys/kernel/random/boot_id"
    rebooted = ["unshare", "--mount", "sh", "-c", f'mount --bind "$0" {boot_id} && exec "$@"', tmp_path / "boot_id"]
    done = subprocess.run(
        [*map(str, rebooted), sys.executable, "-m", "engine", "show", "latest"],
        cwd=REPOSITORY, env=os.environ | env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary, _ = stored(url)
    assert summary["status"] == "interrupted" and "as the machine was started anew" in summary["status_reason"]
    assert answers() == before and "kept" in bench("runs", env=env).stdout
    with closing(sqlite3.connect(place / "data" / "bench.sqlite")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    done = bench("resume", "latest", env=env)
    assert done.returncode == 0, done.stderr
    assert stored(url)[0]["status"] == "finished" and len(answers()) == 2


def test_a_database_that_is_locked_for_long_costs_a_run_nothing(suite, live, own_folders, tmp_path, wait_until):
    url = f"sqlite:///{own_folders}/bench.sqlite?timeout=0.5"
    file = tmp_path / "run.json"
    run = live("run", suite("fp32", rounds=30, max_seconds=20.0), "--device", "cpu", "--json", file,
               env={"BENCH_DATABASE_URL": url})  # fmt: skip
    run.wait_for("timing: round", 240)
    with closing(sqlite3.connect(own_folders / "bench.sqlite", isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        before = rounds(url)
        # Many times as long as a statement waits.
        with pytest.raises(subprocess.TimeoutExpired):
            run.process.wait(5)
        assert rounds(url) == before
        other.execute("COMMIT")
    assert run.end(120) == 0, run.said
    written = json.loads(file.read_text())
    assert written["run"]["status"] == "finished" and written["measurements"][0]["status"] == "measured"


def test_where_the_database_cannot_be_written_the_reason_is_left_beside_it(suite, live, bench, own_folders):
    url = f"sqlite:///{own_folders}/bench.sqlite?timeout=0.5"
    run = live("run", suite("fp32"), "--device", "cpu", env={"BENCH_DATABASE_URL": url})
    run.wait_for("timing: round", 240)
    with closing(sqlite3.connect(own_folders / "bench.sqlite", isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        run.process.send_signal(signal.SIGTERM)
        assert run.end(60) == 130
        assert stored(url)[0]["status"] == "running", "nobody could write it"
        assert "ended by SIGTERM" in bench("show", "latest", env={"BENCH_DATABASE_URL": url}).stdout
    assert "ended by SIGTERM" in bench("show", "latest").stdout
    row, _ = stored()
    assert row["status"] == "interrupted" and row["status_reason"] == "ended by SIGTERM"


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_whose_database_is_taken_away_says_so_at_once_and_not_that_it_finished(
    suite, live, wait_until, tmp_path, replaced
):
    data = tmp_path / "data"
    run = live("run", suite("fp32"), "--device", "cpu", env={"BENCH_DATA_DIR": str(data)})
    run.wait_for("timing: round", 240)
    wait_until(lambda: rounds(f"sqlite:///{data}/bench.sqlite") >= 3, 60)
    for file in data.glob("bench.sqlite*"):
        file.unlink()
    if replaced:
        with open_store(f"sqlite:///{data}/bench.sqlite"):
            pass
    assert run.end(30) == 2, run.said
    assert "bench.sqlite was removed or replaced while it was written to" in run.lines[-1]
    assert "finished" not in run.said and "Traceback" not in run.said


def test_a_clock_that_is_set_back_makes_no_run_interrupted_or_shorter(suite, live, bench, tmp_path, wait_until):
    clock, library = tmp_path / "clock", tmp_path / "clock.so"
    clock.write_text("0")
    (tmp_path / "clock.c").write_text(CLOCK)
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c"], check=True)
    except FileNotFoundError:
        pytest.skip("no C compiler, to give a process alone another clock")
    environment = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(clock)}
    began_s = time.monotonic()
    run = live("run", suite("fp32", "again", max_seconds=8.0), "--device", "cpu", env=environment)
    run.wait_for("timing: round", 240)
    clock.write_text("-10800")
    behind = datetime.now(UTC) - timedelta(hours=2)
    # Its signs of life are three hours old at once, for whoever has the old clock.
    wait_until(lambda: datetime.fromisoformat(stored()[0]["heartbeat_at"]) < behind, 60)
    assert bench("show", "latest").returncode == 0
    assert stored()[0]["status"] == "running", "whose process is seen to live"
    assert run.end(240) == 0, run.said
    found, rows = stored()
    assert found["status"] == "finished" and {row["status"] for row in rows.values()} == {"measured"}
    began, ended = (datetime.fromisoformat(found[name]) for name in ("started_at", "finished_at"))
    assert 8.0 <= (ended - began).total_seconds() <= time.monotonic() - began_s


def test_killed_at_random_moments_nothing_is_lost(tmp_path):
    sys.path.insert(0, str(paths.REPOSITORY))
    from benchmarks.kill_runs import kill, verdict

    seed = int.from_bytes(os.urandom(4))
    # Shown where it fails: `python -m benchmarks.kill_runs --seed N` does the same again.
    print(f"seed {seed}")
    found = kill(tmp_path / "data", kills=6, lanes=2, seed=seed)
    assert found["integrity_check"] == "ok"
    for key in ("foreign_key_check", "stuck", "lost", "left_behind", "faults"):
        assert not found[key], found
    assert verdict(found).startswith("6 processes killed (") and " 0 runs that lost something" in verdict(found)
