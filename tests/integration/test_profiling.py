"""What a run keeps of its operators, and `profile`: real workers under real profilers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from engine import paths
from engine.errors import RequestError
from engine.measurement import operators
from engine.run import profiling
from engine.store import history

# In the first tier test_run.py looks at the operators of each technique.
pytestmark = pytest.mark.second_tier


@pytest.fixture(scope="module")
def measured(shaped_models, write_suite, measure, tmp_path_factory):
    model = {"model": shaped_models["wide"]}
    suite = write_suite(
        tmp_path_factory.mktemp("suite"),
        [
            {"name": "fp32", **model},
            {"name": "int8", **model, "backend": "onnxruntime", "precision": "int8"},
            {"name": "nf4", **model, "backend": "bitsandbytes", "precision": "nf4"},
        ],
        name="profiled",
    )
    done = measure(suite, predictions=False)
    assert done.exit_code == 0, done.stderr
    return done


def kinds(row: dict) -> dict[str, float]:
    return row["audit"]["operators"]["kinds"]


def test_every_row_says_where_its_calls_spend_their_time(measured):
    shares: list[float] = []
    for row in measured.measurements:
        if row["status"] != "measured":
            continue
        found = row["audit"]["operators"]
        assert found["reason"] is None and found["by"] == "operators", row["variant"]
        assert 1 <= found["calls"] <= 20 and found["shape"][0] == 4
        assert 0 < found["seconds"] <= 1.05 * found["wall_s"], "own times add up to no more than the clock's"
        shares.append(found["seconds"] / found["wall_s"])
        assert sum(found["kinds"].values()) == pytest.approx(found["seconds"])
        assert "Of a profiled call" in row["limits"]["sentence"]
    # One may be interrupted for longer than its few calls take.
    assert sorted(shares)[len(shares) // 2] >= 0.3, "and to most of it"
    fp32, int8 = measured.row("fp32"), measured.row("int8")
    assert kinds(fp32)["products"] > 0 and kinds(fp32)["attention"] > 0
    # Two layers of DistilBERT: a product for each of 6 matrices, and two of the head.
    calls = {o["name"]: o["calls"] for o in fp32["audit"]["operators"]["top"]}
    assert calls["aten::addmm"] == 14
    assert any("Integer" in o["name"] or "Quantize" in o["name"] for o in int8["audit"]["operators"]["top"])


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_profile_prints_operators_and_keeps_a_trace_that_a_viewer_reads(measured, variant, bench, tmp_path):
    run = measured.run["id"]
    done = bench("profile", run, variant, "--output", tmp_path / "mine.json.gz")
    assert done.returncode == 0, done.stderr
    assert ("aten::addmm" if variant == "fp32" else "Quantize") in done.stdout
    assert "of the" in done.stdout and "ms that a call takes under the profiler" in " ".join(done.stdout.split())
    file = profiling.trace_file(run, variant, 4)
    assert file.read_bytes() == (tmp_path / "mine.json.gz").read_bytes() and not list(file.parent.glob("*.part"))
    text = gzip.decompress(file.read_bytes()).decode()
    trace = json.loads(text)
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(events) > 50 and all(event["dur"] >= 0 and event["ts"] > 0 for event in events)
    assert trace["otherData"] == {"run": run, "variant": variant, "batch_size": "4", "calls": "5"}
    assert measured.run["host"] not in text and str(Path.home()) not in text and str(paths.local_data()) not in text


def test_what_cannot_be_profiled_is_one_line(measured, bench, monkeypatch):
    run = measured.run["id"]
    for arguments, said in (
        ((run, "nobody"), "has no variant 'nobody'; allowed: fp32, int8, nf4"),
        ((run, "fp32", "--batch-size", "3"), "was not measured in batches of 3; allowed: 4"),
        (("nope", "fp32"), "there is no run 'nope'"),
    ):
        done = bench("profile", *arguments)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    with pytest.raises(RequestError, match=r"was measured on .*; profile it there"):
        profiling.profile(run, "fp32")


@pytest.mark.parametrize(("run", "variant"), [("../../etc", "fp32"), ("01J0000000000000000000000A", "../fp32")])
def test_a_trace_lies_nowhere_else(run, variant):
    with pytest.raises(RequestError, match="no trace can have the name"):
        profiling.trace_file(run, variant, 4)


def test_a_profiler_that_fails_costs_nothing_else(measured, shaped_models, tmp_path):
    """In a worker's own process: the reason is kept, and the worker goes on."""
    import numpy as np

    from engine.machine import devices
    from engine.suite.spec import Variant
    from engine.worker import handle
    from engine.worker.messages import Profile, Start

    variant = Variant(name="fp32", model=str(shaped_models["wide"]), backend="pytorch", precision="fp32")
    with handle.Worker(variant, devices.cpu_device(), 1, tmp_path / "log") as worker:
        worker.start()
        worker.finish()
        # Nothing is loaded, so there is no batch to make and nothing to call.
        with pytest.raises(handle.WorkerError):
            worker.ask(Profile(np.array([0]), "longest", 1))
        assert worker.ask(Start("pytorch", None)).import_s >= 0


def test_traces_go_with_their_run(measured):
    """Last of all: the run goes."""
    run = measured.run["id"]
    file = profiling.trace_file(run, "fp32", 4)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    history.delete(run)
    assert not file.parent.exists()


def test_operators_of_a_run_file_are_checked():
    """Whoever sends a run sends names and figures, which pages draw."""
    from pydantic import ValidationError

    from engine.store.runfile.schema import _Audit

    good = operators.facts(operators.Profile("operators", [operators.Operator("mm", 1, 1.0)], 2.0), 1, (1, 8))
    assert _Audit.model_validate({"operators": good}).operators
    assert _Audit.model_validate({"operators": {"reason": "no profiler"}}).operators
    for wrong in (good | {"seconds": -1.0}, good | {"kinds": {"<b>": 1.0}}, good | {"top": [{"name": 1}]}, {"x": 1}):
        with pytest.raises(ValidationError):
            _Audit.model_validate({"operators": wrong})
