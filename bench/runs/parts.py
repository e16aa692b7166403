"""Groups written as soon as they are measured, in <directory>/parts, so that an interrupted run can go on.

A run that ended for want of time has left a result file, whose groups count as well. Groups are taken up again only on the same CPU, with
the same native core, packages and options: all else would mix two runs in one file.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from . import results
from .results import Result

FOLDER = "parts"


def identity(environment: dict[str, Any], settings: dict[str, Any]) -> str:
    """What groups of one file have in common, as text."""
    what = (environment["machine"], environment["ulp"], environment["packages"], environment.get("commit"), settings.get("options"))
    return json.dumps(what, sort_keys=True)


def save(result: Result, directory: Path) -> Path:
    """Keep what is measured so far."""
    return results.save(result, directory / FOLDER)


def found(what: str, directory: Path, environment: dict[str, Any], settings: dict[str, Any]) -> Result | None:
    """What an earlier run with this environment and these settings has measured in `directory`; None where there is nothing."""
    wanted = identity(environment, settings)
    for path in (directory / FOLDER / f"{what}.json", directory / f"{what}.json"):
        if path.exists():
            try:
                earlier = results.load(path)
            except results.SchemaError:
                continue
            if identity(earlier.environment, earlier.settings) == wanted:
                return earlier
    return None


def of_process(directory: Path, name: str) -> Path:
    """Where a process that measures some groups of `networks` writes its result file."""
    return directory / FOLDER / name


def finish(what: str, directory: Path) -> None:
    """Remove the parts of a benchmark whose result file is written."""
    (directory / FOLDER / f"{what}.json").unlink(missing_ok=True)
    for folder in (directory / FOLDER).glob("threads-*") if what == "networks" else ():
        shutil.rmtree(folder)
    if (directory / FOLDER).exists() and not any((directory / FOLDER).iterdir()):
        (directory / FOLDER).rmdir()
