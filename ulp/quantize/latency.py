"""How long each layer takes at each pair of widths: measured on this CPU and remembered, or modelled for an instruction set.

Measured are whole networks that have one pair throughout, so that each layer is timed as the plan runs it, with its kernel, its activation
and its requantization: of each step the minimum over runs. The networks take turns, as a CPU that is slower for a while must not make one
pair look slower than the others. What is found is kept in latency.json beside the cache of `ulp.tune`:

    {"schema": 1, "ms": {"AMD EPYC | avx2 | 0.1.0 | 1 threads": {"Conv 1x16x8x8 16x16x3x3 pads=1,1,1,1 W4A4": 0.0061, ...}}}

by CPU, instruction set, version of ulp and threads, and by layer: operator, shape of what it reads, shape of its weights, attributes, bits.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ulp import _core, _tune, config
from ulp._explain import explain
from ulp._files import locked, read_file, replace_file
from ulp.nn.profile import Profile

from .request import Bits

_SCHEMA = 1
_MAX_BYTES = 16 << 20
_MAX_KEY = 400
FILE = "latency.json"
# How often networks take turns, the runs of a turn, and milliseconds that it may take.
_ROUNDS, _RUNS, _ROUND_MS = 6, 8, 20.0

Latencies = dict[tuple[str, Bits], float]
"""Milliseconds per call, by layer and bits."""


def signature(op_type: str, read: Sequence[int], weight: Sequence[int], attributes: Mapping[str, object]) -> str:
    """What a layer's time depends on, besides its bits: operator, shape of its input, shape of its weights, attributes."""

    def sides(shape: object) -> str:
        return ",".join(map(str, shape)) if isinstance(shape, (list, tuple)) else str(shape)

    parts = [op_type, "x".join(map(str, read)), "x".join(map(str, weight))]
    return " ".join([*parts, *(f"{name}={sides(value)}" for name, value in sorted(attributes.items()))])[:_MAX_KEY]


def measured(
    signatures: Mapping[str, str],
    pairs: Sequence[Bits],
    timed: Callable[[Sequence[Bits]], Mapping[Bits, Mapping[str, float]]],
) -> Latencies:
    """Milliseconds of every layer at every pair, from the cache or by `timed`: of the layers of networks that have one pair throughout.

    signatures: of each layer by name.
    """
    known = _read_machine()
    found: Latencies = {}
    missing = [pair for pair in pairs if any(f"{text} {pair}" not in known for text in signatures.values())]
    # The CPU may be faster or slower than when the others were measured: one of those is measured again, for the ratio.
    whole = next((pair for pair in pairs if missing and pair not in missing), None)
    made = dict(timed([*missing, *([whole] if whole else [])])) if missing else {}
    pace = 1.0
    if whole and (again := sum(made.pop(whole).values())) > 0:
        pace = sum(known[f"{text} {whole}"] for text in signatures.values()) / again or 1.0
    fresh: dict[str, float] = {}
    for pair, given in made.items():
        times = {name: pace * ms for name, ms in given.items()}
        for name, text in signatures.items():
            key = f"{text} {pair}"
            # Layers that are alike share an entry: the mean of what they took would be no better than one of them.
            fresh[key] = min(times[name], fresh.get(key, math.inf))
            found[name, pair] = times[name]
    for name, text in signatures.items():
        for pair in pairs:
            found.setdefault((name, pair), known.get(f"{text} {pair}", 0.0))
    if fresh:
        _remember(fresh)
    return found


def in_turns(networks: Mapping[Bits, Any], example: Mapping[str, Any], names: Sequence[str]) -> dict[Bits, dict[str, float]]:
    """Milliseconds of each layer of these networks, which take turns: the minimum over rounds, by profiles of some runs."""
    found = {pair: times_of(network.profile(**example, runs=1), names) for pair, network in networks.items()}
    slowest = max(sum(times.values()) for times in found.values())
    runs = min(_RUNS, max(1, int(_ROUND_MS / max(slowest, 1e-3))))
    for _ in range(_ROUNDS):
        for pair, network in networks.items():
            times = times_of(network.profile(**example, runs=runs), names)
            found[pair] = {name: min(ms, times[name]) for name, ms in found[pair].items()}
    return found


