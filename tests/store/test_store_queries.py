"""What goes into the database comes out of it; references, lists, and runs whose process died."""

from __future__ import annotations

import json
import math
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import psutil
import pytest
from sqlalchemy import delete, event, func, select
from sqlalchemy.exc import IntegrityError

from engine.errors import RequestError
from engine.machine import processes
from engine.store import Store
from engine.store.examples import add_example_set, examples, examples_at, positions_with
from engine.store.interrupted import mark_interrupted
from engine.store.measurements import (
    all_blocks,
    all_logits,
    blocks,
    loads,
    logits,
    measurements,
    new_block,
    new_prediction,
)
from engine.store.models import STATUSES, Block, Example, ExampleSet, Load, Measurement, Prediction, Run, RunTag
from engine.store.rows import COLUMNS, FIXED_COLUMNS, LOAD_COLUMNS, row_of
from engine.store.runs import (
    Search,
    add_run,
    count_runs,
    delete_run,
    get_run,
    list_runs,
    run_summary,
    set_tags,
    suite_names,
    tag_names,
)

NewRun = Callable[..., Run]


@pytest.fixture
def url(both: str) -> str:
    return both


@contextmanager
def statements(store: Store) -> Iterator[list[str]]:
    """The SQL that is executed meanwhile."""
    seen: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(store.engine, "before_cursor_execute", note)
    yield seen
    event.remove(store.engine, "before_cursor_execute", note)


def count(store: Store, table: type) -> int:
    with store.session() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_arrays_come_back_bit_by_bit(store: Store, new_run: NewRun) -> None:
    rng = np.random.default_rng(0)
    answered = rng.normal(size=(1000, 4)).astype(np.float32)
    answered[3, 2] = np.nan
    answered[4] = [np.inf, -np.inf, -0.0, np.finfo(np.float32).tiny]
    times = rng.lognormal(-5, 1, size=(2, 3, 17))
    run = new_run(variants=("fp32", "int8"))
    measured = run.measurements[0]
    measured.prediction = new_prediction(answered, ["World", "Sports", "Business", "Sci/Tech"])
    measured.blocks.append(new_block(0, 0, "warmup", 0.0, 8, 90, 1024, [0.5]))
    # Stored in another order than asked for.
    for process in (1, 0):
        for number in range(3):
            measured.blocks.append(
                new_block(process, number, "timed", number + 0.25, 136, 9000, 17408, times[process, number])
            )
    with store.session() as session:
        add_run(session, run)
    with store.session() as session:
        stored = logits(session, measured.id)
        assert stored is not None
        assert (stored.dtype, stored.shape) == (np.float32, (1000, 4))
        assert stored.tobytes() == answered.tobytes()
        stored[0] = 0  # writable
        found = blocks(session, measured.id)
        assert [(b.process, b.round) for b in found] == [(p, r) for p in range(2) for r in range(3)]
        for block in found:
            assert block.latencies_s.dtype == np.float64
            assert block.latencies_s.tobytes() == times[block.process, block.round].tobytes()
            assert (block.started_s, block.samples, block.tokens, block.padded_tokens) == (
                block.round + 0.25,
                136,
                9000,
                17408,
            )
        [warm] = blocks(session, measured.id, kind="warmup")
        assert warm.latencies_s.tolist() == [0.5]
        assert logits(session, run.measurements[1].id) is None
        assert blocks(session, run.measurements[1].id) == []


def test_arrays_in_another_layout_are_stored_by_value(store: Store, new_run: NewRun) -> None:
    turned = np.arange(12, dtype=">f8").reshape(4, 3).T
    run = new_run(variants=("fp32",))
    run.measurements[0].prediction = new_prediction(turned, list("abcd"))
    run.measurements[0].blocks.append(new_block(0, 0, "timed", 0.0, 8, 8, 8, np.float32([1, 2, 3])[::-1]))
    with store.session() as session:
        add_run(session, run)
        identity = run.measurements[0].id
    with store.session() as session:
        assert np.array_equal(logits(session, identity), turned)
        assert blocks(session, identity)[0].latencies_s.tolist() == [3, 2, 1]


