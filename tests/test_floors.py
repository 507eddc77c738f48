"""The floors of the house: an import goes down only, and no package imports itself in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ENGINE = (
    {"__main__"},
    {"cli"},
    {"classify"},
    {"ship", "jobs"},
    {"run", "doctor"},
    {"worker"},
    {"report"},
    {"store", "artefacts"},
    {"suite"},
    {"backends"},
    {"machine"},
    {"measurement"},
    {"errors", "files", "paths", "units", "__init__"},
)
"""Engine's packages, from the top floor down. Packages on one floor do not import each other."""
DASHBOARD = (
    {"app", "__main__"},
    {"app_pages"},
    {"controls", "tables", "figures", "findings", "export"},
    {"data", "server"},
    {"run_rows"},
    {"metrics", "style", "__init__"},
)
"""Dashboard's packages, from the top floor down. Those above `data` may import each other, but not in a circle."""
MODEL_LIBRARIES = {
    "torch", "transformers", "onnxruntime", "onnx", "optimum", "bitsandbytes", "openvino", "nncf", "torchao",
    "accelerate",
}  # fmt: skip
"""Imported by a worker, a builder or a training process only."""
MAY_IMPORT_A_MODEL_LIBRARY = ("engine/backends/", "engine/artefacts/", "engine/machine/ceilings.py", "engine/worker/")


def modules(top: str) -> dict[str, Path]:
    """Module name -> file, of all modules below the folder `top`."""
    found = {}
    for file in (REPOSITORY / top).rglob("*.py"):
        name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = file
    return found


ALL = modules("engine") | modules("dashboard")


def imports(file: Path) -> set[str]:
    """Our modules that `file` imports anywhere, inside functions and for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in ALL else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & ALL.keys()


def floor(name: str, floors: tuple[set[str], ...]) -> int:
    parts = name.split(".")
    package = parts[1] if len(parts) > 1 else "__init__"
    (found,) = [number for number, packages in enumerate(floors) if package in packages]
    return found


@pytest.mark.parametrize(("top", "floors"), [("engine", ENGINE), ("dashboard", DASHBOARD)])
def test_an_import_goes_down_only(top, floors):
    upwards = []
    for name, file in modules(top).items():
        for imported in imports(file):
            if imported.split(".")[0] != top:
                continue
            if floor(imported, floors) < floor(name, floors):
                upwards.append(f"{name} -> {imported}")
    assert upwards == []


def test_packages_on_one_floor_of_engine_do_not_import_each_other():
    beside = []
    for name, file in modules("engine").items():
        for imported in imports(file):
            packages = (f"{name}.".split(".")[1], f"{imported}.".split(".")[1])
            ground = floor(name, ENGINE) == len(ENGINE) - 1
            if packages[0] != packages[1] and floor(name, ENGINE) == floor(imported, ENGINE) and not ground:
                beside.append(f"{name} -> {imported}")
    assert beside == []


def test_engine_never_imports_the_dashboard():
    assert [
        name for name, file in modules("engine").items() for it in imports(file) if it.startswith("dashboard")
    ] == []


def test_no_imports_form_a_circle():
    graph = {name: imports(file) for name, file in ALL.items()}
    state: dict[str, int] = {}
    circles = []

    def visit(name: str, way: list[str]) -> None:
        state[name] = 1
        for imported in sorted(graph[name] - {name}):
            if state.get(imported) == 1:
                circles.append(" -> ".join([*way[way.index(imported) :], imported]))
            elif imported not in state:
                visit(imported, [*way, imported])
        state[name] = 2

    for name in sorted(graph):
        if name not in state:
            visit(name, [name])
    assert circles == []


def test_only_workers_builders_and_training_import_a_model_library():
    found = []
    for name, file in ALL.items():
        place = file.relative_to(REPOSITORY).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if {each.split(".")[0] for each in names} & MODEL_LIBRARIES and not place.startswith(
                MAY_IMPORT_A_MODEL_LIBRARY
            ):
                found.append(f"{name}: {names}")
    assert found == []
