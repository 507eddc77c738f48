"""The doctor's report: checks with a state, and how they are shown."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from engine.machine import devices

if TYPE_CHECKING:
    from rich.text import Text

State = Literal["ok", "warn", "missing"]
SIGNS: dict[str, str] = {"ok": "✓", "warn": "!", "missing": "✗"}
STYLES = {"ok": "green", "warn": "yellow", "missing": "red"}


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    group: str
    name: str
    state: State
    finding: str
    mend: str | None = None
    """The command, or the step, that puts it right."""
    required: bool = False
    """Whether the bench works at all without it: these alone decide the exit code."""


@dataclass(frozen=True)
class Report:
    """All checks, and the device that a run would take."""

    request: str
    device: devices.Device
    """The device that was examined: the CPU if the requested device was refused."""
    refusal: str | None
    """Why a run with this request is refused; None where it is not."""
    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0 where all installed backends work on the CPU, and on the GPU if one was asked for by name."""
        return int(bool(self.refusal) or any(c.required and c.state == "missing" for c in self.checks))

    def to_json(self) -> dict[str, Any]:
        return {
            "request": self.request,
            "device": asdict(self.device),
            "refusal": self.refusal,
            "exit_code": self.exit_code,
            "checks": [asdict(check) for check in self.checks],
        }


# -- Showing ---------------------------------------------------------------------------------------


def render(report: Report, width: int | None = None) -> Text:
    """The report: a block for each group, a sign for each check, what mends it below.

    By default as wide as the terminal, and 100 columns at most. Commands are there to be copied and are
    never broken here: print it with `soft_wrap=True`. `.plain` is the same as a string.
    """
    from rich.text import Text

    width = max(40, width or min(100, shutil.get_terminal_size((100, 24)).columns))
    text = Text()
    head = f"--device {report.request} means {report.device.spec} here ({report.device.name})."
    text.append("\n".join(textwrap.wrap(report.refusal or head, width)) + "\n")
    group = ""
    for check in report.checks:
        if check.group != group:
            group = check.group
            text.append(f"\n{group}\n", style="bold")
        lines = textwrap.wrap(
            f"{check.name}: {check.finding}", width - 6, break_long_words=False, break_on_hyphens=False
        )
        text.append(f"  {SIGNS[check.state]} ", style=STYLES[check.state])
        text.append("\n      ".join(lines) + "\n")
        if check.mend:
            text.append(f"      → {check.mend}\n")
    text.append(f"\n{summary(report)}")
    return text


def summary(report: Report) -> str:
    """One line: how many checks are in which state, and whether the bench works."""
    counts = {state: sum(check.state == state for check in report.checks) for state in SIGNS}
    works = "something that every run needs is missing" if report.exit_code else "the bench works here"
    return f"{counts['ok']} ok, {counts['warn']} to note, {counts['missing']} missing: {works}."


def gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
