"""Kills runners, workers and importers at random moments, and looks for what was lost or left behind.

    python -m benchmarks.kill_runs [--kills 200] [--lanes 2] [--seed 0]

Lanes run at once on one database, each with a device lock of its own. After each kill -9: is the state in the store
true, does no process outlive its parent, is the device free? A part of the killed runs is resumed and has to end
whole. At the end: is the database whole, and is everything still there that had been measured when its run was killed?
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
SUITE = """
name = "killed"
baseline = "fp32"

[workload]
dataset = "{news}"
label = "label"
labels = ["World", "Sports", "Business", "Sci/Tech"]
examples = 16
batch_size = 4
max_length = 48

[protocol]
rounds = 20
block_seconds = 0.01
min_calls = 1
max_seconds = 20.0
ceilings = false

[[checkpoint]]
name = "tiny"
architecture = {{ model_type = "distilbert", dim = 32, hidden_dim = 64, n_layers = 1, n_heads = 2 }}
dataset = "{train}"
tokenizer = {{ vocab_size = 500 }}
epochs = 0

[[variant]]
name = "fp32"
model = "checkpoint:tiny"
backend = "onnxruntime"
precision = "fp32"

[[variant]]
name = "int8"
model = "checkpoint:tiny"
backend = "onnxruntime"
precision = "int8"
"""
ORPHAN_SECONDS = 10.0
RESUMED_SHARE = 0.15
LEFTOVERS = ("**/*.partial", "**/.export-*", "**/.*.draft", "**/*.request.json", "tmp/inference-bench-*")


class Kept(NamedTuple):
    """What a run had when it was killed."""

    calls: frozenset[str]
    digest: str


@dataclass
class Lane:
    """One sequence of kills."""

    folder: Path
    number: int
    random: random.Random
    run_s: float = 0.0
    import_s: float = 0.0
    file: Path = Path()
    content: str = ""
    kills: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    kept: dict[str, Kept] = field(default_factory=dict)
    resumed: set[str] = field(default_factory=set)
    """Run -> digest of what was measured of it when it was killed."""

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "BENCH_DATA_DIR": str(self.folder),
            "BENCH_LOCK_DIR": str(self.folder / f"locks-{self.number}"),
            "TMPDIR": str(self.folder / "tmp"),
            "HF_HUB_OFFLINE": "1",
        }

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "engine", *map(str, arguments)],
            cwd=REPOSITORY,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def bench(self, *arguments: object) -> tuple[int, str, float]:
        began_s = time.monotonic()
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=600)
        return process.returncode, said, time.monotonic() - began_s

    def fault(self, text: str) -> None:
        self.faults.append(f"lane {self.number}: {text}")

    def prepare(self) -> None:
        """Undisturbed runs tell how long one takes; one of them becomes the file to import."""
        suite = self.folder / "killed.toml"
        if (first := self.bench("run", suite, "--device", "cpu"))[0]:
            raise SystemExit(first[1])
        self.run_s = self.bench("run", suite, "--device", "cpu")[2]
        run_id = self.newest()
        self.file = self.folder / f"lane-{self.number}.run.zip"
        self.bench("export", run_id, "--format", "run", "--output", self.file)
        self.content = digest(self.folder, run_id)
        self.bench("delete", run_id, "--yes")
        self.import_s = self.bench("import", self.file)[2]
        self.bench("delete", run_id, "--yes")

    def newest(self, pid: int | None = None) -> str:
        """The newest run, or that of a process; empty where there is none."""
        where = "" if pid is None else f"WHERE pid = {pid}"
        with closing(sqlite3.connect(self.folder / "bench.sqlite", timeout=60)) as database:
            row = database.execute(f"SELECT id FROM run {where} ORDER BY created_at DESC LIMIT 1").fetchone()
        return row[0] if row else ""

    def kill_one(self) -> None:
        kind = self.random.choices(("runner", "worker", "importer"), (5, 3, 2))[0]
        getattr(self, f"kill_{kind}")()
        self.kills[kind] += 1

    def kill_runner(self) -> None:
        process = self.start("run", self.folder / "killed.toml", "--device", "cpu")
        time.sleep(self.random.uniform(0, self.run_s))
        below = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        self.no_orphans(below)
        if not (run_id := self.newest(process.pid)):
            self.states["nothing stored yet"] += 1
            return
        self.kept[run_id] = Kept(calls(self.folder, run_id), digest(self.folder, run_id))
        self.check_state(run_id, ("interrupted", "finished"))
        if self.random.random() < RESUMED_SHARE and self.status(run_id) == "interrupted":
            self.resumed.add(run_id)
            code, said, _ = self.bench("resume", run_id)
            if (code or self.status(run_id) != "finished") and "lacks nothing" not in said:
                self.fault(f"run {run_id} was not resumed: {said[-300:]}")
            self.kills["resumed"] += 1

    def kill_worker(self) -> None:
        process = self.start("run", self.folder / "killed.toml", "--device", "cpu")
        time.sleep(self.random.uniform(0, self.run_s))
        below = children(process.pid)
        if below:
            chosen = self.random.choice(below)
            try:
                chosen.kill()
            except psutil.NoSuchProcess:
                pass
        said, _ = process.communicate(timeout=600)
        if process.returncode not in (0, 1):
            self.fault(f"a run whose worker was killed ended with {process.returncode}: {said[-300:]}")
        self.no_orphans(below)
        if run_id := self.newest(process.pid):
            self.kept[run_id] = Kept(calls(self.folder, run_id), digest(self.folder, run_id))
            self.check_state(run_id, ("finished",))

    def kill_importer(self) -> None:
        process = self.start("import", self.file)
        time.sleep(self.random.uniform(0, self.import_s))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        run_id = json.loads(zip_part(self.file, "run.json"))["id"]
        found = digest(self.folder, run_id)
        if found not in ("", self.content):
            self.fault(f"the imported run {run_id} is not whole")
        self.states["imported" if found else "not imported"] += 1
        if found:
            self.bench("delete", run_id, "--yes")

    def no_orphans(self, below: list[psutil.Process]) -> None:
        _, left = psutil.wait_procs(below, timeout=ORPHAN_SECONDS)
        if left := [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
            self.fault(f"{len(left)} processes outlived their parent")

    def status(self, run_id: str) -> str:
        with closing(sqlite3.connect(self.folder / "bench.sqlite", timeout=60)) as database:
            return database.execute("SELECT status FROM run WHERE id = ?", (run_id,)).fetchone()[0]

    def check_state(self, run_id: str, allowed: tuple[str, ...]) -> None:
        code, said, _ = self.bench("show", run_id)
        state = self.status(run_id)
        self.states[state] += 1
        if code or state not in allowed:
            self.fault(f"run {run_id} is {state}; show ended with {code}: {said[-300:]}")
        with closing(sqlite3.connect(self.folder / "bench.sqlite", timeout=60)) as database:
            rows = database.execute(
                "SELECT count(*), sum(status = 'pending'), sum(status != 'measured' AND status_reason IS NULL) "
                "FROM measurement WHERE run_id = ?",
                (run_id,),
            ).fetchone()
        if rows[0] and (rows[1] or rows[2]):
            self.fault(f"run {run_id}: {rows[1]} measurements are pending, {rows[2]} have no reason")


def children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def zip_part(file: Path, name: str) -> bytes:
    import zipfile

    with zipfile.ZipFile(file) as archive:
        return archive.read(name)


def digest(folder: Path, run_id: str) -> str:
    """Over all timed calls, answers and measured rows of a run; empty where it is not stored."""
    total = hashlib.sha256()
    with closing(sqlite3.connect(folder / "bench.sqlite", timeout=60)) as database:
        if database.execute("SELECT 1 FROM run WHERE id = ?", (run_id,)).fetchone() is None:
            return ""
        for row in database.execute(
            "SELECT m.variant, m.batch_size, b.process, b.round, b.kind, b.latencies_s FROM measurement m "
            "JOIN block b ON b.measurement_id = m.id WHERE m.run_id = ? AND b.process = 0 ORDER BY 1, 2, 3, 4, 5",
            (run_id,),
        ):
            total.update(repr(row).encode())
        for row in database.execute(
            "SELECT m.variant, m.batch_size, m.latency_p50_s, m.accuracy, p.logits FROM measurement m "
            "LEFT JOIN prediction p ON p.measurement_id = m.id WHERE m.run_id = ? AND m.status = 'measured' "
            "ORDER BY 1, 2",
            (run_id,),
        ):
            total.update(repr(row).encode())
    return total.hexdigest()


def calls(folder: Path, run_id: str) -> frozenset[str]:
    """A run's blocks of timed calls."""
    with closing(sqlite3.connect(folder / "bench.sqlite", timeout=60)) as database:
        rows = database.execute(
            "SELECT m.variant, m.batch_size, b.process, b.round, b.kind, b.latencies_s FROM measurement m "
            "JOIN block b ON b.measurement_id = m.id WHERE m.run_id = ?",
            (run_id,),
        )
        return frozenset(map(repr, rows))


