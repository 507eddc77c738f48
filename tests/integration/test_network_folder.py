"""A data folder on a real network file system (GlusterFS over loopback), mounted twice, as two machines have it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine.store import measurements, open_store, runs

pytestmark = pytest.mark.second_tier

REPOSITORY = Path(__file__).resolve().parents[2]
FOR_EVER = {"rounds": 1_000_000, "min_calls": 1, "max_seconds": 600.0, "block_seconds": 0.005}
SERVER = """
volume files
  type storage/posix
  option directory {folder}/files
end-volume
volume locks
  type features/locks
  subvolumes files
end-volume
volume server
  type protocol/server
  option transport-type socket
  option transport.address-family inet
  option transport.socket.bind-address 127.0.0.1
  option transport.socket.listen-port {port}
  option auth.addr.locks.allow 127.0.0.1
  subvolumes locks
end-volume
"""
CLIENT = """
volume client
  type protocol/client
  option transport-type socket
  option transport.address-family inet
  option remote-host 127.0.0.1
  option remote-port {port}
  option remote-subvolume locks
end-volume
"""
WRITER = """
import sys
from engine.store import models, open_store
run, tag, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open_store() as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for index in range(count):
        with store.session() as session:
            session.add(models.RunTag(run_id=run, tag=f"{tag}-{index}"))
"""


class Network:
    """The server and the two mounts of its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.here, self.there = (folder / name for name in ("here", "there"))
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for name in ("files", "here", "there"):
            (folder / name).mkdir()
        for name, text in (("server", SERVER), ("client", CLIENT)):
            (folder / f"{name}.vol").write_text(text.format(folder=folder, port=self.port))
        self.server: subprocess.Popen[bytes] | None = None
        self.clients: list[subprocess.Popen[bytes]] = []

    def serve(self) -> None:
        self.server = self._start("glusterfsd", "server")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        pytest.skip(f"no network file system here: {self._log('server')}")

    def mount(self) -> None:
        for place in (self.here, self.there):
            client = self._start("glusterfs", "client", place)
            self.clients.append(client)
            deadline = time.monotonic() + 20
            while not place.is_mount():
                if client.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"no network file system can be mounted here: {self._log('client')}")
                time.sleep(0.1)

    def lose_server(self) -> None:
        assert self.server
        self.server.kill()
        self.server.wait()

    def end(self) -> None:
        for place in (self.here, self.there):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)
        for process in (*self.clients, self.server):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                process.wait(20)

    def _start(self, program: str, name: str, *more: object) -> subprocess.Popen[bytes]:
        log = self.folder / f"{name}.log"
        words = [program, "--no-daemon", "-f", self.folder / f"{name}.vol", "-l", log, *more]
        return subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _log(self, name: str) -> str:
        log = self.folder / f"{name}.log"
        return log.read_text(errors="replace")[-300:] if log.exists() else "it said nothing"


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """Skips without GlusterFS, or where nothing can be mounted."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    if missing := [name for name in ("glusterfsd", "glusterfs") if shutil.which(name) is None]:
        pytest.skip(f"no network file system here: {', '.join(missing)} missing (Debian's glusterfs-server)")
    if os.getuid() != 0 or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("no network file system here: only root may mount one, and needs /dev/fuse")
    (tmp_path / "network").mkdir()
    made = Network(tmp_path / "network")
    try:
        made.serve()
        made.mount()
        yield made
    finally:
        made.end()


@pytest.fixture
def suite(shaped_models, write_suite, tmp_path):
    def make(*names: str, **protocol: Any) -> Path:
        wide = {"model": shaped_models["wide"], "backend": "onnxruntime"}
        return write_suite(tmp_path, [{"name": name, **wide} for name in names], protocol=FOR_EVER | protocol)

    return make


def seen_from(mount: Path) -> dict[str, Any]:
    """The newest run."""
    with open_store(f"sqlite:///{mount}/data/bench.sqlite", create=False) as store, store.session() as session:
        return runs.run_summary(runs.get_run(session, "latest"))


def blocks(mount: Path) -> int:
    with open_store(f"sqlite:///{mount}/data/bench.sqlite", create=False) as store, store.session() as session:
        ids = [row.id for row in measurements.measurements(session, runs.get_run(session, "latest").id)]
        return sum(map(len, measurements.all_blocks(session, ids).values()))


def intact(network: Network) -> bool:
    """By the file as the server has it: what a client has in its cache is as old as that."""
    with closing(sqlite3.connect(network.folder / "files" / "data" / "bench.sqlite")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() != ("wal",)
        return database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_machines_write_to_one_database_at_once(network, suite, bench, tmp_path):
    def env(mount: Path) -> dict[str, str]:
        return {"BENCH_DATA_DIR": str(mount / "data"), "BENCH_LOCK_DIR": str(tmp_path / mount.name)}

    # It is one file system to both, and a lock of one is a lock for the other.
    (network.here / "lock").touch()
    with (network.here / "lock").open("r+") as mine, (network.there / "lock").open("r+") as theirs:
        fcntl.lockf(mine, fcntl.LOCK_EX)
        with pytest.raises(OSError):
            fcntl.lockf(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
    done = bench("run", suite("fp32", rounds=3, max_seconds=5.0), "--device", "cpu", env=env(network.here))
    assert done.returncode == 0, done.stderr
    said = bench("doctor", env=env(network.there)).stdout
    assert "journal mode TRUNCATE, as WAL is unsafe on a network file system (fuse.glusterfs)" in " ".join(said.split())
    run, count = seen_from(network.there)["id"], 25
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, run, f"{mount.name}{number}", str(count)],
            cwd=REPOSITORY, env=os.environ | env(mount), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for mount in (network.here, network.there) for number in range(2)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.wait(120) == 0, writer.stderr.read()
    expected = {f"{name}{number}-{i}" for name in ("here", "there") for number in range(2) for i in range(count)}
    for mount in (network.here, network.there):
        assert set(seen_from(mount)["tags"]) == expected, "none overwrote what another wrote"
    assert intact(network)


def test_a_run_waits_for_a_slow_server_and_survives_one_that_goes_away(network, suite, live, bench, wait_until):
    env = {"BENCH_DATA_DIR": str(network.here / "data")}
    run = live("run", suite("fp32", "other", max_seconds=25.0), "--device", "cpu", env=env)
    run.wait_for("timing: round", 240)
    wait_until(lambda: blocks(network.there) >= 6, 60)
    assert seen_from(network.there)["status"] == "running", "another machine sees it measuring"
    network.server.send_signal(signal.SIGSTOP)
    time.sleep(4)
    network.server.send_signal(signal.SIGCONT)
    stored = blocks(network.there)
    wait_until(lambda: blocks(network.there) > stored, 60, going_on=lambda: run.process.poll() is None)
    network.lose_server()
    assert run.end(120) == 2, run.said
    assert "Traceback" not in run.said, run.said
    network.serve()
    wait_until(lambda: all(os.access(m / "data" / "bench.sqlite", os.R_OK) for m in (network.here, network.there)), 60)
    kept = blocks(network.there)
    assert kept > stored and intact(network)
    shown = bench("show", "latest", env=env)
    assert shown.returncode == 0, shown.stderr
    assert seen_from(network.here)["status"] in ("failed", "interrupted")
    done = bench("resume", "latest", env=env)
    assert done.returncode == 0, done.stderr
    assert seen_from(network.there)["status"] == "finished" and blocks(network.there) > kept
    assert intact(network)
