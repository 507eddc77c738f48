"""The door in a real browser: with the link or the token a page opens, without them it says what to do."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

TOKEN = "the-token-of-the-tests"
FULL = "01J0000000000000000000000A"


@pytest.fixture
def stranger(chromium: Any) -> Iterator[Any]:
    """A page of a browser that has no cookie yet."""
    context = chromium.new_context()
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def elsewhere() -> Iterator[Callable[[str], str]]:
    """elsewhere(address): the address of a page on another site with a link to it."""
    content = b""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    def linking(address: str) -> str:
        nonlocal content
        content = f'<a href="{address}">there</a>'.encode()
        return f"http://localhost:{server.server_port}/"

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield linking
        server.shutdown()


def arrived(page: Any, address: str) -> None:
    page.wait_for_selector("[data-testid=stHeading]")
    assert page.url == address


def test_a_link_on_another_site_opens_with_its_choices_and_without_the_token(
    site: str, stranger: Any, elsewhere: Callable[[str], str]
) -> None:
    there = f"{site}/method?run={FULL}"
    stranger.goto(elsewhere(f"{there}&token={TOKEN}"))
    stranger.get_by_role("link").click()
    arrived(stranger, there)
    # A strict cookie does not come from another site; once more from a page of ours it does.
    stranger.goto(elsewhere(there))
    stranger.get_by_role("link").click()
    arrived(stranger, there)


def test_a_stranger_is_told_what_to_do_and_can_type_the_token(site: str, stranger: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    there = f"{site}/method?run={FULL}"
    assert stranger.goto(there).status == 403
    assert Axe().run(stranger).violations_count == 0
    stranger.get_by_label("Token").fill("not it")
    stranger.get_by_role("button").click()
    stranger.get_by_text("That is not its token").wait_for()
    stranger.get_by_label("Token").fill(TOKEN)
    stranger.get_by_role("button").click()
    arrived(stranger, there)
