"""The door of a real server: who gets in, and what a browser is told."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from starlette.responses import PlainTextResponse
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dashboard import __main__ as command_line
from dashboard.server import door, serve
from engine.store import open_store

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
GUARDED = [
    "/",
    "/compare?run=latest",
    "/index.html",
    "/static/js/nothing.js",
    "/media/0123.csv",
    "/component/a/index.html",
    "/_stcore/bidi-components/copy_link/a.js",
    "/_stcore/host-config",
    "/_stcore/metrics",
    "/_stcore/agent/openapi.json",
    "/_stcore/stream",
    "/_stcore/health/",
    "/_stcore/health/..%2fmetrics",
    "//_stcore/health",
    "/nowhere",
]


class Site(NamedTuple):
    """A dashboard that made its own token."""

    port: int
    token: str
    process: psutil.Process
    log: Path
    data: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    log = tmp_path_factory.mktemp("door") / "log"
    # Where others can go, unlike in pytest's own folders.
    with tempfile.TemporaryDirectory() as open_folder:
        Path(open_folder).chmod(0o755)
        yield from _serve(Path(open_folder) / "data", log)


def _serve(folder: Path, log: Path) -> Iterator[Site]:
    with open_store(f"sqlite:///{folder / 'bench.sqlite'}"):
        pass
    port, around = serve.free_port(), os.environ | {"BENCH_DATA_DIR": str(folder)}
    with log.open("wb") as output:
        process = psutil.Popen(
            [sys.executable, "-m", "dashboard", "--port", str(port)],
            cwd=REPOSITORY,
            env={name: value for name, value in around.items() if not name.startswith("BENCH_DATABASE")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _until_up(port, process, log)
        yield Site(port, log.read_text().split("?token=")[1].split()[0], process, log, folder)
    finally:
        process.terminate()
        process.wait(15)


def _until_up(port: int, process: psutil.Process, log: Path) -> None:
    """Waits until the server on `port` says that it is well."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if ask(port, "/_stcore/health").status == 200:
                return
        except OSError:
            pass
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: str


