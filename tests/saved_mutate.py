"""Saved networks, packed matrices and plans changed at random, with their checksums repaired: what fuzzing their readers begins with.

`python tests/saved_mutate.py --seconds 600 [KIND...]` goes on for longer than the suite. A file ends in a ValueError or gives results; it
takes at most 2 s of CPU time and 512 MiB. What does not is printed with its kind and number: `attempt(KIND, NUMBER)` repeats it.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import mmap
import random
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import ulp
from ulp import _core, _tensorfile, nn
from ulp.nn import saved

MAX_BYTES = 2**25  # for nn.load
MAX_MACS = 10**7  # of a network that is run
CPU_SECONDS = 2.0
MEMORY = 512 * 2**20

_INTS = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    9,
    16,
    31,
    32,
    33,
    64,
    255,
    256,
    4095,
    2**24,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**63,
    2**64,
    -1,
    -2,
    -8,
    -(2**63),
]
_FLOATS = [0.0, -0.0, 0.5, 1.0, -1.0, 1e-45, 1e-38, 1e38, 3.4e38, 1e300]
_OTHERS: list[Any] = [
    None,
    True,
    False,
    "",
    "x",
    "\x00",
    [],
    {},
    [[]],
    [0, 0],
    {"$float": "nan"},
    {"$float": "inf"},
    {"$array": "x"},
    "direct",
]
_CHANGES = [1, 1, 1, 1, 2, 3]  # of a file; most are refused after one
_DTYPES = ["uint8", "int8", "bool", "int32", "int64", "float32", "float64", "float16", "uint16"]


# Valid files.


class _Block(nn.Module):
    """Tight, direct, Winograd, depthwise and grouped convolutions, poolings, shortcut, concatenation, thresholds where asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1, bits=4)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bits=3)
        self.wise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bits=4)
        self.grouped = nn.Conv2d(8, 6, 1, groups=2, bits=2)
        self.last = nn.Linear(14, 5, bits=5)
        self.pool, self.mean, self.relu, self.add = nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Add()
        self.concat, self.flatten = nn.Concat(1), nn.Flatten(1)

    def forward(self, x: Any) -> Any:
        x = self.pool(self.relu(self.first(x)))
        y = self.relu(self.add(self.second(x), x))
        return self.last(self.flatten(self.mean(self.concat(self.wise(y), self.grouped(y)))))


def _networks() -> list[tuple[nn.Module, tuple[int, ...]]]:
    reflect = nn.Conv2d(5, 9, 3, padding=2, padding_mode="reflect", bits=6)
    return [
        (_Block(), (3, 14, 15)),
        (nn.Sequential(nn.Linear(20, 33, bits=1, act_bits=2), nn.ReLU(), nn.Linear(33, 5, bits=7)), (20,)),
        (nn.Sequential(reflect, nn.ReLU6(), nn.AvgPool2d(2), nn.Conv2d(9, 4, 3, bits=3), nn.Flatten(1)), (5, 8, 7)),
    ]


@lru_cache(None)
def _compiled() -> list[Any]:
    nn.manual_seed(0)
    found = []
    for network, shape in _networks():
        x = np.random.default_rng(0).random((2, *shape), np.float32)
        calibrated: Any = network
        calibrated.calibrate([x], progress=False)
        for mode in ("fp32", "threshold"):
            found.append(nn.compile(calibrated, x, tune=False, mode=mode))
    return found


@lru_cache(None)
def networks() -> list[tuple[dict[str, str], str, dict[str, Any]]]:
    """(metadata, document, arrays) of valid files."""
    found = []
    for compiled in _compiled():
        arrays: dict[str, Any] = {}
        document = compiled.document(arrays)
        found.append(({"format": saved.FORMAT, "version": "1", "kind": "CompiledNetwork"}, json.dumps(document), arrays))
    return found


# Changes.


def _scalar(rng: random.Random, value: Any) -> Any:
    if type(value) is int and rng.random() < 0.7:
        return value + rng.choice([-2, -1, 1, 2])
    kinds: list[list[Any]] = [_INTS, _FLOATS, _OTHERS]
    return copy.deepcopy(rng.choice(rng.choice(kinds)))  # or a later change would change what all attempts begin with


