"""The page Compare by AppTest: its choices are in the URL, and it says what is and what is not compared."""

from __future__ import annotations

import pytest
from dashboard_fill import FAILED, FULL, RUNNING, SIZES, UNLABELLED
from streamlit.testing.v1 import AppTest
from test_pages import ALL, APP, text

from dashboard.data import reads


def compare(run: str, **choices: str | list[str]) -> AppTest:
    test = AppTest.from_file(str(APP), default_timeout=60)
    test.query_params["run"] = run
    for key, value in choices.items():
        test.query_params[key] = value
    return test.switch_page("app_pages/compare.py").run()


def label(run: str) -> str:
    """What a run is called among those that may stand beside another."""
    created = reads.run(run)["created_at"]
    return f"fixture · {created[:10]} {created[11:16]} UTC · {run[-6:]}"


@pytest.mark.parametrize("run", ALL)
def test_every_run(run: str, database: str) -> None:
    test = compare(run)
    assert not test.exception
    assert test.session_state["run_choice"] == run and test.header


def test_a_link_restores_every_choice(database: str) -> None:
    test = compare(FULL, against="ONNX INT8", beside=[label(SIZES)], shown=["ONNX FP32", "Student FP32 (B)"])
    assert not test.exception
    assert test.selectbox(key="against").value == "A/int8"
    assert test.multiselect(key="beside").value == [SIZES]
    assert test.multiselect(key="shown").value == ["A/onnx", "B/student"]
    said = text(test)
    assert "ONNX FP32 (A)" in said and "Student FP32 (B)" in said and "Student FP32 (A)" not in said
    assert "their rounds are not paired" in said and "▲ larger speed-up †" in said


def test_what_a_link_does_not_know_is_passed_over(database: str) -> None:
    test = compare(SIZES, against="<b>nothing", beside=["gone"], shown=["gone"], sizes=["7", "8"])
    assert not test.exception
    assert test.selectbox(key="against").value == "A/fp32" and test.multiselect(key="beside").value == []
    assert "answers 4.9" in test.header[0].value or "answers 5.0" in test.header[0].value


def test_another_baseline(database: str) -> None:
    test = compare(FULL)
    assert "as many samples/s as DistilBERT FP32" in test.header[0].value
    test.selectbox(key="against").select("A/int8").run()
    assert not test.exception
    assert "as many samples/s as ONNX INT8" in test.header[0].value
    assert 'aria-label="Each row against ONNX INT8"' in text(test) and "Holm over the 5 rows here" in text(test)


def test_batch_sizes_beside_each_other(database: str) -> None:
    test = compare(SIZES, sizes=["1", "32"])
    assert not test.exception
    said = text(test)
    assert "Student FP32 @ 1<" in said and "Student FP32 @ 32<" in said and "Student FP32 @ 8<" not in said
    assert "Over batch size" in said


def test_six_runs_of_every_kind(database: str) -> None:
    test = compare(FULL)
    test.multiselect(key="beside").set_value([run for run in ALL if run != FULL][:5]).run()
    assert not test.exception
    assert "6 runs side by side, against DistilBERT FP32 \\(A\\)." in test.header[0].value


def test_examples_that_differ_are_said(database: str) -> None:
    test = compare(FULL)
    test.multiselect(key="beside").set_value([UNLABELLED]).run()
    assert not test.exception
    assert "Different examples: accuracies are not comparable." in text(test)


def test_no_chart_has_nothing_to_say(database: str) -> None:
    def charts(test: AppTest) -> set[str]:
        keys = (component.proto.id.rpartition("chart_compare_") for component in test.get("bidi_component"))
        return {name for _, found, name in keys if found}

    assert charts(compare(FULL)) == {"ecdf", "speedup", "accuracy", "memory", "published"}
    assert charts(compare(UNLABELLED)) == {"ecdf", "speedup", "memory", "published"}
    assert {"batch-throughput", "batch-latency"} < charts(compare(SIZES))
    assert charts(compare(FAILED)) == charts(compare(RUNNING)) == set()
    one = compare(FULL, shown=["DistilBERT FP32"])
    assert charts(one) == {"ecdf", "memory", "published"} and "Nothing differs among these rows." in text(one)