def test_raw_values_of_several_measurements_come_in_one_query(store: Store, new_run: NewRun) -> None:
    run = new_run(variants=("fp32", "int8", "nf4"))
    for number, row in enumerate(run.measurements[:2]):
        row.prediction = new_prediction(np.full((2, 2), number), ["no", "yes"])
        for index in range(2):
            row.blocks.append(new_block(0, index, "timed", 0.0, 8, 8, 8, [number, index]))
    with store.session() as session:
        add_run(session, run)
        ids = [row.id for row in run.measurements]
    with statements(store) as seen, store.session() as session:
        blocks, logits_of = all_blocks(session, ids), all_logits(session, ids)
    assert len(seen) == 2
    assert {key: [b.latencies_s.tolist() for b in found] for key, found in blocks.items()} == {
        ids[0]: [[0, 0], [0, 1]],
        ids[1]: [[1, 0], [1, 1]],
        ids[2]: [],
    }
    assert {key: found.tolist() for key, found in logits_of.items()} == {ids[0]: [[0, 0]] * 2, ids[1]: [[1, 1]] * 2}


def test_logits_need_a_label_for_each_column() -> None:
    with pytest.raises(ValueError, match="4 columns of logits for 2 labels"):
        new_prediction(np.zeros((3, 4)), ["negative", "positive"])


def test_reading_blocks_loads_no_latencies_unasked(store: Store, new_run: NewRun) -> None:
    run = new_run(variants=("fp32",))
    run.measurements[0].blocks.append(new_block(0, 0, "timed", 0.0, 8, 8, 8, [1.0]))
    with store.session() as session:
        add_run(session, run)
    with statements(store) as seen, store.session() as session:
        assert session.scalars(select(Block)).one().samples == 8
    assert "latencies_s" not in " ".join(seen)


TEXTS = ["Zürich wins 2:1", "\u05d0 tab\there", "", "同じ"]


def test_example_sets_are_stored_once(store: Store) -> None:
    given = ("a" * 64, "news", ["no", "yes"], TEXTS, [0, 1, None, np.int64(1)], np.array([7, 5, 9, 2]))
    for _ in range(2):
        with store.session() as session:
            add_example_set(session, *given)
    with store.session() as session:
        rows = examples(session, "a" * 64)
        assert [row.text for row in rows] == TEXTS
        assert [row.label for row in rows] == [0, 1, None, 1]
        assert [row.source_index for row in rows] == [7, 5, 9, 2]
        assert [row.position for row in rows] == [0, 1, 2, 3]
        assert rows[2].text_sha256 == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        stored = session.get_one(ExampleSet, "a" * 64)
        assert (stored.dataset, stored.count, stored.label_names) == ("news", 4, ["no", "yes"])
        assert examples(session, "b" * 64) == []


def test_a_text_with_a_null_character_is_kept_or_refused_in_one_line(store: Store) -> None:
    text = "a\0b"
    try:
        with store.session() as session:
            add_example_set(session, "d" * 64, "news", None, [text], None, [0])
    except RequestError as error:
        assert store.engine.dialect.name == "postgresql"
        assert "cannot hold a value: PostgreSQL text fields cannot contain NUL" in str(error)
        assert (count(store, ExampleSet), count(store, Example)) == (0, 0)
    else:
        with store.session() as session:
            assert [row.text for row in examples(session, "d" * 64)] == [text]


def test_an_unlabelled_example_set(store: Store) -> None:
    with store.session() as session:
        add_example_set(session, "b" * 64, "news", None, ["one", "two"], None, [0, 1])
    with store.session() as session:
        assert [row.label for row in examples(session, "b" * 64)] == [None, None]
        query = select(func.count()).select_from(ExampleSet).where(ExampleSet.label_names.is_(None))
        assert session.scalar(query) == 1


def test_lists_of_different_lengths_store_nothing(store: Store) -> None:
    with pytest.raises(ValueError, match="zip"), store.session() as session:
        add_example_set(session, "c" * 64, "news", None, ["one", "two"], None, [0])
    assert (count(store, ExampleSet), count(store, Example)) == (0, 0)


def test_two_runs_that_store_the_same_examples_at_once(store: Store) -> None:
    texts = [f"text {i}" for i in range(2000)]
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for attempt in range(3):
                barrier.wait(30)
                with store.session() as session:
                    add_example_set(session, f"{attempt:064}", "news", None, texts, None, range(2000))
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (count(store, ExampleSet), count(store, Example)) == (3, 6000)