def ask(port: int, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
    """One request, with `headers` (an underscore is a hyphen) over those that a browser sends at least."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        length = {} if body is None else {"Content-Length": str(len(body))}
        for name, value in {**headers, **length}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(None if body is None else body.encode())
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode(errors="replace"))
    finally:
        connection.close()


def let_in(site: Site) -> str:
    """The cookie that the link gives, as a browser sends it."""
    return str(ask(site.port, f"/?token={site.token}").headers["Set-Cookie"]).split(";")[0]


@pytest.mark.parametrize("path", GUARDED)
def test_without_the_token_nothing_is_given(path: str, site: Site) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        answer = ask(site.port, path, method)
        assert answer.status == 403, method
        assert "Set-Cookie" not in answer.headers and site.token not in answer.body
    assert "Streamlit" not in ask(site.port, path).body


def test_an_upload_needs_the_token(site: Site) -> None:
    assert ask(site.port, "/_stcore/upload_file/1/2", "PUT", "text", Content_Type="text/plain").status == 403


def test_health_says_that_it_is_there_and_no_more(site: Site) -> None:
    answer = ask(site.port, "/_stcore/health")
    assert (answer.status, answer.body) == (200, "ok")
    assert ask(site.port, "/_stcore/health", "POST").status == 403


def test_the_page_says_what_to_do(site: Site) -> None:
    answer = ask(site.port, "/compare")
    assert "?token=" in answer.body and "<form" in answer.body and answer.headers["Cache-Control"] == "no-store"
    assert "not its token" not in answer.body
    assert "not its token" in ask(site.port, "/compare?token=another-token-of-old").body


def test_the_link_gives_a_cookie_and_the_same_address_without_it(site: Site) -> None:
    answer = ask(site.port, f"/compare?run=a%26b&token={site.token}&batch=8&empty=")
    assert (answer.status, answer.headers["Location"]) == (303, "/compare?run=a%26b&batch=8&empty=")
    name, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert name.startswith(f"inference-bench-{site.port}=") and site.token not in name
    assert {"httponly", "samesite=strict", "path=/"} == {attribute.lower() for attribute in attributes}
    cookie = let_in(site)
    assert "<title>Streamlit" in ask(site.port, "/compare", Cookie=cookie).body
    assert ask(site.port, "/_stcore/host-config", Cookie=cookie).status == 200
    again = ask(site.port, "/compare?token=another-token-of-old&run=1", Cookie=cookie)
    assert (again.status, again.headers["Location"]) == (303, "/compare?run=1")


@pytest.mark.parametrize("path", ["//example.org/", "/\\example.org/", "/%5cexample.org/", "/%2f%2fexample.org"])
def test_no_link_leads_to_another_server(path: str, site: Site) -> None:
    location = str(ask(site.port, f"{path}?token={site.token}").headers["Location"])
    assert location.startswith("/") and location[1] not in "/\\"


def test_the_token_may_be_typed(site: Site) -> None:
    form = {"Content_Type": "application/x-www-form-urlencoded", "Origin": f"http://127.0.0.1:{site.port}"}
    answer = ask(site.port, "/runs?run=1", "POST", f"token={site.token}", **form)
    assert (answer.status, answer.headers["Location"]) == (303, "/runs?run=1") and "Set-Cookie" in answer.headers
    assert ask(site.port, "/runs", "POST", "token=no", **form).status == 403
    assert ask(site.port, "/runs", "POST", f"a={'x' * 5000}&token={site.token}", **form).status == 403


@pytest.mark.parametrize("cookie", ["", "x", "é", "0" * 64])
def test_another_cookie_does_not_open(cookie: str, site: Site) -> None:
    assert ask(site.port, "/", Cookie=f"inference-bench-{site.port}={cookie}").status == 403
    assert ask(site.port, "/", Cookie=f"inference-bench-{site.port}={site.token}").status == 403


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "localhost@example.org", "10.0.0.1", ""])
def test_another_name_does_not_open(host: str, site: Site) -> None:
    cookie = let_in(site)
    for path in ("/", "/_stcore/health", f"/?token={site.token}"):
        assert ask(site.port, path, Host=f"{host}:{site.port}" if host else "", Cookie=cookie).status == 403


@pytest.mark.parametrize("host", ["localhost:9000", "LOCALHOST", "[::1]:8501", "127.0.0.1:80"])
def test_the_names_of_the_loopback_open_on_any_port(host: str, site: Site) -> None:
    given = ask(site.port, f"/?token={site.token}", Host=host)
    cookie = str(given.headers["Set-Cookie"]).split(";")[0]
    assert ask(site.port, "/", Host=host, Cookie=cookie).status == 200


def test_another_page_may_link_here_and_no_more(site: Site) -> None:
    cookie = let_in(site)
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert ask(site.port, "/", Cookie=cookie, **followed).status == 200
    assert 'http-equiv="refresh"' in ask(site.port, "/?a=%22%3E", **followed).body, "a strict cookie comes then"
    for site_of_it in ("cross-site", "same-site"):
        asked = {"Cookie": cookie, "Sec_Fetch_Site": site_of_it}
        assert ask(site.port, "/media/a.csv", **asked, Sec_Fetch_Mode="no-cors").status == 403
        assert ask(site.port, "/", "POST", "", **asked, Sec_Fetch_Mode="navigate").status == 403
    for origin in ("http://127.0.0.1:1", f"http://localhost:{site.port}", "null", "https://example.org"):
        assert ask(site.port, "/_stcore/host-config", Cookie=cookie, Origin=origin).status == 403


def websocket(port: int, **headers: str) -> int:
    """The status of a websocket's handshake."""
    origin = headers.pop("Origin", None)
    try:
        with connect(
            f"ws://127.0.0.1:{port}/_stcore/stream",
            additional_headers=headers,
            origin=origin,  # type: ignore[arg-type]
            subprotocols=["streamlit"],  # type: ignore[list-item]
        ):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_a_websocket_needs_the_cookie_and_a_page_of_ours(site: Site) -> None:
    here, cookie = f"http://127.0.0.1:{site.port}", let_in(site)
    assert websocket(site.port, Cookie=cookie, Origin=here) == 101
    assert websocket(site.port, Origin=here) == 403
    assert websocket(site.port, Cookie="inference-bench=1", Origin=here) == 403
    for origin in ("http://127.0.0.1:1", "http://localhost:8000", "https://example.org", "null"):
        assert websocket(site.port, Cookie=cookie, Origin=origin) == 403


@pytest.mark.parametrize("path", ["/", "/_stcore/health", "/static/nothing.js", "/media/0.csv"])
def test_every_answer_tells_the_browser_what_it_may_not(path: str, site: Site) -> None:
    for cookie in ("", let_in(site)):
        headers = ask(site.port, path, Cookie=cookie).headers
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "same-origin" and "Server" not in headers
        policy = headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy and "'unsafe-eval'" not in policy
        assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]


