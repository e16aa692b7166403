"""The limits of the core, measured in the same run as the products that they bound.

Three figures: the bare inner loop of each GEMM technique out of L1 (MAC/s), the bandwidth of reading a buffer of a given size (B/s), and
the clock (cycles per ns). The loops are in `native/ceiling.cpp`; they need AVX2.
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
CYCLES_PER_PASS = 64


def _read_once(function: Any, start: int, size: int, _buffer: npt.NDArray[np.uint8]) -> object:
    """Read from `start`, which points into `_buffer`: being an argument keeps the buffer alive."""
    return function(start, size, 1)


class Ceiling:
    """The loaded native module. Construct it only where `why_unavailable()` is None."""

    def __init__(self) -> None:
        library = native.load("ceiling.cpp", ("-mavx2",))
        for name in (*MACS_PER_STEP, "cycles", "steps_per_pass", "read"):
            getattr(library, f"ceiling_{name}").restype = ctypes.c_int64
        for name in (*MACS_PER_STEP, "cycles"):
            getattr(library, f"ceiling_{name}").argtypes = [ctypes.c_int64]
        library.ceiling_read.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        self._library: Any = library
        self.steps_per_pass = int(library.ceiling_steps_per_pass())

    def loop(self, technique: str, passes: int) -> tuple[Callable[[], object], int]:
        """A call that runs the bare loop of `technique` (a key of MACS_PER_STEP) and the MACs that one call does."""
        function = getattr(self._library, f"ceiling_{technique}")
        return (lambda: function(passes)), passes * self.steps_per_pass * MACS_PER_STEP[technique]

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
    half as many in a register. trim takes 3 operations for 32 MACs at 8 x 8 bits, else 2.5, where mul8 takes 2. rowpair does 64 where mul8
    does 32. Lookups do 128 one-bit MACs each, once per plane of the operand that is cut into planes, at best the narrower one. bitserial
    pays for every pair of planes.
    """
    if isa != "avx2":
        return None
    if technique == "mul8":
        return RowCeiling("mul8", 2.0 if a_bits + b_bits == 16 else 1.0)
    planes = float(min(a_bits, b_bits))
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
