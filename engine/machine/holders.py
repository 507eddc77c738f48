"""The holder of a device as data: the kind of its work, and a name. Words are made here, only for messages."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The kinds of work that hold a device."""

    RUN = "run"
    """A run, named by its id."""
    FETCH = "fetch"
    """Makes what a suite needs, named by the suite."""
    CLASSIFY = "classify"
    """One call of Classify, or one build that it needs."""
    DOCTOR = "doctor"
    """Tries a GPU out, for seconds."""
    LOAD = "load"
    """A quick look at one variant under load, named by the variant."""
    PROFILE = "profile"
    """A profile of one variant, named by it."""
    SHIP = "ship"
    """The check of a shipped folder."""
    OTHER = "other"
    """Anything that a file of another version says; the name is its words."""


WORDS = {
    Kind.RUN: "run {name}",
    Kind.FETCH: "fetch {name}",
    Kind.CLASSIFY: "classify",
    Kind.DOCTOR: "doctor",
    Kind.LOAD: "the load of {name}",
    Kind.PROFILE: "the profile of {name}",
    Kind.SHIP: "ship",
    Kind.OTHER: "{name}",
}


@dataclass(frozen=True)
class Holder:
    """The process that holds a device, or waits for it."""

    kind: Kind
    name: str = ""

    @property
    def words(self) -> str:
        """The holder in a message, such as "run 01J..."."""
        return WORDS[self.kind].format(name=self.name)

    @property
    def is_brief(self) -> bool:
        """Whether the holder lets go soon: after one call, one build or a few seconds."""
        return self.kind in (Kind.CLASSIFY, Kind.DOCTOR)

    @property
    def needs_all_memory(self) -> bool:
        """Whether warm workers leave the device's memory to the holder."""
        return self.kind in (Kind.RUN, Kind.FETCH)


@dataclass(frozen=True)
class Process:
    """A holder and its process."""

    holder: Holder
    pid: int
    mark: str
    """The process's `engine.machine.processes.mark`, which tells it from a later process with the same id."""

    @property
    def words(self) -> str:
        return f"{self.holder.words} (process {self.pid})"

    def to_text(self) -> str:
        """The two lines written beside a lock: the facts as JSON, and the mark."""
        facts = {"kind": self.holder.kind, "name": self.holder.name, "pid": self.pid}
        return f"{json.dumps(facts)}\n{self.mark}"


def process_of(text: str) -> Process | None:
    """The holder that a file beside a lock names; None where it names none.

    Any user of the machine may have written the file, with any version of the bench.
    """
    first, _, mark = text.partition("\n")
    try:
        facts = json.loads(first)
        holder, pid = Holder(Kind(facts["kind"]), str(facts["name"])), facts["pid"]
    except (ValueError, KeyError, TypeError):
        return _process_of_words(text)
    valid = isinstance(pid, int) and 0 < pid < 10**10 and mark and "\n" not in mark
    return Process(holder, pid, mark) if valid else None


def _process_of_words(text: str) -> Process | None:
    """The holder in a file of a bench that wrote words: "run 01J... (process 7)", and the mark in a second line."""
    match = re.fullmatch(r"(.+) \(process ([1-9][0-9]{0,9})\)\n(.+)", text)
    return Process(from_words(match[1]), int(match[2]), match[3]) if match else None


def from_words(words: str) -> Holder:
    """The holder that an older bench wrote as `words`."""
    for kind in (Kind.RUN, Kind.FETCH):
        if words.startswith(f"{kind} "):
            return Holder(kind, words.removeprefix(f"{kind} "))
    return Holder(Kind(words)) if words in (Kind.CLASSIFY, Kind.DOCTOR, Kind.SHIP) else Holder(Kind.OTHER, words)