def _nodes(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of all that lies in a value."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found.append((value, key))
        found += _nodes(item)
    return found


def change(rng: random.Random, value: Any) -> None:
    """One change somewhere in lists and dictionaries in each other."""
    nodes = _nodes(value)
    if not nodes:
        return
    container, key = rng.choice(nodes)
    what = rng.randrange(8)
    if what == 0:
        del container[key]
    elif what == 1 and isinstance(container, list):
        container.insert(key, copy.deepcopy(rng.choice(container)))
    elif what == 2:
        other, at = rng.choice(nodes)
        container[key] = copy.deepcopy(other[at])
    elif what == 3 and isinstance(container, list):
        rng.shuffle(container)
    else:
        container[key] = _scalar(rng, container[key])


def change_array(rng: random.Random, array: Any) -> Any:
    """Another dtype, shape, length or value."""
    array = np.array(array)
    what = rng.randrange(6)
    if what == 0:
        with np.errstate(all="ignore"):
            return array.astype(rng.choice(_DTYPES))
    if what == 1:
        shapes: list[tuple[int, ...]] = [(-1,), (1, -1), (*array.shape, 1), array.shape[::-1]]
        return array.reshape(rng.choice(shapes))
    if what == 2:
        flat = array.reshape(-1)
        return rng.choice([flat[:-1], np.concatenate([flat, flat[:1]]), flat[:0], np.repeat(flat, 2)])
    if array.size:
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(array.size)
            if array.dtype.kind == "f":
                with np.errstate(over="ignore"):
                    array.flat[at] = np.array(rng.choice([*_FLOATS, np.nan, np.inf, -np.inf])).astype(array.dtype)
            elif array.dtype.kind != "b":
                limits = np.iinfo(array.dtype)
                array.flat[at] = rng.choice([limits.min, limits.max, 0, 1, min(255, limits.max)])
    return array


def _spoil(rng: random.Random, data: bytes) -> bytes:
    """Bytes changed, cut off or put in, without a new checksum."""
    spoiled = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(spoiled))
        what = rng.randrange(4)
        if what == 0:
            spoiled[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        elif what == 1:
            spoiled[at : at + 8] = rng.choice(_INTS[:20]).to_bytes(8, "little")
        elif what == 2:
            spoiled[at:at] = spoiled[at : at + rng.randrange(9)]
        elif what == 3 and at > 0 and rng.random() < 0.3:
            del spoiled[at:]
    return bytes(spoiled)


def _without_checksum(data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"].pop("crc32", None)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


# Attempts.


def _run(network: Any) -> str:
    steps = network._plan.steps()
    work = sum(step["macs"] for step in steps) + sum(int(np.prod(step["out_shape"])) for step in steps)
    if work > MAX_MACS:
        return "too large to run"
    first = network._plan.steps()[0]["out_shape"]
    for shape in (first, (first[2], *first[:2]), (int(np.prod(first)),)):
        try:
            network(np.ones((2, *shape), network._dtypes[0]))
        except ValueError:
            continue
        str(network)
        return "ran"
    return "refused to run"


def network_file(rng: random.Random) -> str:
    """A saved network: document, arrays or metadata changed; or only bytes."""
    metadata, text, arrays = rng.choice(networks())
    metadata, document, arrays = dict(metadata), json.loads(text), dict(arrays)
    for _ in range(rng.choice(_CHANGES)):
        which = rng.random()
        if which < 0.65:
            calls = document["lowered"]["plan"]["calls"] if rng.random() < 0.8 and _is_whole(document) else document
            change(rng, rng.choice(calls) if isinstance(calls, list) and calls and rng.random() < 0.9 else calls)
        elif which < 0.95 and arrays:
            name = rng.choice(sorted(arrays))
            arrays[name] = change_array(rng, arrays[name])
        else:
            metadata[rng.choice(sorted(metadata))] = rng.choice(["", "2", "OnnxNetwork", "x" * 100])
    data = b"".join(_tensorfile.write(arrays, metadata | {"network": json.dumps(document)}))
    if rng.random() < 0.15:
        data = _spoil(rng, _without_checksum(data))
    try:
        network = nn.load(data, max_bytes=MAX_BYTES)
    except ValueError:
        return "refused"
    return _run(network)


def _is_whole(document: Any) -> bool:
    try:
        return isinstance(document["lowered"]["plan"]["calls"], list)
    except (KeyError, TypeError):
        return False


def tensor_file(rng: random.Random) -> str:
    """The format below all of them: header and bytes changed."""
    metadata, _, arrays = rng.choice(networks())
    names = rng.sample(sorted(arrays), min(len(arrays), 4))
    data = b"".join(_tensorfile.write({name: arrays[name] for name in names}, metadata))
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if rng.random() < 0.8:
        header["__metadata__"].pop("crc32")
        for _ in range(rng.randint(0, 2)):
            change(rng, header)
        text = json.dumps(header).encode()
        data = len(text).to_bytes(8, "little") + text + data[8 + size :]
    if rng.random() < 0.5:
        data = _spoil(rng, data)
    try:
        _tensorfile.read(data)
    except ValueError:
        return "refused"
    return "read"


@lru_cache(None)
def _folder() -> Path:
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))


