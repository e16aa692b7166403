"""`tune`: time the kernels that could run a shape on this machine, or all of them (`tune.machine`), and remember what was found.

What is remembered wins over the figures that ulp comes with. It is kept in a JSON file, which `ulp` reads when it is imported:

    {"schema": 1, "tuned": {"AMD EPYC | avx2 | 0.1.0": {"512x512x512 W3A3": {"mul8_avx2_3x32": 0.00117, ...}}},
     "measured": {"AMD EPYC | avx2 | 0.1.0": {"mul8_avx2_3x32 W3A3": [15100.0, ...], ...}}}

by CPU, instruction set and version of ulp. Tuned: MxNxK and bits, and the seconds of each kernel. Measured: of each kernel at each bit pair
the femtoseconds per multiply-accumulate at the heights of A in _measure.HEIGHTS. The file is $ULP_TUNE_CACHE; else
ulp/tune.json in the user's cache directory. ULP_TUNE_CACHE=off keeps nothing and reads nothing.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import stat
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np

from . import _core, config
from ._explain import Explanation, explain
from ._files import locked, replace_file
from ._validate import bit_pair, integer
from .packed import pack

_SCHEMA = 1
_MAX_BYTES = 16 << 20  # of the file; a tuned shape takes half a kilobyte
_PAIR = re.compile(r"(\w{1,60}) W([1-8])A([1-8])", re.ASCII)
_SHAPE = re.compile(r"(\d{1,10})x(\d{1,10})x(\d{1,10}) W([1-8])A([1-8])", re.ASCII)

# Kernels that are expected to take this many times as long as the best one are not tried.
_HOPELESS = 6.0
_SAMPLE_SECONDS = 2e-3
_ROUNDS = 7
# A kernel takes the place of the one that `explain` expects to be the fastest only where it takes less than this share of its time.
_MARGIN = 0.97

_Shapes = dict[str, dict[str, float]]
_Costs = dict[str, list[float]]
# What json and the checks of a file raise.
_BAD_FILE = (OSError, ValueError, TypeError, RecursionError)


class Tuner:
    """`ulp.tune`: call it for one shape; `machine` measures all kernels, `forget` drops what was found."""

    def __call__(self, M: int, N: int, K: int, *, bits: int | str | tuple[int, int]) -> Explanation:  # noqa: N803
        """Time the kernels that could multiply an (M, K) a by a (K, N) b on this CPU, and use the fastest from now on.

        M, N, K: 1 .. 2^31-1, with operands that fit into memory. bits: an int for both operands, (a_bits, b_bits), or "W3A8". Timed with
        packed b and the current threads and instruction set; takes some milliseconds for small shapes and a few dozen calls for large
        ones. The choice holds for this shape at these bits, whatever the signs, in this process and, through the cache file, in those that
        start later. Results never depend on it.

        The kernel that `explain` expects to be the fastest stays unless another one is faster by 3 % or more, and is so again when the two
        are timed once more; within that they count as equal.

        The cache is $ULP_TUNE_CACHE, else ulp/tune.json in the user's cache directory; ULP_TUNE_CACHE=off keeps nothing. A file that
        cannot be written is a RuntimeWarning.

        Returns what `explain` says afterwards. Raises TypeError or ValueError.
        """
        m, n, k = (integer(value, name, 1, 2**31 - 1) for name, value in (("M", M), ("N", N), ("K", K)))
        a_bits, b_bits = bit_pair(bits)
        machine = _machine()
        _core.set_tuned(m, n, k, a_bits, b_bits, {})  # what was found before is no expectation
        ranking = explain(m, n, k, bits=(a_bits, b_bits))
        samples = _Samples(m, n, k, a_bits, b_bits)
        seconds = _settled(samples, samples(_hopeful(ranking)), ranking.kernel)
        _core.set_tuned(m, n, k, a_bits, b_bits, seconds)
        _remember("tuned", {f"{m}x{n}x{k} W{b_bits}A{a_bits}": seconds}, machine)
        return explain(m, n, k, bits=(a_bits, b_bits))

    def machine(self, *, progress: bool = False) -> dict[str, list[float]]:
        """Measure every kernel at every bit pair on one thread of this machine, in about a minute, and choose by that from now on.

        `explain` then says "measured here" instead of "measured" or "modelled". Kept as what is tuned, for the instruction set in force.
        progress: show a bar, where tqdm is installed and the output is a terminal.

        Returns, by "<kernel> W<b_bits>A<a_bits>", femtoseconds per multiply-accumulate for 1, 4, 16, 64 and 256 rows of A.
        """
        from ._measure import measure

        machine = _machine()
        costs = measure(progress=progress)
        _set_measured(costs)
        _remember("measured", costs, machine)
        return costs

    def forget(self) -> None:
        """Drop all that was tuned or measured on this machine with the instruction set in force, in this process and in the cache file.

        A file that cannot be written is a RuntimeWarning.
        """
        _core.forget_tuned()
        _remember("forget", {}, _machine())

    def path(self) -> Path | None:
        """The cache file, which may not exist yet; None where nothing is kept."""
        return _cache_path(os.environ)

    def __repr__(self) -> str:
        return "<ulp.tune>"


tune = Tuner()


def _hopeful(ranking: Explanation) -> list[str]:
    """The kernels to time: all whose time is unknown, or expected within a factor of the best."""
    runnable = [candidate for candidate in ranking.candidates if candidate.runnable]
    best = min((c.seconds for c in runnable if not math.isnan(c.seconds)), default=math.nan)
    return [c.kernel for c in runnable if not c.seconds > _HOPELESS * best]


class _Samples:
    """Seconds per call by kernel: the minimum over rounds through all of them. Whatever else the machine does only adds time.

    A kernel is left out if another thread lowers the instruction set (`set_isa`) below what it needs.
    """

    def __init__(self, m: int, n: int, k: int, a_bits: int, b_bits: int) -> None:
        from ._measure import weights_like_layers

        rng = np.random.default_rng(0)
        self.a = rng.integers(0, 2**a_bits, size=(m, k), dtype=np.uint8)
        self.a_bits = a_bits
        self.b = pack(weights_like_layers(rng, k, n, b_bits), bits=b_bits)._packed
        self.out = np.empty((m, n), np.int32)

    def _sample(self, name: str, calls: int) -> float:
        """NaN where the kernel no longer runs; nothing else can be wrong with this call."""
        begin = perf_counter()
        try:
            for _ in range(calls):
                _core.gemm(self.a, self.b, self.a_bits, 0, 0, name, self.out)
        except ValueError:
            return math.nan
        return (perf_counter() - begin) / calls

    def __call__(self, names: list[str]) -> dict[str, float]:
        calls = {}
        for name in names:
            self._sample(name, 1)  # the first call allocates
            once = self._sample(name, 1)
            if not math.isnan(once):
                calls[name] = max(1, round(_SAMPLE_SECONDS / max(once, 1e-7)))
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(_ROUNDS):
            for name, count in calls.items():
                samples[name].append(self._sample(name, count))
        return {name: max(min(times), 1e-9) for name, times in samples.items() if not any(map(math.isnan, times))}


def _settled(samples: Callable[[list[str]], dict[str, float]], seconds: dict[str, float], expected: str) -> dict[str, float]:
    """The seconds with `expected` as the fastest, unless another kernel is faster beyond the margin, twice.

    A kernel that is faster by less counts as a hair slower than `expected`.
    """
    settled = dict(seconds)
    while settled and expected in settled:
        best = min(settled, key=lambda name: settled[name])
        if best == expected:
            break
        if settled[best] < _MARGIN * settled[expected]:
            again = samples([expected, best])
            settled[expected] = min(settled[expected], again.get(expected, math.inf))
            if again.get(best, math.inf) < _MARGIN * settled[expected]:
                break
        settled[best] = max(settled[best], settled[expected]) * (1 + 1e-6)
    return settled


def _measured_rows(costs: _Costs) -> list[tuple[str, int, int, list[float]]]:
    """As `_core.set_measured` takes them. ValueError where a kernel has not one cost for each height."""
    from ._measure import HEIGHTS

    for key, figures in costs.items():
        if len(figures) != len(HEIGHTS):
            raise ValueError(f"{key} has {len(figures)} costs, expected {len(HEIGHTS)}")
    return [(*_parse_pair(key), figures) for key, figures in costs.items()]


def _set_measured(costs: _Costs) -> None:
    from ._measure import HEIGHTS

    _core.set_measured(list(HEIGHTS), _measured_rows(costs))


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
        tuned, measured = _read(path)
        found = [(_parse_shape(shape), seconds) for shape, seconds in tuned.get(_machine(), {}).items()]
        for shape, seconds in found:
            _core.set_tuned(*shape, seconds)
        if _machine() in measured:
            _set_measured(measured[_machine()])
    except _BAD_FILE as error:
        _core.forget_tuned()
        _warn_unread(path, error)


def _warn_unread(path: Path, error: Exception) -> None:
    warnings.warn(f"ulp ignores its tuning cache {path}: {error}; delete it, or set ULP_TUNE_CACHE", RuntimeWarning, stacklevel=3)


def _remember(what: Literal["tuned", "measured", "forget"], found: Mapping[str, dict[str, float] | list[float]], machine: str) -> None:
    """Add to the cache file, or drop this machine's entries. It is replaced as a whole, so that a reader sees the old or the new one, and
    under a lock, so that of several writers none loses what another has added."""
    import json  # lazily: it takes milliseconds, and most processes tune nothing

    path = _cache_path(os.environ)
    if path is None or (what == "forget" and not path.exists()):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            content: dict[str, dict[str, Any]] = {"tuned": {}, "measured": {}}
            # No file yet; or not a cache, which `load` has warned of, and it is written anew.
            with contextlib.suppress(*_BAD_FILE):
                content["tuned"], content["measured"] = _read(path)
            if what == "tuned":
                content["tuned"].setdefault(machine, {}).update(found)
            else:
                content["measured"].pop(machine, None)
                if what == "measured":
                    content["measured"][machine] = found
                else:
                    content["tuned"].pop(machine, None)
            if not content["measured"]:
                del content["measured"]
            text = json.dumps({"schema": _SCHEMA, **content}, indent=1)
            replace_file(path, lambda file: file.write(text.encode()))
    except OSError as error:
        warnings.warn(f"ulp cannot keep what it tuned in {path}: {error}; set ULP_TUNE_CACHE", RuntimeWarning, stacklevel=3)


def _read(path: Path) -> tuple[dict[str, _Shapes], dict[str, _Costs]]:
    """What the file holds of tuned shapes and of measured kernels, by machine. One of _BAD_FILE where it is not a cache."""
    import json

    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise ValueError("not a file")
    if status.st_size > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA or not isinstance(content.get("tuned"), dict):
        raise ValueError(f"not a tuning cache of schema {_SCHEMA}")
    measured = content.get("measured", {})
    if not isinstance(measured, dict) or not all(isinstance(entry, dict) for entry in (*content["tuned"].values(), *measured.values())):
        raise ValueError("a machine's entry is not an object")
    for shapes in content["tuned"].values():
        for shape, seconds in shapes.items():
            _parse_shape(shape)
            if not isinstance(seconds, dict) or not all(type(value) is float for value in seconds.values()):
                raise ValueError(f"the entry of {shape} is not an object of seconds by kernel")
    for costs in measured.values():
        for key, figures in costs.items():
            _parse_pair(key)
            if not isinstance(figures, list) or not all(type(value) is float for value in figures):
                raise ValueError(f"the entry of {key} is not a list of costs")
    if _machine() in measured:
        _measured_rows(measured[_machine()])
    return content["tuned"], measured


def _parse_shape(text: str) -> tuple[int, int, int, int, int]:
    """ "512x256x128 W3A4" -> (512, 256, 128, 4, 3), as `_core.set_tuned` takes them."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a shape such as '512x512x512 W3A3'")
    m, n, k, b_bits, a_bits = map(int, match.groups())
    return m, n, k, a_bits, b_bits


def _parse_pair(text: str) -> tuple[str, int, int]:
    """ "mul8_avx2_3x32 W3A4" -> ("mul8_avx2_3x32", 4, 3), as `_core.set_measured` takes them."""
    match = _PAIR.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:80]!r} is not a kernel and its bits, such as 'mul8_avx2_3x32 W3A3'")
    return match[1], int(match[3]), int(match[2])


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
