"""Threads, instruction sets and what this build is: the settings of the process, and the environment variables that preset them.

`ULP_NUM_THREADS`   threads per call, 1..1024; else `OMP_NUM_THREADS`; else the cores that affinity and cgroup leave this process
`ULP_MAX_CPU_ISA`   the best instruction set that kernels may use, a name of `ulp.show_config()`; "baseline" runs anywhere
`ULP_VERBOSE`       1: one line per `ulp.gemm` call on stderr; 0 or unset: nothing
`ULP_CUDA_CHECK`    1: `ulp.gemm` on a GPU waits for its arrays and checks their values; 0 or unset: it does not check them
`ULP_TUNE_CACHE`    the file in which `ulp.tune` keeps what it found; off: none; else ulp/tune.json in the user's cache directory

They are read once, when `ulp` is imported. An unknown value is a ValueError that says what is expected.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, overload

from . import _core
from ._gpu import native
from ._validate import integer

MAX_THREADS = 1024

verbose: bool = False
cuda_check: bool = False
_max_isa: str = ""
_threads_set: int = 0
_threads_source: str = ""


def set_num_threads(n: int) -> None:
    """Use up to n threads per call, 1..1024. Results do not depend on it. Raises TypeError or ValueError."""
    _set_threads(integer(n, "n", 1, MAX_THREADS, "a number of threads"), "ulp.set_num_threads")


def get_num_threads() -> int:
    """Threads that a call may use now."""
    return _core.num_threads()


def available_isas() -> list[str]:
    """Instruction sets that `set_isa` accepts on this CPU, best first, down to "baseline". `ULP_MAX_CPU_ISA` shortens the list."""
    known = _core.isas()
    allowed = set(known[known.index(_max_isa) :]) if _max_isa else set(known)
    return [name for name in _core.available_isas() if name in allowed]


def get_isa() -> str:
    """The best instruction set that kernels may use now."""
    return _core.isa()


def set_isa(name: str) -> None:
    """Let kernels use instruction sets up to `name` only.

    Raises ValueError for a name that is unknown, that this CPU lacks, or that lies above `ULP_MAX_CPU_ISA`; the message lists the rest.
    """
    if not isinstance(name, str):
        raise TypeError(f"name={name!r}: expected the name of an instruction set, one of {', '.join(available_isas())}")
    available = available_isas()
    if name in available:
        _core.set_isa(name)
        return
    if name not in _core.isas():
        why = f"unknown; this build knows {', '.join(_core.isas())}"
    elif name in _core.available_isas():
        why = f"above ULP_MAX_CPU_ISA={_max_isa}"
    else:
        why = "not supported by this CPU"
    raise ValueError(f"instruction set {name!r} is {why}; available here: {', '.join(available)}")


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dict"]) -> dict[str, str]: ...
def show_config(mode: str = "stdout") -> dict[str, str] | None:
    """Print how this build was made and what it runs on, or return it as a dict (mode="dict"). Paste it into bug reports."""
    if mode not in ("stdout", "dict"):
        raise ValueError(f"mode={mode!r}: expected 'stdout' or 'dict'")
    build = _core.build_info()
    threads = get_num_threads()
    source = _threads_source if threads == _threads_set else "set through the C interface, for instance by threadpoolctl"
    capped = f", capped by ULP_MAX_CPU_ISA={_max_isa}" if _max_isa else ""
    facts = {
        "version": build["version"],
        "compiler": build["compiler"],
        "flags": build["flags"],
        "build type": build["build_type"],
        "CPU": cpu_name(),
        "ISA in force": get_isa() + capped,
        "ISAs available": ", ".join(available_isas()),
        "ISAs known": ", ".join(_core.isas()),
        "threads": f"{threads} ({source})",
        "CUDA module": native.describe_module(),
        "CUDA devices": native.describe_devices(),
    }
    if mode == "dict":
        return facts
    width = max(map(len, facts))
    print("\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items()))
    return None


def cpu_name() -> str:
    """The CPU's model name as the core or the system reports it, else its architecture."""
    import platform  # lazily: it takes milliseconds

    if core := _core.cpu_core():
        return core
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def configure(environment: Mapping[str, str]) -> None:
    """Read the environment variables of this module. `ulp` calls it once, at import."""
    global verbose, cuda_check, _max_isa
    verbose = _switch(environment, "ULP_VERBOSE")
    cuda_check = _switch(environment, "ULP_CUDA_CHECK")

    value = environment.get("ULP_MAX_CPU_ISA", "")
    if value:
        known = _core.isas()
        if value not in known:
            raise ValueError(f"ULP_MAX_CPU_ISA={value!r} is unknown; this build knows {', '.join(known)}")
        _max_isa = value
        _core.set_isa(available_isas()[0])

    _set_threads(*_preset_threads(environment))


def _switch(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{name}={value!r}: expected 0 or 1")
    return value == "1"


def _set_threads(n: int, source: str) -> None:
    global _threads_set, _threads_source
    _core.set_num_threads(n)
    _threads_set, _threads_source = n, source


def _preset_threads(environment: Mapping[str, str]) -> tuple[int, str]:
    """The number of threads to start with, and where it comes from."""
    value = environment.get("ULP_NUM_THREADS", "").strip()
    if value:
        if not _is_count(value):
            raise ValueError(f"ULP_NUM_THREADS={value!r}: expected a number of threads from 1 to {MAX_THREADS}")
        return int(value), "ULP_NUM_THREADS"
    value = environment.get("OMP_NUM_THREADS", "").strip()
    if value:
        # A list has one number per level of nesting; calls of ulp are the outermost level.
        outermost = value.partition(",")[0].strip()
        if _is_count(outermost):
            return int(outermost), "OMP_NUM_THREADS"
        # Another library's variable: not an error, but not silent either.
        warnings.warn(f"ulp ignores OMP_NUM_THREADS={value!r}: expected a number from 1 to {MAX_THREADS}", RuntimeWarning, stacklevel=2)
    return default_threads()


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_THREADS


def default_threads(root: Path = Path("/")) -> tuple[int, str]:
    """Cores this process may use: its CPU affinity and the CPU quota of its cgroup, whichever is less. With where the number comes from.

    root: the directory that holds proc/ and sys/.
    """
    if hasattr(os, "sched_getaffinity"):
        cores, source = len(os.sched_getaffinity(0)), "CPU affinity"
    else:
        cores, source = os.cpu_count() or 1, "number of CPUs"
    quota = min(_cgroup_quotas(root), default=None)
    if quota is not None and quota < cores:
        # Rounded up, as the JVM and .NET do: half a core too many costs less than half a core idle.
        cores, source = max(1, int(-(-quota // 1))), "cgroup CPU quota"
    return min(cores, MAX_THREADS), source


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """CPU quotas in cores that bind this process: its own cgroup's and those of every parent, versions 1 and 2."""
    try:
        memberships = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in memberships:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        group = PurePosixPath("/" + path.strip("/"))
        for parent in (group, *group.parents):
            below = str(parent).strip("/")
            if not controllers:
                words = _words(root / "sys/fs/cgroup" / below / "cpu.max")
            elif "cpu" in controllers.split(","):
                mount = root / "sys/fs/cgroup" / controllers
                mount = mount if mount.is_dir() else root / "sys/fs/cgroup/cpu"
                words = _words(mount / below / "cpu.cfs_quota_us") + _words(mount / below / "cpu.cfs_period_us")
            else:
                break
            # Version 2 writes "max" for no limit, version 1 writes -1.
            if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[0]) > 0 and int(words[1]) > 0:
                yield int(words[0]) / int(words[1])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []
