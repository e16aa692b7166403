"""Breaks the CUDA kernels on purpose, one line at a time, and holds the emulator to noticing each break.

Each row below is a line of a kernel, what it becomes, and a product that depends on it. A mutant must end in a fault or in wrong sums; the
same products on the sound kernels must end in neither. A row whose line is no longer in the kernel fails: it has to follow the kernel.

Only the one instance that a product runs is compiled anew; everything else comes from the archives beside the module that
`ULP_CUDA_EMULATED` names. So a mutant takes about a second.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

EMULATOR = Path(__file__).resolve().parents[1]
CSRC = EMULATOR.parents[1] / "csrc"
FOLDERS = [f"-I{EMULATOR}", f"-I{CSRC}"]
COMPILE = [os.environ.get("CXX", "g++"), "-std=c++17", "-O1", "-w", "-Wno-psabi", "-ffp-contract=off", "-fvisibility=hidden"]

RING = "90 64 1024 3072 4 4 wgmma_128x64"  # more blocks of k than stages
PAIRS = "90 128 256 3072 4 4 wgmma_128x128"  # blocks share activations
SPLIT = "90 64 256 4096 4 4 wgmma_128x64"  # sums meet in a cluster
TILES = "90 64 2048 256 4 4 wgmma_128x64"  # several tiles per block
MMA = "80 64 64 1024 4 4 mma_s4_64x64"
PLANES = "90 64 256 5000 2 2 wgmma_b1_128x64/1"  # four passes over more steps of k than stages, and a tail
TAIL = "90 64 128 700 2 2 wgmma_b1_128x64/1"  # less than a step
MMA_PLANES = "80 64 64 5000 2 2 mma_b1_64x64/1"
MMA_TAIL = "80 64 64 700 2 2 mma_b1_64x64/1"  # the last step lies in the first stage, which the results overlay
CONV = "80 9 40 48 -4 4 conv_s8_64x64"  # codes in pieces of 16
CONV_SM90 = "90 9 136 144 -4 4 conv_wgmma_128x128"  # two tiles of channels, more steps of k than stages
CONV_SPLIT = "90 9 136 144 -4 4 conv_wgmma_128x64"  # sums meet in a cluster
CONV_PLANES = "80 9 40 150 -2 -2 conv_b1_64x64"  # sums of windows; two blocks of k per tap, the second one short
CONV_PLANES_SM90 = "90 9 40 700 -2 2 conv_wgmma_b1_128x128"
WORDS = "80 9 40 20 -4 4 conv_s8_64x64"  # of 4

# The instance of a kernel that its products run, for 4-bit signed operands.
INSTANCES = {
    "wgmma_128x64": "Sm90Kernel wgmma_128x64(bool, int) { return gemm_sm90<Unit::s8, 4, 64>; }",
    "wgmma_128x128": "Sm90Kernel wgmma_128x128(bool, int) { return gemm_sm90<Unit::s8, 4, 128>; }",
    "wgmma_b1_128x64": "Sm90Kernel wgmma_b1_128x64(bool, int) { return gemm_sm90<Unit::b1, 2, 64>; }",
    "mma_b1_64x64": "MmaKernel mma_b1_64x64(int) { return gemm_mma<MmaPlanesMedium, 2, Unit::b1>; }",
    "mma_s4_64x64": "MmaKernel mma_s4_64x64(int) { return gemm_mma<MmaMedium, 4, Unit::s4>; }",
    "conv_wgmma_128x128": "ConvKernel conv_wgmma_128x128(int) { return conv_sm90<Unit::u8, 4, 128>; }",
    "conv_wgmma_128x64": "ConvKernel conv_wgmma_128x64(int) { return conv_sm90<Unit::u8, 4, 64>; }",
    "conv_wgmma_b1_128x128": "ConvKernel conv_wgmma_b1_128x128(int) { return conv_sm90<Unit::b1, 2, 128>; }",
    "conv_b1_64x64": "ConvKernel conv_b1_64x64(int) { return gemm_mma<MmaPlanesMedium, 2, Unit::b1, ConvArguments>; }",
    "conv_s8_64x64": "ConvKernel conv_s8_64x64(int) { return gemm_mma<MmaMedium, 4, Unit::s8, ConvArguments>; }",
}


# Headers of kernels that are not in an instance above, and the file that starts them.
STARTED_BY = {"pack_pixels.cuh": "network_conv.cu"}


class Mutant(NamedTuple):
    """One change of one header, and the product that shows it."""

    header: str
    line: str
    becomes: str
    product: str

    @property
    def kernel(self) -> str:
        """The row of the table that the product runs on."""
        return self.product.split()[-1].split("/")[0]


def _hopper(line: str, becomes: str, product: str) -> Mutant:
    return Mutant("gemm_sm90.cuh", line, becomes, product)


CONVOLUTIONS = [
    ("p.a + i * w.image;", "p.a;", CONV),
    ("at_y >= 0 && at_y < w.height", "at_y < w.height", CONV),
    ("at_x >= 0 && at_x < w.width", "at_x >= 0", CONV),
    ("w.kernel_x.remainder(tap, tap_y) * w.dilation_x", "w.kernel_x.remainder(tap, tap_y)", CONV),
    ("out_y * w.stride_y - w.pad_top", "out_y * w.stride_y", CONV),
    ("from != nullptr ? from + plane : outside", "from != nullptr ? from + plane : p.a", CONV),
    ("from != nullptr ? from + plane : outside", "from != nullptr ? from : outside", CONV_PLANES),
    ("number & 1) != 0 ? 255 * 16 : 0", "number & 1) != 0 ? 0 : 0", CONV_PLANES),
    ("MmaCopies<Tile>::token(kIndices)", "MmaCopies<Tile>::token(0 * kIndices)", CONV),
    ("if (from == nullptr) return p.zero;", "if (from == nullptr) return 0;", WORDS),
    ("row_term(p.finish, pixel) * c.sums.w_term[0];", "row_term(p.finish, pixel);", CONV_PLANES),
    ("sums(p.finish, channel), layer(p.layer, channel) {}", "sums(p.finish, channel), layer(p.layer, channel) { there = true; }", CONV),
]
GATHERS = [
    ("    ptx::fence_proxy_async();\n", "", CONV_SM90),
    ("ptx::wait_copies<kConvLag>();", "ptx::wait_copies<kConvLag + 1>();", CONV_SM90),
    ("    ptx::wait_copies<0>();\n", "", CONV_SM90),
    ("while (announced < started) announce(p);", "announce(p);", CONV_SM90),
    ("if (++started <= kConvLag) return;", "++started;", CONV_SM90),
    ("ptx::barrier_wait(own.empty(ring.stage), ring.phase ^ 1);", "", CONV_SM90),
    ("(piece ^ (first % 8))", "piece", CONV_SM90),
    ("p, row + 16 * kIndices)", "p, row + 8 * kIndices)", CONV_SM90),
    ("  sm90_end(p);", "", CONV_SPLIT),
    ("sm90_begin(p, own, 128 + 1);", "sm90_begin(p, own, 128);", CONV_SM90),
    ("copies.select(p, pair.a);", "copies.select(p, 0);", CONV_PLANES_SM90),
]
MUTANTS = [
    _hopper("ptx::barrier_wait(own.full(ring.stage), ring.phase);\n  // A warp", "// A warp", RING),
    _hopper("ptx::barrier_wait(own.empty(ring.stage), ring.phase ^ 1);", "", RING),
    _hopper("  __syncwarp();\n  if (lane < p.multicast)", "  if (lane < p.multicast)", RING),
    _hopper("if (!first) sm90_release(p, own, before, lane);", "sm90_release(p, own, ring.stage, lane);", RING),
    _hopper("ptx::wgmma_wait<1>();", "ptx::wgmma_wait<2>();", RING),
    _hopper("step(odd, number", "step(even, number", RING),
    _hopper("ptx::wgmma_fence();", "", RING),
    _hopper("ptx::wgmma_wait<0>();", "", RING),
    _hopper("bytes + kTokens * kBlock)", "bytes + kTokens * kBlock / 2)", RING),
    _hopper("bytes + kTokens * kBlock)", "bytes + kTokens * kBlock * 2)", RING),
    _hopper("ptx::fence_barrier_init();", "", RING),
    _hopper("  __syncwarp();\n  ptx::cluster_sync();", "", RING),
    _hopper("kPlanes ? 56 : 40", "kPlanes ? 56 : 48", RING),
    _hopper("if (lane < p.multicast) ptx::", "if (lane < 2) ptx::", RING),
    _hopper("kSm90ConsumerWarps * p.multicast", "kSm90ConsumerWarps", PAIRS),
    _hopper("own.rank_channel * rows * kBlock;", "0;", PAIRS),
    _hopper("if (p.splits * p.multicast > 1) ptx::cluster_sync();", "", PAIRS),
    _hopper("if (p.splits * p.multicast > 1) ptx::cluster_sync();", "", SPLIT),
    _hopper("if (p.splits == 1) ptx::barrier_sync(1 + group, 128);", "", TILES),
    _hopper("pair.a * p.m", "0", PLANES),
    _hopper("own.blocks(p, step) * block_bytes", "kBlocks * block_bytes", TAIL),
    _hopper("block < blocks) plane_of", "true) plane_of", TAIL),
    _hopper("a[block / 2][block % 2 * 2] = rows[0];", "a[block / 2][block % 2] = rows[0];", PLANES),
    _hopper("pair.w, pass == 0, acc", "pair.w, true, acc", PLANES),
    Mutant("gemm_mma.cuh", "if constexpr (kPlanes) fetched.next(p.planes);", "", MMA_PLANES),
    Mutant("gemm_mma.cuh", "if (4 * pair >= blocks) break;", "if (8 * pair >= blocks) break;", MMA_PLANES),
    Mutant("planes.cuh", "factor = 2;", "factor = 1;", MMA_PLANES),
    Mutant("planes.cuh", "return negative == before ? factor : -factor;", "return factor;", MMA_PLANES),
    Mutant("planes.cuh", "rotate_left(row, 1) | (from[kStep] & mask)", "rotate_left(row, 1) | (from[0] & mask)", MMA_PLANES),
    Mutant("gemm_mma.cuh", "wait_copies_up_to(p.stages - 2);", "wait_copies_up_to(p.stages - 1);", MMA),
    Mutant("gemm_mma.cuh", "    __syncthreads();  // all threads", "  // all threads", MMA),
    Mutant("pack_pixels.cuh", "* 0x01020408u >> 24 & 15", "* 0x01020408u >> 25 & 15", CONV_PLANES),
    Mutant("pack_pixels.cuh", "sum += ones << i;", "sum += ones;", CONV_PLANES),
    Mutant("pack_pixels.cuh", "channels - channel)", "channels - channel - 8)", CONV_PLANES),
    *(Mutant("conv_rows.cuh", *change) for change in CONVOLUTIONS),
    *(Mutant("conv_sm90.cuh", *change) for change in GATHERS),
    Mutant("gemm_mma.cuh", "  if constexpr (Tile::kWarpsK == 1) __syncthreads();", "", MMA_TAIL),
    Mutant(
        "gemm_mma.cuh",
        "    __syncwarp();\n#pragma unroll\n    for (int i = 0; i < Tile::kColumns",
        "    for (int i = 0; i < Tile::kColumns",
        MMA,
    ),
    Mutant("gemm_mma.cuh", "    __syncwarp();\n    mma_finish", "    mma_finish", MMA),
    Mutant("gemm_mma.cuh", "lane / kLanes * 4 : lane / 8", "lane / kLanes * 2 : lane / 8", CONV),
    Mutant("gemm_mma.cuh", "lane / 8 + lane / 4 % 2 * 4;", "lane / 8 + lane / 4 % 2 * 2;", MMA),
    Mutant("gemm_mma.cuh", "shared + Tile::added_bytes() +", "shared +", MMA),
    Mutant("gemm_mma.cuh", "if constexpr (kPlanes) select_plane(rows, p, fetched.a);", "", CONV_PLANES),
    Mutant("gemm_mma.cuh", "((4 * pair + lane / 8) ^ row) * 16));\n      if", "(4 * pair + lane / 8) * 16));\n      if", MMA),
]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A header of what all kernels include, compiled: most of the time of a mutant's compilation is spent in it."""
    header = tmp_path_factory.mktemp("prefix") / "prefix.h"
    header.write_text('#include "cuda.h"\n#include "cuda_runtime.h"\n#include "cuda/ptx_sm90.cuh"\n#include "cuda/network.h"\n', "utf-8")
    subprocess.run([*COMPILE, *FOLDERS, "-x", "c++-header", header, "-o", header.with_suffix(".h.gch")], check=True)
    return header


