"""The Run page by AppTest: choices, refusals, live states. No run is started here; tests/browser does that."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dashboard_fill import CANCELLED, FAILED, FULL, INTERRUPTED, RUNNING
from streamlit.testing.v1 import AppTest

from dashboard.controls import choices
from dashboard.data import live
from engine import units
from engine.jobs import local, queue, slurm
from engine.machine.devices import cpu_device
from engine.store import models, open_store
from engine.suite.reading import load_suite

APP = Path(__file__).resolve().parents[2] / "dashboard" / "app.py"
HTML = '<img src=x onerror="alert(1)">'
Suite = Callable[..., Path]


@pytest.fixture
def suite(tiny_models: dict[str, Path], write_suite: Suite, tmp_path: Path) -> Path:
    variants = [
        {"name": "fp32", "title": "Plain *one*", "model": str(tiny_models["distilbert"])},
        {"name": "tf32", "title": HTML, "model": str(tiny_models["distilbert"]), "precision": "tf32"},
        {"name": "bert", "model": str(tiny_models["bert"])},
    ]
    return write_suite(tmp_path, variants)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, database: str) -> list[tuple[Any, ...]]:
    """What `jobs.start` was asked for; it gives the id of the run that is under way."""
    asked: list[tuple[Any, ...]] = []

    def start(*arguments: Any) -> str:
        asked.append(arguments)
        return RUNNING

    monkeypatch.setattr(local, "start", start)
    monkeypatch.setattr(live, "current", list)
    return asked


def page(suite: Path | str | None = None, run: str | None = None) -> AppTest:
    test = AppTest.from_file(str(APP), default_timeout=60)
    if suite is not None:
        test.session_state["suite"] = choices.FILE
        test.session_state["suite_file"] = str(suite)
    if run is not None:
        test.query_params["run"] = run
    test.switch_page("app_pages/run.py").run()
    assert not test.exception, test.exception
    return test


def html(test: AppTest) -> str:
    return "\n".join(str(element.proto.body) for element in test.get("html"))


def said(test: AppTest) -> str:
    kinds = ("header", "caption", "markdown", "error", "warning", "info", "success")
    return "\n".join(str(element.value) for kind in kinds for element in test.get(kind))


def control(test: AppTest, kind: str, start: str) -> Any:
    return next(element for element in test.get(kind) if (element.key or "").startswith(start))


def test_before_anything_was_ever_run(empty: Path) -> None:
    test = page()
    assert test.header[0].value == "Measure a suite on this machine"
    assert test.selectbox(key="suite").value == "demo"
    assert not test.button(key="start").disabled
    assert "no earlier run" in said(test)


def test_what_is_unavailable_is_said_before_the_start(suite: Path, started: list[Any]) -> None:
    test = page(suite)
    table = html(test)
    assert "○ unavailable" in table and "--device cuda" in table and table.count("✓ ready") == 2
    assert HTML not in table and "&lt;img" in table
    test.button(key="start").click().run()
    ((asked, device, path, offline),) = started
    assert [v.name for v in asked.variant] == ["fp32", "tf32", "bert"]
    assert (device, path, offline) == ("auto", str(suite), False)
    assert test.query_params["run"] == RUNNING


def test_slurm_is_offered_where_there_is_one_and_else_says_why(
    suite: Path, started: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "slurm" not in [toggle.key for toggle in page(suite).toggle], "neither sbatch nor a profile"
    (tmp_path / "data").mkdir()
    profile = tmp_path / "data" / "slurm.toml"
    profile.write_text('partition = "gpu"\ngpus = "a100"\n')
    test = page(suite)
    assert test.toggle(key="slurm").disabled
    assert "there is no sbatch on this machine: start the bench on a login node" in said(test)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").touch(mode=0o755)
    test.run()
    test.toggle(key="slurm").set_value(True).run()
    assert "gpus\\: unknown key; allowed\\: partition, gpu, time" in said(test), "a wrong profile is one line"
    assert "start" not in [button.key for button in test.button]
    profile.write_text('partition = "gpu"\n')
    test.run()
    assert test.text_input(key="slurm_partition").placeholder == "gpu"
    assert html(test).count("✓ ready") == 3, "what the node can do is not known here"
    assert not test.exception and not test.button(key="start").disabled

    control(test, "text_input", "batch:").set_value("1, 4")
    test.text_input(key="slurm_gpu").set_value("a100,h100")
    test.toggle(key="each_batch_size").set_value(True).run()
    submitted = []

    def submit(suite: Any, profile: Any, *arguments: Any) -> str:
        submitted.append((suite.workload.batch_size, profile.gpu))
        return RUNNING

    monkeypatch.setattr(slurm, "submit", submit)
    test.button(key="start").click().run()
    assert submitted == [([1], "a100"), ([1], "h100"), ([4], "a100"), ([4], "h100")]
    assert not started, "this machine measures none of them"


def test_choices_reach_the_run(suite: Path, started: list[Any]) -> None:
    test = page(suite)
    control(test, "button_group", "variants:").set_value(["bert"])
    control(test, "text_input", "batch:").set_value("1, 4; 2")
    control(test, "number_input", "examples:").set_value(12)
    control(test, "number_input", "rounds:").set_value(5)
    control(test, "number_input", "seconds:").set_value(7.0)
    test.selectbox(key="device").set_value("cpu")
    test.toggle(key="offline").set_value(True).run()
    test.button(key="start").click().run()
    ((asked, device, _, offline),) = started
    assert [v.name for v in asked.variant] == ["fp32", "bert"]
    assert (asked.workload.batch_size, asked.workload.examples) == ([1, 2, 4], 12)
    assert (asked.protocol.rounds, asked.protocol.max_seconds) == (5, 7.0)
    assert (device, offline) == ("cpu", True)
    assert asked.load is None


def test_a_limit_puts_the_variants_under_load(suite: Path, started: list[Any]) -> None:
    test = page(suite)
    assert control(test, "number_input", "p99:").value is None and "service's load" not in said(test)
    control(test, "number_input", "p99:").set_value(50.0).run()
    assert "A service's load takes up to about" in said(test) and test.query_params["p99_ms"] == "50"
    test.button(key="start").click().run()
    ((asked, *_),) = started
    assert asked.load is not None
    assert (asked.load.p99_ms, asked.load.max_batch, asked.load.max_wait_ms) == (50.0, 32, 0.0)


def test_a_suites_own_limit_can_be_another(suite: Path, started: list[Any]) -> None:
    table = "[load]\np99_ms = 20\nmax_batch = 4\n\n[protocol]"
    suite.write_text(suite.read_text(encoding="utf-8").replace("[protocol]", table), encoding="utf-8")
    test = page(suite)
    assert control(test, "number_input", "p99:").value == 20.0 and "p99_ms" not in test.query_params
    control(test, "number_input", "p99:").set_value(30.0).run()
    test.button(key="start").click().run()
    assert (started[0][0].load.p99_ms, started[0][0].load.max_batch) == (30.0, 4)


@pytest.mark.parametrize("sizes", ["", "abc", "0", "-1", "1.5", "8, x", "9" * 400, "١", "<b>8</b>"])
def test_bad_batch_sizes_get_one_sentence(sizes: str, suite: Path, started: list[Any]) -> None:
    test = page(suite)
    control(test, "text_input", "batch:").set_value(sizes).run()
    assert len(test.error) == 1 and "batch size" in test.error[0].value
    assert "<b>" not in test.error[0].value.replace("\\<", "")
    assert not [b for b in test.button if b.key == "start"]


def test_a_batch_larger_than_the_examples(suite: Path, started: list[Any]) -> None:
    test = page(suite)
    control(test, "text_input", "batch:").set_value("17").run()
    assert "more than the 16 examples" in test.error[0].value
    assert test.button(key="start").disabled


@pytest.mark.parametrize(
    "reference", ["nosuch", "/nowhere/x.toml", "../../etc/passwd", "\x00", "<b>", "/", "~nobody/x.toml"]
)
def test_a_suite_that_is_not_there(reference: str, started: list[Any]) -> None:
    test = page(reference)
    assert len(test.error) == 1 and "\n" not in test.error[0].value
    assert not [b for b in test.button if b.key == "start"]


def test_of_many_variants_no_choice_is_all_of_them(
    tiny_models: dict[str, Path], write_suite: Suite, tmp_path: Path, started: list[Any]
) -> None:
    variants = [{"name": f"v{number}", "model": str(tiny_models["distilbert"])} for number in range(14)]
    test = page(write_suite(tmp_path, variants))
    chosen = control(test, "multiselect", "variants:")
    assert chosen.value == [] and chosen.placeholder == "All 13; choose, to have only some"
    assert ">v13<" in html(test) and "variants" not in test.query_params
    chosen.set_value(["v7", "v3"]).run()
    assert test.query_params["variants"] == "v3,v7" and ">v13<" not in html(test)
    test.button(key="start").click().run()
    ((asked, *_),) = started
    assert [variant.name for variant in asked.variant] == ["v0", "v3", "v7"]


def test_a_model_that_is_not_there(
    tiny_models: dict[str, Path], write_suite: Suite, tmp_path: Path, started: list[Any]
) -> None:
    variants = [
        {"name": "fp32", "model": str(tiny_models["distilbert"])},
        {"name": "gone", "model": "./nowhere"},
        {"name": "hub", "model": "someone/something"},
        {"name": "pickled", "model": str(tiny_models["pickled"])},
        {"name": "empty", "model": str(tiny_models["empty"])},
    ]
    test = page(write_suite(tmp_path, variants))
    table = html(test)
    assert table.count("✗ not possible") == 4
    assert "the hub is not asked" in table and "pickled weights only" in table and "no readable config.json" in table
    assert test.button(key="start").disabled
    control(test, "button_group", "variants:").set_value([]).run()
    assert not test.button(key="start").disabled


def test_a_run_under_way(database: str) -> None:
    test = page(run=RUNNING)
    assert "measures" in test.header[0].value
    assert [b.key for b in test.button if b.key == "cancel"]
    assert 'aria-current="step"' in html(test)
    assert "Progress by variant" in html(test)
    assert test.toggle(key="another").value is False
    test.toggle(key="another").set_value(True).run()
    assert test.button(key="start")


@pytest.mark.parametrize(
    ("run", "sign"),
    [(FULL, "✓ finished"), (CANCELLED, "cancelled"), (FAILED, "✗ failed"), (INTERRUPTED, "interrupted")],
)
def test_a_run_that_has_ended(run: str, sign: str, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "current", list)
    test = page(run=run)
    assert sign in said(test)
    assert "Measure a suite" in said(test)
    assert test.get("page_link")


def test_a_run_that_is_not_there(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "current", list)
    test = page(run="01J0NOSUCH<b>x</b>")
    assert "there is no run" in test.warning[0].value and "\\<b\\>" in test.warning[0].value
    assert "Measure a suite" in said(test)


# Live states, from the store


@pytest.fixture
def own_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """own_run(status, progress, **columns): a run of this host in a database of its own."""
    monkeypatch.setenv("BENCH_DATABASE_URL", f"sqlite:///{tmp_path / 'bench.sqlite'}")

    def make(status: str, progress: dict[str, Any] | None = None, **columns: Any) -> str:
        run_id = "01K0000000000000000000LIVE"
        now = datetime.now(UTC)
        suite = load_suite("demo")
        given = {
            "suite_name": "demo",
            "suite": suite.model_dump(mode="json"),
            "device": "cpu",
            "device_name": cpu_device().name,
            "host": socket.gethostname(),
            "environment": {},
            "created_at": now,
            "heartbeat_at": now,
        }
        with open_store() as store, store.session() as session:
            session.add(models.Run(id=run_id, status=status, progress=progress, **given | columns))
            for position, variant in enumerate(suite.variant):
                row = models.Measurement(
                    run_id=run_id,
                    position=position,
                    variant=variant.name,
                    title=variant.shown,
                    model=variant.model,
                    backend=variant.backend,
                    precision=variant.precision,
                    options={},
                    device="cpu",
                    baseline=variant.name == "fp32",
                    batch_size=8,
                    padding="max_length",
                    order="given",
                    max_length=96,
                    status="pending",
                )
                if status == "running" and progress and progress["phase"] == "timing":
                    row.blocks = [
                        models.Block(
                            process=0,
                            round=index,
                            kind="timed",
                            started_s=float(index),
                            samples=16,
                            tokens=100,
                            padded_tokens=100,
                            latencies_s=np.array([0.1, 0.1]).astype("<f8").tobytes(),
                        )
                        for index in range(3)
                    ]
                session.add(row)
        return run_id

    return make


def test_a_queued_run_is_found_without_its_id(own_run: Callable[..., str]) -> None:
    waiting = {"phase": "queued", "text": "waiting: run X holds it", "done": None, "seconds_left": None}
    run_id = own_run("queued", waiting, pid=1)
    test = page()
    assert test.query_params["run"] == run_id
    assert "waits to measure 5 variants" in test.header[0].value
    assert "Queued: waiting" in test.get("progress")[0].proto.text.replace("\\", "")


def test_a_queued_run_whose_process_is_gone(own_run: Callable[..., str]) -> None:
    own_run("queued", None, pid=2**22 - 3, heartbeat_at=datetime.now(UTC) - timedelta(minutes=1))
    test = page()
    assert "Measure a suite" in test.header[0].value


def test_training_and_rounds_are_told(own_run: Callable[..., str]) -> None:
    progress = {"phase": "preparing", "text": "checkpoint 'teacher': training", "done": 0.4, "seconds_left": 12.2}
    own_run("preparing", progress, pid=1)
    test = page()
    shown = test.get("progress")[0].proto
    assert shown.value == 40 and "training, about 13 s left" in shown.text
    assert html(test).count("· waiting") == 5


def test_rounds_by_variant(own_run: Callable[..., str]) -> None:
    progress = {"phase": "timing", "text": "", "done": 0.05, "seconds_left": 30.0}
    progress["position"] = {"round": 4, "rounds": 60, "process": 1, "processes": 1}
    run_id = own_run("running", progress, pid=1)
    test = page()
    assert "Timing round 4 of at least 60, about 30 s left" in test.get("progress")[0].proto.text
    assert html(test).count("▶ timing") == 5 + 1
    assert html(test).count("3 of 60") == 5
    (lane, *_) = live.lanes(run_id)
    assert lane.rates.tolist() == [80.0] * 3 and len(lane.latencies_s) == 6


def test_who_is_under_load_is_told_where_the_suite_asks_for_it(own_run: Callable[..., str]) -> None:
    progress = {"phase": "serving", "text": "ONNX FP32: server, 40 texts/s", "done": 0.7, "variant": "onnx-fp32"}
    suite = load_suite("demo", ["load.p99_ms=50"]).model_dump(mode="json")
    run_id = own_run("running", progress, pid=1, suite=suite)
    with open_store() as store, store.session() as session:
        for row in session.get_one(models.Run, run_id).measurements:
            row.status = "measured"
    test = page()
    shown = html(test)
    assert shown.count("▶ under load") == 1 and shown.count("✓ measured") == 4 and "▶ serving" in shown
    assert "Serving: ONNX FP32: server, 40 texts/s" in test.get("progress")[0].proto.text.replace("\\", "")
    test.button(key="cancel").click().run()
    test.run()
    assert "Ends after this trial." in said(test)


def test_cancel_is_asked_once(own_run: Callable[..., str]) -> None:
    own_run("preparing", {"phase": "preparing", "text": "x"}, pid=1)
    test = page()
    test.button(key="cancel").click().run()
    with open_store() as store, store.session() as session:
        assert session.get(models.Run, "01K0000000000000000000LIVE").cancel_requested  # type: ignore[union-attr]
    test.run()
    assert not [b for b in test.button if b.key == "cancel"]
    test.button(key="cancel_now").click().run()
    assert "its process 1 is not there any more, or is another user's" in test.error[0].value.replace("\\", "")


# Plain functions


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (59, "59 s"), (61, "1 min 1 s"), (1800, "30 min"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("status", "progress", "text"),
    [
        ("queued", None, "queued"),
        ("finished", {"phase": "timing", "text": "round 3, process 1 of 1"}, "finished"),
        (
            "running",
            {"phase": "timing", "text": "", "position": {"round": 61, "rounds": 60, "process": 1, "processes": 1}},
            "timing round 61 of 61",
        ),
        (
            "running",
            {"phase": "timing", "text": "", "position": {"round": 2, "rounds": 20, "process": 2, "processes": 3}},
            "timing round 2 of at least 20, process 2 of 3",
        ),
        # As an older bench writes it.
        ("running", {"phase": "timing", "text": "round 2, process 2 of 3"}, "timing: round 2, process 2 of 3"),
        ("running", {"phase": "loading", "text": "starting 5 workers"}, "loading: starting 5 workers"),
    ],
)
def test_standing(status: str, progress: dict[str, Any] | None, text: str) -> None:
    assert queue.standing(status, progress) == text


def test_a_suites_choices_are_in_the_link_and_another_suite_begins_with_its_own(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "current", list)
    test = page()
    assert not {*choices.OF_SUITE} & {*test.query_params}
    control(test, "number_input", "rounds:").set_value(7).run()
    control(test, "text_input", "batch:").set_value("1, 8").run()
    assert test.query_params["rounds"] == "7" and test.query_params["batch_size"] == "1, 8"

    link = {name: test.query_params[name] for name in ("rounds", "batch_size")}
    other = AppTest.from_file(str(APP), default_timeout=60)
    for name, value in (link | {"variants": "onnx-int8,nothing", "examples": "-3", "max_seconds": "inf"}).items():
        other.query_params[name] = value
    other.switch_page("app_pages/run.py").run()
    assert not other.exception
    assert control(other, "number_input", "rounds:").value == 7
    assert control(other, "text_input", "batch:").value == "1, 8"
    demo = load_suite("demo")
    assert control(other, "number_input", "examples:").value == demo.workload.examples
    assert control(other, "number_input", "seconds:").value == demo.protocol.max_seconds
    assert other.query_params["variants"] == "onnx-int8" and "max_seconds" not in other.query_params

    other.selectbox(key="suite").set_value("shapes").run()
    assert not {*choices.OF_SUITE} & {*other.query_params}
    shapes = load_suite("shapes").protocol.rounds
    assert control(other, "number_input", "rounds:").value == shapes != 7
