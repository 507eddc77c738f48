"""Checks of the installed packages against the project's pins."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engine import backends, paths
from engine.doctor.report import Check
from engine.machine import environment

if TYPE_CHECKING:
    pass

MINIMUM_PYTHON = (3, 11)
INSTALL = "python -m pip install"
DISTRIBUTION_OF = {"onnxruntime": "onnxruntime-gpu", "pynvml": "nvidia-ml-py", "sklearn": "scikit-learn"}
"""The distribution to install for a module of another name."""


def _requirements() -> list[str]:
    """The lines of requirements.txt that name a distribution."""
    try:
        lines = (paths.REPOSITORY / "requirements.txt").read_text("utf-8").splitlines()
    except OSError:
        return []
    return [line for raw in lines if (line := raw.partition("#")[0].strip()) and not line.startswith("-")]


def pin_checks() -> Iterable[Check]:
    """Whether what is installed is what the project was tested with."""
    if not is_installed("packaging"):
        return
    from packaging.requirements import InvalidRequirement, Requirement

    wanted: list[Requirement] = []
    for line in _requirements():
        try:
            wanted.append(Requirement(line))
        except InvalidRequirement:
            continue
    found = environment.installed_versions([item.name for item in wanted])
    off = [
        f"{item.name} {found[item.name]} (tested with {item.specifier})"
        for item in wanted
        if item.name in found and not item.specifier.contains(found[item.name], prereleases=True)
    ]
    if off:
        mend = f"{INSTALL} -r requirements.txt"
        yield Check("Machine", "package versions", "warn", f"not as tested: {'; '.join(off)}", mend)
    elif wanted:
        finding = f"{len(found)} of {len(wanted)} installed, in the versions tested"
        yield Check("Machine", "package versions", "ok", finding)


def missing_modules(name: str) -> list[str] | None:
    """The modules that backend `name` lacks; None where the backend itself cannot be asked."""
    try:
        return [module for module in backends.get(name).modules if not is_installed(module)]
    except Exception:  # A backend is somebody's own file: whatever is wrong with it is a finding.
        return None


def is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def _owners() -> Mapping[str, list[str]]:
    """Module -> the distributions that install it; slow to find out."""
    return packages_distributions()


def versions_of(modules: Iterable[str]) -> str:
    names = dict.fromkeys(dist for module in modules for dist in _owners().get(module, [])[:1])
    return ", ".join(f"{name} {version(name)}" for name in names)


def pin_of(module: str) -> str:
    """The requirement to install for `module`: the project's own pin if it has one."""
    name = DISTRIBUTION_OF.get(module, module.replace("_", "-"))
    start = re.compile(rf"{re.escape(name)}\s*([=<>~!\[;]|$)", re.IGNORECASE)
    return next((line for line in _requirements() if start.match(line)), name)


def precisions_on(name: str, device: str) -> tuple[list[str], dict[str, str]]:
    """The precisions of a backend that nothing speaks against on `device`, and why not for the others."""
    from engine.backends.base import Source

    cls = backends.get(name)
    able, refused = [], {}
    for precision in cls.precisions:
        try:
            reason = cls.unavailable(precision, {}, device, Source("", Path(), {}, ""))
        except Exception:  # Without a model it may not be able to tell; then nothing speaks against it.
            reason = None
        if reason:
            refused[precision] = reason
        else:
            able.append(precision)
    return able, refused


def lacks_to_build(name: str) -> list[str]:
    """The distributions that a backend's build steps need and that are not installed."""
    cls = backends.get(name)
    needed: dict[str, None] = {}
    for precision in cls.precisions:
        try:
            for recipe in cls.recipes(precision, {}):
                needed |= dict.fromkeys(recipe.distributions)
        except Exception:  # See _missing.
            continue
    installed = environment.installed_versions(tuple(needed))
    # Either distribution of ONNX Runtime builds; which one is there is looked at elsewhere.
    return [dist for dist in needed if dist not in installed and not dist.startswith("onnxruntime")]
