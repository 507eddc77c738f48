"""`python -m dashboard export`."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dashboard_fill import FULL, RUNNING, SIZES
from pptx import Presentation

from dashboard import __main__ as command_line
from dashboard.export import images
from engine.report import exports

REPOSITORY = Path(__file__).resolve().parents[2]


def export(*arguments: object) -> int:
    return command_line.main(["export", *map(str, arguments)])


@pytest.mark.parametrize(("suffix", "form"), [("csv", "csv"), ("json", "json"), ("md", "markdown"), ("tex", "latex")])
def test_tables_are_those_of_the_engine(suffix: str, form: str, database: str, tmp_path: Path) -> None:
    file = tmp_path / f"run.{suffix}"
    assert export("00000A", file) == 0
    assert file.read_text(encoding="utf-8") == exports.measurements(FULL, form)


def test_slides_and_report(database: str, tmp_path: Path) -> None:
    assert export(SIZES, tmp_path / "deck.pptx", "--dark", "--batch-size", "8") == 0
    first = Presentation(io.BytesIO((tmp_path / "deck.pptx").read_bytes())).slides[0]
    assert str(first.background.fill.fore_color.rgb) == "12161B"
    assert "batch 8 ·" in " ".join(shape.text_frame.text for shape in first.shapes if shape.has_text_frame)
    assert export("latest", tmp_path / "report.HTML") == 0
    assert RUNNING[-6:] in (tmp_path / "report.HTML").read_text(), "RUNNING is the newest"


def test_one_chart(database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(FULL, tmp_path / "memory.html", "--chart", "memory") == 0
    assert "peaks lowest" in (tmp_path / "memory.html").read_text()
    code = export(FULL, tmp_path / "latency.svg", "--chart", "latency")
    said = capsys.readouterr().err
    if images.chrome().path is None:
        assert code == 2 and "needs a Chrome" in said
    else:
        assert code == 0 and "run 00000A" in (tmp_path / "latency.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope1", "x.pptx"], "there is no run 'nope1'; "),
        ([FULL, "x.doc"], "no file ends in '.doc' here; allowed: .pptx, .html, .csv"),
        ([FULL, "x"], "no file ends in '' here; allowed: .pptx"),
        ([FULL, "x.png"], "a .png holds one chart: --chart tradeoff, "),
        ([FULL, "x.html", "--chart", "latncy"], "no chart 'latncy' in this run; allowed: tradeoff, latency"),
        ([FULL, "x.pptx", "--chart", "latency"], "--chart gives .pdf, .svg, .png or .html"),
        ([FULL, "x.csv", "--dark"], "--dark means nothing to a .csv"),
        (
            [SIZES, "x.pptx", "--batch-size", "3"],
            "--batch-size 3: the baseline was not measured there; allowed: 1, 8, 32",
        ),
        ([RUNNING, "x.html", "--chart", "memory"], f"run {RUNNING} holds no chart: nothing was measured"),
        ([FULL, "none/x.csv"], "cannot write "),
        ([FULL, "folder.csv"], "cannot write "),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert export(arguments[0], tmp_path / arguments[1], *arguments[2:]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}") and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_a_file_is_replaced_whole_or_not_at_all(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.csv"
    file.write_text("old")
    file.chmod(0o640)
    link = tmp_path / "link.csv"
    link.symlink_to(file)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
        assert export(FULL, file) == 2
    assert file.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    assert export(FULL, link) == 0
    assert file.read_text().startswith("variant,") and link.is_symlink() and file.stat().st_mode & 0o777 == 0o640


def test_no_server_and_no_streamlit(filled: str, tmp_path: Path) -> None:
    program = (
        "import json, sys; from dashboard import __main__ as it; code = it.main(sys.argv[1:]); "
        "print(json.dumps([code, *(n for n in ('streamlit', 'uvicorn', 'torch', 'transformers') if n in sys.modules)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "export", "latest", str(tmp_path / "run.pptx")],
        env=os.environ | {"BENCH_DATABASE_URL": filled},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert json.loads(done.stdout) == [0], done.stderr[-1000:]
    assert done.stderr.count("\n") == 1, done.stderr


def test_without_a_database(empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export("latest", tmp_path / "x.pptx") == 2
    assert capsys.readouterr().err.startswith("error: no database at")
