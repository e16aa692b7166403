"""Breaks the CUDA kernels on purpose, one change at a time, and shows that the emulator notices: `python tests/cuda/mutants.py [JOBS]`.

No test of the suite, for it compiles for minutes; to be run when the kernels' synchronisation or the emulator changes. Each row below is a
line of a kernel, what it becomes, and a product that depends on it. Every mutant must end in a fault or in wrong sums; the kernels as they
are must end in neither. A row whose line is no longer in the kernel is an error: it has to follow the kernel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = ["-std=c++17", "-O1", "-w", "-Wno-psabi", "-ffp-contract=off"]


class Mutant(NamedTuple):
    """One change of one file, the kernel file that it is compiled in, and the product that shows it."""

    header: str
    line: str
    becomes: str
    kernel: str
    product: str


RING = "90 64 1024 3072 4 4 wgmma_128x64"  # more blocks of k than stages
PAIRS = "90 128 256 3072 4 4 wgmma_128x128"  # blocks share activations
SPLIT = "90 64 256 4096 4 4 wgmma_128x64"  # sums meet in a cluster
TILES = "90 64 4096 256 4 4 wgmma_128x64"  # several tiles a block
MMA = "80 64 64 1024 4 4 mma_s4_64x64"


def _hopper(line: str, becomes: str, product: str) -> Mutant:
    return Mutant("gemm_sm90.cuh", line, becomes, f"gemm_sm90_{product.rsplit('x', maxsplit=1)[-1]}.cu", product)


MUTANTS = [
    _hopper("ptx::barrier_wait(own.full(ring.stage), ring.phase);\n  const Words", "const Words", RING),
    _hopper("ptx::barrier_wait(own.empty(ring.stage), ring.phase ^ 1);", "", RING),
    _hopper("  __syncwarp();\n  if (lane < p.multicast)", "  if (lane < p.multicast)", RING),
    _hopper("if (!first) sm90_release(p, own, before, lane);", "sm90_release(p, own, ring.stage, lane);", RING),
    _hopper("ptx::wgmma_wait<1>();", "ptx::wgmma_wait<2>();", RING),
    _hopper("step(odd, false);", "step(even, false);", RING),
    _hopper("ptx::wgmma_fence();", "", RING),
    _hopper("ptx::wgmma_wait<0>();", "", RING),
    _hopper("bytes + kTokens * kBlock)", "bytes + kTokens * kBlock / 2)", RING),
    _hopper("bytes + kTokens * kBlock)", "bytes + kTokens * kBlock * 2)", RING),
    _hopper("ptx::fence_barrier_init();", "", RING),
    _hopper("  __syncwarp();\n  ptx::cluster_sync();", "", RING),
    _hopper("lower_registers<40>", "lower_registers<48>", RING),
    _hopper("if (lane < p.multicast) ptx::", "if (lane < 2) ptx::", RING),
    _hopper("kSm90ConsumerWarps * p.multicast", "kSm90ConsumerWarps", PAIRS),
    _hopper("own.rank_channel * rows * kBlock;", "0;", PAIRS),
    _hopper("if (p.splits * p.multicast > 1) ptx::cluster_sync();", "", PAIRS),
    _hopper("if (p.splits * p.multicast > 1) ptx::cluster_sync();", "", SPLIT),
    _hopper("if (p.splits == 1) ptx::barrier_sync(1 + group, 128);", "", TILES),
    Mutant("gemm_mma.cuh", "wait_copies_up_to(p.stages - 2);", "wait_copies_up_to(p.stages - 1);", "gemm_mma_medium.cu", MMA),
    Mutant("gemm_mma.cuh", "    __syncthreads();  // everybody", "  // everybody", "gemm_mma_medium.cu", MMA),
    Mutant("gemm_mma.cuh", "((4 * pair + lane / 8) ^ row) * 16", "(4 * pair + lane / 8) * 16", "gemm_mma_medium.cu", MMA),
]


def compile_object(source: Path, target: Path, csrc: Path = CSRC) -> Path:
    """One file against the emulator's headers, `csrc` before the checkout's."""
    command = [os.environ.get("CXX", "g++"), *FLAGS, *(f"-I{path}" for path in (HERE / "emulator", csrc, CSRC))]
    subprocess.run([*command, "-xc++", "-c", source, "-o", target], check=True)
    return target


def run(objects: list[Path], product: str, program: Path) -> str:
    """What a program of these objects found wrong; "" for nothing."""
    subprocess.run([os.environ.get("CXX", "g++"), *objects, "-o", program], check=True)
    return subprocess.run([program, *product.split()], capture_output=True, text=True, timeout=600, check=False).stdout.split("\n")[0]


def find(mutant: Mutant, objects: dict[str, Path], scratch: Path) -> str:
    """What the emulator says to it."""
    text = (CSRC / "cuda" / mutant.header).read_text("utf-8")
    if text.count(mutant.line) != 1:
        raise ValueError(f"{mutant.header} has {text.count(mutant.line)} times {mutant.line!r}: the row must be found once")
    shutil.copytree(CSRC / "cuda", scratch / "cuda")
    (scratch / "cuda" / mutant.header).write_text(text.replace(mutant.line, mutant.becomes), "utf-8")
    broken = compile_object(scratch / "cuda" / mutant.kernel, scratch / "broken.o", scratch)
    return run([broken, *(path for name, path in objects.items() if name != mutant.kernel)], mutant.product, scratch / "program")


def main(jobs: int) -> int:
    """Number of mutants that nobody noticed, and of products that fail without any."""
    sources = [*CSRC.glob("cuda/*.cu"), CSRC / "cuda" / "pick.cpp", *HERE.glob("emulator/*.cpp"), HERE / "mutants_main.cpp"]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as workers:
        scratch = Path(folder)
        objects = dict(
            zip(
                [source.name for source in sources],
                workers.map(lambda source: compile_object(source, scratch / f"{source.name}.o"), sources),
                strict=True,
            )
        )
        failed = 0
        for product in sorted({mutant.product for mutant in MUTANTS}):
            said = run(list(objects.values()), product, scratch / "sound")
            failed += said != ""
            sys.stdout.write(f"{product}: {said or 'exact'}\n")
        found = workers.map(lambda i: find(MUTANTS[i], objects, scratch / f"mutant{i}"), range(len(MUTANTS)))
        for mutant, said in zip(MUTANTS, found, strict=True):
            failed += said == ""
            sys.stdout.write(f"{mutant.header}: {mutant.line.strip()!r} -> {mutant.becomes.strip()!r}\n    {said or 'NOT NOTICED'}\n")
        sys.stdout.write(f"{len(MUTANTS)} mutants, {failed} failures\n")
    return failed


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count() or 1) > 0)
