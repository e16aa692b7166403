"""What is measured on a GPU, and the least time it can take there: shapes, pairs, bytes, operations. Pure numbers; no device is asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SQUARE = 8192
# (N, K), the layers of decoding: up and down projections of an 8B model, and a square as large.
LAYERS = ((4096, 14336), (14336, 4096), (8192, 8192))
TARGET_LAYERS = ((4096, 14336), (8192, 8192))
DECODE_ROWS = (1, 4, 8, 16, 32, 64)
PREFILL_ROWS = (256, 512, 1024, 2048, 4096)
DECODE_PAIRS = ((4, 4), (8, 4), (8, 3), (8, 2), (8, 1))  # (a_bits, b_bits)
PREFILL_PAIRS = ((4, 4), (8, 4))
# What the 1-bit tensor cores are for, and one pair beyond: on a square layer, and at few rows.
PLANE_PAIRS = ((1, 1), (2, 1), (2, 2), (3, 3))
PLANE_ROWS = (SQUARE, 1, 16, 64)
PLANE_SWEEP_ROWS = (64, 4096)

# Dense multiply-accumulates per multiprocessor and clock: (int8, int4 where both operands have 4 bits or fewer, 1 bit), by NVIDIA's data
# sheets. 1 bit: the A100's ratio of 8 to int8, taken as the bound of all that have such cores.
TENSOR_MACS = {
    75: (1024, 2048, 0),
    80: (2048, 4096, 16384),
    86: (1024, 2048, 8192),
    89: (1024, 2048, 8192),
    90: (4096, 4096, 32768),
    100: (8192, 8192, 0),
    120: (1024, 1024, 0),
}
# Rotating over this many times the L2 cache, nothing of a buffer is left there when its turn comes again.
ROTATION = 3
MAX_SLOTS = 256
GRAPH_NS = 300_000  # a graph lasts at least about this long, so that its start and the events around it weigh little
MIN_CALL_NS = 1000.0  # no kernel is done sooner, whatever its bytes


@dataclass(frozen=True)
class Gpu:
    """What ceilings depend on. clock_mhz: the multiprocessors' at most. l2_bytes: of the whole L2 cache."""

    name: str
    arch: int
    sms: int
    l2_bytes: int
    memory_bytes: int
    clock_mhz: float


@dataclass(frozen=True)
class Work:
    """One product (m, k) x (k, n). a_bits, b_bits: of the values; a lies in bytes, b packed to b_bits. out_bytes: of one result."""

    m: int
    n: int
    k: int
    a_bits: int
    b_bits: int
    out_bytes: int = 4

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.m * self.n * self.k

    @property
    def weight_bytes(self) -> int:
        """Of b, packed."""
        return self.n * self.k * self.b_bits // 8

    @property
    def nbytes(self) -> int:
        """Bytes that must move once through memory: b, a and the result."""
        return self.weight_bytes + self.m * self.k + self.m * self.n * self.out_bytes

    @property
    def pair(self) -> str:
        """As W4A8."""
        return f"W{self.b_bits}A{self.a_bits}"

    @property
    def shape(self) -> str:
        """As 16x8192x8192: M x N x K."""
        return f"{self.m}x{self.n}x{self.k}"


def tensor_ns(work: Work, gpu: Gpu, clock_mhz: float | None = None) -> float:
    """The tensor cores' time at a clock (None: the highest), if nothing ever waits."""
    known = [arch for arch in TENSOR_MACS if arch <= gpu.arch]
    int8, int4, int1 = TENSOR_MACS[max(known)] if known else TENSOR_MACS[min(TENSOR_MACS)]
    # One product per pair of bit planes on 1-bit cores.
    rate = max(int4 if max(work.a_bits, work.b_bits) <= 4 else int8, int1 / (work.a_bits * work.b_bits))
    return work.macs / (rate * gpu.sms * (clock_mhz or gpu.clock_mhz) * 1e-3)


def memory_ns(nbytes: int, copy_bytes_per_ns: float) -> float:
    """The time of moving bytes at the rate of a large copy, bytes read and written both counted."""
    return nbytes / copy_bytes_per_ns


def ceiling_ns(work: Work, gpu: Gpu, copy_bytes_per_ns: float, clock_mhz: float | None = None) -> float:
    """The least time by either bound: the roofline."""
    return max(tensor_ns(work, gpu, clock_mhz), memory_ns(work.nbytes, copy_bytes_per_ns))


def slots(nbytes: int, l2_bytes: int, memory_bytes: int) -> int:
    """Copies of a call's buffers to rotate over: ROTATION times the cache in all, at least 2, within an eighth of the memory."""
    wanted = math.ceil(ROTATION * l2_bytes / max(1, nbytes))
    return max(2, min(wanted, MAX_SLOTS, memory_bytes // 8 // max(1, nbytes)))


def calls_in_graph(slot_count: int, call_ns: float) -> int:
    """Calls of one graph: whole turns of the rotation, GRAPH_NS long or more."""
    turns = math.ceil(GRAPH_NS / (slot_count * max(call_ns, MIN_CALL_NS)))
    return slot_count * max(1, turns)


def decode() -> Iterator[tuple[tuple[int, int], int]]:
    """((N, K), M) of every decode group, one layer at a time; the layers that the targets name first."""
    ordered = [*TARGET_LAYERS, *(layer for layer in LAYERS if layer not in TARGET_LAYERS)]
    return ((layer, rows) for layer in ordered for rows in DECODE_ROWS)


def planes(rows: Sequence[int]) -> Iterator[tuple[tuple[int, int], int]]:
    """((N, K), M) at which pairs of few bits are measured."""
    return (((SQUARE, SQUARE), m) for m in rows)


def prefill() -> Iterator[tuple[tuple[int, int], int]]:
    """((N, K), M) of the sizes between decoding and the square."""
    return (((SQUARE, SQUARE), rows) for rows in PREFILL_ROWS)
