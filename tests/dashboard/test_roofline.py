"""The roofline, the operators and their page: every mark where its row's figures put it, and what is said of it."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
from dashboard_fill import CEILINGS, FULL, RUNNING, SIZES, UNLABELLED
from test_pages import page, text

from dashboard import figures, run_rows, style
from dashboard.data import reads
from dashboard.figures.roofline import points, roofs
from dashboard.findings import headlines
from dashboard.tables import roofline
from engine.run import profiling

COPY = CEILINGS["copy"]["bytes_per_s"]


@pytest.mark.parametrize("look", [style.LIGHT, style.DARK], ids=lambda look: look.name)
def test_marks_stand_at_operations_a_second_over_operations_a_byte(look: style.Theme, full: list[run_rows.Row]) -> None:
    figure = figures.roofline(full, CEILINGS, look)
    traces = {trace.name: trace for trace in figure.data}
    rows = [row for row in full if row.status == "measured"]
    for row in rows:
        trace, found = traces[row.name], row.limits
        assert trace.y[0] == found["operations_per_s"]
        # Operations a call over bytes a call, worked out without the shares.
        assert trace.x[0] == pytest.approx(3e8 * 8 / 4e7)
        assert trace.x[0] - trace.error_x.arrayminus[0] == pytest.approx(3e8 * 8 / 2e8)
        assert trace.marker.line.color == style.marks(full, look)[row.variant].color
    assert figure.layout.template.layout.paper_bgcolor == look.background
    said = " ".join(note.text for note in figure.layout.annotations)
    share = round(100 * rows[0].limit_share)
    assert f"{rows[0].name} <b>{share}%</b>" in said
    assert "FP32 400 GFLOP/s" in said and "median 390 GFLOP/s, n = 12" in said and "Copy 42.0 GB/s" in said
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert "FLOP/s" in figure.layout.yaxis.title.text and "FLOP/B" in figure.layout.xaxis.title.text


def test_the_slope_and_the_roof_meet_where_both_allow_the_same(full: list[run_rows.Row]) -> None:
    traces = {trace.name: trace for trace in figures.roofline(full, CEILINGS, style.LIGHT).data}
    slope, roof = traces["copy bandwidth"], traces["FP32 400 GFLOP/s"]
    assert slope.x[1] == pytest.approx(4e11 / COPY) == pytest.approx(roof.x[0])
    assert [y / x for x, y in zip(slope.x, slope.y, strict=True)] == pytest.approx([COPY, COPY])
    assert set(roof.y) == {4e11}


def test_a_library_that_reaches_less_has_a_roof_of_its_own(full: list[run_rows.Row]) -> None:
    ceilings = copy.deepcopy(CEILINGS)
    (way,) = ceilings["products"]["fp32"]["ways"]
    drawn = points(full, COPY)
    # A library of no row, one that is nearly as fast, one that gave nothing.
    further = [{"library": "none", "operations_per_s": 2e11}, {"library": "bitsandbytes", "operations_per_s": 3.9e11}]
    further += [{"library": "openvino", "operations_per_s": None}, {"library": "onnxruntime", "operations_per_s": 2e11}]
    ceilings["products"]["fp32"]["ways"] += [way | other for other in further]
    names = [roof.name for roof in roofs(ceilings, drawn)]
    assert names == ["FP32 by onnxruntime alone 200 GFLOP/s", "FP32 400 GFLOP/s"]
    ceilings["products"]["fp32"]["ways"][-1]["operations_per_s"] = 1e9
    assert [roof.library for roof in roofs(ceilings, drawn)] == [None], "a row is far above it: it was measured wrongly"
    assert roofs({"products": {"tf32": {"operations_per_s": None}}}, drawn) == []


def test_what_has_no_ceiling_is_left_out_and_said(full: list[run_rows.Row]) -> None:
    # INT8 of ONNX Runtime on a GPU, whose products run on the CPU.
    rows = [replace(row, limit_share=None) if row.variant == "int8" else row for row in full]
    figure = figures.roofline(rows, CEILINGS, style.LIGHT)
    assert "ONNX INT8" not in [trace.name for trace in figure.data]
    assert "1 without a ceiling left out." in figure.layout.title.subtitle.text.replace("<br>", " ")


@pytest.mark.parametrize(("cache", "said"), [(10**9, "All weights fit the 1,000 MB cache"), (10**6, "slope")])
def test_weights_that_stay_in_the_cache_are_said(cache: int, said: str, full: list[run_rows.Row]) -> None:
    figure = figures.roofline(full, CEILINGS | {"cache_bytes": cache}, style.LIGHT)
    assert (said in figure.layout.title.subtitle.text.replace("<br>", " ")) == (cache == 10**9)


@pytest.mark.parametrize("ceilings", [None, {}, {"reason": "the protocol says so"}, {"products": {}, "copy": {}}])
def test_without_ceilings_there_is_a_figure_that_says_nothing(ceilings: dict | None, full: list[run_rows.Row]) -> None:
    figure = figures.roofline(full, ceilings, style.LIGHT)
    assert not figure.data and figure.layout.xaxis.visible is False


def test_the_slopes_label_stands_where_nothing_can(full: list[run_rows.Row]) -> None:
    rows = [row for row in full if row.limits]
    figure = figures.roofline(rows, CEILINGS, style.LIGHT)
    (label,) = [note for note in figure.layout.annotations if note.text.startswith("Copy")]
    # Its lower right corner is on the slope, and no operation a byte is above that.
    assert 10 ** (label.y - label.x) == pytest.approx(COPY)
    assert (label.xanchor, label.yanchor) == ("right", "bottom")
    (left, right), (low, high) = figure.layout.xaxis.range, figure.layout.yaxis.range
    assert 820 * (label.x - left) / (right - left) > 125 and 400 * (high - label.y) / (high - low) > 32


def test_every_batch_size_has_a_mark_and_one_its_label(database: str) -> None:
    measured = reads.measurements(reads.run(SIZES))
    figure = figures.roofline(measured, CEILINGS, style.LIGHT, 8)
    sizes = {trace.name: trace.marker.size for trace in figure.data if trace.mode == "markers"}
    assert len(sizes) == 9 and sizes["DistilBERT FP32 @ 8"] > sizes["DistilBERT FP32 @ 1"]
    said = " ".join(note.text for note in figure.layout.annotations)
    assert "DistilBERT FP32 @ 8" in said and "DistilBERT FP32 @ 1 " not in said
    row = next(row for row in measured if row.name == "DistilBERT FP32 @ 32")
    (point,) = points([row], COPY)
    assert math.isclose(point.intensity, 3e8 * 32 / 4e7)


def test_bars_add_up_to_the_profiled_call(full: list[run_rows.Row]) -> None:
    rows = full
    figure = figures.by_kind(rows, style.DARK)
    assert sum(trace.x[0] for trace in figure.data) == pytest.approx(41.0)
    assert "Student FP32" not in figure.layout.yaxis.ticktext, "it has no profile"
    one = figures.by_operator(rows[0], style.LIGHT)
    assert sum(one.data[0].x) == pytest.approx(41.0) and one.layout.yaxis.ticktext[-1] == "between operators"
    assert (
        "aten::&lt;b&gt;copy_" in one.layout.yaxis.ticktext and "49% of a call is aten::addmm" in one.layout.title.text
    )
    assert "aten::&lt;b&gt;copy_" in roofline.profile(rows[0].audit["operators"])
    assert figures.by_kind([], style.LIGHT).to_json()
    # Launches tell nothing of the work.
    launches = rows[0].audit["operators"] | {"by": "launches"}
    nothing = figures.by_kind([replace(rows[0], audit={"operators": launches})], style.LIGHT)
    assert not nothing.data and nothing.layout.title.text == "No variant's work was timed by kind"


def test_a_kernels_signature_leaves_the_figures_beside_it_in_sight(full: list[run_rows.Row]) -> None:
    row = copy.deepcopy(full[0])
    signature = "void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<c10::Half>, std::array<c"
    row.audit["operators"]["top"][0]["name"] = signature
    figure = figures.by_operator(row, style.LIGHT)
    assert "CUDAFunctor_add&lt;Half&gt;" in figure.layout.yaxis.ticktext[0]
    assert "% of a call is CUDAFunctor_add&lt;Half&gt;" in figure.layout.title.text
    table = roofline.profile(row.audit["operators"])
    assert ">CUDAFunctor_add&lt;Half&gt;</th>" in table and "vectorized_elementwise_kernel&lt;8" in table


def test_a_small_share_of_the_limit_is_not_none(full: list[run_rows.Row]) -> None:
    row = replace(full[0], limit_share=0.0039)
    assert "<td class=ib-open>0.4</td>" in roofline.shares([row], style.LIGHT)


def test_the_page_says_what_binds_and_where_time_goes(database: str) -> None:
    test = page("roofline", FULL)
    assert not test.exception
    finding = "The fastest as measured, Student FP32, reaches 75% of its ceiling and waits most for its products."
    assert test.header[0].value.replace("\\", "") == finding
    said = text(test)
    assert "It reaches 40% of &lt;b&gt;FP32&lt;/b&gt;. Compute binds." in said
    assert "together 32.8 of the 41.0 ms" in said and "torch.matmul &lt;b&gt;" in said
    assert "make_trace" not in [button.key for button in test.button], "it was measured on another machine"
    test.session_state["terminal"] = True
    assert f"python -m engine profile {FULL} fp32 --batch-size 8" in text(test.run())


def test_a_variant_without_a_profile_says_why(database: str) -> None:
    test = page("roofline", FULL)
    test.selectbox(key="variant").set_value("student").run()
    assert "This run holds no operators of Student FP32: backend <b> has no profiler here" in text(test).replace(
        "\\", ""
    )
    assert "No ceilings were measured: the protocol says ceilings" in "".join(
        str(info.value) for info in page("roofline", UNLABELLED).info
    ).replace("\\", "")
    assert page("roofline", RUNNING).header[0].value == "This run holds no measurements."


def test_a_trace_that_is_there_can_be_taken(database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))

    def offered() -> list[str]:
        labels = [button.proto.label for button in page("roofline", FULL).get("download_button")]
        return [label for label in labels if label.startswith("Download the trace")]

    assert not offered()
    file = profiling.trace_file(FULL, "fp32", 8)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"packed")
    assert len(offered()) == 1
    assert reads.trace(FULL, "fp32", 8) == b"packed" and reads.trace(FULL, "onnx", 8) is None


def test_a_trace_that_cannot_be_made_is_one_line(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "test-host")
    test = page("roofline", FULL)
    test.button(key="make_trace").click().run()
    assert not test.exception and "No trace was made" in test.warning[0].value


def test_the_fastest_is_the_fastest_also_where_what_binds_it_is_not_known(full: list[run_rows.Row]) -> None:
    """As of ONNX Runtime on a GPU, whose kernels are not timed."""
    timed = [row for row in full if run_rows.usable(row) and row.throughput_samples_per_s]
    fastest = max(timed, key=lambda row: row.throughput_samples_per_s)
    assert fastest.binds and any(row.binds for row in timed if row is not fastest)
    rows = [replace(row, binds=None, limit_share=0.22) if row is fastest else row for row in timed]
    said = f"The fastest as measured, {fastest.name}, reaches 22% of its ceiling. What binds it is not known."
    assert headlines.limit_detail(rows) == said
    unmeasured = [replace(row, limit_share=None) for row in rows]
    assert headlines.limit_detail(unmeasured) == f"What binds {fastest.name}, the fastest as measured, is not known."
    assert headlines.limit_detail([replace(row, binds=None) for row in timed]) == ""