@pytest.fixture
def texts(store: Store) -> list[str]:
    """The texts of the stored set "set"; "other" holds the same ones."""
    said = ["50% off", "500 off", "a_b", "aXb", "Rain, then SUN", "sun", "back\\slash", "'; DROP TABLE run; --"]
    said += [f"row {index}" for index in range(1200)]
    with store.session() as session:
        for name in ("set", "other"):
            add_example_set(session, name, "d", None, said, None, range(len(said)))
    return said


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["50%"], [0]),
        (["a_b"], [2]),
        (["SUN"], [4, 5]),
        (["sun", "rain"], [4]),
        (["\\"], [6]),
        (["'; drop table"], [7]),
        (["nowhere"], []),
    ],
)
def test_texts_are_found_by_their_words(store: Store, texts: list[str], words: list[str], found: list[int]) -> None:
    with store.session() as session:
        positions = positions_with(session, "set", words)
    assert positions.dtype == np.int64 and positions.tolist() == found


def test_without_words_every_text_is_found(store: Store, texts: list[str]) -> None:
    with store.session() as session, statements(store) as seen:
        assert positions_with(session, "set", []).tolist() == list(range(len(texts)))
    assert len(seen) == 1 and "example.text" not in seen[0]


def test_examples_are_read_by_their_positions(store: Store, texts: list[str]) -> None:
    wanted = np.array([*range(1100, 5, -1), 3])
    with store.session() as session, statements(store) as seen:
        found = examples_at(session, "set", wanted)
        assert [example.position for example in found] == wanted.tolist()
        assert [example.text for example in found] == [texts[i] for i in wanted]
    assert len(seen) == 3
    with store.session() as session:
        assert [e.position for e in examples_at(session, "set", [2, 99_999])] == [2]
        assert examples_at(session, "set", []) == []


@pytest.fixture
def three(store: Store, new_run: NewRun) -> list[Run]:
    """Three runs, oldest first; the first two begin alike."""
    now = datetime.now(UTC)
    ids = ["01JABCDEF0000000000000WXYZ", "01JABCDEF1111111111111WXYA", "01K99999992222222222222PQR"]
    runs = [
        new_run(id=identity, created_at=now + timedelta(seconds=number), suite_name=suite)
        for number, (identity, suite) in enumerate(zip(ids, ["demo", "agnews", "demo"], strict=True))
    ]
    with store.session() as session:
        # The newest one is not the last one stored.
        for run in reversed(runs):
            add_run(session, run)
    return runs


@pytest.mark.parametrize(
    ("reference", "number"),
    [
        ("01JABCDEF0000000000000WXYZ", 0),
        ("01jabcdef0000000000000wxyz", 0),
        ("01K9", 2),
        ("01k9", 2),
        ("WXYZ", 0),
        ("wxya", 1),
        (" wxya ", 1),
        ("01JABCDEF1", 1),
        ("latest", 2),
        ("LATEST", 2),
    ],
)
def test_references_that_mean_one_run(store: Store, three: list[Run], reference: str, number: int) -> None:
    with store.session() as session:
        assert get_run(session, reference).id == three[number].id


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (
            "01JA",
            [
                "could be any of",
                "01JABCDEF0000000000000WXYZ",
                "01JABCDEF1111111111111WXYA",
                "more characters",
            ],
        ),
        ("01K", ["no run '01K'", "at least 4 characters", "01K99999992222222222222PQR"]),
        ("", ["no run ''", "01K99999992222222222222PQR"]),
        ("ZZZZ", ["no run 'ZZZZ'", "most recent: 01K99999992222222222222PQR (demo, "]),
        ("0000", ["no run '0000'"]),
        ("____", ["no run '____'"]),
        ("%WXYZ", ["no run '%WXYZ'"]),
        ("01K99999992222222222222PQQ", ["did you mean 01K99999992222222222222PQR"]),
    ],
)
def test_references_that_mean_none_or_several(store: Store, three: list[Run], reference: str, words: list[str]) -> None:
    with pytest.raises(RequestError) as caught, store.session() as session:
        get_run(session, reference)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message


