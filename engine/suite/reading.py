"""Finds, reads and checks suite files."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ValidationError,
)

from engine import paths
from engine.errors import RequestError, did_you_mean, one_line
from engine.suite.spec import (
    Checkpoint,
    Load,
    NewTokenizer,
    Protocol,
    Spec,
    Suite,
    Variant,
    Workload,
    suite_files,
    toml_key,
)


def find_suite(reference: str) -> Path:
    """The file of the suite that `reference` names: a name from data/suites, or a path.

    Raises RequestError if there is no such file.
    """
    known = suite_files()
    if reference in known:
        return known[reference]
    try:
        path = Path(reference).expanduser()
        if path.is_file():
            return path.resolve()
    except (OSError, RuntimeError) as error:
        raise RequestError(f"suite {reference!r}: {one_line(error)}") from error
    if path.suffix == ".toml" or "/" in reference:
        raise RequestError(f"suite file {reference}: no such file")
    if not known:
        raise RequestError(f"unknown suite {reference!r}: {paths.NO_SUITES}")
    raise RequestError(
        f"unknown suite {reference!r}; allowed: {', '.join(known)}, or a path to a .toml file"
        + did_you_mean(reference, list(known))
    )


def load_suite(reference: str, overrides: list[str] | tuple[str, ...] = ()) -> Suite:
    """The suite that `reference` names, with `overrides` ("workload.examples=200") applied.

    Raises RequestError, one line, on anything wrong with the file or an override.
    """
    path = find_suite(reference)
    raw = read_toml(path)
    for override in overrides:
        _override(raw, override)
    return parse_suite(raw, str(path), path.parent)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of the file, not checked yet. Raises RequestError if the file is not TOML or cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise RequestError(f"{path}: not a readable TOML file: {one_line(error)}") from error


def parse_suite(raw: dict[str, Any], where: str, folder: Path) -> Suite:
    """Parse `raw`, a suite file as read, into a Suite; `where` names its source in messages."""
    if "folder" in raw:
        raise RequestError(f"{where}: unknown key 'folder'; allowed: {', '.join(_keys(Suite))}")
    raw = _renamed(raw, where)
    try:
        return Suite.model_validate({**raw, "folder": folder})
    except ValidationError as error:
        raise RequestError(f"{where}: {explain(error, raw)}") from error


OLD_KEYS = {"scenarios": "load"}
"""Old names of a suite's keys -> new names. Stored runs contain the old names."""


def _renamed(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """`raw` with the current names of its keys. Raises RequestError if it has a key under both names."""
    for old, new in OLD_KEYS.items():
        if old in raw and new in raw:
            raise RequestError(f"{where}: [{old}] is the old name of [{new}]; keep one of them")
    return {OLD_KEYS.get(key, key): value for key, value in raw.items()}


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    # If the file uses the old name of a key, an override must use it too.
    for old, new in OLD_KEYS.items():
        if parts[0] in (old, new):
            parts[0] = old if old in raw else new
    if not equals or not all(parts):
        raise RequestError(f"--set {override!r}: expected KEY=VALUE, such as workload.examples=200")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    node: Any = raw
    for depth, part in enumerate(parts[:-1]):
        if isinstance(node, dict) and part in ("variant", "checkpoint") and depth == 0:
            tables = node.get(part)
            listed = [item for item in tables if isinstance(item, dict)] if isinstance(tables, list) else []
            items = {item["name"]: item for item in listed if isinstance(item.get("name"), str)}
            if len(parts) < 3 or parts[1] not in items:
                raise RequestError(
                    f"--set {override!r}: {part}.NAME.KEY needs one of: {', '.join(items) or 'none is declared'}"
                )
            node = items
            continue
        node = node.setdefault(part, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise RequestError(f"--set {override!r}: {'.'.join(parts[: depth + 1])} is not a table")
    node[parts[-1]] = value


def _keys(model: type[BaseModel]) -> list[str]:
    return [name for name, info in model.model_fields.items() if not info.exclude]


_TABLES: dict[str, type[BaseModel]] = {
    "workload": Workload,
    "protocol": Protocol,
    "load": Load,
    "checkpoint": Checkpoint,
    "variant": Variant,
}
_SHAPES = {
    "model_type": "should be a table of keys",
    "dict_type": "should be a table of keys",
    "list_type": "should be a list: [...]",
    "string_pattern_mismatch": "should be 1 to 64 letters, digits, dots, dashes, underscores and plus signs, "
    "a letter or digit first",
}
"""Messages in TOML's terms for the errors that pydantic words in terms of Python's classes and patterns."""
_LISTS = {
    "variant": "should be one or several tables, each headed [[variant]]",
    "checkpoint": "should be one or several tables, each headed [[checkpoint]]",
    "workload.batch_size": "should be a whole number, or a list of them",
}
_UNIONS = ("tokenizer", "labels", "teacher_labels")


def explain(error: ValidationError, raw: dict[str, Any], root: type[Spec] = Suite) -> str:
    """All problems of `error` in one line, each with its key, the value found and the allowed values.

    `raw` is the input that failed to validate as a `root`.
    """
    problems = []
    for item in error.errors(include_url=False):
        if item["loc"][-2:] == ("tokenizer", "str") and isinstance(item["input"], dict):
            # The table describes a tokenizer to train; the errors inside it follow.
            continue
        # After a key that accepts several types, pydantic inserts the type that it tried.
        pairs = pairwise((None, *item["loc"]))
        loc = [part for before, part in pairs if before not in _UNIONS or isinstance(part, int)]
        key, model = _spell(loc, raw, root)
        kind = item["type"]
        if kind == "extra_forbidden":
            allowed = _keys(model)
            last = str(loc[-1])
            hint = did_you_mean(last, allowed)
            problems.append(f"{key}: unknown key; allowed: {', '.join(allowed)}{hint}")
        elif kind == "missing":
            problems.append(f"{key}: missing; this key is required")
        elif kind == "value_error":
            text = str(item["ctx"]["error"])
            problems.append(f"{key}: {text}" if key else text)
        else:
            message = _LISTS.get(key) if kind == "list_type" else None
            message = message or _SHAPES.get(kind) or re.sub(r"^Input should be", "should be", item["msg"])
            problems.append(f"{key}: found {item['input']!r}; {message}")
    return "; ".join(dict.fromkeys(problems))


def _spell(loc: list[Any], raw: dict[str, Any], model: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """A location in readable form ("variant 'fp32': precision"), and the model that contains it."""
    if loc and loc[0] in _TABLES and (len(loc) > 1):
        model = _TABLES[loc[0]]
    if len(loc) >= 2 and loc[0] in ("variant", "checkpoint") and isinstance(loc[1], int):
        try:
            name = repr(raw[loc[0]][loc[1]]["name"])
        except (KeyError, TypeError, IndexError):
            name = f"number {loc[1] + 1}"
        if loc[2:3] == ["tokenizer"] and len(loc) > 3:
            model = NewTokenizer
        rest = ".".join(toml_key(part) for part in loc[2:])
        return f"{loc[0]} {name}: {rest}" if rest else f"{loc[0]} {name}", model
    return ".".join(toml_key(part) for part in loc), model
