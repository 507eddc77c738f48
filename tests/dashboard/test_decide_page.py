"""Decide and Ship it by AppTest: limits from the URL, links between the pages, every kind of run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from dashboard_fill import FAILED, FULL, RUNNING, SIZES
from streamlit.testing.v1 import AppTest
from test_pages import ALL, APP, text

from dashboard.data import reads
from engine.errors import RequestError
from engine.ship import folder, plan


def opened(name: str, run: str | None = None, **query: str) -> AppTest:
    test = AppTest.from_file(str(APP), default_timeout=60)
    test.query_params.update(query | ({"run": run} if run else {}))
    return test.switch_page(f"app_pages/{name}.py").run()


@pytest.mark.parametrize("run", ALL)
@pytest.mark.parametrize("name", ["decide", "ship"])
def test_every_run_on_both_pages(name: str, run: str, database: str) -> None:
    test = opened(name, run)
    assert not test.exception
    assert test.session_state["run_choice"] == run and test.header


@pytest.mark.parametrize("name", ["decide", "ship"])
def test_no_runs_yet(name: str, empty: Path) -> None:
    test = opened(name)
    assert not test.exception and test.header[0].value == "No runs yet"


def test_without_a_limit_the_fastest_is_named(database: str) -> None:
    test = opened("decide", FULL)
    assert test.header[0].value.startswith("Without a limit Student FP32 is the fastest of 6 variants")
    assert [box.value for box in test.number_input] == [None, None, None]
    assert "160 to 660" in test.number_input(key="max_memory_mb").placeholder


def test_limits_come_from_the_url(database: str) -> None:
    test = opened("decide", FULL, max_memory_mb="300", max_lost_points="5", shown="false")
    assert test.number_input(key="max_memory_mb").value == 300 and not test.toggle(key="shown").value
    assert (
        test.header[0].value.startswith("Ship ONNX INT8") and "of 2 variants within your limits" in test.header[0].value
    )
    said = text(test)
    assert "What each limit costs" in said and "Student FP32" in said
    links = {link.proto.page: link.proto.query_string for link in test.get("page_link")}
    assert links == {"ship": f"run={FULL}&variant=int8&batch=batch+8"}


def test_a_limit_on_what_was_not_measured_keeps_everything_out(database: str) -> None:
    assert len(opened("decide", FULL).number_input) == 3, "energy is not asked for where there is none"
    test = opened("decide", FULL, max_energy_j="5")
    assert test.header[0].value == "No variant is shown to keep your limits."
    assert "energy (not measured): DistilBERT FP32, " in text(test).replace("\\", "")


@pytest.mark.parametrize("value", ["abc", "-5", "nan", "inf", "", "1e999"])
def test_a_limit_that_is_no_number_is_no_limit(value: str, database: str) -> None:
    test = opened("decide", FULL, max_memory_mb=value, batch="x", shown="perhaps")
    assert not test.exception
    assert test.header[0].value.startswith("Without a limit")


def test_what_is_not_shown_is_out_until_its_estimate_is_asked_for(database: str) -> None:
    test = opened("decide", FULL, max_lost_points="2.5")
    assert "not shown to be within" in text(test) and "ONNX INT8" not in test.header[0].value
    test.toggle(key="shown").set_value(False).run()
    assert "ONNX INT8" in test.header[0].value and "Kept by its estimate" in text(test)


def test_where_nothing_remains_one_press_lets_the_first_back(database: str) -> None:
    test = opened("decide", FULL, max_memory_mb="100")
    assert test.header[0].value == "No variant is shown to keep your limits."
    (button,) = test.button
    assert button.label == "Peak RAM 160\u00a0MB: ONNX INT8 remains"
    button.click().run()
    assert test.number_input(key="max_memory_mb").value == 160
    assert test.header[0].value.startswith("Only ONNX INT8 keeps your limits")


def test_a_run_under_way_and_one_that_gave_nothing_say_so(database: str) -> None:
    assert opened("decide", RUNNING).header[0].value == "Nothing has been measured yet."
    assert opened("decide", FAILED).header[0].value == "Nothing was measured in this run."
    assert opened("ship", FAILED).header[0].value == "Nothing in this run can be shipped."


def test_one_batch_size_at_a_time(database: str) -> None:
    test = opened("decide", SIZES)
    test.session_state["batch"] = 8
    test.run()
    assert "of 3 variants" in test.header[0].value and "FP32 @" not in text(test)
    (link,) = test.get("page_link")[:1]
    assert "batch=batch+8" in link.proto.query_string


def test_what_cannot_be_shipped_says_why_and_no_traceback(database: str) -> None:
    test = opened("ship", FULL, variant="int8")
    assert not test.exception and test.selectbox(key="variant").value == "int8"
    assert "It cannot be shipped from here" in test.warning[0].value
    assert "bf16" not in test.selectbox(key="variant").options, "invalid rows are not offered"
    assert opened("ship", FULL, variant="<b>nobody").selectbox(key="variant").value == "student"


@pytest.fixture
def shipment(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> plan.Shipment:
    """A shipment of the fixture's INT8 row, whose files are made up."""
    model = tmp_path / "model.onnx"
    model.write_bytes(b"weights")
    row = next(r for r in reads.measurements(reads.run(FULL)) if r.variant == "int8")
    made = {
        "load.py": "print('hello')\n",
        "README.md": "# <b>\n",
        "requirements.txt": "numpy==2\n",
        "expected.json": "{}",
    }
    found = plan.Shipment(reads.run(FULL), row, "answer = 42", made, {"model/model.onnx": model})
    reads._shipment.clear()
    monkeypatch.setattr(plan, "plan", lambda *_: found)
    monkeypatch.setattr(folder, "check", lambda *_: "Checked.")
    return found


