"""Libraries as the processes of models find them: shared ones by name, and Python packages that they do without."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

PACKAGES: Mapping[str, str] = {"nvidia": "*/lib", "tensorrt_libs": "."}
"""Package -> where in it NVIDIA's wheels keep libraries: in folders that no loader looks into."""


BESIDE_THE_MODEL = ("sklearn", "scipy")
"""What is here for the bench's own figures. Where they are installed transformers imports them for a way to generate
text and for losses of object detection, and pandas and PyArrow with them: a third of its start, and 140 MB."""


def leave_out(*packages: str) -> None:
    """Have this process find none of `packages`, installed or not."""
    for package in packages:
        sys.modules[package] = None  # type: ignore[assignment]


def find(name: str) -> str | None:
    """Where the library `name` lies: in a wheel, or where the dynamic loader looks; None if nowhere."""
    for package, folder in PACKAGES.items():
        for root in _folders(package):
            for found in sorted(Path(root).glob(f"{folder}/{name}")):
                return str(found)
    for place in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        if place and (Path(place) / name).exists():
            return str(Path(place) / name)
    return _loader_cache().get(name)


def _folders(package: str) -> list[str]:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return []
    return list(spec.submodule_search_locations or []) if spec else []


@functools.cache
def _loader_cache() -> Mapping[str, str]:
    """The shared libraries that the dynamic loader knows: name -> path."""
    for program in ("/sbin/ldconfig", "/usr/sbin/ldconfig", "ldconfig"):
        try:
            text = subprocess.run([program, "-p"], capture_output=True, text=True, timeout=10, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        return dict(re.findall(r"^\s*(\S+) \(.*=> (.+)$", text, re.MULTILINE))
    return {}
