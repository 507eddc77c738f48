"""The dashboard's command: what it prints and what it refuses."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dashboard import __main__ as command_line
from dashboard.server import serve


def test_the_banner_says_where_to_look_and_how_to_tunnel() -> None:
    said = "\n".join(serve.banner(8765, None, "secret"))
    assert "http://127.0.0.1:8765/?token=secret" in said and "ssh -L 8765:127.0.0.1:8765" in said


def test_the_banner_keeps_a_database_password_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATABASE_URL", "postgresql+psycopg://bench:secret@db/bench")
    assert "Database: postgresql+psycopg://bench:***@db/bench" in serve.banner(8765, None, "t")


def test_the_banner_of_a_socket() -> None:
    assert "ssh -L 8501:/tmp/bench.sock" in "\n".join(serve.banner(None, Path("/tmp/bench.sock"), None))


def test_a_taken_port_is_refused_with_another(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert command_line.main(["--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"port {port} is taken" in said and "--port" in said


def test_a_file_is_no_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.sock"
    file.write_text("mine")
    assert serve._prepare(file) == f"{file} exists and is no socket"
    assert file.read_text() == "mine"


def test_a_stale_socket_makes_way(tmp_path: Path) -> None:
    path = tmp_path / "old.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    assert serve._prepare(path) is None
    assert not path.exists()


def test_a_socket_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "bench.sock"
    with serve.private_socket(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_folder_of_a_socket_is_made_or_refused(tmp_path: Path) -> None:
    assert serve._prepare(tmp_path / "new" / "bench.sock") is None
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    for mode in (0o750, 0o701, 0o755, 0o777):
        (tmp_path / "new").chmod(mode)
        said = serve._prepare(tmp_path / "new" / "bench.sock")
        assert said is not None and "others can enter" in said and "\n" not in said


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make a folder that is another user's")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 65534, 65534)
    assert "others can enter" in str(serve._prepare(tmp_path / "bench.sock"))
