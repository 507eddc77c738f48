"""Charts as files."""

from __future__ import annotations

import html
import io
import json
import re
import struct
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import psutil
import pytest
from dashboard_fill import FULL
from reading import Reader

from dashboard import figures, style
from dashboard.data import reads
from dashboard.export import content, images
from dashboard.figures import base
from engine.errors import RequestError

HOSTILE = "</script><script>alert(1)</script><img src=//example.com>"
needs_chrome = pytest.mark.skipif(images.chrome().path is None, reason="no Chrome or Chromium on this machine")


@pytest.fixture
def charts(database: str) -> dict[str, go.Figure]:
    summary = reads.run(FULL)
    measured = reads.measurements(summary)
    loads = reads.loads(summary, measured)
    return content.charts(summary, measured, reads.published(), style.LIGHT, loads=loads)


@pytest.fixture
def fresh_chrome() -> Iterator[None]:
    """Looks for a Chrome anew, before and after the test."""
    images.chrome.cache_clear()
    yield
    images.chrome.cache_clear()


def stand_in(folder: Path, script: str) -> str:
    """A program that is taken for a Chrome."""
    program = folder / "chrome"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_a_run_has_its_charts_by_name(charts: dict[str, go.Figure]) -> None:
    single = ["tradeoff", "latency", "throughput", "memory", "accuracy"]
    assert list(charts) == [*single, "roofline", "operators", "load", "load-p99", "published"]


def test_every_saved_chart_names_device_n_and_run(charts: dict[str, go.Figure]) -> None:
    for figure in charts.values():
        said = html.unescape(figure.layout.annotations[-1].text)
        assert said == "Test CPU <4> & co (cpu) · n = 200 examples · suite fixture · run 00000A, 2026-03-01"


def test_the_source_has_room_of_its_own(database: str) -> None:
    measured = reads.measurements(reads.run(FULL))
    plain = figures.latency(measured, style.LIGHT)
    signed = base.sign(base.sign(plain, style.LIGHT, "x"), style.LIGHT, "x")
    assert signed.layout.height - plain.layout.height == signed.layout.margin.b - plain.layout.margin.b > 10


@needs_chrome
def test_images_are_of_slide_size(charts: dict[str, go.Figure]) -> None:
    png = images.image(charts["latency"], "png")
    assert struct.unpack(">II", png[16:24]) == (2240, 1260)
    svg = images.image(charts["latency"], "svg").decode()
    assert 'width="1120" height="630"' in svg and "run 00000A" in svg
    pdf = images.image(charts["latency"], "pdf")
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type /Page\b", pdf)) == 1


@needs_chrome
def test_no_chrome_is_left_over(charts: dict[str, go.Figure]) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    assert len(images.images([charts["latency"], charts["memory"]], "svg")) == 2
    assert not [c for c in psutil.Process().children(recursive=True) if c.pid not in before]


@pytest.mark.usefixtures("fresh_chrome")
def test_without_a_chrome_the_reason_says_what_to_do(
    charts: dict[str, go.Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    from choreographer.browsers.chromium import Chromium

    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setattr(Chromium, "find_browser", classmethod(lambda cls, **_: None))
    assert "no Chrome" in (images.chrome().reason or "") and images.chrome().path is None
    with pytest.raises(RequestError, match=r"a \.png needs a Chrome: .*BROWSER_PATH"):
        images.image(charts["latency"], "png")
    assert images.html(charts["latency"])


@pytest.mark.usefixtures("fresh_chrome")
def test_a_browser_path_that_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chrome")
    assert images.chrome().reason == "BROWSER_PATH names /nowhere/chrome, which is no program that can be started"


@pytest.mark.usefixtures("fresh_chrome")
@pytest.mark.parametrize("script", ["exit 1", "exec sleep 600"], ids=["ends", "hangs"])
def test_a_chrome_that_does_not_draw_is_given_up(
    script: str, charts: dict[str, go.Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", stand_in(tmp_path, script))
    monkeypatch.setattr(images, "TIMEOUT_S", 3.0)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    began = time.monotonic()
    with pytest.raises(RequestError, match="gave no image"):
        images.image(charts["latency"], "png")
    assert time.monotonic() - began < 10
    deadline = time.monotonic() + 5
    while left := [c for c in psutil.Process().children(recursive=True) if c.pid not in before]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_html_holds_all_it_needs_and_reads_no_title_as_markup(database: str) -> None:
    measured = reads.measurements(reads.run(FULL))
    measured[0] = replace(measured[0], title=HOSTILE, name=HOSTILE)
    figure = base.sign(figures.latency(measured, style.DARK), style.DARK, HOSTILE)
    page = images.html(figure)
    assert "default-src 'none'" in page and "#12161b" in page
    own = page.replace(images.get_plotlyjs(), "")
    assert len(own) < 60_000
    read = Reader(page)
    assert read.fetched() == [] and len(read.all("script")) == 2 and "@import" not in own and "url(" not in own
    assert HOSTILE in (read.all("figure")[0]["aria-label"] or "")
    drawn = json.loads(re.search(r"const drawn=(.*);Plotly\.newPlot", own)[1])
    assert len(drawn["data"]) == len(figure.data)


def test_several_charts_make_a_zip(charts: dict[str, go.Figure]) -> None:
    made = images.files([("a", charts["latency"]), ("b", charts["memory"])], "html")
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        assert archive.namelist() == ["a.html", "b.html"]
        assert archive.read("b.html").decode() == images.html(charts["memory"])


def test_the_alternative_says_the_figures(charts: dict[str, go.Figure]) -> None:
    said = images.alternative(charts["accuracy"])
    assert said.startswith("Student FP32 loses accuracy (n = 200). ")
    assert "Student FP32, 74.0 %, 95%: 67.5 to 79.6" in said and "<" not in said