def lost(folder: Path, kept: dict[str, Kept], resumed: set[str]) -> list[str]:
    """The runs of which something is not there any more; one that was resumed has more than it had, and not less."""
    return [
        run_id
        for run_id, was in kept.items()
        if not was.calls <= calls(folder, run_id) or (run_id not in resumed and digest(folder, run_id) != was.digest)
    ]


def kill(folder: Path, kills: int, lanes: int, seed: int) -> dict[str, Any]:
    """All of it, in `folder`: what was killed, which states were found, and what was wrong."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    news = REPOSITORY / "data" / "news"
    (folder / "killed.toml").write_text(SUITE.format(news=news / "test.csv", train=news / "train.csv"))
    made = [Lane(folder, number, random.Random(seed + number)) for number in range(lanes)]
    for lane in made:
        lane.prepare()

    def work(lane: Lane) -> None:
        for _ in range(kills // lanes):
            lane.kill_one()

    began_s = time.monotonic()
    with ThreadPoolExecutor(lanes) as hands:
        list(hands.map(work, made))
    took_s = time.monotonic() - began_s
    code, said, _ = made[0].bench("run", folder / "killed.toml", "--device", "cpu")
    faults = [fault for lane in made for fault in lane.faults]
    faults += [f"the run after all kills ended with {code}: {said[-300:]}"] if code else []
    with closing(sqlite3.connect(folder / "bench.sqlite")) as database:
        integrity = database.execute("PRAGMA integrity_check").fetchone()[0]
        broken = database.execute("PRAGMA foreign_key_check").fetchall()
        live = "SELECT id, status FROM run WHERE status IN ('queued', 'preparing', 'running')"
        stuck = database.execute(live).fetchall()
        runs = database.execute("SELECT count(*) FROM run").fetchone()[0]
    kept = {run_id: was for lane in made for run_id, was in lane.kept.items()}
    return {
        "kills": dict(sum((lane.kills for lane in made), Counter())),
        "states": dict(sum((lane.states for lane in made), Counter())),
        "runs": runs,
        "seconds": round(took_s),
        "integrity_check": integrity,
        "foreign_key_check": broken,
        "stuck": stuck,
        "lost": lost(folder, kept, set().union(*(lane.resumed for lane in made))),
        "left_behind": [str(path.relative_to(folder)) for pattern in LEFTOVERS for path in folder.glob(pattern)],
        "faults": faults,
    }


def verdict(found: dict[str, Any]) -> str:
    """How many faults were tried, and what came of them, in one line."""
    kills = Counter(found["kills"])
    resumed = kills.pop("resumed", 0)
    tried = ", ".join(f"{count} {kind}s" for kind, count in sorted(kills.items()))
    bad = {
        "runs that lost something": found["lost"],
        "runs stuck": found["stuck"],
        "things left behind": found["left_behind"],
        "broken references": found["foreign_key_check"],
        "other faults": found["faults"],
    }
    said = ", ".join(f"{len(what)} {name}" for name, what in bad.items())
    return (
        f"{kills.total()} processes killed ({tried}), {resumed} runs resumed, {found['runs']} runs stored; {said}; "
        f"the database is {'whole' if found['integrity_check'] == 'ok' else 'damaged'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-runs-") as folder:
        found = kill(Path(folder), given.kills, given.lanes, given.seed)
    print(json.dumps(found, indent=2))
    print(verdict(found), file=sys.stderr)
    clean = found["integrity_check"] == "ok" and not any(
        found[key] for key in ("foreign_key_check", "stuck", "lost", "left_behind", "faults")
    )
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
