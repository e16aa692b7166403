"""Where and how a result was measured: machine, OS, compiler, packages, command, commit. No host or user names."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import ROOT
from bench.peers import native
from bench.subjects import installed

PACKAGES = ("numpy", "torch", "onnxruntime", "onnx", "openvino", "scikit-learn", "matplotlib")
# Features that decide which kernels of anybody run.
ISA_FLAGS = (
    "sse2", "ssse3", "sse4_1", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512vbmi",
    "avx512_vpopcntdq", "gfni", "amx_int8", "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cpu_family() -> str:
    wanted = ("vendor_id", "cpu family", "model", "stepping")
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in wanted:
                found.setdefault(key.strip(), value.strip())
    except OSError:
        return ""
    return ", ".join(f"{key} {found[key]}" for key in wanted if key in found)


def _caches() -> dict[str, str]:
    """{"L1 data": "32K", ...} of core 0, as Linux reports them."""
    caches: dict[str, str] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text(encoding="utf-8").strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        caches[f"L{level}" if kind == "Unified" else f"L{level} {kind.lower()}"] = size
    return caches


def last_level_bytes(default: int = 32 << 20) -> int:
    """Size of the largest cache in bytes; `default` where the OS does not report it."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = [int(text[:-1]) * units[text[-1]] for text in _caches().values() if text[-1:] in units and text[:-1].isdigit()]
    return max(sizes, default=default)


def _os_name() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release().split('-')[0]}"
    except (OSError, AttributeError, KeyError):
        return platform.platform(terse=True)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _bench_compiler() -> str:
    cxx = native.compiler()
    if cxx is None:
        return "none"
    done = subprocess.run([cxx, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0] if done.stdout else Path(cxx).name


def command(arguments: list[str]) -> str:
    """The command line without the place of the result files, which differs from one reader to the next."""
    shown = list(arguments)
    while "--out" in shown:
        del shown[shown.index("--out") : shown.index("--out") + 2]
    return " ".join(["python -m bench", *shown])


def describe(arguments: list[str]) -> dict[str, Any]:
    """Everything a reader needs to judge or repeat a result that `python -m bench <arguments>` made now.

    "dirty" tells whether tracked files other than results and README differed from the commit; None without git.
    """
    status = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results", ":!README.md")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command(arguments),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "machine": {
            "cpu": _cpu_model(),
            "family": _cpu_family(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "caches": _caches(),
            "isa": [flag for flag in ISA_FLAGS if flag in native.cpu_flags()],
        },
        "os": _os_name(),
        "python": sys.version.split()[0],
        "ulp": {"version": installed.version(), **installed.build_info(), "core": installed.core_digest()},
        "bench_compiler": _bench_compiler(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }
