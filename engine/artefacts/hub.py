"""A model repository on the hub: its files on this machine, or one line on why they are not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import RequestError, first_line, one_line

FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
PICKLE = "pytorch_model.bin"


def has_safetensors(folder: Path) -> bool:
    """Whether `folder` has weights that can be read without running anything."""
    return any(folder.glob("*.safetensors"))


@dataclass(frozen=True)
class Repository:
    """One repository at one revision (None: the default branch)."""

    name: str
    revision: str | None
    where: str
    """The part of the suite that needs it, for messages."""
    suite: str
    """How a command line names the suite, for messages."""

    def cached(self, weights: bool) -> Path | None:
        """The files where they are on this machine already; with `weights`, only if those are there too.

        Raises RequestError for a name that is no hub id.
        """
        try:
            folder = self._snapshot(FILES, local_only=True)
        except _Missing:
            return None
        complete = has_safetensors(folder) or (folder / PICKLE).exists()
        return folder if complete or not weights else None

    def downloaded(self, offline: bool) -> Path:
        """The files, fetched where they are missing: safetensors, but no pickles. Raises RequestError."""
        return self._fetched(FILES, offline)

    def with_pickle(self, offline: bool) -> Path:
        """The files and the pickled weights, which are data until somebody loads them. Raises RequestError."""
        folder = self._fetched([*FILES, PICKLE], offline)
        if not (folder / PICKLE).exists():
            raise RequestError(f"{self.where} {self.name!r}: has neither safetensors nor {PICKLE}")
        return folder

    def _fetched(self, patterns: list[str], offline: bool) -> Path:
        try:
            return self._snapshot(patterns, local_only=offline)
        except _Missing as error:
            why = "this run is offline" if offline else f"the hub does not give it ({one_line(error, 160)})"
            raise RequestError(
                f"{self.where} {self.name!r}: not on this machine, and {why}; "
                f"`python -m engine fetch {self.suite}` gets it where there is a network; "
                "a folder with the model's files works too"
            ) from error

    def _snapshot(self, patterns: list[str], local_only: bool) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError

        try:
            return Path(
                snapshot_download(
                    self.name, revision=self.revision, allow_patterns=patterns, local_files_only=local_only
                )
            )
        except HFValidationError as error:
            raise RequestError(
                f"{self.where} {self.name!r}: neither a folder nor a hub id: {one_line(error)}"
            ) from error
        except Exception as error:  # every transport has exceptions of its own
            raise _Missing(first_line(error)) from error


class _Missing(Exception):
    """The files are not here, and could not be got."""
