"""`python -m dashboard export RUN FILE`: write a run, or one of its charts. The ending of FILE decides the format."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import files
from engine.errors import RequestError, did_you_mean, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashboard.run_rows import Row
    from engine.report.load import JoinedLoad
    from engine.store.rows import PublishedRow

TABLES = {".csv": "csv", ".json": "json", ".md": "markdown", ".tex": "latex"}
RUNS = (".pptx", ".html")
IMAGES = (".pdf", ".svg", ".png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help='an id, a part of one, or "latest"')
    parser.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        help=f"its ending decides the format: {', '.join([*RUNS, *TABLES])}; with --chart {', '.join(IMAGES)} or "
        ".html. An existing file is replaced",
    )
    parser.add_argument("--chart", metavar="NAME", help="one chart alone: tradeoff, latency, throughput, memory ...")
    parser.add_argument("--dark", action="store_true", help="dark colours")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="the batch size to show (default: the baseline's largest)"
    )


def run(given: argparse.Namespace) -> int:
    """Write the file. Returns the exit code: 0, or 2 after one line of error if the request cannot be met."""
    try:
        content = make(given.run, given.file.suffix.lower(), given.chart, given.dark, given.batch_size)
        files.write(given.file, content)
    except RequestError as error:
        print(f"error: {one_line(error, 2000)}", file=sys.stderr)
        return 2
    print(f"{given.file}: {len(content) / 1e3:,.0f} kB", file=sys.stderr)
    return 0


def make(reference: str, ending: str, chart: str | None, dark: bool, batch_size: int | None) -> bytes:
    """The content of the file. Raises RequestError if the request is wrong or cannot be met."""
    from dashboard import style

    known = [*RUNS, *TABLES, *IMAGES]
    if ending not in known:
        hint = did_you_mean(ending, known) if ending else ""
        raise RequestError(f"no file ends in {ending!r} here; allowed: {', '.join(known)}{hint}")
    if ending in TABLES:
        for name, value in (("--chart", chart), ("--dark", dark), ("--batch-size", batch_size)):
            if value:
                raise RequestError(f"{name} means nothing to a {ending}: it holds every figure of the run")
        from engine.report import exports

        return exports.measurements(reference, TABLES[ending]).encode()
    if ending == ".pptx" and chart:
        raise RequestError(f"--chart gives {', '.join(IMAGES)} or .html; a .pptx holds all charts")
    if ending in IMAGES and not chart:
        raise RequestError(f"a {ending} holds one chart: --chart tradeoff, latency, throughput, memory, accuracy ...")
    summary, measured, reported, loads = _read(reference)
    _check_batch_size(measured, batch_size)
    look = style.DARK if dark else style.LIGHT
    if chart:
        return _chart(summary, measured, reported, loads, look, batch_size, chart, ending.lstrip("."))
    if ending == ".html":
        from dashboard.export import report

        return report.build(summary, measured, reported, style.DARK if dark else None, batch_size, loads).encode()
    from dashboard.export import deck

    return deck.build(summary, measured, reported, look, batch_size, loads)


def _chart(
    summary: dict[str, Any],
    measured: Sequence[Row],
    reported: Sequence[PublishedRow],
    loads: list[JoinedLoad],
    look: Any,
    batch_size: int | None,
    name: str,
    form: str,
) -> bytes:
    from dashboard.export import content, images

    made = content.charts(summary, measured, reported, look, batch_size, loads)
    if not made:
        raise RequestError(f"run {summary['id']} holds no chart: nothing was measured")
    if name not in made:
        raise RequestError(f"no chart {name!r} in this run; allowed: {', '.join(made)}{did_you_mean(name, list(made))}")
    return images.files([(name, made[name])], form)


def _check_batch_size(measured: Sequence[Row], batch_size: int | None) -> None:
    from dashboard.export import content

    sizes = content.batch_sizes(measured)
    if batch_size is not None and batch_size not in sizes:
        allowed = ", ".join(map(str, sizes)) or "none was measured"
        raise RequestError(f"--batch-size {batch_size}: the baseline was not measured there; allowed: {allowed}")


def _read(reference: str) -> tuple[dict[str, Any], list[Row], list[PublishedRow], list[JoinedLoad]]:
    """Read a run, its measurements, the published results and the results under load.

    `dashboard.data` is not used here, as it caches with Streamlit.
    """
    from dashboard import run_rows
    from engine.report import load
    from engine.store import measurements, open_store, runs

    with open_store(create=False) as store, store.session() as session:
        found = runs.get_run(session, reference)
        rows = measurements.rows(session, found.id)
        loads = load.joined(measurements.loads(session, found.id), rows)
        return runs.run_summary(found), run_rows.build(rows), measurements.published(session), loads
