"""Charts as files: PDF, SVG and PNG through a Chrome on this machine, interactive HTML without one. Pure.

A Chrome is started for one request and ends with it: none stands idle beside what is being measured, and none is left
over when the server ends. It reads local files only: all else goes to a proxy that does not exist.
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
"""Format -> MIME type of what needs a Chrome."""
FORMS = IMAGES | {"html": "text/html"}
TIMEOUT_S = 90.0
"""For all the images of a request."""
NOWHERE = "http://127.0.0.1:9"
"""A proxy that does not exist: Chrome itself would ask its maker for this and that."""
OFFLINE = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; form-action 'none'; base-uri 'none'"
)
"""The content security policy of the HTML that we write: nothing is fetched, whatever a title says."""

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Chrome:
    """The browser that draws images, or why there is none."""

    path: str | None
    reason: str | None


@functools.cache
def chrome() -> Chrome:
    """Looks for a Chrome or Chromium as Kaleido does: `BROWSER_PATH`, its own download, PATH, the usual places."""
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
    """One figure as `images` gives it."""
    return images([figure], form)[0]


def images(figures: Sequence[go.Figure], form: str) -> list[bytes]:
    """Figures at slide size as PDF, SVG or PNG, in the first font of `style.FONT` that this machine has.

    Raises RequestError where there is no Chrome, where it fails, or where it takes longer than TIMEOUT_S.
    """
    if form not in IMAGES:
        raise RequestError(f"no image format {form!r}; allowed: {', '.join(IMAGES)}")
    browser = chrome()
    if browser.path is None:
        raise RequestError(f"a .{form} needs a Chrome: {browser.reason}")
    if not _one_at_a_time.acquire(timeout=TIMEOUT_S):
        raise RequestError("another request still draws; try again in a minute")
    try:
        return _within(TIMEOUT_S, [figure.to_plotly_json() for figure in figures], form, browser.path)
    finally:
        _one_at_a_time.release()


def files(charts: Sequence[tuple[str, go.Figure]], form: str) -> bytes:
    """Named charts as one file of format `form`, or as a zip of several."""
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
    """Draws on a thread with a loop of its own, which the caller leaves behind when the time is over."""
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
    # MathJax would be fetched. Without a sandbox, as Kaleido does by itself: it reads what we wrote and nothing else.
    browser = kaleido.Kaleido(mathjax=False, path=path, proxy_server=NOWHERE, timeout=TIMEOUT_S)
    started.append(browser)
    async with browser:
        return [await browser.calc_fig(figure, opts=options) for figure in figures]


def _end(browser: Any) -> None:
    """Ends a browser that does not answer, with the processes it started: Kaleido gives it a session of its own."""
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
    """What a chart says, for those who do not see it: title, subtitle and each mark's name and figures."""
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
"""Plotly's own, for pages that stand by themselves."""


def html(figure: go.Figure) -> str:
    """A figure as an interactive page of its own, with plotly.js inside: it works without a network."""
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
    """JSON as a script may hold it: nothing in it ends the script."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def page(title: str, css: str, body: str, script: str, plotly: bool = True) -> str:
    """An HTML page that holds all it needs, also plotly.js. `title` is text, the others are taken as they are."""
    library = f"<script>{get_plotlyjs()}</script>" if plotly else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{OFFLINE}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{markup.escape(title)}</title><style>{css}</style></head>"
        f"<body>{body}{library}<script>{script}</script></body></html>"
    )
