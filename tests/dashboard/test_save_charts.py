"""Charts of a page as files: what is offered, and that nothing is made before it is asked for."""

from __future__ import annotations

import pytest
from dashboard_fill import FAILED, FULL, SIZES
from streamlit.testing.v1 import AppTest
from test_pages import page, text

from dashboard import style
from dashboard.controls import charts as controls_charts
from dashboard.export import images

NO_CHROME = images.Chrome(None, "this machine has no Chrome")
ALL = ["tradeoff", "latency", "throughput", "memory", "accuracy"]


def offered(test: AppTest) -> list[str]:
    """The charts by key."""
    return list(test.session_state[controls_charts.DRAWN][1])


def button(test: AppTest):
    (found,) = [element for element in test.get("download_button") if element.proto.label.startswith("Save ")]
    return found.proto


def test_a_page_offers_its_own_charts(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("html", "images"):
        monkeypatch.setattr(images, name, lambda *_: pytest.fail("drawn before it was asked for"))
    test = page(run=FULL)
    assert not test.exception
    assert offered(test) == [*ALL, "published"]
    assert test.selectbox(key="save_chart").options[-1] == "all charts in one zip"
    assert test.selectbox(key="save_chart").options[1].startswith("Student FP32 answers a batch of 8 in ")
    assert button(test).label == "Save fixture-00000a-tradeoff.html" and not button(test).disabled


def test_every_chart_names_its_source(database: str) -> None:
    test = page(run=FULL)
    charts = list(test.session_state[controls_charts.DRAWN][1].values())
    assert charts and all("run 00000A" in source for _, _, source in charts)
    assert controls_charts.saved(charts[:1], "html", style.LIGHT).decode().count("run 00000A") == 1


def test_charts_of_another_run_are_forgotten(database: str) -> None:
    test = page(run=SIZES)
    assert offered(test) == [*ALL, "batches", "published"]
    test.selectbox(key="run_choice").set_value(FULL).run()
    assert offered(test) == [*ALL, "published"]
    test.switch_page("app_pages/method.py").run()
    test.query_params["run"] = FAILED
    test.switch_page("app_pages/overview.py").run()
    assert not [element for element in test.get("download_button") if element.proto.label.startswith("Save ")]


def test_without_a_chrome_images_are_off_with_the_reason(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "chrome", lambda: NO_CHROME)
    test = page(run=FULL)
    assert not button(test).disabled, "HTML needs none"
    test.segmented_control(key="save_form").set_value("PDF").run()
    assert button(test).disabled
    assert "Not here: this machine has no Chrome" in text(test)


def test_all_charts_are_one_file(database: str) -> None:
    test = page(run=FULL)
    test.selectbox(key="save_chart").set_value(controls_charts.EVERY).run()
    assert button(test).label == "Save fixture-00000a-charts-html.zip"
    assert test.query_params["save_chart"] == controls_charts.EVERY
    test.selectbox(key="save_chart").set_value("tradeoff").run()
    assert "save_chart" not in test.query_params, "the usual one"


def test_the_chart_to_save_is_the_links(database: str) -> None:
    test = page(run=FULL)
    for said, name in (("memory", "memory"), ("<b>none</b>", "tradeoff")):
        test.query_params["save_chart"] = said
        test.run()
        assert button(test).label == f"Save fixture-00000a-{name}.html"
