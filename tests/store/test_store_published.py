"""The study's table as facts, and how it gets into the database."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from engine.errors import RequestError
from engine.store import Store, open_store
from engine.store.measurements import published
from engine.store.models import Published
from engine.store.published import read, sync

# Latency (s), throughput, VRAM (GB), accuracy (%), as printed.
TABLE = {
    "DistilBERT FP32": (0.044, 23135, 1.69, 32.5),
    "DistilBERT 4-bit": (0.055, 18545, 1.04, 35.0),
    "TinyBERT": (0.0048, 215234, 1.69, 21.3),
    "ONNX FP32": (0.018, 56412, 2.27, 25.0),
    "ONNX INT8": (0.089, 11535, 1.18, 18.8),
}


@pytest.fixture
def url(both: str) -> str:
    return both


def test_the_study_is_there_as_printed(store: Store) -> None:
    with store.session() as session:
        rows = published(session)
    assert [row.title for row in rows] == list(TABLE)
    for row in rows:
        latency, throughput, vram, accuracy = TABLE[row.title]
        assert row.latency_s == latency
        assert row.throughput_padded_tokens_per_s == throughput
        assert row.vram_bytes == round(vram * 1e9)
        assert row.accuracy == pytest.approx(accuracy / 100)
        assert row.accuracy_meaningful is False
        assert (row.study, row.batch_size, row.examples) == ("study", 8, 80)
        assert row.device_name == "NVIDIA A100 40 GB"
        assert "Saad Ahmad" in row.source
        assert row.baseline is (row.title == "DistilBERT FP32")
        assert [word for word in ("samples/s", "padded tokens", "chance", "10^9") if word not in row.remark] == []


def test_the_throughput_counts_tokens() -> None:
    for row in read():
        assert row["latency_s"] * row["throughput_padded_tokens_per_s"] == pytest.approx(8 * 128, rel=0.02)


def test_opening_again_changes_nothing(store: Store, url: str) -> None:
    query = select(*Published.__table__.columns).order_by(Published.id)
    with store.session() as session:
        before = session.execute(query).all()
    assert sync(store.engine) is False
    with open_store(url) as again, again.session() as session:
        assert session.execute(query).all() == before


def test_opening_mends_changed_missing_and_surplus_rows(store: Store, url: str) -> None:
    with store.session() as session:
        session.execute(update(Published).where(Published.title == "TinyBERT").values(latency_s=1.0))
        session.execute(delete(Published).where(Published.title == "ONNX INT8"))
        first = session.scalars(select(Published).where(Published.title == "DistilBERT FP32")).one()
        copy = {c.name: getattr(first, c.name) for c in Published.__table__.columns if c.name != "id"}
        session.add(Published(**copy | {"title": "a title of yesterday"}))
        session.add(Published(**copy | {"study": "another study"}))
    with open_store(url) as again, again.session() as session:
        rows = {(row.study, row.title): row for row in published(session)}
    assert set(rows) == {("another study", "DistilBERT FP32")} | {("study", title) for title in TABLE}
    assert rows["study", "TinyBERT"].latency_s == TABLE["TinyBERT"][0]


def test_processes_that_load_the_rows_at_once(store: Store) -> None:
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                if number == 0:
                    with store.session() as session:
                        session.execute(delete(Published))
                barrier.wait(30)
                sync(store.engine)
                barrier.wait(30)
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with store.session() as session:
        assert sorted(row.title for row in published(session)) == sorted(TABLE)


GOOD = {
    "study": "mine",
    "source": "a paper",
    "device_name": "a GPU",
    "batch_size": 1,
    "rows": [
        {"title": "one", "latency_s": 1},
        {"title": "two", "remark": "odd", "accuracy_meaningful": False},
    ],
}


def test_what_a_file_may_leave_out(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(GOOD))
    assert sync(store.engine, tmp_path) is True
    assert sync(store.engine, tmp_path) is False
    with store.session() as session:
        one, two = session.scalars(select(Published).where(Published.study == "mine").order_by(Published.id))
        assert len(published(session)) == 7
    assert (one.latency_s, one.accuracy, one.baseline, one.accuracy_meaningful, one.remark) == (
        1.0,
        None,
        False,
        True,
        None,
    )
    assert (two.remark, two.accuracy_meaningful) == ("odd", False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["cannot read"]),
        ("[]", ["rows: missing"]),
        (GOOD | {"rows": ["one"]}, ["row 1", "an object is required"]),
        (
            GOOD | {"rows": [{"title": "one", "latency": 1.0}]},
            ["row 1: latency: unknown", "did you mean 'latency_s'?"],
        ),
        (GOOD | {"rows": [{"latency_s": 1.0}]}, ["row 1: title: missing"]),
        (
            GOOD | {"rows": [{"title": "one", "latency_s": "fast"}]},
            ["latency_s: found 'fast'; should be float"],
        ),
        (GOOD | {"rows": [{"title": "one", "latency_s": True}]}, ["latency_s: found True"]),
        (GOOD | {"rows": [{"title": "one", "baseline": 1}]}, ["baseline: found 1; should be bool"]),
        (GOOD | {"rows": [{"title": "one", "vram_bytes": 1.5}]}, ["vram_bytes: found 1.5; should be int"]),
        (GOOD | {"rows": [{"title": "one"}, {"title": "one"}]}, ["row 2: mine/one is there twice"]),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: object, words: list[str]) -> None:
    file = tmp_path / "mine.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(RequestError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert [word for word in [str(file), *words] if word not in message] == []
    assert "\n" not in message