@pytest.fixture(scope="module")
def build() -> Path:
    """Where the emulator and the emulated kernels lie, compiled."""
    module = os.environ.get("ULP_CUDA_EMULATED")
    if not module:
        pytest.skip("ULP_CUDA_EMULATED does not name the emulated module, which cmake -DULP_CUDA_EMULATOR=ON builds with its archives")
    return Path(module).resolve().parent


def run(program: Path, product: str) -> str:
    """What a program found wrong; "" for nothing."""
    done = subprocess.run([program, *product.split()], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done
    assert (done.returncode == 0) == (done.stdout == "")
    return done.stdout.split("\n")[0]


def break_kernel(mutant: Mutant, build: Path, prefix: Path, scratch: Path) -> Path:
    """The program `emulated_product` with a broken kernel."""
    text = (CSRC / "cuda" / mutant.header).read_text("utf-8")
    assert text.count(mutant.line) == 1, f"{mutant.header} has {text.count(mutant.line)} times {mutant.line!r}: the row must follow it"
    (scratch / "cuda").mkdir()
    (scratch / "cuda" / mutant.header).write_text(text.replace(mutant.line, mutant.becomes), "utf-8")
    source, program = scratch / "kernel.cpp", scratch / "program"
    instance = INSTANCES[mutant.kernel]
    started_by = STARTED_BY.get(mutant.header)
    headers = {"conv_sm90<": "conv_sm90.cuh", "ConvKernel": "conv_rows.cuh", "MmaKernel": "gemm_mma.cuh", "Sm90Kernel": "gemm_sm90.cuh"}
    kernels = next(header for word, header in headers.items() if word in instance)
    text = f'#include "cuda/{kernels}"\nnamespace ulp::cuda {{\n{instance}\n}}\n'
    source.write_text(f'#include "cuda/{started_by}"\n' if started_by else text, "utf-8")
    # The broken kernel comes first: the linker has no need then of the archive's member that defines the sound one.
    archives = [build / name for name in ("libemulated_product.a", "libcuda_emulated.a", "libcuda_emulator.a")]
    subprocess.run([*COMPILE, "-include", prefix, f"-I{scratch}", *FOLDERS, source, *archives, "-pthread", "-o", program], check=True)
    return program


@pytest.mark.parametrize("product", sorted({mutant.product for mutant in MUTANTS}))
def test_sound_kernels_are_exact(build: Path, product: str) -> None:
    """The products alone find nothing."""
    assert run(build / "emulated_product", product) == ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{mutant.line.strip()} -> {mutant.becomes}" for mutant in MUTANTS])
def test_a_broken_kernel_is_noticed(build: Path, prefix: Path, tmp_path: Path, mutant: Mutant) -> None:
    """A fault or wrong sums."""
    found = run(break_kernel(mutant, build, prefix, tmp_path), mutant.product)
    assert re.search("sums are wrong|block|deadlock", found), found or "nobody noticed"
