"""`tune`: time the kernels that could run a shape on this machine, and remember what was found.

What is remembered wins over the figures that ulp comes with. It is kept in a JSON file, which `ulp` reads when it is imported:

    {"schema": 1, "tuned": {"AMD EPYC | avx2 | 0.1.0": {"512x512x512 W3A3": {"mul8_avx2_3x32": 0.00117, ...}}}}

by CPU, instruction set and version of ulp: MxNxK and bits, and the seconds of each kernel. The file is $ULP_TUNE_CACHE; else
ulp/tune.json in the user's cache directory. ULP_TUNE_CACHE=off keeps nothing and reads nothing.
"""

from __future__ import annotations

import math
import os
import re
import stat
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from . import _core, config
from ._explain import Explanation, explain
from ._files import locked, replace_file
from ._validate import bit_pair, integer, interval
from .packed import pack

_SCHEMA = 1
_MAX_BYTES = 16 << 20  # of the file; a tuned shape takes half a kilobyte
_SHAPE = re.compile(r"(\d{1,10})x(\d{1,10})x(\d{1,10}) W([1-8])A([1-8])", re.ASCII)

# Kernels that are expected to take this many times as long as the best one are not tried.
_HOPELESS = 6.0
_SAMPLE_SECONDS = 2e-3
_ROUNDS = 7

_Shapes = dict[str, dict[str, float]]


def tune(M: int, N: int, K: int, *, bits: int | tuple[int, int]) -> Explanation:  # noqa: N803
    """Time the kernels that could multiply an (M, K) a by a (K, N) b on this CPU, and use the fastest from now on.

    M, N, K: 1 .. 2^31-1, with operands that fit into memory. bits: an int for both operands, or (a_bits, b_bits). Timed with packed b and
    the current threads and instruction set; takes some milliseconds for small shapes and a few dozen calls for large ones. The choice
    holds for this shape at these bits, whatever the signs, in this process and, through the cache file, in those that start later.
    Results never depend on it.

    The cache is $ULP_TUNE_CACHE, else ulp/tune.json in the user's cache directory; ULP_TUNE_CACHE=off keeps nothing. A file that cannot be
    written is a RuntimeWarning.

    Returns what `explain` says afterwards. Raises TypeError or ValueError.
    """
    m, n, k = (integer(value, name, 1, 2**31 - 1) for name, value in (("M", M), ("N", N), ("K", K)))
    a_bits, b_bits = bit_pair(bits)
    seconds = _measure(m, n, k, a_bits, b_bits, _hopeful(explain(m, n, k, bits=(a_bits, b_bits))))
    _core.set_tuned(m, n, k, a_bits, b_bits, seconds)
    _remember(f"{m}x{n}x{k} W{b_bits}A{a_bits}", seconds)
    return explain(m, n, k, bits=(a_bits, b_bits))


def _hopeful(ranking: Explanation) -> list[str]:
    """The kernels to time: all whose time is unknown, or expected within a factor of the best."""
    runnable = [candidate for candidate in ranking.candidates if candidate.runnable]
    best = min((c.seconds for c in runnable if not math.isnan(c.seconds)), default=math.nan)
    return [c.name for c in runnable if not c.seconds > _HOPELESS * best]


def _measure(m: int, n: int, k: int, a_bits: int, b_bits: int, names: list[str]) -> dict[str, float]:
    """Seconds per call by kernel: the minimum over rounds through all of them. Whatever else the machine does only adds time."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**a_bits, size=(m, k), dtype=np.uint8)
    low, high = interval(b_bits, signed=True)
    b = pack(
        (rng.integers(0, 2, size=(k, n)) * 2 - 1 if b_bits == 1 else rng.integers(low, high + 1, size=(k, n))).astype(np.int8), bits=b_bits
    )
    out = np.empty((m, n), np.int32)

    def sample(name: str, calls: int) -> float:
        begin = perf_counter()
        for _ in range(calls):
            _core.gemm(a, b._packed, a_bits, 0, 0, name, out)
        return (perf_counter() - begin) / calls

    calls = {}
    for name in names:
        sample(name, 1)  # the first call allocates
        calls[name] = max(1, round(_SAMPLE_SECONDS / max(sample(name, 1), 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(_ROUNDS):
        for name in names:
            samples[name].append(sample(name, calls[name]))
    return {name: max(min(times), 1e-9) for name, times in samples.items()}


def load(environment: Mapping[str, str]) -> None:
    """Take over what the cache file knows of this CPU, instruction set and version. `ulp` calls it once, at import.

    A file that cannot be read or that is not a cache is ignored with a RuntimeWarning.
    """
    path = _cache_path(environment)
    if path is None:
        return
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        # A user directory that this process may not search, or too long a name: whether there is a file cannot be known. A warning only
        # where ULP_TUNE_CACHE names it.
        if environment.get("ULP_TUNE_CACHE"):
            _warn_unread(path, error)
        return
    try:
        found = [(_parse_shape(shape), seconds) for shape, seconds in _read(path).get(_machine(), {}).items()]
        for shape, seconds in found:
            _core.set_tuned(*shape, seconds)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        _core.forget_tuned()
        _warn_unread(path, error)


def _warn_unread(path: Path, error: Exception) -> None:
    warnings.warn(f"ulp ignores its tuning cache {path}: {error}; delete it, or set ULP_TUNE_CACHE", RuntimeWarning, stacklevel=3)


def _remember(shape: str, seconds: dict[str, float]) -> None:
    """Add to the cache file. It is replaced as a whole, so that a reader sees the old or the new one, and under a lock, so that of several
    writers none loses what another has added."""
    import json  # lazily: it takes milliseconds, and most processes tune nothing

    path = _cache_path(os.environ)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            try:
                tuned = _read(path)
            except (OSError, ValueError, TypeError, RecursionError):
                tuned = {}  # no file yet; or not a cache, which `load` has warned of, and it is written anew
            tuned.setdefault(_machine(), {})[shape] = seconds
            text = json.dumps({"schema": _SCHEMA, "tuned": tuned}, indent=1)
            replace_file(path, lambda file: file.write(text.encode()))
    except OSError as error:
        warnings.warn(f"ulp cannot keep what it tuned in {path}: {error}; set ULP_TUNE_CACHE", RuntimeWarning, stacklevel=3)


def _read(path: Path) -> dict[str, _Shapes]:
    """The file's content by machine. Raises OSError, ValueError, TypeError or RecursionError where it is not a cache."""
    import json

    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise ValueError("not a file")
    if status.st_size > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA or not isinstance(content.get("tuned"), dict):
        raise ValueError(f"not a tuning cache of schema {_SCHEMA}")
    for shapes in content["tuned"].values():
        if not isinstance(shapes, dict):
            raise ValueError("a machine's entry is not an object")
        for shape, seconds in shapes.items():
            _parse_shape(shape)
            if not isinstance(seconds, dict) or not all(type(value) is float for value in seconds.values()):
                raise ValueError(f"the entry of {shape} is not an object of seconds by kernel")
    tuned: dict[str, _Shapes] = content["tuned"]
    return tuned


def _parse_shape(text: str) -> tuple[int, int, int, int, int]:
    """ "512x256x128 W3A4" -> (512, 256, 128, 4, 3), as `_core.set_tuned` takes them."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a shape such as '512x512x512 W3A3'")
    m, n, k, b_bits, a_bits = map(int, match.groups())
    return m, n, k, a_bits, b_bits


def _machine() -> str:
    return f"{config.cpu_name()} | {_core.isa()} | {_core.build_info()['version']}"


def _cache_path(environment: Mapping[str, str]) -> Path | None:
    """Where the cache is; None where it is turned off, or where no user directory is known."""
    chosen = environment.get("ULP_TUNE_CACHE", "")
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = environment.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        base = _under_home(environment, "Library/Caches")
    else:
        base = environment.get("XDG_CACHE_HOME", "") or _under_home(environment, ".cache")
    return Path(base, "ulp", "tune.json") if base else None


def _under_home(environment: Mapping[str, str], directory: str) -> str:
    home = environment.get("HOME", "")
    return f"{home}/{directory}" if home else ""
