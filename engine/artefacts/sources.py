"""Model folders as found: weights, head, labels and a digest of their content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from engine.artefacts.cache import FACTS
from engine.backends.base import Source
from engine.errors import RequestError, one_line

WEIGHTS = (".safetensors", ".safetensors.index.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
HEAD = "ForSequenceClassification"


def inspect_folder(reference: str, folder: Path, where: str) -> Source:
    """`folder` as a Source. Raises RequestError, from its files' names and config.json alone."""
    name = f"{where} {reference!r}"
    if not any(folder.iterdir()):
        raise RequestError(f"{name}: the folder {folder} is empty; it needs config.json and model.safetensors")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no JSON object")
    except FileNotFoundError as error:
        raise RequestError(f"{name}: {folder} has no config.json, so it is no model folder") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{name}: config.json is not readable: {one_line(error)}") from error
    if config.get("auto_map"):
        raise RequestError(
            f"{name}: its config.json names code to run (auto_map); remote code is never run: "
            "use a model whose architecture transformers has"
        )
    if not any(path.name.endswith(WEIGHTS) for path in folder.iterdir()):
        pickled = [path.name for path in folder.iterdir() if path.name.endswith(PICKLES)]
        if pickled:
            raise RequestError(
                f"{name}: has pickled weights only ({', '.join(sorted(pickled))}), which can run code when "
                "loaded; save them as safetensors (save_pretrained does) and try again"
            )
        raise RequestError(f"{name}: {folder} has no weights; it needs model.safetensors")
    architectures = config.get("architectures") or []
    if not any(str(item).endswith(HEAD) for item in architectures):
        raise RequestError(
            f"{name}: has no classification head (its architecture is "
            f"{', '.join(map(str, architectures)) or 'not named'}); needed is one that ends in {HEAD}: "
            "fine-tune it first, or let a [[checkpoint]] of the suite do it"
        )
    return Source(reference, folder, config, folder_digest(folder))


def labels_of_config(config: dict[str, Any], name: str) -> list[str]:
    """A model's output names by config.json alone, in index order. Raises RequestError where it has no such map."""
    named = config.get("id2label")
    if not named:
        count = config.get("num_labels")
        named = {str(index): f"LABEL_{index}" for index in range(count if isinstance(count, int) else 2)}
    keys = [str(index) for index in range(len(named))] if isinstance(named, dict) else []
    if not keys or set(named) != set(keys):
        raise RequestError(
            f"{name}: id2label in its config.json is {one_line(ValueError(named), 80)}; needed is a name for each "
            'output, counted from 0: {"0": "World", "1": "Sports"}'
        )
    return [str(named[key]) for key in keys]


def folder_digest(folder: Path) -> str:
    """sha256 over the model and tokenizer files of `folder`: names and contents, not times."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".txt", ".model") and path.name != FACTS and path.is_file():
            with path.open("rb") as file:
                total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
