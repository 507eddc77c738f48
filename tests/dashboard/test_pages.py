"""Pages by AppTest: every state shows what it should, and raises nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dashboard_fill import CANCELLED, FAILED, FULL, INTERRUPTED, RUNNING, SIZES, UNLABELLED, fill
from postgres_server import PASSWORD
from streamlit.testing.v1 import AppTest

from dashboard.data import reads
from engine import units
from engine.errors import RequestError
from engine.jobs import local
from engine.store import runs
from engine.store.models import Run

REPOSITORY = Path(__file__).resolve().parents[2]
APP = REPOSITORY / "dashboard" / "app.py"
ALL = [FULL, SIZES, UNLABELLED, RUNNING, CANCELLED, INTERRUPTED, FAILED]


def page(name: str = "overview", run: str | None = None, tab: str | None = None) -> AppTest:
    test = AppTest.from_file(str(APP), default_timeout=60)
    if run:
        test.query_params["run"] = run
    if tab:
        test.query_params["tab"] = tab
    if name != "overview":
        test.switch_page(f"app_pages/{name}.py")
    return test.run()


def text(test: AppTest) -> str:
    kinds = ("header", "subheader", "markdown", "caption", "html", "error", "warning", "info", "code")
    found = [str(element.value) for kind in kinds for element in test.get(kind) if hasattr(element, "value")]
    found += [str(getattr(element.proto, "body", "")) for element in test.get("html")]
    return "\n".join(found)


def test_no_runs_yet_says_the_command(empty: Path) -> None:
    test = page()
    assert not test.exception
    assert test.header[0].value == "No runs yet"
    assert test.code[0].value == "python -m engine run demo"
    assert [link.proto.page for link in test.get("page_link")] == ["run"]
    assert not list(empty.iterdir()), "looking must not make a database"


@pytest.mark.parametrize("run", ALL)
@pytest.mark.parametrize("name", ["overview", "compare", "examples", "decide", "roofline", "load", "ship", "runs"])
def test_every_run_on_every_page(name: str, run: str, database: str) -> None:
    test = page(name, run)
    assert not test.exception
    assert test.session_state["run_choice"] == run


@pytest.mark.second_tier
def test_every_page_reads_postgresql(migrated_postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    url = migrated_postgres()
    monkeypatch.setenv("BENCH_DATABASE_URL", url)
    fill(url)
    for name in ("overview", "compare", "examples", "decide", "load", "ship", "run", "runs"):
        test = page(name, FULL)
        assert not test.exception and not test.error, name
        assert PASSWORD not in text(test)
    # What the pages ask of the history, of the examples and of one run's file.
    assert list(reads.runs(runs.Search("FIXTURE", states=("finished",)))["id"]) == [SIZES, FULL, UNLABELLED]
    summary = reads.run(FULL)
    assert reads.positions_with(summary["example_set_id"], ("EXAMPLE", "19")).tolist() == [19, 119, *range(190, 200)]
    assert reads.run_file(FULL)


def test_the_newest_finished_run_is_the_default(database: str) -> None:
    assert page().session_state["run_choice"] == SIZES


def test_the_demo_says_that_its_models_are_small_and_leads_on(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "small" not in text(page(run=FULL)), "other suites' models are not the demo's"
    read = reads.run
    monkeypatch.setattr(reads, "run", lambda run_id: read(run_id) | {"suite": "demo"})
    test = page(run=FULL)
    said = text(test)
    assert "models are small and made here" in said and "MB of weights" in said
    links = [(link.proto.page, link.proto.query_string) for link in test.get("page_link")]
    assert [link for link in links if link[0] == "run"] == [("run", "suite=shapes"), ("run", "suite=agnews")]


def test_the_headline_and_the_notes(database: str) -> None:
    test = page(run=FULL)
    assert test.header[0].value.startswith("Student FP32 answers")
    said = text(test)
    assert "2 labels of the model" in said and "no such folder: /models/gone" in said
    assert "▲ faster" in said and "▼ less accurate" in said and "✗ invalid" in said


def test_a_batch_size_can_be_chosen(database: str) -> None:
    test = page(run=SIZES)
    assert test.get("segmented_control")
    assert "batch 32 padded" in text(test).replace("\\", "")


@pytest.mark.parametrize(
    ("run", "word"), [(CANCELLED, "was cancelled"), (INTERRUPTED, "was interrupted"), (FAILED, "failed")]
)
def test_states_are_said_with_their_reason(run: str, word: str, database: str) -> None:
    assert word in text(page(run=run))


def test_an_unknown_run_is_refused_with_a_way_out(database: str) -> None:
    test = page(run="01JZZZZZZZZZZZZZZZZZZZZZZZ")
    assert not test.exception
    assert "there is no run" in test.warning[0].value
    test.button[0].click().run()
    assert test.session_state["run_choice"] == SIZES


def test_runs_can_be_searched(database: str) -> None:
    test = page("runs")
    assert len(test.dataframe[0].value) == len(ALL)
    assert set(test.dataframe[0].value["Ends in"]) == {f"…{run[-6:]}" for run in ALL}
    test.text_input(key="search").set_value("interrupted test-host").run()
    assert list(test.dataframe[0].value["Run"]) == [INTERRUPTED]
    test.text_input(key="search").set_value("nothing like it").run()
    assert not test.exception and not test.dataframe


def test_details_of_a_run(database: str) -> None:
    assert "tf32: <b>no</b>" in text(page("runs", FULL))
    said = text(page("runs", FULL, "Suite"))
    assert '"baseline": "fp32"' in said
    assert "/suites/fixture.toml" in said and "tf32: <b>no</b>" not in said, "only the open tab is sent"


def test_the_method_is_written_down(database: str) -> None:
    test = page("method")
    assert not test.exception and "McNemar" in text(test)


def test_no_model_library_is_imported(filled: str) -> None:
    program = """
