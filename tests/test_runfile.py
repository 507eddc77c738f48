"""A run as one file: nothing is lost on the way, and nothing hostile comes in."""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import socket
import sqlite3
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from engine.errors import RequestError
from engine.jobs import local
from engine.run import resuming
from engine.store import examples, history, interrupted, measurements, models, open_store, runs
from engine.store.runfile import reading, schema, writing
from engine.suite.reading import load_suite

sys.path.insert(0, str(Path(__file__).parent / "dashboard"))
from dashboard_fill import CANCELLED, EXAMPLES, FAILED, FULL, INTERRUPTED, RUNNING, SIZES, UNLABELLED, fill

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="session")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the machine that measured."""
    folder = tmp_path_factory.mktemp("sent")
    fill(f"sqlite:///{folder / 'bench.sqlite'}")
    log = folder / "logs" / FULL
    log.mkdir(parents=True)
    (log / "run.log").write_text("x" * (writing.LOG_BYTES + 9) + " the end: ü\n")
    (log / "fp32-0.log").write_text("loaded\n")
    with open_store(f"sqlite:///{folder / 'bench.sqlite'}") as store, store.session() as session:
        run = session.get_one(models.Run, FULL)
        run.log_path, run.notes = str(log), "Two lines:\n<b>=1+1</b>"
        runs.set_tags(session, FULL, ["a100", "slides"])
        row = measurements.measurements(session, FULL)[0]
        row.prediction.logits = np.full((EXAMPLES, 4), np.nan, "<f4").tobytes()
        row.blocks.insert(0, measurements.new_block(0, -1, "warmup", 0.0, 8, 80, 1024, [0.5, 0.25]))
    return folder


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """at(folder): the bench's data folder is this one."""

    def move(folder: Path) -> None:
        monkeypatch.delenv("BENCH_DATABASE_URL", raising=False)
        monkeypatch.setenv("BENCH_DATA_DIR", str(folder))

    return move


@pytest.fixture
def file(sent: Path, at: Callable[[Path], None], tmp_path: Path) -> bytes:
    """The file of the run that holds everything; the bench's data folder is an empty one afterwards."""
    at(sent)
    content = writing.dump(FULL)[1]
    at(tmp_path / "received")
    return content


def everything(run_id: str) -> dict[str, Any]:
    """All that is stored of a run, but for what is made anew on another machine."""
    anew = (
        "imported_at", "foreign", "log_path", "example_set_id", "heartbeat_at", "pid", "progress", "cancel_requested",
    )  # fmt: skip
    with open_store(create=False) as store, store.session() as session:
        run = runs.get_run(session, run_id)
        rows = measurements.measurements(session, run.id)
        return {
            "run": {key: value for key, value in runs.run_summary(run).items() if key not in anew},
            "rows": [row.to_json() for row in measurements.rows(session, run.id)],
            "scenarios": [load.to_json() for load in measurements.loads(session, run.id)],
            "positions": [row.position for row in rows],
            "blocks": [
                [
                    (
                        block.process,
                        block.round,
                        block.started_s,
                        block.samples,
                        block.tokens,
                        block.padded_tokens,
                        block.latencies_s.tolist(),
                    )
                    for block in measurements.blocks(session, row.id, kind)
                ]
                for row in rows
                for kind in ("warmup", "timed")
            ],
            "logits": [
                None if (found := measurements.logits(session, row.id)) is None else found.tobytes() for row in rows
            ],
            "model labels": [row.prediction and row.prediction.model_labels for row in rows],
            "examples": [
                (example.position, example.source_index, example.text_sha256, example.text, example.label)
                for example in (examples.examples(session, run.example_set_id) if run.example_set_id else [])
            ],
            "names": run.example_set.label_names if run.example_set else None,
        }


def tables(folder: Path) -> dict[str, int]:
    """The rows of each table; none at all where there is no database."""
    database = folder / "bench.sqlite"
    if not database.exists():
        return {}
    with closing(sqlite3.connect(database)) as connection:
        names = ("run", "run_tag", "measurement", "block", "prediction", "scenario", "example_set", "example")
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}