def _packed(rng: random.Random) -> ulp.PackedMatrix:
    bits = rng.randint(1, 8)
    k, n = rng.choice([(0, 3), (1, 1), (5, 7), (33, 40), (64, 9)])
    return ulp.pack(np.random.default_rng(rng.randrange(99)).integers(0, 2**bits, (k, n)).astype(np.uint8), bits)


def packed_file(rng: random.Random) -> str:
    """A saved matrix in both forms: numbers, members or bytes changed."""
    matrix = _packed(rng)
    path = _folder() / rng.choice(["m.npz", "m.safetensors"])
    fields = [1, *matrix.shape, matrix.bits, int(matrix.signed)]
    data = np.array(matrix._packed.data)
    for _ in range(rng.randint(0, 2)):
        if rng.random() < 0.5:
            at = rng.randrange(len(fields))
            fields[at] = rng.choice([*_INTS[:22], fields[at] + 1, fields[at] - 1])
        else:
            data = change_array(rng, data)
    if path.suffix == ".npz":
        header = np.array([min(max(f, -(2**63)), 2**63 - 1) for f in fields]).astype(rng.choice(["<i8"] * 9 + ["<i4", ">i8", "<f8"]))
        stream = io.BytesIO()
        kind = rng.choice([zipfile.ZIP_STORED] * 9 + [zipfile.ZIP_DEFLATED])
        with zipfile.ZipFile(stream, "w", kind) as archive:
            for name, array in (("header", header), ("data", data)):
                member = io.BytesIO()
                np.save(member, array)
                content = member.getvalue()
                archive.writestr(f"{name}.npy", _spoil(rng, content) if rng.random() < 0.2 else content)
        content = stream.getvalue()
    else:
        names = ("version", "k", "n", "bits", "signed")
        matrix.save(path)
        metadata = _tensorfile.read(path.read_bytes())[1]
        metadata |= {name: str(f) for name, f in zip(names, fields, strict=True) if name in metadata}
        content = b"".join(_tensorfile.write({"data": data}, metadata))
        if rng.random() < 0.3:
            content = _spoil(rng, _without_checksum(content))
    path.write_bytes(_spoil(rng, content) if rng.random() < 0.3 else content)
    try:
        loaded = ulp.PackedMatrix.load(path)
    except ValueError:
        return "refused"
    if loaded.shape[0] * loaded.shape[1] < MAX_MACS:
        loaded.unpack()
        if loaded.shape[0] < 10**4:
            ulp.gemm(np.ones((3, loaded.shape[0]), np.uint8), loaded)
    return "loaded"


def _change_field(rng: random.Random, value: Any) -> Any:
    """What a caller of the plan might pass instead."""
    what = rng.randrange(4)
    if isinstance(value, np.ndarray) and what < 3:
        changed = change_array(rng, value)
        return changed[..., ::-1] if changed.ndim and rng.random() < 0.2 else changed
    if isinstance(value, _core.Packed) and what < 3:
        return _packed(rng)._packed
    if isinstance(value, (list, tuple, dict)) and what < 3:
        changed = copy.copy(dict(value) if isinstance(value, dict) else list(value))
        keys = list(changed) if isinstance(changed, dict) else list(range(len(changed)))
        if keys:
            key = rng.choice(keys)
            if rng.random() < 0.15:
                del changed[key]
            else:
                changed[key] = _change_field(rng, changed[key])
        return tuple(changed) if isinstance(value, tuple) else changed
    return _scalar(rng, value)


