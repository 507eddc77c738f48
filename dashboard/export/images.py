"""Charts as files: PDF, SVG and PNG through a Chrome on this machine, interactive HTML without one.

A Chrome is started for one request and ends with it. So no idle Chrome disturbs a measurement, and none is left over
when the server ends. Chrome reads local files only: all other requests go to a proxy that does not exist.
"""

from __future__ import annotations

import asyncio
import functools
import html as markup
import io
import json
import os
import re
import signal
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dashboard.style import IMAGE_HEIGHT, IMAGE_SCALE, IMAGE_WIDTH
from engine.errors import RequestError, one_line

IMAGES = {"pdf": "application/pdf", "svg": "image/svg+xml", "png": "image/png"}
"""Format -> MIME type, for the formats that need a Chrome."""
FORMS = IMAGES | {"html": "text/html"}
TIMEOUT_S = 90.0
"""The limit for all images of a request together."""
NOWHERE = "http://127.0.0.1:9"
"""A proxy that does not exist, because Chrome by itself sends requests to its vendor."""
OFFLINE = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; form-action 'none'; base-uri 'none'"
)
"""The content security policy of exported HTML: nothing is fetched, whatever a title contains."""

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Chrome:
    """The browser that draws images, or the reason why there is none."""

    path: str | None
    reason: str | None


@functools.cache
def chrome() -> Chrome:
    """Find a Chrome or Chromium as Kaleido does: `BROWSER_PATH`, Kaleido's own download, PATH, the usual places."""
    from choreographer.browsers.chromium import Chromium

    asked = os.environ.get("BROWSER_PATH")
    found = asked or Chromium.find_browser(skip_local=False)
    if not found:
        how = "install one, or point BROWSER_PATH at one, and start the dashboard again"
        return Chrome(None, f"this machine has no Chrome or Chromium; {how}")
    if not (Path(found).is_file() and os.access(found, os.X_OK)):
        where = "BROWSER_PATH names" if asked else "found"
        return Chrome(None, f"{where} {found}, which is no program that can be started")
    return Chrome(found, None)


def image(figure: go.Figure, form: str) -> bytes:
    """One figure as an image; see `images`."""
    return images([figure], form)[0]


def images(figures: Sequence[go.Figure], form: str) -> list[bytes]:
    """Figures at slide size as PDF, SVG or PNG, in the first font of `style.FONT` that this machine has.

    Raises RequestError for another format, if there is no Chrome, if Chrome fails, or if it takes longer than
    TIMEOUT_S.
    """
    if form not in IMAGES:
        raise RequestError(f"no image format {form!r}; allowed: {', '.join(IMAGES)}")
    browser = chrome()
    if browser.path is None:
        raise RequestError(f"a .{form} needs a Chrome: {browser.reason}")
    if not _one_at_a_time.acquire(timeout=TIMEOUT_S):
        raise RequestError("another request is still drawing; try again in a minute")
    try:
        return _within(TIMEOUT_S, [figure.to_plotly_json() for figure in figures], form, browser.path)
    finally:
        _one_at_a_time.release()


def files(charts: Sequence[tuple[str, go.Figure]], form: str) -> bytes:
    """Named charts in format `form`: the file of a single chart, or a zip of several."""
    if form == "html":
        made = [html(figure).encode() for _, figure in charts]
    else:
        made = images([figure for _, figure in charts], form)
    if len(made) == 1:
        return made[0]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for (name, _), content in zip(charts, made, strict=True):
            archive.writestr(f"{name}.{form}", content)
    return out.getvalue()


def _within(timeout_s: float, figures: list[dict[str, Any]], form: str, path: str) -> list[bytes]:
    """Draw on a thread with an event loop of its own. The caller abandons the thread when the time is over."""
    made: list[bytes] = []
    failed: list[BaseException] = []
    started: list[Any] = []

    def work() -> None:
        try:
            made.extend(asyncio.run(_draw(figures, form, path, started)))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="images", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        for browser in started:
            _end(browser)
        raise RequestError(f"{path} gave no image within {timeout_s:.0f} s")
    if failed:
        raise RequestError(f"{path} gave no image: {one_line(failed[0], 200)}")
    return made


async def _draw(figures: list[dict[str, Any]], form: str, path: str, started: list[Any]) -> list[bytes]:
    import kaleido

    options: Any = {"format": form, "width": IMAGE_WIDTH, "height": IMAGE_HEIGHT}
    options["scale"] = IMAGE_SCALE if form == "png" else 1
    # MathJax is off, as it would be fetched. Chrome runs without a sandbox, Kaleido's default: it reads only our files.
    browser = kaleido.Kaleido(mathjax=False, path=path, proxy_server=NOWHERE, timeout=TIMEOUT_S)
    started.append(browser)
    async with browser:
        return [await browser.calc_fig(figure, opts=options) for figure in figures]


def _end(browser: Any) -> None:
    """Kill a browser that does not answer, and the processes it started. Kaleido gives it a session of its own."""
    process = getattr(browser, "subprocess", None)
    if process is not None and process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except OSError:
            process.kill()


def words(figure: go.Figure) -> tuple[str, str]:
    """A figure's title, and its subtitle and notes, as plain text."""
    title = figure.layout.title
    return tuple(_plain(text) for text in (title.text, title.subtitle.text))  # type: ignore[return-value]


def _plain(text: str | None) -> str:
    return markup.unescape(re.sub(r"<[^>]+>", " ", text or ""))


def alternative(figure: go.Figure) -> str:
    """Alternative text of a chart for people who cannot see it: title, subtitle, and each mark's name and figures."""
    title, below = words(figure)
    marks = [
        re.sub(r"\s*\n\s*", ", ", _plain((trace.hovertemplate or "").replace("<br>", "\n").replace("<b>", "")).strip())
        for trace in figure.data
        if getattr(trace, "hovertemplate", None) and "%{" not in trace.hovertemplate
    ]
    return ". ".join(filter(None, [title, below.rstrip("."), "; ".join(marks)])) + "."


CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [["toImage"]],
    "doubleClick": False,
    "toImageButtonOptions": {"width": IMAGE_WIDTH, "height": IMAGE_HEIGHT, "scale": IMAGE_SCALE},
}
"""Plotly's configuration for standalone pages."""


def html(figure: go.Figure) -> str:
    """A figure as a standalone interactive page. It contains plotly.js and works without a network."""
    look = figure.layout.template.layout
    hidden = "h1{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}figure{margin:0}"
    colours = f"background:{look.paper_bgcolor};color:{look.font.color}"
    css = f"{hidden}body{{margin:0 auto;max-width:{IMAGE_WIDTH}px;{colours}}}"
    title, _ = words(figure)
    drawn = go.Figure(figure).update_layout(height=IMAGE_HEIGHT)
    return page(
        title,
        css,
        f"<main><h1>{markup.escape(title)}</h1>"
        f'<figure aria-label="{markup.escape(alternative(figure))}"><div id="chart"></div></figure></main>',
        f"const drawn={literal(drawn.to_json())};Plotly.newPlot('chart',drawn.data,drawn.layout,{json.dumps(CONFIG)})",
    )


def literal(text: str) -> str:
    """JSON escaped for a script element, so that nothing in it ends the script."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def page(title: str, css: str, body: str, script: str, plotly: bool = True) -> str:
    """A self-contained HTML page, with plotly.js if `plotly`. `title` is escaped; the other parts are not."""
    library = f"<script>{get_plotlyjs()}</script>" if plotly else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{OFFLINE}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{markup.escape(title)}</title><style>{css}</style></head>"
        f"<body>{body}{library}<script>{script}</script></body></html>"
    )