def test_the_token_is_told_once_and_nowhere_else(site: Site) -> None:
    ask(site.port, f"/?token={site.token}")
    ask(site.port, f"/nowhere/?token={site.token}", "POST", f"token={site.token}")
    assert site.log.read_text().count(site.token) == 1, "in the link at the start, and in no log line"
    assert not any(site.token in word for word in site.process.cmdline())
    assert len(site.token) >= 43


@pytest.mark.parametrize("given", ["", "short", "with a blank in it somewhere", "é" * 20, "x" * 201])
def test_a_token_that_is_none_is_refused(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(door.VARIABLE, given)
    assert command_line.main([]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: BENCH_TOKEN") and said.count("\n") == 1


def test_a_given_token_is_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(door.VARIABLE, "sixteen-signs-&%")
    assert door.token_from_environment() == "sixteen-signs-&%"
    assert door.VARIABLE not in os.environ
    assert door.link("http://a", "sixteen-signs-&%") == "http://a/?token=sixteen-signs-%26%25"


def listening(process: psutil.Process) -> list[tuple[str, int]]:
    """Where a process and its children listen."""
    found = [c for one in (process, *process.children(recursive=True)) for c in one.net_connections("inet")]
    return [(c.laddr.ip, c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN or not c.raddr]


def test_it_listens_on_the_loopback_alone(site: Site) -> None:
    assert listening(site.process) == [("127.0.0.1", site.port)]


def test_behind_a_socket_a_real_server_answers_and_no_port_is_open(tmp_path: Path) -> None:
    # Not in pytest's folder: a socket's path is at most 107 bytes long.
    with tempfile.TemporaryDirectory() as place:
        path, log = Path(place) / "own" / "bench.sock", tmp_path / "log"
        with log.open("wb") as output:
            process = psutil.Popen(
                [sys.executable, "-m", "dashboard", "--socket", str(path)],
                cwd=REPOSITORY,
                env=os.environ | {"BENCH_DATA_DIR": str(tmp_path)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not path.exists() or b"200 OK" not in through(path, "/_stcore/health"):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
            answer = through(path, "/")
            assert b"<title>Streamlit" in answer and b"Content-Security-Policy" in answer.title()
            assert b"403 Forbidden" in through(path, "/", host="example.org")
            assert listening(process) == []
        finally:
            process.terminate()
            process.wait(15)


def through(path: Path, asked: str, host: str = "localhost:8501") -> bytes:
    """The whole answer to one request through a Unix socket; empty where nobody answers yet."""
    with socket.socket(socket.AF_UNIX) as made:
        made.settimeout(10)
        try:
            made.connect(str(path))
        except ConnectionRefusedError:
            return b""
        made.sendall(f"GET {asked} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: made.recv(65536), b""))


def test_an_upload_needs_streamlits_own_sign_beside_the_cookie(site: Site) -> None:
    """A page of another origin has the browser's cookie sent with what it asks, but cannot read this sign."""
    cookie = let_in(site)
    sent = {"Content_Type": "multipart/form-data; boundary=x", "Cookie": cookie}
    body = '--x\r\nContent-Disposition: form-data; name="f"; filename="a.csv"\r\n\r\na\r\n--x--\r\n'
    path = "/_stcore/upload_file/1/2"
    assert ask(site.port, path, "PUT", body, **sent).status == 403
    assert ask(site.port, path, "PUT", body, **sent, X_Xsrftoken="guessed").status == 403
    assert ask(site.port, path, "DELETE", **sent).status == 403
    sign = str(ask(site.port, "/_stcore/health").headers["Set-Cookie"]).split(";")[0]
    sent["Cookie"] += f"; {sign}"
    assert ask(site.port, path, "PUT", body, **sent).status == 403
    # With both it is looked at: there is no such session.
    assert ask(site.port, path, "PUT", body, **sent, X_Xsrftoken=sign.partition("=")[2].strip('"')).status == 400


@pytest.mark.parametrize(
    "script",
    [
        "app_pages/run.py",
        *(pytest.param(page, marks=pytest.mark.second_tier) for page in ("app.py", "app_pages/runs.py")),
    ],
)
def test_without_the_door_no_page_is_served(script: str, tmp_path: Path) -> None:
    """By Streamlit's own command, which knows of no token: over its websocket only a refusal comes."""
    port, log = serve.free_port(), tmp_path / "log"
    with log.open("wb") as output:
        process = psutil.Popen(
            [sys.executable, "-m", "streamlit", "run", f"dashboard/{script}", "--server.port", str(port)],
            cwd=REPOSITORY,
            env=os.environ | {"BENCH_DATA_DIR": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _until_up(port, process, log)
        said = elements(port)
    finally:
        process.terminate()
        process.wait(15)
    assert [kind for kind, _ in said if kind != "empty"] == ["alert"] and "asks nobody for a token" in said[-1][1]


def elements(port: int) -> list[tuple[str, str]]:
    """What a page's script sends to a browser that asks for it: kinds of elements, and what alerts say."""
    with connect(
        f"ws://127.0.0.1:{port}/_stcore/stream",
        origin=f"http://127.0.0.1:{port}",  # type: ignore[arg-type]
        subprotocols=["streamlit"],  # type: ignore[list-item]
        max_size=None,
    ) as opened:
        question = BackMsg()
        question.rerun_script.query_string = ""
        opened.send(question.SerializeToString())
        found = []
        while True:
            message = ForwardMsg.FromString(opened.recv(60))  # type: ignore[arg-type]
            kind = message.WhichOneof("type")
            if kind == "delta" and message.delta.WhichOneof("type") == "new_element":
                element = message.delta.new_element
                found.append((str(element.WhichOneof("type")), element.alert.body))
            if kind == "script_finished":
                return found


# Another user of the same machine


def _connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))


def test_another_user_is_not_let_in(site: Site, as_another: Callable[..., Any]) -> None:
    assert as_another(os.getuid) == 65534
    for path in GUARDED:
        assert as_another(ask, site.port, path).status == 403
    assert as_another(websocket, site.port) == 403


def test_another_user_reads_nothing_of_ours(site: Site, as_another: Callable[..., Any]) -> None:
    assert (site.data / "bench.sqlite").exists() and site.data.parent.stat().st_mode & 0o005
    process = Path("/proc") / str(site.process.pid)
    for place in (site.data / "bench.sqlite", site.data / "logs" / "run.log", process / "environ", process / "mem"):
        with pytest.raises(PermissionError):
            as_another(place.read_bytes)
    for call in (os.listdir, os.mkdir, os.rmdir):
        with pytest.raises(PermissionError):
            as_another(call, site.data / "logs" if call is not os.listdir else site.data)
    assert site.token.encode() not in as_another((process / "cmdline").read_bytes)


def test_another_user_does_not_reach_a_socket(site: Site, as_another: Callable[..., Any]) -> None:
    folder = site.data.parent / "sockets"
    path = folder / "bench.sock"
    assert serve._prepare(path) is None
    with serve.private_socket(path) as listening:
        listening.listen()
        for mode in (0o700, 0o755):
            folder.chmod(mode)
            with pytest.raises(PermissionError):
                as_another(_connect, path)
        _connect(path)


def test_behind_a_socket_no_token_is_asked_but_names_and_pages_are() -> None:
    behind = door.Door(PlainTextResponse("in"), None)

    def status(query: str = "", **headers: str) -> int:
        given = {"host": "localhost:8501"} | headers
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": query.encode()}
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope["headers"] = [(name.encode(), value.encode()) for name, value in given.items()]
        # In a thread: a browser that other tests opened keeps a loop running in this one.
        with ThreadPoolExecutor(1) as threads:
            threads.submit(asyncio.run, behind(scope, None, send)).result()  # type: ignore[arg-type]
        return int(sent[0]["status"])

    assert status() == 200
    assert status("token=old&b=1") == 303
    assert status(host="example.org") == status(origin="http://localhost:9000") == 403
