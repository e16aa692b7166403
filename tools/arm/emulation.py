"""Products of matrices on emulated ARM CPUs, with exact counts of what was executed.

`emulate` cross-builds the library; `native/runs.cpp` multiplies with a kernel of it, or with a peer, under qemu-aarch64; the plugin
`native/blocks.c` counts the blocks of instructions. The same binary gives the same counts at every run.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = HERE / "native"
EMULATE = HERE / "emulate"
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"

# Peers are compiled for the instructions of a core; the library's kernels have their own flags. SVE is left out, which would only change
# memcpy.
VARIANTS = {"neon": ("-march=armv8-a",), "dotprod": ("-march=armv8.2-a+dotprod", "-DGEMMLOWP_DOTPROD_KERNEL")}
CPUS = {"neon": "cortex-a72", "dotprod": "max,sve=off"}

Words = tuple[int, ...]


@dataclass(frozen=True)
class Product:
    """One line of runs.cpp: a kernel's or a peer's product of an (m, k) by a (k, n) matrix."""

    name: str
    a_bits: int
    b_bits: int
    m: int
    n: int
    k: int

    @property
    def pair(self) -> str:
        """As in W3A4."""
        return f"W{self.b_bits}A{self.a_bits}"

    @property
    def macs(self) -> int:
        """Products of two numbers."""
        return self.m * self.n * self.k


@dataclass(frozen=True)
class Execution:
    """What a product executed: how often each block ran, a block being its instruction words."""

    blocks: dict[Words, int]

    @property
    def instructions(self) -> int:
        """How many were executed."""
        return sum(count * len(words) for words, count in self.blocks.items())


def missing() -> list[str]:
    """The tools that the emulation needs and this machine lacks."""
    done = subprocess.run([EMULATE, "missing"], capture_output=True, text=True, check=True)
    return done.stdout.split()


def directory() -> Path:
    """Where `emulate` builds, and what is built here."""
    return Path(os.environ.get("ULP_AARCH64", str(ROOT / "build" / "aarch64")))


def compiler_version() -> str:
    """The cross-compiler's; counts of different compilers differ."""
    done = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def build(gemmlowp: Path) -> None:
    """Build the library, the plugin and the guests; RuntimeError with the compiler's message where one fails.

    gemmlowp: the C++ source of that peer's adapter, with the functions that `native/runs.cpp` declares.
    """
    _call([EMULATE, "build"])
    target = directory() / "model"
    target.mkdir(exist_ok=True)
    _call(["gcc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", target / "blocks.so", SOURCES / "blocks.c"])
    sources = [SOURCES / "runs.cpp", SOURCES / "int8_schemes.cpp", gemmlowp]
    # /usr/include comes last: it holds gemmlowp's headers, but also this machine's C library.
    include: list[str | Path] = ["-I", ROOT / "csrc", "-I", SOURCES, "-idirafter", "/usr/include"]
    library = directory() / "build" / "libulp_kernels.a"
    commands = [
        [COMPILER, "-std=c++17", "-O3", "-static", *flags, *include, *sources, library, "-lpthread", "-o", target / f"runs-{variant}"]
        for variant, flags in VARIANTS.items()
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(_call, commands))


@dataclass(frozen=True)
class Row:
    """A kernel of the aarch64 build's table."""

    name: str
    isa: str
    pairs: tuple[tuple[int, int], ...]
    """(a_bits, b_bits)."""


def kernels() -> list[Row]:
    """The table, best first."""
    table = _call([EMULATOR, "-cpu", CPUS["dotprod"], directory() / "model" / "runs-dotprod", "list"])
    rows: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for line in table.splitlines():
        name, isa, a_bits, b_bits = line.split()
        rows.setdefault((name, isa), []).append((int(a_bits), int(b_bits)))
    return [Row(name, isa, tuple(pairs)) for (name, isa), pairs in rows.items()]


def execute(products: Sequence[Product], variant: str = "dotprod") -> list[Execution]:
    """Run the products, peers as the variant compiles them; RuntimeError where one is wrong or the CPU lacks an instruction."""
    target = directory() / "model"
    counts = target / f"blocks-{os.getpid()}.txt"
    lines = "".join(f"{p.name} {p.a_bits} {p.b_bits} {p.m} {p.n} {p.k}\n" for p in products)
    plugin = f"{target / 'blocks.so'},out={counts}"
    try:
        _call([EMULATOR, "-cpu", CPUS[variant], "-plugin", plugin, target / f"runs-{variant}"], lines)
        executions = parse_counts(counts)
    finally:
        counts.unlink(missing_ok=True)
    if len(executions) != len(products):
        raise RuntimeError(f"{len(products)} products were asked for, {len(executions)} were counted")
    return executions


def parse_counts(counts: Path) -> list[Execution]:
    """What the plugin counted: one entry per run of the guest's program."""
    by_index: list[dict[int, int]] = []
    blocks: dict[int, Words] = {}
    with counts.open(encoding="ascii") as lines:
        for line in lines:
            fields = line.split()
            if fields[0] == "run":
                by_index.append({})
            elif fields[0] == "block":
                blocks[int(fields[1])] = tuple(int(word, 16) for word in fields[2:])
            else:
                by_index[-1][int(fields[1])] = int(fields[0])
    executions = []
    for run in by_index:
        merged: dict[Words, int] = {}
        for index, count in run.items():  # a block that was translated twice is one
            merged[blocks[index]] = merged.get(blocks[index], 0) + count
        executions.append(Execution(merged))
    return executions


def _call(command: Sequence[str | Path], text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout
