"""Small models that tests make once and keep between test processes and runs.

They lie in `.cache/tests` of the checkout, known by the code that makes them and the versions of what it uses. Delete
the folder at will.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parent.parent
KEPT = REPOSITORY / ".cache" / "tests"
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors")


def kept_models(name: str, script: Path, words: list[str], folder: Path) -> dict[str, Path]:
    """Copies of the model folders that `python script *words FOLDER` makes, in `folder`, by their names."""
    sources = [
        script.read_bytes(),
        "\0".join(words).encode(),
        (REPOSITORY / "data" / "news" / "train.csv").read_bytes(),
    ]
    versions = [f"{library} {metadata.version(library)}" for library in LIBRARIES]
    key = hashlib.sha256(b"\0".join([*sources, *(version.encode() for version in versions)])).hexdigest()[:16]
    home = KEPT / f"{name}-{key}"
    KEPT.mkdir(parents=True, exist_ok=True)
    with FileLock(KEPT / f"{name}.lock"):
        if not home.is_dir():
            draft = KEPT / f"{name}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            done = subprocess.run(
                [sys.executable, str(script), *words, str(draft)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            draft.rename(home)
    shutil.copytree(home, folder, dirs_exist_ok=True)
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
