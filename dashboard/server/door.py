"""The dashboard's door: who may ask, from which page, and what a browser is told to do with the answer.

Other users of a shared machine reach its loopback too, and so does any page that a browser shows. So every request has
to come under a name of this machine (not one that somebody else's DNS points here), from a page of ours, and with the
token, which a link brings once and a cookie from then on.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import os
import re
import secrets
from urllib.parse import parse_qs, quote, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dashboard.server import preload
from engine.errors import RequestError

VARIABLE = "BENCH_TOKEN"
PARAMETER = "token"
OPEN = "/_stcore/health"
"""The one path that answers everybody: whether the server is ready, and nothing else."""
HOST = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::(\d{1,5}))?", re.IGNORECASE)
"""What this machine's loopback is called; on any port, as a tunnel may end on another."""
TOKEN = re.compile(r"[!-~]{16,200}")
OURS = ("same-origin", "none")
"""What a browser says of a request that a page of this origin makes, or its user: Sec-Fetch-Site."""
MAX_FORM_BYTES = 4096
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Streamlit's components are modules from blobs, some of it is WebAssembly, its styles are made as it goes; Plotly
    # draws to data and blobs.
    # The hashes are of the one script in Streamlit's page and of ours. No other inline script runs, whatever got in.
    "Content-Security-Policy": "default-src 'self'; "
    "script-src 'self' blob: 'wasm-unsafe-eval' 'sha256-THxz9J9+wf7rhwR2YkXJoSZ13UCmYyC+3lNDv2+8ugA=' "
    f"'sha256-{preload.LATER_HASH}'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
}
"""On every answer."""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Inference Bench</title>{head}
<style>
:root {{ color-scheme: light dark; --accent: light-dark(#1f5f8b, #5aa9d6) }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 34rem; margin: 18vh auto 0; padding: 0 1rem;
  color: light-dark(#111820, #e3e7ec); background: light-dark(#ffffff, #12161b) }}
h1 {{ font-size: 1.6rem; font-weight: 600 }}
form {{ display: flex; gap: .5rem; align-items: center }}
input, button {{ font: inherit; padding: .3rem .7rem; border: 1px solid var(--accent); border-radius: 4px }}
input {{ flex: 1; min-width: 0; color: inherit; background: transparent }}
button {{ background: var(--accent); color: light-dark(#ffffff, #12161b); cursor: pointer }}
</style></head>
<body><main><h1>{title}</h1><p>{said}</p>{form}</main></body></html>
"""
FORM = """<form method="post"><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="off" required autofocus><button>Open</button></form>"""


def token_from_environment() -> str:
    """The token that `BENCH_TOKEN` gives, taken out of the environment; without it a new one of 256 random bits.

    Raises RequestError where what it gives is none.
    """
    given = os.environ.pop(VARIABLE, None)
    if given is None:
        return secrets.token_urlsafe(32)
    if not TOKEN.fullmatch(given):
        raise RequestError(
            f"{VARIABLE} is not 16 to 200 letters, digits and signs without blanks; "
            "give another, or leave it out: each start makes one"
        )
    return given


def link(address: str, token: str | None) -> str:
    """`address` of a server with the token that opens it, where it needs one."""
    return address if token is None else f"{address}/?{urlencode({PARAMETER: token})}"


_standing = False


def stands() -> bool:
    """Whether this process has a door before its pages; `streamlit run` would serve them to whoever comes."""
    return _standing


class Door:
    """ASGI middleware that lets a request through to `app`, or answers it itself.

    `token` None: whoever reaches the server may ask, as behind a socket that its owner alone can open; where a request
    comes from is looked at all the same.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        global _standing
        _standing = True
        self.app = app
        self.token = token
        # Not the token itself: a browser shows a cookie to every other port of the same host, too.
        self.cookie = hmac.new((token or "").encode(), b"cookie", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request or a websocket, or lets it through."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        answer = await self._answer(HTTPConnection(scope), receive)
        if answer is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await answer(scope, receive, _with_headers(send))

    async def _answer(self, asked: HTTPConnection, receive: Receive) -> Response | None:
        """What to answer instead of the app; None where the app may."""
        method = asked.scope.get("method", "GET")
        host = HOST.fullmatch(asked.headers.get("host", ""))
        if host is None:
            return _page("Not under this name", "It opens under 127.0.0.1 and localhost alone.")
        if _from_elsewhere(asked, method):
            return _page("Not from there", "It answers its own pages alone.")
        if asked.scope["path"] == OPEN and method in ("GET", "HEAD"):
            return None
        # By the port that the browser sees: cookies of all ports of a host lie together.
        name = f"inference-bench-{host[1] or 80}"
        given = asked.query_params.get(PARAMETER) if method in ("GET", "HEAD") else None
        if self.token is None or _same(asked.cookies.get(name), self.cookie):
            # An old link: what it brings is not needed, and must not stay in the address.
            return None if given is None else RedirectResponse(_address(asked), 303)
        if method == "POST":
            given = await _typed(asked, receive)
        if _same(given, self.token):
            answer = RedirectResponse(_address(asked), 303)
            answer.set_cookie(name, self.cookie, httponly=True, samesite="strict")
            return answer
        again = ""
        if asked.headers.get("sec-fetch-site", "none") not in OURS:
            # A strict cookie does not come with a link on another site, only with what a page from here asks for.
            again = f'<meta http-equiv="refresh" content="0; url={html.escape(_address(asked))}">'
        said = "Open the link that the server printed when it started, which ends in ?token=…, or give its token here."
        wrong = "That is not its token: each start has another. "
        return _page("This dashboard needs its token", said if given is None else wrong + said, FORM, again)


def _from_elsewhere(asked: HTTPConnection, method: str) -> bool:
    """Whether a page of another origin asks, another port of this host among them; following its link is no asking."""
    origin = asked.headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != asked.headers["host"].lower():
        return True
    if asked.headers.get("sec-fetch-site", "none") in OURS:
        return False
    return method not in ("GET", "HEAD") or asked.headers.get("sec-fetch-mode") != "navigate"


def _same(given: str | None, kept: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), kept.encode())


def _address(asked: HTTPConnection) -> str:
    """The address that was asked for on this server, without a token."""
    query = urlencode([(key, value) for key, value in asked.query_params.multi_items() if key != PARAMETER])
    # Two slashes at the beginning would be another server.
    path = "/" + quote(asked.scope["path"].lstrip("/"))
    return f"{path}?{query}" if query else path


async def _typed(asked: HTTPConnection, receive: Receive) -> str | None:
    """The token of a form that was sent, as far as its body is short."""
    body = b""
    async for part in Request(asked.scope, receive).stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            return None
    return parse_qs(body.decode(errors="replace")).get(PARAMETER, [None])[0]


def _page(title: str, said: str, form: str = "", head: str = "") -> Response:
    return HTMLResponse(PAGE.format(title=title, said=said, form=form, head=head), 403, {"Cache-Control": "no-store"})


def _with_headers(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return answer
