"""Execute the x86 kernels of a build in the Bochs CPU core: AVX-VNNI and AVX-512 on machines that lack them, or that hide them.

    python -m tools.x86.emulate BUILD             all models, every kernel above AVX2; exit 0: all exact, 1: not, 77: no emulator here

BUILD is a CMake build folder with libulp_kernels.a, whose objects are linked as they are. Needs `pip install bochscpu-python==0.4.0`, a
C++ compiler and binutils.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from .machine import Machine, loads, missing, shimmed

LEVELS = ("avx2", "avxvnni", "avx512", "avx512vnni", "avx512vbmi")  # Isa 1 .. 5 of csrc/gemm/isa.h
# What each model of Bochs should be found to have.
MODELS: dict[str, set[str]] = {
    "sandy_bridge": set(),
    "haswell": {"avx2"},
    "ryzen": {"avx2"},
    "cannon_lake": {"avx2", "avx512"},  # VBMI without VNNI
    "skylake_x": {"avx2", "avx512"},
    "icelake_u": {"avx2", "avx512", "avx512vnni", "avx512vbmi"},
    "arrow_lake": {"avx2", "avxvnni"},
    "sapphire_rapids": set(LEVELS),
}
# Whose costs each is taken to have; "" for the others.
CORES = {"icelake_u": "icelake-client", "skylake_x": "cascade-lake", "sapphire_rapids": "sapphire-rapids"}
# Kernels run on the least model that has their level: instructions of any other would fault.
RUNS_ON = {"avxvnni": "arrow_lake", "avx512": "skylake_x", "avx512vnni": "icelake_u", "avx512vbmi": "icelake_u"}

# What guest_<part>.cpp compares at each level that has it of its own.
OPS = {
    ("ops", "avx512"): ("finish", "combine", "windows", "quantize"),
    ("ops", "avx512vnni"): ("depthwise", "winograd"),
    ("ops", "avx512vbmi"): ("lookup",),
    ("sequences", "avxvnni"): ("grouped",),
    ("sequences", "avx512"): ("rows", "float products", "gates"),
    ("sequences", "avx512vnni"): ("grouped",),
}
OPS_CASES = 200

SHAPES = ((1, 8, 33), (2, 40, 70), (7, 33, 64), (13, 72, 31))
DEEPEST = 620


def link(build: Path, folder: Path) -> Path:
    """guest*.cpp with the build's objects, at a fixed address; what no kernel calls stays unresolved."""
    root = Path(__file__).parents[2]
    flags = [
        "-std=c++17",
        "-O2",
        "-ffreestanding",
        "-fno-stack-protector",
        "-fno-exceptions",
        "-fno-tree-loop-distribute-patterns",
        "-fno-pic",
    ]
    objects = []
    for name in ("guest", "guest_ops", "guest_sequences"):
        objects.append(str(folder / f"{name}.o"))
        source = str(Path(__file__).with_name(f"{name}.cpp"))
        command = ["c++", *flags, "-mno-avx", "-DULP_X86=1", f"-I{root / 'csrc'}", "-c", source, "-o", objects[-1]]
        subprocess.run(command, check=True)
    image = folder / "guest.elf"
    layout = ["-nostdlib", "-static", "-no-pie", "-Wl,--gc-sections", "-Wl,--unresolved-symbols=ignore-all", "-Wl,-Ttext-segment=0x400000"]
    names = ["kernels", "name", "isa", "supports", "spill_every", "product", "levels", "core", *(f"{part}_{level}" for part, level in OPS)]
    keep = [f"-Wl,-u,guest_{name}" for name in names]
    command = [
        "c++",
        *layout,
        *keep,
        "-Wl,-e,guest_kernels",
        "-Wl,--build-id=none",
        *objects,
        str(build / "libulp_kernels.a"),
        "-o",
        str(image),
    ]
    subprocess.run(command, check=True)
    return image


