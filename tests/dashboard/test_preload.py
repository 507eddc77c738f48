"""The page that names the scripts it will need: real scripts of the installed Streamlit, and what happens without."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message
from streamlit import file_util

from dashboard.server import preload
from dashboard.server.door import HEADERS

STATIC = Path(file_util.get_static_dir())


def asked(static: Path, path: str) -> str:
    return answer(static, path)[1]


def answer(static: Path, path: str) -> tuple[dict[bytes, bytes], str]:
    head: dict[bytes, bytes] = {}
    sent: list[bytes] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("the browser says nothing more")

    async def send(message: Message) -> None:
        head.update(message.get("headers", []))
        sent.append(message.get("body", b""))

    app = preload.Preload(PlainTextResponse("Streamlit"), static, ("compare", "method"))
    asked = app({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
    # In a thread: a browser of other tests may have a loop in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, asked).result()
    return head, b"".join(sent).decode()


def named(html: str) -> list[str]:
    return re.findall(r'"\./static/js/([^"]+\.js)"', html)


@pytest.mark.parametrize("name", [*preload.EVERYWHERE, preload.GRID, preload.CODE])
def test_every_named_script_is_streamlits(name: str) -> None:
    assert preload.scripts(STATIC / "static" / "js", [name])


def test_a_page_names_what_it_draws_with_and_what_that_imports() -> None:
    html = asked(STATIC, "/compare")
    there = named(html)
    assert all((STATIC / "static" / "js" / name).is_file() for name in there)
    links = re.findall(r'<link rel="preload" as="script" crossorigin href="\./static/js/([^"]+)">', html)
    assert len(links) == len(set(links)), "once each"
    imported = {
        name
        for script in links
        for name in preload.IMPORT.findall((STATIC / "static" / "js" / script).read_text(encoding="utf-8"))
    }
    assert imported <= set(there)
    # Chromium takes up what it compiled of a module only where it was first asked for as a script.
    assert "modulepreload" not in html
    assert html.index('as="script"') < html.index("<script")
    assert set(re.findall(r'<script type="module" crossorigin src="\./static/js/([^"]+)">', html)) <= set(links)
    order = re.findall(r'<script type="module" crossorigin src="\./static/js/(\w+)', html)
    assert order[0] == "index" and set(order[1:]) == set(preload.EVERYWHERE)
    # It runs once the server is asked; the policy names the script that sees to it by its hash.
    assert f'<link rel="preload" as="script" href="{preload.LIBRARY_URL}">' in html
    assert f"<script>{preload.LATER}</script>" in html
    assert preload.LATER_HASH in HEADERS["Content-Security-Policy"]


def test_a_page_without_charts_does_not_ask_for_them() -> None:
    html = asked(STATIC, "/method")
    assert preload.LIBRARY_URL not in html and "chartsLibrary" not in html


def test_the_charts_script_is_plotlys_and_may_be_kept() -> None:
    from plotly.offline import get_plotlyjs

    head, body = answer(STATIC, preload.LIBRARY_URL)
    same = body == get_plotlyjs()
    assert same, "not compared in the assertion: nobody reads how two scripts of 4.8 MB differ"
    assert head[b"content-type"].startswith(b"text/javascript") and b"immutable" in head[b"cache-control"]


@pytest.mark.parametrize("path", ["/static/js/x.js", "/_stcore/health", "/nowhere"])
def test_all_else_is_streamlits(path: str) -> None:
    assert asked(STATIC, path) == "Streamlit"


def test_another_streamlit_is_left_alone(tmp_path: Path) -> None:
    assert asked(tmp_path, "/compare") == "Streamlit"
    (tmp_path / "index.html").write_text("<html><head></head>elsewhere</html>", encoding="utf-8")
    html = asked(tmp_path, "/method")
    assert html.startswith("<html><head><style>") and html.endswith("</style></head>elsewhere</html>")
    assert named(asked(tmp_path, "/compare")) == [], "the charts' own script alone"