@pytest.mark.parametrize("reference", ["latest", "01JABCDEF"])
def test_references_into_an_empty_database(store: Store, reference: str) -> None:
    with (
        pytest.raises(RequestError, match=r"run `python -m engine run demo` first"),
        store.session() as session,
    ):
        get_run(session, reference)


def test_runs_are_listed_with_three_queries(store: Store, three: list[Run], new_measurement: Callable) -> None:
    with store.session() as session:
        for position, status in enumerate(["measured", "measured", "failed", "unavailable"]):
            session.add(new_measurement(f"v{position}", position, status=status, run_id=three[2].id))
        session.add(new_measurement("v", status="pending", run_id=three[0].id))
    nothing = dict.fromkeys(STATUSES, 0)
    with statements(store) as seen, store.session() as session:
        rows = list_runs(session)
        assert len(seen) == 3
        assert not any(word in statement for statement in seen for word in ("run.suite,", "environment", "ceilings"))
    assert [row.run.id for row in rows] == [run.id for run in reversed(three)]
    assert [row.counts for row in rows] == [
        nothing | {"measured": 2, "failed": 1, "unavailable": 1},
        nothing,
        nothing | {"pending": 1},
    ]
    with store.session() as session:
        assert [row.run.id for row in list_runs(session, limit=2)] == [three[2].id, three[1].id]
        assert [row.run.id for row in list_runs(session, suite="demo")] == [three[2].id, three[0].id]
        assert [row.run.id for row in list_runs(session, limit=1, suite="agnews")] == [three[1].id]
        assert list_runs(session, suite="other") == []
        assert [row.run.id for row in list_runs(session, limit=1, offset=1)] == [three[1].id]
        assert list_runs(session, limit=1, offset=3) == []


@pytest.mark.parametrize(
    ("search", "numbers"),
    [
        (Search(), [2, 1, 0]),
        (Search("AGNEWS"), [1]),
        (Search("demo wxyz"), [0]),
        (Search("demo agnews"), []),
        (Search("first look"), [0]),
        (Search("100%"), [0]),
        (Search("1%0"), []),
        (Search("_"), []),
        (Search("slid"), [1, 0]),
        (Search(suites=("demo",)), [2, 0]),
        (Search(suites=("demo", "agnews")), [2, 1, 0]),
        (Search(suites=("demo",), states=("failed",)), [2]),
        (Search(states=("failed",)), [2]),
        (Search(tags=("slides",)), [1, 0]),
        (Search(tags=("slides", "a100")), [1]),
        (Search("demo", tags=("a100",)), []),
        (Search("'; drop table run; --"), []),
        (Search(" ".join(["demo"] * 5000)), [2, 0]),
    ],
)
def test_runs_can_be_searched(store: Store, three: list[Run], search: Search, numbers: list[int]) -> None:
    with store.session() as session:
        set_tags(session, three[0].id, ["slides", "slides"])
        set_tags(session, three[1].id, ["a100", "slides"])
        session.get_one(Run, three[0].id).notes = "A first look: 100% of the texts"
        session.get_one(Run, three[2].id).status = "failed"
    with store.session() as session:
        assert [row.run.id for row in list_runs(session, search=search)] == [three[n].id for n in numbers]
        assert count_runs(session, search) == len(numbers)
        assert (suite_names(session), tag_names(session)) == (["agnews", "demo"], ["a100", "slides"])
        assert get_run(session, three[1].id).tags == ["a100", "slides"]


def test_tags_are_replaced(store: Store, three: list[Run]) -> None:
    for tags in (["b", "a"], ["c"], []):
        with store.session() as session:
            set_tags(session, three[0].id, tags)
        with store.session() as session:
            assert run_summary(get_run(session, three[0].id))["tags"] == sorted(tags)


def test_measurements_come_in_the_suites_order(store: Store, new_run: NewRun, new_measurement: Callable) -> None:
    run = new_run()
    for name, batch_size, position in [("int8", 8, 2), ("fp32", 32, 1), ("fp32", 8, 0)]:
        run.measurements.append(new_measurement(name, position, batch_size=batch_size))
    with store.session() as session:
        add_run(session, run)
    with store.session() as session:
        found = [(m.variant, m.batch_size) for m in measurements(session, run.id)]
        assert found == [("fp32", 8), ("fp32", 32), ("int8", 8)]
        assert measurements(session, "nobody") == []


