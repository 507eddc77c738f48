"""The documents are true: generated pages are fresh, links lead somewhere, files and commands that are named exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from dashboard import __main__ as dashboard
from engine.cli.main import app
from engine.cli.reference import reference

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
COMMAND = re.compile(r"(?:^|[`\s])(?:\.venv/bin/)?(?:bench|python -m engine) ([a-z]+)((?: [^`\n#]*)?)", re.MULTILINE)
DASHBOARD = re.compile(r"(?:bench|python -m) dashboard( export)?((?: [^`\n#]*)?)")
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def test_the_command_reference_is_fresh():
    assert (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_the_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@each_document
def test_links_lead_somewhere(document: Path):
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (document.parent / target).exists(), target


@each_document
def test_files_that_are_named_exist(document: Path):
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:engine|dashboard|tests|data|docs|benchmarks)/[\w./-]+)`", text):
        if not name.startswith("data/local"):
            assert (REPOSITORY / name).exists(), name


@each_document
def test_options_of_the_dashboard_that_are_shown_exist(document: Path, capsys):
    shown = DASHBOARD.findall(document.read_text(encoding="utf-8"))
    for export, words in shown:
        with pytest.raises(SystemExit):
            dashboard.main([*export.split(), "--help"])
        known = set(re.findall(r"(?<![\w-])--[a-z-]+", capsys.readouterr().out))
        assert set(re.findall(r"(?<!\S)\[?(--[a-z-]+)", words)) <= known, f"dashboard {export}{words}"


@each_document
def test_commands_that_are_shown_exist(document: Path):
    commands = get_command(app).commands
    for name, words in COMMAND.findall(document.read_text(encoding="utf-8")):
        if name not in commands:
            # Prose: "the bench says", "a bench with".
            assert not words.strip().startswith("-"), name
            continue
        known = {option for param in commands[name].params for option in (*param.opts, *param.secondary_opts)}
        for option in re.findall(r"(?<!\S)--[a-z0-9-]+", words):
            assert option in known or name == "dashboard", f"bench {name} {option}"