def plan_calls(rng: random.Random) -> str:
    """The calls that build a plan, one to three of them changed, left out or repeated; then a run."""
    calls = [(name, dict(fields)) for name, fields in rng.choice(_compiled())._lowered.script.calls]
    for _ in range(rng.choice(_CHANGES)):
        at = rng.randrange(len(calls))
        name, fields = calls[at]
        what = rng.random()
        if what < 0.1:
            calls.insert(at, (name, dict(fields)))
        elif what < 0.15 and len(calls) > 1:
            del calls[at]
        elif what < 0.2:
            rng.shuffle(calls)
        elif fields:
            key = rng.choice(sorted(fields))
            fields[key] = _change_field(rng, fields[key])
    plan = _core.Plan()
    elements = 0.0
    refused = 0
    for name, fields in calls:
        if name in ("codes", "floats"):
            sides = [fields.get(side) for side in ("height", "width", "channels")]
            elements += float(np.prod([float(side) for side in sides if isinstance(side, (int, float)) and not isinstance(side, bool)]))
            if not 0 <= elements < MAX_MACS:
                return "too large"
        try:
            getattr(plan, name)(**fields)
        except (ValueError, TypeError):
            refused += 1
    try:
        plan.finalize(rng.choice([1, 2, 3]), rng.random() < 0.3)
    except ValueError:
        return "refused"
    steps = plan.steps()
    if sum(step["macs"] for step in steps) > MAX_MACS:
        return "too large to run"
    shape = steps[0]["out_shape"]
    try:
        plan.run(np.ones((2, *rng.choice([shape, (shape[2], *shape[:2])])), rng.choice([np.float32, np.uint8])))
    except (ValueError, TypeError):
        return "refused to run"
    return "ran with refused calls" if refused else "ran"


KINDS: dict[str, Callable[[random.Random], str]] = {
    "network": network_file,
    "tensors": tensor_file,
    "packed": packed_file,
    "plan": plan_calls,
}


def attempt(kind: str, number: int) -> str:
    """How it ended. Raises whatever nobody should see, and AssertionError where it takes too much time or memory."""
    rng = random.Random(f"{kind} {number}")
    before = _peak()
    begin = time.process_time()
    end = KINDS[kind](rng)
    seconds = time.process_time() - begin
    assert seconds < CPU_SECONDS, f"{seconds:.1f} s"
    assert _peak() - before < MEMORY, f"{(_peak() - before) >> 20} MiB"
    return end


def _peak() -> int:
    """Bytes that this process ever had in memory; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def fuzz(kinds: list[str], seconds: float, first: int, out: Path) -> int:
    """Attempts for so many seconds, by turns; 1 if any ended otherwise than it should. `out` tells after a crash what was attempted."""
    ends: dict[str, int] = {}
    bad = 0
    with out.open("w+b") as file:
        file.truncate(64)
        current = mmap.mmap(file.fileno(), 64)  # outlives the process, at no cost per attempt
        deadline = time.monotonic() + seconds
        number = first
        while time.monotonic() < deadline:
            for kind in kinds:
                current[:] = f"{kind} {number}".ljust(64).encode()
                try:
                    end = attempt(kind, number)
                except Exception:
                    sys.stdout.write(f"{kind} {number}:\n{traceback.format_exc(limit=-8)}\n")
                    bad += 1
                    end = "BAD"
                ends[f"{kind} {end}"] = ends.get(f"{kind} {end}", 0) + 1
            number += 1
    out.unlink()
    sys.stdout.write(f"{sum(ends.values())} attempts from {first} on in {seconds:.0f} s: {dict(sorted(ends.items()))}\n")
    return 1 if bad else 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help=", ".join(KINDS))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--first", type=int, default=0, help="number of the first attempt")
    parser.add_argument("--out", type=Path, default=Path("attempt.txt"))
    args = parser.parse_args()
    return fuzz(args.kinds or list(KINDS), args.seconds, args.first, args.out)


if __name__ == "__main__":
    sys.exit(main())
