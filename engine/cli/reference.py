"""The command reference, made from the commands themselves: `python -m engine.cli.reference > docs/commands.md`."""

from __future__ import annotations

from enum import EnumType
from typing import Any

from typer.main import get_command

from engine.cli.main import PASSED_ON, app

NAMES: dict[Any, str] = {str: "TEXT", int: "N", float: "NUMBER"}
"""The name of an option's value, if the option does not give one."""
HEAD = """# Commands

`bench` is the same as `python -m engine`. This page is made from the commands: `make docs`.

Exit code 0: every variant was measured, or is unavailable for a stated reason. 1: some failed, each named. 2: the
request itself was wrong. RUN is an id, a part of one, or `latest`. SUITE is a name from data/suites, or a path.
"""


def reference() -> str:
    """The reference in Markdown: each command with its arguments and options, in the order of the help."""
    group: Any = get_command(app)
    return "\n".join([HEAD, *(_section(name, command) for name, command in group.commands.items())])


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    words = [f"bench {name}", *(_argument(argument) for argument in arguments), *(["[OPTIONS]"] if options else [])]
    if command.context_settings.get("ignore_unknown_options") == PASSED_ON["ignore_unknown_options"]:
        words.append("...")
    lines = [f"## {name}", "", f"`{' '.join(words)}`", "", " ".join((command.help or "").split()), ""]
    if options:
        lines += ["| option | meaning |", "| --- | --- |"]
        lines += [f"| `{_option(option)}` | {_help(option)} |" for option in options]
        lines.append("")
    return "\n".join(lines)


def _argument(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    if name.startswith("["):
        return name
    name += "..." if argument.nargs == -1 else ""
    return name if argument.required else f"[{name}]"


def _option(option: Any) -> str:
    name = ", ".join([*option.opts, *option.secondary_opts])
    kind = option.type_descriptor.annotation
    if option.is_flag:
        return name
    if isinstance(kind, EnumType):
        members: Any = kind
        return f"{name} {' or '.join(str(member.value) for member in members)}"
    return f"{name} {option.metavar or NAMES.get(kind, 'VALUE')}"


def _help(option: Any) -> str:
    text = " ".join((option.help or "").split()).replace("|", "\\|")
    shown = (
        option.default
        if isinstance(option.default, str | int | float) and not isinstance(option.default, bool)
        else None
    )
    return f"{text} Default: {shown}." if shown not in (None, "") else text


if __name__ == "__main__":
    print(reference(), end="")
