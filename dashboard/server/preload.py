"""Streamlit's page, told beforehand which scripts this dashboard's pages draw with.

Streamlit's browser side asks for the script of an element when the first element of that kind comes: by then what
stands below it is painted, and jumps. Named in the page, all are fetched at once, and run before the page asks the
server for its content. The charts' 4.8 MB, which dashboard/drawing.py draws with, take a second of a slow machine: they
run from that question on, while the server works at its answer.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256
from html import escape
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from starlette.responses import FileResponse, HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

EVERYWHERE = (
    "Html", "BidiComponent", "Selectbox", "PageLink", "Button", "ButtonGroup", "DownloadButton", "Multiselect",
    "NumberInput", "TextInput", "TextArea", "Checkbox", "Pagination", "Progress", "FileUploader",
)  # fmt: skip
GRID, CODE = "DataFrame", "StreamlitSyntaxHighlighter"
ALSO: Mapping[str, tuple[str, ...]] = {"runs": (GRID,), "ship": (CODE,)}
"""A page's path -> the large scripts that its first view needs."""
CHARTS = ("", "overview", "compare", "decide", "roofline", "load")
"""The paths of pages with charts."""
LIBRARY = Path(str(find_spec("plotly").origin)).parent / "package_data" / "plotly.min.js"  # type: ignore[union-attr]
"""Plotly's script, which draws the charts; found without loading Plotly."""
LIBRARY_URL = f"/plotly-{version('plotly')}.js"
"""Of each version another, so that a browser may keep it."""
LOAD = f"""(window.chartsLibrary ??= new Promise((done, failed) => {{
  const script = document.createElement("script")
  script.src = "{LIBRARY_URL}"
  script.onload = () => done(window.Plotly)
  script.onerror = () => failed(Error("The charts' script did not come; load the page again."))
  document.head.append(script)
}}))"""
"""Runs Plotly's script, once a page; a promise of Plotly."""
LATER = f"""{{
const {{send}} = WebSocket.prototype
WebSocket.prototype.send = function (...data) {{
  WebSocket.prototype.send = send
  setTimeout(() => {LOAD})
  return send.apply(this, data)
}}}}"""
"""Runs it from the first message to the server on."""
LATER_HASH = b64encode(sha256(LATER.encode()).digest()).decode()
"""For the policy that names the scripts which may run."""
ELEMENT = ".stElementContainer:not([class*=st-key-chart_])"
LATE = ":is([data-testid=stSkeleton],[data-testid=stHtml]:empty)"
# Streamlit's page is narrow until the server says that it is to be wide. What stands below an element that cannot be
# drawn yet would jump when it can, and so comes with it: without a place until then, as what is moved before it is seen
# is a jump to browsers. A grid needs its place to know its columns; a chart has its room from the start.
HOLDERS = ":is(.stColumn,.stTabs,[data-testid=stLayoutWrapper],[data-testid=stGridCell])"
WAITED = f":is({ELEMENT}:has({LATE}),{HOLDERS}:has({ELEMENT} {LATE}))"
STYLE = f"""<style>
[data-testid=stMainBlockContainer]{{max-width:none!important}}
{WAITED}~*{{visibility:hidden}}
{WAITED}~:not(.stColumn,[data-testid=stGridCell],:has([data-testid=stGrid])){{display:none!important}}
</style>"""
# Chromium keeps what it compiled of a script at the second visit and takes it from the third on, but of a module only
# where it was asked for as a script: else it compiles all 8 MB at every visit again.
MODULE, SCRIPT = '<link rel="modulepreload"', '<link rel="preload" as="script"'
ENTRY = re.compile(r'<script type="module" crossorigin src="\./static/js/([^"]+)">')
IMPORT = re.compile(r"""(?:\bfrom|\bimport)\s*["`']\./([^"`']+\.js)["`']""")


class Preload:
    """ASGI middleware that answers for the dashboard's pages; every other request goes on to Streamlit."""

    def __init__(self, app: ASGIApp, static: Path, pages: Iterable[str]) -> None:
        """`static`: the folder of Streamlit's own files; where it is not as expected, Streamlit answers alone."""
        self._app = app
        self._pages = {
            f"/{page}": document(static, (*EVERYWHERE, *ALSO.get(page, ())), page in CHARTS) for page in ("", *pages)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] == "GET"
        answer = self._app
        if asked and scope["path"] == LIBRARY_URL:
            answer = FileResponse(LIBRARY, headers={"Cache-Control": "public, immutable, max-age=31536000"})
        elif asked and (html := self._pages.get(scope["path"])) is not None:
            # Streamlit's own page has a tag that does not change with ours: without one it is asked for every time.
            answer = HTMLResponse(html, headers={"Cache-Control": "no-cache"})
        await answer(scope, receive, send)


def document(static: Path, elements: Iterable[str], charts: bool = False) -> str | None:
    """Streamlit's page with the scripts that draw `elements` in its head, and with `charts` Plotly's.

    None where there is no such page.
    """
    try:
        page = (static / "index.html").read_text(encoding="utf-8")
    except OSError:
        return None
    folder = static / "static" / "js"
    drawing = scripts(folder, elements)
    page = page.replace(MODULE, SCRIPT)
    tags = [f'{SCRIPT} crossorigin href="{_url(name)}">' for name in _needed(folder, [*ENTRY.findall(page), *drawing])]
    named = "".join(tag for tag in tags if tag not in page)
    # Modules run in the order of the page: these after Streamlit's own.
    run = "".join(f'<script type="module" crossorigin src="{_url(name)}"></script>' for name in drawing)
    if charts:
        named += f'{SCRIPT} href="{LIBRARY_URL}">'
        run = f"<script>{LATER}</script>{run}"
    page = page.replace("</head>", f"{STYLE}{run}</head>", 1)
    # First of all: a script is what it was first asked for as.
    return page.replace("<head>", f"<head>{named}", 1)


def scripts(folder: Path, names: Iterable[str]) -> list[str]:
    """The files of Streamlit's scripts `names`; what there is not under that name is left to Streamlit."""
    return [found.name for name in names for found in sorted(folder.glob(f"{name}.*.js"))[:1]]


def _url(name: str) -> str:
    return escape(f"./static/js/{name}")


def _needed(folder: Path, names: Iterable[str]) -> list[str]:
    """The scripts `names` and all that they import, once each."""
    found: dict[str, None] = {}
    ahead = list(names)
    while ahead:
        name = ahead.pop(0)
        if name not in found and (folder / name).is_file():
            found[name] = None
            ahead += _imports(folder / name)
    return list(found)


@cache
def _imports(script: Path) -> list[str]:
    """What a script imports, which it says first."""
    with script.open(encoding="utf-8") as text:
        return IMPORT.findall(text.read(16_000))