def test_what_can_be_shipped_shows_its_code_files_and_the_command(shipment: plan.Shipment) -> None:
    test = opened("ship", FULL, variant="int8")
    said = text(test)
    assert test.header[0].value.startswith("Ship ONNX INT8\\: ")
    assert "answer = 42" in said and shipment.checksums()["model/model.onnx"] in said
    assert f"python -m engine ship {FULL} int8 fixture-int8-00000a --batch-size 8" in said


def test_the_zip_holds_the_folder(shipment: plan.Shipment) -> None:
    packed = reads.shipped_zip(FULL, "int8", 8, "mine")
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = set(archive.namelist())
        assert {f"mine/{name}" for name in [*shipment.sizes, "checked.txt", "SHA256SUMS"]} <= names
        assert archive.read("mine/model/model.onnx") == b"weights" and archive.testzip() is None
        assert json.loads(archive.read("mine/expected.json")) == {}


def test_a_large_folder_is_not_offered_through_the_browser(
    shipment: plan.Shipment, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: dict[str, Any] = shipment.sizes | {"model/model.onnx": 2_000_000_000}
    monkeypatch.setattr(plan.Shipment, "sizes", property(lambda self: sizes))
    test = opened("ship", FULL, variant="int8")
    assert not test.get("download_button") and "too much for a download" in text(test)


def test_files_that_went_meanwhile_are_refused(shipment: plan.Shipment, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> plan.Shipment:
        raise RequestError("int8: what run X loaded is not here any more; `python -m engine fetch demo` makes it again")

    monkeypatch.setattr(plan, "plan", gone)
    assert "python -m engine fetch demo" in opened("ship", FULL, variant="int8").warning[0].value


def test_neither_page_imports_a_model_library(filled: str) -> None:
    program = """
import sys
from dashboard.server import door
from streamlit.testing.v1 import AppTest
door._standing = True
test = AppTest.from_file(sys.argv[1], default_timeout=60).run()
for name in ("decide", "ship"):
    test.switch_page(f"app_pages/{name}.py").run()
    assert not test.exception, test.exception
print([n for n in ("torch", "transformers", "onnxruntime", "onnx", "optimum", "bitsandbytes") if n in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(APP)],
        env=os.environ | {"BENCH_DATABASE_URL": filled},
        cwd=APP.parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "[]"