def times_of(profile: Profile, names: Iterable[str]) -> dict[str, float]:
    """Milliseconds of each of the layers: all steps that bear its name."""
    found = dict.fromkeys(names, 0.0)
    for row in profile:
        if row.layer in found:
            found[row.layer] += row.ms
    return found


def modelled(products: Mapping[str, tuple[int, int, int, int]], pairs: Sequence[Bits], isa: str) -> Latencies:
    """Milliseconds by the table of costs of an instruction set that this build knows, for layers as matrix products.

    products: M, N, K of each layer, and how many such products it is (groups). What no kernel's cost is known for counts as portable code
    would: the slowest that is known. ValueError names the instruction sets.
    """
    before = _core.isa()
    found: Latencies = {}
    config.set_isa(isa)
    try:
        for name, (m, n, k, groups) in products.items():
            for pair in pairs:
                ranking = explain(m, n, k, bits=(pair.activation, pair.weight))
                seconds = [c.seconds for c in ranking.candidates if c.runnable and not math.isnan(c.seconds)]
                found[name, pair] = 1e3 * groups * min(seconds, default=0.0)
    finally:
        config.set_isa(before)
    return found


def forget() -> None:
    """Drop what is remembered of this CPU. A file that cannot be written is a RuntimeWarning."""
    _change(lambda content: content.pop(machine(), None))


def path() -> Path | None:
    """The cache file, beside that of `ulp.tune`; None where nothing is kept."""
    beside = _tune._cache_path(os.environ)
    return None if beside is None else beside.with_name(FILE if beside.name == "tune.json" else f"{beside.name}.{FILE}")


def machine() -> str:
    """CPU, instruction set, version and threads: what times hold for."""
    return f"{_tune._machine()} | {_core.num_threads()} threads"


def _read_machine() -> dict[str, float]:
    file = path()
    if file is None:
        return {}
    try:
        if not file.exists():
            return {}
        return _read(file).get(machine(), {})
    except (OSError, ValueError, TypeError, RecursionError) as error:
        warnings.warn(f"ulp ignores its latencies in {file}: {error}; delete it, or set ULP_TUNE_CACHE", RuntimeWarning, stacklevel=4)
        return {}


def _read(file: Path) -> dict[str, dict[str, float]]:
    """The file's content. OSError, ValueError, TypeError or RecursionError where it is no such file."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a file")
    if status.st_size > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    content: Any = json.loads(read_file(file))
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA or not isinstance(content.get("ms"), dict):
        raise ValueError(f"not a file of latencies of schema {_SCHEMA}")
    for entry in content["ms"].values():
        if not isinstance(entry, dict):
            raise ValueError("a machine's entry is not an object")
        for key, ms in entry.items():
            if type(ms) is not float or not 0 <= ms < math.inf:
                raise ValueError(f"the entry of {key[:80]!r} is no number of milliseconds")
    found: dict[str, dict[str, float]] = content["ms"]
    return found


def _remember(fresh: Mapping[str, float]) -> None:
    _change(lambda content: content.setdefault(machine(), {}).update({key: float(ms) for key, ms in fresh.items()}))


def _change(change: Callable[[dict[str, dict[str, float]]], object]) -> None:
    """Replace the file as a whole, under a lock, as `ulp.tune` does."""
    file = path()
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.parent):
            content: dict[str, dict[str, float]] = {}
            with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):  # none yet, or none that can be read: written anew
                content = _read(file)
            change(content)
            text = json.dumps({"schema": _SCHEMA, "ms": content}, indent=1)
            replace_file(file, lambda to: to.write(text.encode()))
    except OSError as error:
        warnings.warn(f"ulp cannot keep latencies in {file}: {error}; set ULP_TUNE_CACHE", RuntimeWarning, stacklevel=4)