def test_the_flat_object_holds_every_column(store: Store, new_run: NewRun) -> None:
    columns = {column.name for column in Measurement.__table__.columns}
    assert set(COLUMNS) == columns - {"id", "run_id", "position"}
    assert len(FIXED_COLUMNS) == 36
    run = new_run(variants=("fp32",))
    with store.session() as session:
        add_run(session, run)
    with store.session() as session:
        [stored] = measurements(session, run.id)
        found = row_of(stored).to_json()
    assert tuple(found) == (*COLUMNS, "examples_per_call")
    assert found["latency_p95_s"] is None
    assert found["options"] == {}
    assert found["baseline"] is False
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_flat_object_keeps_values_and_can_be_json(store: Store, new_run: NewRun, new_measurement: Callable) -> None:
    run = new_run()
    run.measurements.append(
        new_measurement(
            "fp32",
            latency_p50_s=0.1 + 0.2,
            vram_peak_bytes=80 * 2**30,
            accuracy=math.nan,
            speedup_high=math.inf,
            memory={"nvml_bytes": 5, "nested": [1.5, math.nan]},
            options={"reduce_range": True, "only": ["MatMul"]},
        )
    )
    with store.session() as session:
        add_run(session, run)
    with store.session() as session:
        [stored] = measurements(session, run.id)
        found = row_of(stored).to_json()
    assert found["latency_p50_s"] == 0.1 + 0.2
    assert found["vram_peak_bytes"] == 80 * 2**30
    assert found["accuracy"] is None
    assert found["speedup_high"] is None
    assert found["memory"] == {"nvml_bytes": 5, "nested": [1.5, None]}
    assert found["options"] == {"reduce_range": True, "only": ["MatMul"]}
    json.dumps(found, allow_nan=False)


def test_none_in_a_json_column_is_null(store: Store, new_run: NewRun) -> None:
    run = new_run(variants=("fp32",), progress=None)
    run.measurements[0].audit = None
    with store.session() as session:
        add_run(session, run)
    with store.session() as session:
        assert session.scalar(select(func.count()).where(Run.progress.is_(None))) == 1
        assert session.scalar(select(func.count()).where(Measurement.audit.is_(None))) == 1


def test_the_summary_of_a_run_gives_times_in_utc(store: Store, new_run: NewRun) -> None:
    east = timezone(timedelta(hours=2))
    run = new_run(created_at=datetime(2026, 5, 1, 1, 30, 0, 123456, tzinfo=east), environment={"x": math.nan, "y": [1]})
    with store.session() as session:
        before = run_summary(add_run(session, run))
    with store.session() as session:
        after = run_summary(get_run(session, run.id))
    assert before == after
    assert after["created_at"] == "2026-04-30T23:30:00.123+00:00"
    assert after["finished_at"] is None
    assert (after["id"], after["suite"], after["device"]) == (run.id, "demo", "cpu")
    assert after["spec"] == {"name": "demo", "baseline": "fp32"}
    assert after["environment"] == {"x": None, "y": [1]}
    json.dumps(after, allow_nan=False)


@pytest.fixture
def full(store: Store, new_run: NewRun, new_load: Callable[..., Load]) -> Run:
    """A run with something in every table below it, and another one beside it."""
    with store.session() as session:
        add_example_set(session, "d" * 64, "news", None, ["one"], None, [0])
    runs = [new_run(variants=("fp32", "int8"), example_set_id="d" * 64) for _ in range(2)]
    for run in runs:
        for measurement in run.measurements:
            measurement.blocks.append(new_block(0, 0, "timed", 0.0, 8, 8, 8, [1.0]))
            measurement.prediction = new_prediction([[1.0, 2.0]], ["no", "yes"])
        run.loads = [new_load("int8"), new_load("fp32", status="failed", status_reason="it died")]
    with store.session() as session:
        for run in runs:
            add_run(session, run)
    return runs[0]


def test_loads_come_in_the_order_of_the_suite(store: Store, full: Run) -> None:
    with store.session() as session:
        first, second = loads(session, full.id)
    assert (first.variant, first.status, first.status_reason) == ("fp32", "failed", "it died")
    assert second.variant == "int8" and second.trials[0]["late"] == 3
    assert tuple(second.to_json()) == LOAD_COLUMNS and (second.measured_at or "").endswith("+00:00")


