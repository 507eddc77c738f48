"""Build processes side by side, and the folders that they fill.

A folder is made once: one process at a time builds it, in a draft that is put in place by a rename, and the others
wait. What the builds report reaches the thread that owns the lanes, because only that thread may end all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any, TypeVar

import psutil

from engine.artefacts.builder import Builder, BuildError
from engine.artefacts.cache import LOOK_SECONDS, distribution_version, making
from engine.machine import host

Report = Callable[[str, float | None], None]
"""Called with a sentence on what is being done, and the share done (None where unknown)."""
LANES = 4
"""Build processes side by side, at most: an export is mostly one thread's work."""
LANE_BYTES = 2_000_000_000
"""Memory of a build process with all its libraries."""
LANE_BYTES_PER_PARAMETER = 16
"""Its memory for each weight: the weight itself, the graph's, and the graph's that is being made from it."""
WAITING = "waiting for what another process builds"
SILENT_SECONDS = 2.0
"""After this time without a report the progress says that another process builds."""
BUILD_SECONDS = 3600.0
"""Time limit of a build step, unless the protocol's deadline is longer: a build that hangs must end some day."""
ENDED = "what it was built for has ended"

Task = TypeVar("Task")
Built = TypeVar("Built")


class BuildLanes:
    """Build processes, started when they are needed and ended with `close`."""

    def __init__(self, deadline_s: float, report: Report) -> None:
        self.deadline_s = max(BUILD_SECONDS, deadline_s)
        """Time limit of a build step, and of training between two signs of progress."""
        self.report = report
        self._builders: dict[Builder, Thread] = {}
        """All build processes, and the thread that started each: they end with that thread."""
        self._idle: list[Builder] = []
        self._owner = current_thread()
        self._reports: SimpleQueue[tuple[str, float | None]] = SimpleQueue()
        """Reports from threads other than the owner."""
        self._stopped = False

    def close(self) -> None:
        """End all build processes."""
        for builder in self._builders:
            builder.close()

    def version(self, distribution: str) -> str | None:
        """The version of a library by which artefacts are known; None where it is not installed."""
        return distribution_version(distribution)

    def making(self, target: Path) -> AbstractContextManager[Path | None]:
        """Give an empty draft of the folder `target` to fill, or None where it is there already.

        Waits while another process makes it. Raises BuildError where the lanes are stopped meanwhile.
        """
        return making(target, self._wait_on)

    def _wait_on(self) -> None:
        """Called while another process makes a folder: the owner reports that, and may raise to end the wait."""
        if self._stopped:
            raise BuildError(ENDED)
        if current_thread() is self._owner:
            self.report(WAITING, None)

    def tell(self, text: str) -> None:
        """Report what is being built, by way of the owner."""
        if current_thread() is self._owner:
            self.report(text, None)
        else:
            self._reports.put((text, None))

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Have a build process do `request`, and return its facts. Raises BuildError where it fails."""
        if self._stopped:
            raise BuildError(ENDED)
        try:
            builder = self._idle.pop()
        except IndexError:
            builder = Builder(self.deadline_s)
            self._builders[builder] = current_thread()
        try:
            facts = builder.ask(request)
        except BaseException as error:
            # An interrupted build must not go on writing into a draft that is being removed.
            self._close(builder, at_once=not isinstance(error, BuildError))
            raise
        self._idle.append(builder)
        return facts

    def _close(self, builder: Builder, at_once: bool = False) -> None:
        builder.close(at_once)
        del self._builders[builder]
        if builder in self._idle:
            self._idle.remove(builder)

    def run(
        self, tasks: Sequence[Task], build: Callable[[Task], Built], lanes: int
    ) -> Iterator[tuple[Task, Built | BuildError]]:
        """Build each of `tasks`, up to `lanes` at a time; give each with its result as it comes.

        Raises what `report` raises, and anything but a BuildError that `build` raises; then all builds are ended.
        """
        with ThreadPoolExecutor(lanes, "build") as pool:
            waiting: dict[Future[Built], Task] = {pool.submit(build, task): task for task in tasks}
            last: tuple[str, float | None] = WAITING, None
            silent_s = -SILENT_SECONDS
            try:
                while waiting:
                    done, _ = wait(waiting, LOOK_SECONDS, FIRST_COMPLETED)
                    silent_s = 0.0 if done or not self._reports.empty() else silent_s + LOOK_SECONDS
                    if silent_s > 0:
                        # Nothing new, but the listener may want to end all of it.
                        self.report(*last)
                    while not self._reports.empty():
                        last = self._reports.get()
                        self.report(*last)
                    for future in done:
                        yield waiting.pop(future), _result(future)
            except BaseException:
                self._stopped = True
                for future in waiting:
                    future.cancel()
                for builder in list(self._builders):
                    builder.kill()
                raise
            finally:
                wait(waiting)
                for builder in [one for one, thread in self._builders.items() if thread is not self._owner]:
                    self._close(builder)


def lanes_for(builds: int, parameters: int) -> int:
    """How many build processes may work side by side: as many as there are builds, cores and memory for.

    `parameters`: of the largest model.
    """
    room = psutil.virtual_memory().available // (LANE_BYTES + LANE_BYTES_PER_PARAMETER * parameters)
    return max(1, min(builds, host.usable_cores(), LANES, room))


def _result(future: Future[Any]) -> Any:
    """The result of a thread's build, or its BuildError. Any other exception of the thread is raised."""
    try:
        return future.result()
    except BuildError as error:
        return error
