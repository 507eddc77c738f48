"""The project as a package: one version, one list of requirements, a console command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from setuptools import find_packages

import engine
from dashboard.server import serve
from engine import paths
from engine.cli import showing
from engine.errors import RequestError
from engine.suite import reading

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"] and "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "engine.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", engine.__version__)


def test_the_requirements_stand_in_one_place():
    assert PROJECT["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}
    # What setuptools cannot read there.
    assert not re.search(r"^\s*-", (REPOSITORY / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_console_command_is_there():
    module, _, name = PROJECT["project"]["scripts"]["bench"].partition(":")
    assert callable(getattr(import_module(module), name))


def test_every_module_is_in_a_package_or_named_as_data():
    setuptools = PROJECT["tool"]["setuptools"]
    packages = set(find_packages(str(REPOSITORY), include=setuptools["packages"]["find"]["include"]))
    data = {REPOSITORY / top / Path(glob).parent for top, globs in setuptools["package-data"].items() for glob in globs}
    for top in ("engine", "dashboard"):
        for file in (REPOSITORY / top).rglob("*.py"):
            package = ".".join(file.parent.relative_to(REPOSITORY).parts)
            assert package in packages or file.parent in data, file


def test_without_the_checkout_one_line_says_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(paths, "SUITES", tmp_path / "suites")
    with pytest.raises(RequestError, match=r"suites are not at .*pip install -e"):
        reading.find_suite("demo")
    with pytest.raises(RequestError, match="suites are not at"):
        showing.suites()
    monkeypatch.setattr(serve, "CONFIGURATION", tmp_path / "config.toml")
    assert serve.serve(port=1) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no settings at" in line and "pip install -e ." in line


def test_a_suite_file_of_the_users_own_needs_no_suites_of_the_bench(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "SUITES", tmp_path / "suites")
    mine = tmp_path / "mine.toml"
    mine.touch()
    assert reading.find_suite(str(mine)) == mine


def test_the_dashboard_is_a_command_of_the_bench():
    done = subprocess.run(
        [sys.executable, "-m", "engine", "dashboard", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "python -m dashboard" in done.stdout


def test_a_package_of_the_same_name_in_the_users_folder_is_not_run(tmp_path):
    other = tmp_path / "dashboard"
    other.mkdir()
    (other / "__init__.py").touch()
    (other / "__main__.py").write_text("print('the user's own')")
    module, name = PROJECT["project"]["scripts"]["bench"].split(":")
    code = f"import sys; sys.argv = ['bench', 'dashboard', '--help']; from {module} import {name}; {name}()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "python -m dashboard" in done.stdout, done.stderr