@pytest.mark.parametrize("run_id", [FULL, SIZES, UNLABELLED, CANCELLED, INTERRUPTED, FAILED])
def test_a_run_is_the_same_on_the_other_side(
    run_id: str, sent: Path, at: Callable[[Path], None], tmp_path: Path
) -> None:
    at(sent)
    name, content = writing.dump(run_id)
    before = everything(run_id)
    assert name == f"fixture-{run_id[-6:].lower()}.run.zip"
    at(tmp_path)
    assert reading.load(content) == (run_id, True)
    assert everything(run_id) == before
    assert writing.dump(run_id)[1] == content, "the file of an imported run is the same, byte for byte"
    with open_store() as store, store.session() as session:
        run = runs.get_run(session, run_id)
        assert run.imported_at is not None and run.pid is None and run.heartbeat_at is None
        assert interrupted.mark_interrupted(session) == []


def test_a_run_of_a_gpu_opens_elsewhere(file: bytes, tmp_path: Path) -> None:
    """The peaks of torch's allocator stand beside the memory's figures, as plain numbers of bytes."""
    memory = {
        "ram_peak": {"bytes": 1_526_988_800, "source": "VmHWM of the worker since loading"},
        "ram_after_imports": {"bytes": 599_732_224, "source": "VmRSS before anything is loaded"},
        "vram_peak": {"bytes": 1_660_944_384, "source": "NVML, by process"},
        "torch_allocated_peak_bytes": 731_254_784,
        "torch_reserved_peak_bytes": 9_416_212_480,
    }
    content = edited(file, "run.json", setting(*ROW, "memory", value=memory))
    assert reading.load(content) == (FULL, True)
    assert json.loads(parts_of(writing.dump(FULL)[1])["run.json"])["measurements"][0]["memory"] == memory


def test_a_file_before_version_3_gets_its_experiment_from_its_suite(file: bytes) -> None:
    parts = parts_of(file)
    run, manifest = json.loads(parts["run.json"]), json.loads(parts[schema.MANIFEST])
    assert manifest["version"] == 3
    for row in run["measurements"]:
        del row["experiment"]
        row.pop("max_batch_tokens", None)
    parts |= {"run.json": json.dumps(run).encode(), schema.MANIFEST: json.dumps(manifest | {"version": 2}).encode()}
    assert reading.load(packed(parts)) == (FULL, True)
    assert {row["experiment"] for row in everything(FULL)["rows"]} == {8}


def test_a_file_of_a_bench_that_knew_no_load_is_still_read(file: bytes, tmp_path: Path) -> None:
    parts = parts_of(file)
    run, manifest = json.loads(parts["run.json"]), json.loads(parts[schema.MANIFEST])
    del run["scenarios"]
    parts |= {"run.json": json.dumps(run).encode(), schema.MANIFEST: json.dumps(manifest | {"version": 1}).encode()}
    assert reading.load(packed(parts)) == (FULL, True)
    assert everything(FULL)["scenarios"] == [] and tables(tmp_path / "received")["scenario"] == 0


def test_the_end_of_its_log_comes_along(file: bytes, tmp_path: Path) -> None:
    reading.load(file)
    with open_store() as store, store.session() as session:
        log_path = runs.get_run(session, FULL).log_path
    assert log_path == str(tmp_path / "received" / "logs" / FULL)
    tails = writing.log_tails(log_path)
    assert tails["fp32-0.log"] == "loaded\n"
    assert tails["run.log"].endswith("x the end: ü\n") and len(tails["run.log"].encode()) == writing.LOG_BYTES
    history.delete(FULL)
    assert not Path(log_path).exists()
    assert set(tables(tmp_path / "received").values()) == {0}


def test_a_file_that_was_imported_before_changes_nothing(file: bytes, tmp_path: Path) -> None:
    reading.load(file)
    history.annotate(FULL, "mine", untag=["a100"])
    before, counts = everything(FULL), tables(tmp_path / "received")
    assert reading.load(file) == (FULL, False)
    assert everything(FULL) == before and tables(tmp_path / "received") == counts


def test_runs_over_the_same_examples_share_them(
    sent: Path, at: Callable[[Path], None], file: bytes, tmp_path: Path
) -> None:
    at(sent)
    other = writing.dump(SIZES)[1]
    at(tmp_path / "received")
    reading.load(file)
    reading.load(other)
    assert tables(tmp_path / "received")["example_set"] == 1
    history.delete(FULL)
    assert len(everything(SIZES)["examples"]) == EXAMPLES


