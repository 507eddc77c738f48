"""Old rows keep their meaning: databases of every past schema and run files of every past version show as they did.

`past/NAME.txt` holds what the version that wrote them showed. A deliberate change of words changes these files, and is
seen in the difference.
"""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SOURCES = sorted([*(HERE / "schemas").glob("*.sql"), *(HERE / "past").glob("*.run.zip")])
COMMANDS = {
    "show": ["show", "latest"],
    "compare": ["compare", "latest"],
    "markdown": ["export", "latest", "--format", "markdown"],
    "latex": ["export", "latest", "--format", "latex"],
    "csv": ["export", "latest", "--format", "csv"],
}


def recorded(source: Path) -> dict[str, str]:
    """What was shown of `source`, by command."""
    name = f"schema-{source.stem}" if source.suffix == ".sql" else source.name.removesuffix(".run.zip")
    parts = re.split(r"(?m)^== (\w+)\n", (HERE / "past" / f"{name}.txt").read_text(encoding="utf-8"))[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def without_ends(text: str) -> str:
    """`text` without the spaces at the ends of lines, and without empty lines at its own end."""
    return "\n".join(line.rstrip() for line in text.split("\n")).rstrip() + "\n"


@pytest.fixture(params=SOURCES, ids=lambda path: path.name)
def past(request: pytest.FixtureRequest, bench_here: Callable[..., Any], tmp_path: Path) -> Callable[[list[str]], str]:
    """past(words): what a command shows in a data folder that holds the database or the run file alone."""
    source: Path = request.param
    around = {"BENCH_DATA_DIR": str(tmp_path), "COLUMNS": "200"}

    def ask(words: list[str]) -> str:
        done = bench_here(*words, env=around)
        assert done.returncode == 0, done.stderr
        return without_ends(done.stdout)

    if source.suffix == ".sql":
        with closing(sqlite3.connect(tmp_path / "bench.sqlite")) as connection:
            connection.executescript(source.read_text(encoding="utf-8"))
    else:
        ask(["import", str(source)])
    ask.recorded = recorded(source)  # type: ignore[attr-defined]
    return ask


def test_what_is_shown_is_what_was_shown(past: Any) -> None:
    for name, before in past.recorded.items():
        if name != "csv":
            assert past(COMMANDS[name]) == before, name


def test_every_figure_is_what_it_was(past: Any) -> None:
    before = list(csv.DictReader(io.StringIO(past.recorded["csv"])))
    now = list(csv.DictReader(io.StringIO(past(COMMANDS["csv"]))))
    assert before and len(now) == len(before)
    for old, new in zip(before, now, strict=True):
        assert {name: new.get(name) for name in old} == old
