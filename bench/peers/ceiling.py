"""The limits of the core, measured in the same run as the products that they bound.

Three figures: the bare inner loop of each GEMM technique out of L1 (MAC/s), the bandwidth of reading a buffer of a given size (B/s), and
the clock (cycles per ns). The loops are in `native/ceiling.cpp`, which needs AVX2, and `native/ceiling512.cpp`.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import native

# MACs of one vector step of each bare loop, for one-bit planes where the technique works on planes.
MACS_PER_STEP = {"mul8": 32, "lut": 128, "ulppack_p1": 32, "ulppack_p2": 16, "bitserial": 256}
MACS_PER_STEP_512 = {"dot512": 64, "dot256": 32, "lut512": 384, "bitserial512": 512}
FLAGS_512 = ("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512vbmi", "avx512_vpopcntdq")  # as Linux spells them
COMPILED_512 = tuple("-m" + flag.replace("512_", "512") for flag in FLAGS_512)
CYCLES_PER_PASS = 64


def _read_once(function: Any, start: int, size: int, _buffer: npt.NDArray[np.uint8]) -> object:
    """Read from `start`, which points into `_buffer`: being an argument keeps the buffer alive."""
    return function(start, size, 1)


class Ceiling:
    """The loaded native module. Construct it only where `why_unavailable()` is None."""

    def __init__(self) -> None:
        self._library: Any = native.load("ceiling.cpp", ("-mavx2",))
        for name in ("cycles", "read"):
            getattr(self._library, f"ceiling_{name}").restype = ctypes.c_int64
        self._library.ceiling_cycles.argtypes = [ctypes.c_int64]
        self._library.ceiling_read.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        self._loops: dict[str, tuple[Any, int]] = {}  # the function of each loop, the MACs of one pass
        self._add(self._library, MACS_PER_STEP)
        if native.cpu_flags().issuperset(FLAGS_512):
            self._add(native.load("ceiling512.cpp", COMPILED_512), MACS_PER_STEP_512)

    def _add(self, library: Any, macs_per_step: dict[str, int]) -> None:
        library.ceiling_steps_per_pass.restype = ctypes.c_int64
        for name, macs in macs_per_step.items():
            function = getattr(library, f"ceiling_{name}")
            function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_int64]
            self._loops[name] = function, int(library.ceiling_steps_per_pass()) * macs

    @property
    def loops(self) -> tuple[str, ...]:
        """The names of the loops that this core runs."""
        return tuple(self._loops)

    def loop(self, technique: str, passes: int) -> tuple[Callable[[], object], int]:
        """A call that runs the bare loop of that name and the MACs that one call does."""
        function, macs = self._loops[technique]
        return functools.partial(function, passes), passes * macs

    def cycles_per_ns(self, passes: int = 100_000, samples: int = 5) -> float:
        """The clock in GHz: the best of `samples`, since an interruption can only make it look slower."""
        return max(passes * CYCLES_PER_PASS / int(self._library.ceiling_cycles(passes)) for _ in range(samples))

    def read(self, nbytes: int) -> tuple[Callable[[], object], int]:
        """A call that reads a buffer of about `nbytes` once and the bytes that it really reads (a multiple of 256, at least 256)."""
        size = max(256, nbytes // 256 * 256)
        buffer = np.ones(size + 64, dtype=np.uint8)  # ones: pages of zeros may all be one physical page
        start = buffer.ctypes.data + (-buffer.ctypes.data) % 64
        function = self._library.ceiling_read

        return functools.partial(_read_once, function, start, size, buffer), size


def why_unavailable() -> str | None:
    """None when the ceilings can be measured here, else the reason."""
    if not native.x86_avx2():
        return "the bare loops are written for AVX2"
    try:
        native.load("ceiling.cpp", ("-mavx2",))
    except native.BuildError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class RowCeiling:
    """The bare loop that bounds a kernel: `loop` is its name, `divisor` the loop's steps that one full step of the kernel takes."""

    loop: str
    divisor: float


def of_kernel(technique: str, isa: str, a_bits: int, b_bits: int) -> RowCeiling | None:
    """The ceiling of one row of the kernel table at one bit pair; None where there is no bare loop for the technique or the ISA.

    mul8 does 32 MACs per multiply-and-add, half of that at 8 x 8 bits, where it must split an operand. mul16 widens operands to 16 bits,
    half as many in a register. dot does 32 or 64 straight to 32 bits. trim takes 3 operations for 32 MACs at 8 x 8 bits, else
    2.5, where mul8 takes 2. rowpair does 64 where mul8 does 32. Lookups do 128 one-bit MACs each (AVX-512: 384), once per plane of the
    operand that is cut into planes, at best the narrower one. bitserial pays for every pair of planes.
    """
    planes = float(min(a_bits, b_bits))
    if isa.startswith("avx512") or isa == "avxvnni":
        wide = {"lut": RowCeiling("lut512", planes), "bitserial": RowCeiling("bitserial512", float(a_bits * b_bits))}
        return RowCeiling("dot256" if isa == "avxvnni" else "dot512", 1.0) if technique == "dot" else wide.get(technique)
    if isa != "avx2":
        return None
    if technique == "mul8":
        return RowCeiling("mul8", 2.0 if a_bits + b_bits == 16 else 1.0)
    known = {
        "mul16": RowCeiling("mul8", 2.0),
        "trim": RowCeiling("mul8", 1.5 if a_bits + b_bits == 16 else 1.25),
        "rowpair": RowCeiling("mul8", 0.5),
        "lut": RowCeiling("lut", planes),
        "lutstream": RowCeiling("lut", planes),
        "bitserial": RowCeiling("bitserial", float(a_bits * b_bits)),
        "ulppack_p1": RowCeiling("ulppack_p1", 1.0),
        "ulppack_p2": RowCeiling("ulppack_p2", 1.0),
    }
    return known.get(technique)