def test_a_variant_has_one_result_under_load_in_a_run(store: Store, full: Run, new_load: Callable[..., Load]) -> None:
    with pytest.raises(IntegrityError), store.session() as session:
        session.add(new_load("int8", run_id=full.id))


@pytest.mark.parametrize("way", ["object", "statement"])
def test_deleting_a_run_deletes_what_it_gave(store: Store, full: Run, way: str) -> None:
    tables = (Run, Measurement, Block, Prediction, Load, ExampleSet, Example)
    assert [count(store, table) for table in tables] == [2, 4, 4, 4, 4, 1, 1]
    with store.session() as session:
        if way == "object":
            session.delete(session.get_one(Run, full.id))
        else:
            session.execute(delete(Run).where(Run.id == full.id))
    assert [count(store, table) for table in tables] == [1, 2, 2, 2, 2, 1, 1]


def test_examples_go_with_the_last_run_that_has_them(store: Store, full: Run) -> None:
    tables = (Run, Measurement, Block, Prediction, Load, RunTag, ExampleSet, Example)
    with store.session() as session:
        set_tags(session, full.id, ["one", "two"])
        [other] = session.scalars(select(Run.id).where(Run.id != full.id))
        session.get_one(Run, other).status = "running"
    assert [count(store, table) for table in tables] == [2, 4, 4, 4, 4, 2, 1, 1]
    with store.session() as session:
        assert delete_run(session, full.id)
        assert not delete_run(session, full.id), "it is gone"
        assert not delete_run(session, other), "it is under way"
    assert [count(store, table) for table in tables] == [1, 2, 2, 2, 2, 0, 1, 1]
    with store.session() as session:
        session.get_one(Run, other).status = "finished"
        session.flush()
        assert delete_run(session, other)
    assert [count(store, table) for table in tables] == [0] * 8


@pytest.fixture
def ended() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def live_run(new_run: NewRun, pid: int | None, age_s: float = 3600, **columns: object) -> Run:
    seen = datetime.now(UTC) - timedelta(seconds=age_s)
    given = {
        "status": "running",
        "host": socket.gethostname(),
        "pid": pid,
        "process": processes.mark(pid) or f"{processes.mark()}0" if pid else None,
        "heartbeat_at": seen,
        "created_at": seen,
    }
    return new_run(variants=("fp32", "int8"), **given | columns)


def interrupted(store: Store, run: Run, **options: float) -> bool:
    with store.session() as session:
        add_run(session, run)
    with store.session() as session:
        marked = mark_interrupted(session, **options)
    with store.session() as session:
        status = get_run(session, run.id).status
    assert marked == ([run.id] if status == "interrupted" else [])
    return status == "interrupted"


@pytest.mark.parametrize("status", ["queued", "preparing", "running"])
def test_a_run_whose_process_is_gone(store: Store, new_run: NewRun, ended: int, status: str) -> None:
    run = live_run(new_run, ended, age_s=0, status=status)
    run.measurements[0].status = "measured"
    assert interrupted(store, run), "at once"
    with store.session() as session:
        stored = get_run(session, run.id)
        assert f"its process {ended} on {socket.gethostname()} ended" in str(stored.status_reason)
        assert ("queued" in str(stored.status_reason)) == (status == "queued")
        assert stored.finished_at == stored.heartbeat_at
        done, open_ = measurements(session, run.id)
        assert (done.status, done.status_reason) == ("measured", None)
        assert (open_.status, open_.status_reason) == ("cancelled", stored.status_reason)
        assert mark_interrupted(session) == []


def test_a_run_that_never_had_a_process(store: Store, new_run: NewRun) -> None:
    assert interrupted(store, live_run(new_run, None, heartbeat_at=None))
    assert not interrupted(store, live_run(new_run, None, age_s=15))


def test_a_run_of_an_older_bench_is_known_by_its_number_alone(store: Store, new_run: NewRun, ended: int) -> None:
    assert interrupted(store, live_run(new_run, ended, age_s=70, process=None))
    assert not interrupted(store, live_run(new_run, ended, age_s=50, process=None))
    assert not interrupted(store, live_run(new_run, os.getpid(), process=None))


