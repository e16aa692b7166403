"""What a benchmark of many minutes has made so far, so that a run that was ended goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class Kept:
    """Files and values by name, in a folder of build/ that belongs to one state of the code and of the data."""

    def __init__(self, folder: Path, states: Iterable[bytes], *, resume: bool) -> None:
        """folder: its name gets a digest of `states`. resume: whether what is there counts; else it is made anew."""
        digest = hashlib.sha256()
        for state in states:
            digest.update(hashlib.sha256(state).digest())
        self.folder = folder.with_name(f"{folder.name}-{digest.hexdigest()[:12]}")
        if not resume:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    def value(self, name: str, make: Callable[[], Any]) -> Any:
        """What JSON can hold, as `make` gave it."""
        path = self.folder / f"{_file(name)}.json"
        if not path.exists():
            _write(path, json.dumps(make()).encode())
        return json.loads(path.read_bytes())

    def file(self, name: str, make: Callable[[], tuple[bytes, dict[str, Any]]]) -> tuple[bytes, dict[str, Any]]:
        """Bytes and what is to be said of them, with `seconds`, which `make` took."""
        path = self.folder / f"{_file(name)}.bytes"

        def made() -> dict[str, Any]:
            begin = time.perf_counter()
            content, info = make()
            _write(path, content)
            return info | {"seconds": round(time.perf_counter() - begin, 2)}

        info = self.value(name, made)
        return path.read_bytes(), info


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _write(path: Path, content: bytes) -> None:
    """The whole of it or nothing."""
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)
