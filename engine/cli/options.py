"""The options that commands share, and the exit codes."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from engine.run.state import Progress

    Progress_ = Progress

MEASURED, SOME_FAILED, WRONG_REQUEST, STOPPED = 0, 1, 2, 130

SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="A name from data/suites, or a path.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help='An id, a part of one, or "latest".')]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: workload.examples=200."),
]
Variants = Annotated[str | None, typer.Option(metavar="A,B", help="Only these, and the baseline.")]
Offline = Annotated[bool, typer.Option("--offline", help="Ask no model hub for anything.")]
Quick = Annotated[bool, typer.Option("--quick", help="A first look: fewer rounds and examples, wider intervals.")]


class Where(StrEnum):
    here = "here"
    slurm = "slurm"


On = Annotated[Where, typer.Option("--on", help="This machine, or a job of its Slurm cluster.")]
Partition = Annotated[str | None, typer.Option(metavar="P", help="Of the cluster; with --on slurm.")]
Gpu = Annotated[str | None, typer.Option(metavar="TYPE", help='The type of the job\'s GPU, or "any"; none without.')]
Time = Annotated[str | None, typer.Option(metavar="LIMIT", help="The job's limit, as sbatch takes it: 2:00:00.")]
Account = Annotated[str | None, typer.Option(metavar="A", help="Who pays.")]


class Format(StrEnum):
    csv = "csv"
    json = "json"
    markdown = "markdown"
    latex = "latex"
    run = "run"


HourlyPrice = Annotated[
    float | None,
    typer.Option("--hourly-price", min=0.0, metavar="P", help="Of the machine: adds the price of a million texts."),
]
