"""Native modules that only the benchmarks use, compiled on first use with the machine's C++ compiler into `bench/.build/`."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench import ROOT

SOURCES = Path(__file__).parent
BUILD_DIR = ROOT / "bench" / ".build"


class BuildError(RuntimeError):
    """The compiler is missing or refused the source; the message says which and carries the compiler's first lines."""


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Feature names of the first core as Linux spells them ("avx2", "fma", ...); empty where /proc/cpuinfo is missing."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def compiler() -> str | None:
    """The C++ compiler: $CXX, else g++, else clang++; None when none of them is found."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    return None


def x86_avx2() -> bool:
    """Whether this core runs AVX2 code."""
    return platform.machine().lower() in ("x86_64", "amd64") and "avx2" in cpu_flags()


@functools.cache
def load(source: str, flags: tuple[str, ...]) -> ctypes.CDLL:
    """Compile `source` (a file beside this module) with `flags` unless the same text was compiled so before, and load it.

    Raises BuildError when there is no compiler or it fails.
    """
    cxx = compiler()
    if cxx is None:
        raise BuildError("no C++ compiler: install g++ or set CXX")
    text = (SOURCES / source).read_bytes()
    command = [cxx, "-std=c++17", "-O3", *flags, "-shared", "-fPIC"]
    version = subprocess.run([cxx, "--version"], capture_output=True, check=False).stdout
    key = hashlib.sha256(text + version + "\0".join(command).encode()).hexdigest()[:16]
    library = BUILD_DIR / f"{Path(source).stem}-{key}.so"
    if not library.exists():
        BUILD_DIR.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD_DIR) as scratch:
            made = Path(scratch) / library.name
            done = subprocess.run([*command, "-o", str(made), str(SOURCES / source)], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise BuildError(f"{source} does not compile: " + " | ".join(done.stderr.strip().splitlines()[:3]))
            made.replace(library)  # atomic, for a second process that builds the same file
    return ctypes.CDLL(str(library))