class Guest:
    """The linked kernels in an emulated CPU."""

    def __init__(self, image: Path, model: str) -> None:
        self.machine = Machine(image, model)
        self.call = self.machine.call

    def kernels(self) -> dict[str, tuple[int, str]]:
        """Index and level by name, of those above AVX2."""
        found = {}
        for index in range(self.call("guest_kernels")):
            isa = self.call("guest_isa", index)
            if 1 < isa <= len(LEVELS):
                found[self.machine.text(self.call("guest_name", index))] = (index, LEVELS[isa - 1])
        return found

    def product(self, index: int, bits: tuple[int, int], a: Any, b: Any, row: Any, col: Any, shift: int) -> tuple[Any, int, int]:
        """C, and the two centres."""
        m, k = a.shape
        n = b.shape[1]
        width = -(-n // 8) * 8
        here = self.machine.heap()
        addresses = []
        for array in (a, b, row, col, np.full((m, width), -1, np.int32)):
            addresses.append(here)
            self.machine.write(here, np.ascontiguousarray(array).tobytes())
            here += -(-array.nbytes // 64) * 64 + 64
        fields = (index, *bits, m, n, k, *addresses, shift, here + 4096)
        self.machine.write(here, struct.pack("<13q", *fields))
        centres = self.call("guest_product", here)
        c = np.frombuffer(self.machine.read(addresses[4], m * width * 4), np.int32).reshape(m, width)
        return c[:, :n], centres // 256, centres % 256


def check(guest: Guest, name: str, index: int) -> int:
    """Every pair of one kernel: random and extreme operands, edges of tiles and of accumulation. Returns the number of products."""
    count = 0
    rng = np.random.default_rng(1)
    for a_bits in range(1, 9):
        for b_bits in range(1, 9):
            if not guest.call("guest_supports", index, a_bits, b_bits):
                continue
            spill = guest.call("guest_spill_every", index, a_bits, b_bits)
            deep = {k + d for step in (4, 16, 32) for k in [spill * step] for d in (0, 1) if 0 < k + d <= DEEPEST} | {DEEPEST}
            cases = [(m, n, k, False) for m, n, k in SHAPES] + [(2, 9, k, True) for k in sorted(deep)]
            for m, n, k, extreme in cases:
                a = rng.integers(0, 1 << a_bits, (m, k), np.uint8)
                b = rng.integers(0, 1 << b_bits, (k, n), np.uint8)
                if extreme:
                    a[0], a[1] = 0, (1 << a_bits) - 1
                    b[:, : n // 2], b[:, n // 2 :] = 0, (1 << b_bits) - 1
                row = rng.integers(-1000, 1000, m, np.int32)
                col = rng.integers(-1000, 1000, -(-n // 8) * 8, np.int32)
                shift = int(rng.integers(0, 3))
                c, centre_a, centre_b = guest.product(index, (a_bits, b_bits), a, b, row, col, shift)
                exact = (a.astype(np.int64) - centre_a) @ (b.astype(np.int64) - centre_b)
                expected = (row[:, None] + col[None, :n] + (exact << shift)).astype(np.int32)
                if not np.array_equal(c, expected):
                    where = tuple(int(i[0]) for i in np.nonzero(c != expected))
                    raise AssertionError(f"{name} W{b_bits}A{a_bits} {m}x{n}x{k}: c{list(where)} = {c[where]}, not {expected[where]}")
                count += 1
    return count


def check_ops(guest: Guest, part: str, level: str) -> int:
    """What a level has besides products against a lower level's. Returns the number of comparisons."""
    for seed in range(OPS_CASES):
        failed = guest.call(f"guest_{part}_{level}", seed, guest.machine.heap())
        if failed:
            raise AssertionError(f"{OPS[part, level][failed - 1]} on {level}: other results than a lower level, case {seed}")
    return OPS_CASES * len(OPS[part, level])


def _run_model(image: Path, model: str) -> None:
    begin = time.monotonic()
    guest = Guest(image, model)
    levels = guest.call("guest_levels")
    found = {level for i, level in enumerate(LEVELS) if levels >> i & 1}
    assert found == MODELS[model], f"{model}: found {sorted(found)}, not {sorted(MODELS[model])}"
    core = guest.machine.text(guest.call("guest_core"))
    assert core == CORES.get(model, ""), f"{model} is taken for {core!r}"
    masked = guest.call("guest_levels", xcr0=7)  # a system that does not save the registers of AVX-512
    kept = {level for i, level in enumerate(LEVELS) if masked >> i & 1}
    assert kept == {level for level in found if not level.startswith("avx512")}, f"{model} without zmm: {sorted(kept)}"
    counts = {}
    for name, (index, level) in guest.kernels().items():
        if RUNS_ON[level] == model:
            counts[name] = check(guest, name, index)
    for (part, level), operations in OPS.items():
        if RUNS_ON[level] == model:
            counts[" ".join(operations)] = check_ops(guest, part, level)
    told = ", ".join(f"{name} {count}" for name, count in counts.items()) or "no kernels"
    print(f"{model}: levels as expected; exact: {told}; {time.monotonic() - begin:.0f} s", flush=True)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description="Execute the x86 kernels of a build in the Bochs CPU core.")
    parser.add_argument("build", type=Path, help="CMake build folder")
    parser.add_argument("--model", choices=MODELS, help="one model only, in this process")
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if reason := missing():
        print(f"not run: {reason}")
        return 77
    if args.model and args.image:
        _run_model(args.image, args.model)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **shimmed(Path(folder))}
        if not loads(environment):
            print("not run: bochscpu-python does not load here")
            return 77
        image = link(args.build, Path(folder))
        failed = 0
        for model in [args.model] if args.model else MODELS:  # one process each: the model is chosen once
            command = [sys.executable, "-m", "tools.x86.emulate", str(args.build), "--model", model, "--image", str(image)]
            failed += subprocess.run(command, env=environment, check=False).returncode != 0
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