import json, sys
from streamlit.testing.v1 import AppTest
test = AppTest.from_file(sys.argv[1], default_timeout=60).run()
for name in ("runs", "method"):
    test.switch_page(f"app_pages/{name}.py").run()
assert not test.exception, test.exception
print(json.dumps([n for n in ("torch", "transformers", "onnxruntime", "onnx", "optimum") if n in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(APP)],
        env=os.environ | {"BENCH_DATABASE_URL": filled},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_overview_says_what_the_run_shows_and_what_it_does_not(database: str) -> None:
    said = text(page("overview", FULL))
    assert "What this run shows" in said and "It loses 16.0 points of accuracy against DistilBERT FP32" in said
    assert "Looked for, and not shown" in said and "ONNX FP32: no difference in accuracy to DistilBERT FP32 is" in said
    assert "ONNX INT8&#x27;s answers depend on the batch: 2 of 64 under batch 1" in said
    assert "Price" not in said.partition("What the figures carry")[2].partition("</thead>")[0]


def test_a_price_an_hour_becomes_one_of_a_million_texts(database: str) -> None:
    test = page("overview", FULL)
    test.number_input(key="hourly_price").set_value(3.6).run()
    rate = next(row for row in reads.measurements(reads.run(FULL)) if row.variant == "fp32")
    price = units.significant(3.6 / 3600 / rate.throughput_samples_per_s * 1e6)
    said = text(test)
    assert "a million texts" in said and f">{price}<" in said


def test_runs_says_what_the_device_was_measured_to_do(database: str) -> None:
    said = text(page("runs", FULL, "Environment"))
    assert "torch.matmul &lt;b&gt;" in said and ">400<" in said and ">42.0<" in said
    assert "the protocol says ceilings = false" in text(page("runs", UNLABELLED, "Environment"))


@pytest.mark.parametrize(("run", "offered"), [(CANCELLED, True), (FAILED, True), (INTERRUPTED, True), (FULL, False)])
def test_a_run_that_lacks_something_can_go_on_where_it_was_begun(
    run: str, offered: bool, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [button for button in page(run=run).button if button.key == "resume"], "another machine's"
    monkeypatch.setattr("socket.gethostname", lambda: "test-host")
    test = page(run=run)
    assert bool([button for button in test.button if button.key == "resume"]) == offered
    if not offered:
        return
    with monkeypatch.context() as patch:
        patch.setattr(Run, "foreign", True)
        assert not [button for button in page(run=run).button if button.key == "resume"], "its file names this host"
    resumed = []
    monkeypatch.setattr(local, "resume", resumed.append)
    test.button(key="resume").click().run()
    assert resumed == [run]

    def refuse(run_id: str) -> None:
        raise RequestError("run X was begun over other *examples*")

    monkeypatch.setattr(local, "resume", refuse)
    test = page(run=run)
    test.button(key="resume").click().run()
    assert r"over other \*examples\*" in test.error[-1].value