def test_a_run_whose_process_is_a_zombie(store: Store, new_run: NewRun) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    try:
        assert interrupted(store, live_run(new_run, process.pid, age_s=0))
    finally:
        process.wait()


def test_a_run_whose_process_number_went_to_another(store: Store, new_run: NewRun) -> None:
    mark = str(processes.mark())
    earlier = f"{mark.rpartition('/')[0]}/1"
    assert interrupted(store, live_run(new_run, os.getpid(), age_s=0, process=earlier))


def test_a_run_before_the_machine_was_started_anew(store: Store, new_run: NewRun) -> None:
    before = f"another-boot/{str(processes.mark()).partition('/')[2]}"
    assert not interrupted(store, live_run(new_run, os.getpid(), age_s=30, process=before)), "or a machine of its name"
    # The clock may be wrong after a restart, either way.
    for age_s in (90, -86400):
        run = live_run(new_run, os.getpid(), age_s=age_s, process=before)
        assert interrupted(store, run)
        with store.session() as session:
            assert "as the machine was started anew" in str(get_run(session, run.id).status_reason)


def test_a_run_in_another_container_is_known_by_its_silence(store: Store, new_run: NewRun) -> None:
    boot, _, start = str(processes.mark()).split("/")
    elsewhere = f"{boot}/pid:[1]/{start}"
    assert not interrupted(store, live_run(new_run, os.getpid(), age_s=50, process=elsewhere))
    assert interrupted(store, live_run(new_run, os.getpid(), age_s=70, process=elsewhere))


@pytest.mark.parametrize("age_s", [-86400 * 365, 0, 86400 * 365])
def test_a_living_process_is_alive_whatever_the_clock_says(store: Store, new_run: NewRun, age_s: float) -> None:
    assert not interrupted(store, live_run(new_run, os.getpid(), age_s=age_s))


def test_a_run_of_another_host_is_known_by_its_silence(store: Store, new_run: NewRun, ended: int) -> None:
    assert not interrupted(store, live_run(new_run, ended, host="elsewhere", age_s=200))
    assert not interrupted(store, live_run(new_run, ended, host="elsewhere", age_s=-3600)), "its clock is ahead"
    run = live_run(new_run, ended, host="elsewhere", age_s=400)
    assert interrupted(store, run)
    with store.session() as session:
        assert "elsewhere no longer says anything of it" in str(get_run(session, run.id).status_reason)


def test_a_run_that_has_ended_stays_as_it_ended(store: Store, new_run: NewRun, ended: int) -> None:
    assert not interrupted(store, live_run(new_run, ended, status="finished"))


@pytest.mark.parametrize(("change", "status"), [("status = 'finished'", "finished"), ("pid = 1", "running")])
def test_a_run_that_ends_or_goes_on_while_it_is_looked_at(
    store: Store, new_run: NewRun, ended: int, file: Path, change: str, status: str
) -> None:
    """Between reading and writing it ended well, or went on by another process: then nothing is written."""
    if store.engine.dialect.name != "sqlite":
        pytest.skip("the other process writes to a file of SQLite")
    run = live_run(new_run, ended)
    with store.session() as session:
        add_run(session, run)
    changed = []

    def another_process(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE run") and not changed:
            changed.append(statement)
            with closing(sqlite3.connect(file)) as other:
                other.execute(f"UPDATE run SET {change} WHERE id = ?", (run.id,))
                other.commit()

    event.listen(store.engine, "before_cursor_execute", another_process)
    with store.session() as session:
        assert mark_interrupted(session) == []
    event.remove(store.engine, "before_cursor_execute", another_process)
    assert changed
    with store.session() as session:
        assert get_run(session, run.id).status == status
        assert {row.status for row in measurements(session, run.id)} == {"pending"}


def test_what_a_process_said_last_is_the_reason(store: Store, new_run: NewRun, ended: int, tmp_path: Path) -> None:
    (tmp_path / ".ended").write_text("the disk was full" + " " * 4000)
    run = live_run(new_run, ended, log_path=str(tmp_path))
    assert interrupted(store, run)
    with store.session() as session:
        assert get_run(session, run.id).status_reason == "the disk was full"