def test_a_run_under_way_has_no_file_yet(sent: Path, at: Callable[[Path], None]) -> None:
    at(sent)
    with pytest.raises(RequestError, match=r"is under way \(running\)"):
        writing.dump(RUNNING)


def test_a_file_is_written_whole_or_not_at_all(
    sent: Path, at: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(sent)
    target = tmp_path / "one.run.zip"
    target.write_text("what was there")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(RequestError, match="No space left"):
            writing.write(FULL, target)
    assert [path.name for path in tmp_path.iterdir()] == [target.name] and target.read_text() == "what was there"
    writing.write(FULL, target)
    assert target.read_bytes() == writing.dump(FULL)[1]


def test_nobody_goes_on_with_a_run_of_another(file: bytes) -> None:
    """A file says itself which host it is from: to go on would run the suite that its sender wrote."""
    suite = load_suite("demo").model_dump(mode="json")
    here = {"host": socket.gethostname(), "suite": suite, "status": "interrupted", "suite_path": None}
    reading.load(edited(file, "run.json", lambda run: run.update(here)))
    for ask in (resuming.resumable, local.resume):
        with pytest.raises(RequestError, match="came as a file"):
            ask(FULL)
    with open_store() as store, store.session() as session:
        assert runs.get_run(session, FULL).status == "interrupted"


# Hostile files


def parts_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(parts: dict[str, bytes], honest: bool = True, **how: Any) -> bytes:
    """A zip of parts; `honest`: with their true lengths and hashes in the manifest."""
    parts = dict(parts)
    if honest:
        manifest = json.loads(parts[schema.MANIFEST])
        manifest["parts"] = {
            name: {"bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()}
            for name, part in parts.items()
            if name in schema.PARTS
        }
        parts[schema.MANIFEST] = json.dumps(manifest).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", **({"compression": zipfile.ZIP_DEFLATED} | how)) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return made.getvalue()


def edited(content: bytes, part: str, edit: Edit) -> bytes:
    parts = parts_of(content)
    value = json.loads(parts[part])
    edit(value)
    parts[part] = json.dumps(value).encode()
    return packed(parts, honest=part != schema.MANIFEST)


def refused(content: bytes, folder: Path) -> str:
    with pytest.raises(RequestError) as caught:
        reading.load(content, "a.run.zip")
    message = str(caught.value)
    assert message.startswith("a.run.zip ") and len(message) < 500 and message.isprintable()
    assert not any(tables(folder).values()), "nothing of it may be stored"
    assert not folder.exists() or {path.name for path in folder.iterdir()} <= {"bench.sqlite", "bench.sqlite.lock"}
    return message


def setting(*path: str | int, value: Any) -> Edit:
    def edit(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return edit


ROW = ("measurements", 0)
LOAD = ("scenarios", 0)


@pytest.mark.parametrize(
    ("part", "edit", "words"),
    [
        ("run.json", setting("id", value="../../../../etc/passwd000"), "id: String should match"),
        ("run.json", setting("id", value="01J0000000000000000000000A\n"), "id: String should match"),
        ("run.json", setting("status", value="running"), "status"),
        ("run.json", setting("pid", value=1), "pid: Extra inputs"),
        ("run.json", setting("log_path", value="/etc"), "log_path: Extra inputs"),
        ("run.json", setting("suite_name", value="x" * 65), "suite_name: String should have at most 64"),
        ("run.json", setting("created_at", value="9999-12-31T23:59:59+00:00"), "created_at"),
        ("run.json", setting("created_at", value="2026-03-01T12:00:00"), "created_at"),
        ("run.json", setting("created_at", value=f"{datetime.now(UTC) + timedelta(days=2):%FT%TZ}"), "created_at"),
        ("run.json", setting("queued_at", value="2026-03-01T12:00:00Z"), "queued_at: Extra inputs"),
        ("run.json", setting("environment", "preparing_s", value="x"), "preparing_s"),
        ("run.json", setting("environment", "preparing_s", value=-1), "preparing_s"),
        ("run.json", setting("tags", value=["a b"]), "the tag 'a b'"),
        ("run.json", setting("tags", value=[f"t{n}" for n in range(21)]), "21 tags"),
        ("run.json", setting("suite", "workload", value=3), "suite"),
        ("run.json", setting("ceilings", value={"products": {"fp32": {"ways": [{"repeats": "<b>"}]}}}), "repeats"),
        ("run.json", setting(*ROW, "memory", value={"ram_after_imports": 5}), "memory: ram_after_imports"),
        ("run.json", setting(*ROW, "memory", value={"torch_reserved_peak_bytes": "<b>"}), "torch_reserved_peak_bytes"),
        ("run.json", setting(*ROW, "status", value="splendid"), "measurements 0 status"),
        ("run.json", setting(*ROW, "validity", value="<b>"), "measurements 0 validity"),
        ("run.json", setting(*ROW, "latency_p50_s", value=math.nan), "the number NaN"),
        ("run.json", setting(*ROW, "latency_p50_s", value=-1), "latency_p50_s"),
        ("run.json", setting(*ROW, "latency_p50_s", value="1"), "latency_p50_s"),
        ("run.json", setting(*ROW, "speedup_low", value=0.0), "speedup_low"),
        ("run.json", setting(*ROW, "speedup_high", value=1e300), "speedup_high"),
        ("run.json", setting(*ROW, "speedup_high", value=None), "speedup lacks a limit"),
        ("run.json", setting(*ROW, "accuracy", value=None), "accuracy lacks a limit"),
        ("run.json", setting("measurements", 1, "accuracy_difference_low", value=None), "accuracy_difference lacks"),
        ("run.json", setting(*ROW, "calls", value=True), "calls"),
        ("run.json", setting(*ROW, "batch_size", value=0), "batch_size"),
        ("run.json", setting(*ROW, "vram_peak_bytes", value=2**63), "the number 9223372036854775808"),
        ("run.json", setting(*ROW, "options", value={"a": 10**30}), "the number 1000"),
        ("run.json", setting(*ROW, "position", value=2**31), "position"),
        ("run.json", setting(*ROW, "quality", "labels", 0, "f1", value="high"), "labels 0 f1"),
        ("run.json", setting(*ROW, "quality", "confusion", 0, value=[1]), "do not fit 4 names"),
        ("run.json", setting(*ROW, "labels", "mapping", value=[0, 1, 2, 4]), "labels of fp32 do not fit"),
        ("run.json", setting(*ROW, "labels", "mapping", value=[0]), "labels of fp32 do not fit"),
        ("run.json", setting(*ROW, "labels", "mapping", value=[0, 1, 2, -1]), "mapping 3"),
        ("run.json", setting(*ROW, "limits", value={"sentence": 5}), "sentence"),
        ("run.json", setting(*ROW, "prediction", "rows", value=10**9), "answers of fp32"),
        ("run.json", setting(*ROW, "prediction", "columns", value=10**9), "outputs of fp32"),
        ("run.json", setting(*ROW, "prediction", "model_labels", value=["a"]), "outputs of fp32"),
        ("run.json", setting(*ROW, "prediction", value=None), "logits.f4 does not hold"),
        ("run.json", setting(*ROW, "blocks", 0, "calls", value=10**6), "latencies.f8 does not hold"),
        ("run.json", setting(*ROW, "blocks", 0, "calls", value=-2), "calls"),
        ("run.json", setting(*ROW, "blocks", 0, "kind", value="x"), "kind"),
        ("run.json", setting(*ROW, "run_id", value="x"), "run_id: Extra inputs"),
        ("run.json", lambda run: run["measurements"].append(run["measurements"][0]), "two measurements at one batch"),
        ("run.json", setting(*LOAD, "status", value="unavailable"), "scenarios 0 status"),
        ("run.json", setting(*LOAD, "validity", value="invalid"), "scenarios 0 validity"),
        ("run.json", setting(*LOAD, "validity", value=None), "lacks a figure"),
        ("run.json", setting(*LOAD, "single_p90_s", value=None), "lacks a figure"),
        ("run.json", setting(*LOAD, "trials", value=[]), "lacks a figure"),
        ("run.json", setting(*LOAD, "trials", value="<b>"), "trials"),
        ("run.json", setting(*LOAD, "trials", 0, "rate_per_s", value=-1), "rate_per_s"),
        ("run.json", setting(*LOAD, "trials", 0, "p99_s", value="<b>"), "p99_s"),
        ("run.json", setting(*LOAD, "trials", 0, "texts", value=1e9), "texts"),
        ("run.json", setting(*LOAD, "trials", 0, "more", value=1), "more: Extra inputs"),
        ("run.json", setting(*LOAD, "trials", 1, "holds", value=True), "not the highest rate that held"),
        ("run.json", lambda run: run["scenarios"][0]["trials"].extend(run["scenarios"][0]["trials"] * 99), "trials"),
        ("run.json", setting(*LOAD, "server_texts_per_s", value=1e6), "not the highest rate that held"),
        ("run.json", setting(*LOAD, "server_texts_per_s", value=None), "not the highest rate that held"),
        ("run.json", setting(*LOAD, "offline_texts_per_s", value=0), "offline_texts_per_s"),
        ("run.json", setting(*LOAD, "max_batch", value=0), "max_batch"),
        ("run.json", setting(*LOAD, "measured_at", value="9999-12-31T23:59:59+00:00"), "measured_at"),
        ("run.json", setting(*LOAD, "run_id", value="x"), "run_id: Extra inputs"),
        ("run.json", setting(*LOAD, "variant", value="nobody"), "scenarios are not of one variant each"),
        ("run.json", setting(*LOAD, "variant", value="nf4"), "scenarios are not of one variant each"),
        ("run.json", setting("scenarios", 5, "single_texts", value=5), "that failed under load has no figures"),
        ("run.json", setting("scenarios", value={}), "scenarios: Input should be a valid list"),
        ("examples.json", lambda found: found["texts"].pop(), "199 texts"),
        ("examples.json", setting("labels", 0, value=4), "a label 4 of 4"),
        ("examples.json", setting("labels", 0, value=None), "some have none"),
        ("examples.json", setting("texts", 0, value="a\0b"), "null character"),
        ("examples.json", setting("texts", 0, value="\ud800"), "half of a character"),
        ("examples.json", setting("label_names", 0, value="\x1b[2J"), "control character"),
        ("examples.json", lambda found: found.clear(), "answers of fp32 to 0 examples"),
        ("logs.json", setting("../../outside.log", value="x"), "plain name"),
        ("logs.json", setting("/etc/cron.d/x", value="x"), "plain name"),
        ("logs.json", setting(".bashrc", value="x"), "plain name"),
        ("logs.json", setting("run.log", value=5), "plain name"),
        (schema.MANIFEST, setting("version", value=4), "its format is 4, which a newer bench wrote"),
        (schema.MANIFEST, setting("version", value=0), "version"),
        (schema.MANIFEST, setting("format", value="something else"), "format"),
        (schema.MANIFEST, setting("parts", "run.json", "sha256", value="0" * 64), "run.json is damaged"),
        (schema.MANIFEST, setting("parts", "run.json", "bytes", value=5), "run.json is longer"),
        (schema.MANIFEST, setting("parts", "run.json", "bytes", value=10**7), "run.json is damaged"),
        (schema.MANIFEST, setting("parts", "run.json", "bytes", value=10**8), "run.json has more than 16 MB"),
        (schema.MANIFEST, lambda said: said["parts"].pop("logs.json"), "does not name every part"),
    ],
)
def test_what_does_not_fit_is_refused(part: str, edit: Edit, words: str, file: bytes, tmp_path: Path) -> None:
    assert words in refused(edited(file, part, edit), tmp_path / "received")


def test_words_that_mean_infinity_are_refused(file: bytes, tmp_path: Path) -> None:
    for number in (b"1e999", b"-Infinity"):
        parts = parts_of(file)
        parts["run.json"] = parts["run.json"].replace(b'"load_s":1.5', b'"load_s":' + number)
        assert "the number" in refused(packed(parts), tmp_path / "received")


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"no zip at all" * 99, b"\x80\x04\x95", b"PK\5\6" + b"\0" * 18, b"PK\5\6" + b"\xff" * 18]
)
def test_what_is_no_zip_is_refused(content: bytes, tmp_path: Path, file: bytes) -> None:
    refused(content, tmp_path / "received")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file[:-1], "cut off"),
        (lambda file: file[: len(file) // 2], "cut off"),
        (lambda file: file[len(file) // 2 :], ""),
        (lambda file: packed(parts_of(file) | {"../../evil.sh": b"x"}), "nothing else"),
        (lambda file: packed({k: v for k, v in parts_of(file).items() if k != "logs.json"}), "nothing else"),
        (lambda file: packed(parts_of(file), compression=zipfile.ZIP_LZMA), "not deflate"),
        (lambda file: packed(parts_of(file) | {"latencies.f8": parts_of(file)["latencies.f8"][:-8]}), "latencies.f8"),
        (lambda file: packed(parts_of(file) | {"logits.f4": b""}), "logits.f4"),
        (lambda file: packed(parts_of(file) | {"run.json": b"[" * 10**6}), "not a run's file"),
        (lambda file: packed(parts_of(file) | {"run.json": b"\xff"}), "not a run's file"),
        (lambda file: packed(parts_of(file) | {"logs.json": b" " * 17_000_000}), "logs.json has more than 16 MB"),
        (lambda file: packed(parts_of(file) | {f"{n:05}": b"" for n in range(999)}), "no zip of a few parts"),
    ],
)
def test_a_damaged_or_stuffed_file_is_refused(
    damage: Callable[[bytes], bytes], words: str, file: bytes, tmp_path: Path
) -> None:
    assert words in refused(damage(file), tmp_path / "received")


def test_what_lies_of_its_length_is_not_unpacked(file: bytes, tmp_path: Path) -> None:
    """A bomb whose heads say that it is small."""
    bomb = packed(parts_of(file) | {"logits.f4": b"\0" * 90_000_000})
    true, said = (size.to_bytes(4, "little") for size in (90_000_000, 12_800))
    assert len(bomb) < 1_000_000 and bomb.count(true) == 2
    assert "logits.f4 is damaged" in refused(bomb.replace(true, said), tmp_path / "received")


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_latencies_are_numbers_of_seconds(value: float, file: bytes, tmp_path: Path) -> None:
    parts = parts_of(file)
    times = np.frombuffer(parts["latencies.f8"], "<f8").copy()
    times[3] = value
    message = refused(packed(parts | {"latencies.f8": times.tobytes()}), tmp_path / "received")
    assert "not a number of seconds" in message


def test_a_file_that_is_too_large_is_not_even_read(tmp_path: Path, at: Callable[[Path], None]) -> None:
    at(tmp_path / "received")
    huge = tmp_path / "huge.run.zip"
    with huge.open("wb") as opened:
        opened.truncate(schema.MAX_BYTES + 1)
    with pytest.raises(RequestError, match="too large; allowed are 200 MB"):
        reading.load(huge)
    with pytest.raises(RequestError, match="cannot read"):
        reading.load(tmp_path / "none.run.zip")


def test_a_terminal_does_not_obey_what_a_file_says(file: bytes) -> None:
    evil = "\x1b]0;owned\x07<script>alert(1)</script>"
    reading.load(edited(file, "run.json", setting("measurements", 0, "title", value=evil)))
    with open_store() as store, store.session() as session:
        assert measurements.measurements(session, FULL)[0].title == "\ufffd]0;owned\ufffd<script>alert(1)</script>"


def test_examples_are_named_by_what_they_hold(sent: Path, at: Callable[[Path], None], tmp_path: Path) -> None:
    """Nobody can put other texts where runs of this machine will look for theirs."""
    at(sent)
    content = writing.dump(FULL)[1]
    at(tmp_path)
    reading.load(edited(content, "examples.json", setting("texts", 0, value="another text")))
    with open_store() as store, store.session() as session:
        set_id = runs.get_run(session, FULL).example_set_id
        assert set_id is not None and len(set_id) == 64
        session.delete(session.get_one(models.Run, FULL))
    reading.load(content)
    with open_store() as store, store.session() as session:
        assert runs.get_run(session, FULL).example_set_id != set_id
        assert len(session.scalars(select(models.ExampleSet.id)).all()) == 2


def test_any_damage_is_one_line_or_none(file: bytes, tmp_path: Path) -> None:
    """Bytes changed at random: refused, or (in what a zip does not check) a whole run. Never anything else."""
    chance = random.Random(4)
    for _ in range(150):
        damaged = bytearray(file)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            reading.load(bytes(damaged))
        except RequestError:
            continue
        assert everything(FULL)["run"]["id"] == FULL
        history.delete(FULL)
