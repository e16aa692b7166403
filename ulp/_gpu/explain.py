"""Which kernel runs on a GPU, and why: the choice is a pure function of shapes, bits and machine (csrc/cuda/pick.cpp)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import native


@dataclass(frozen=True, repr=False)
class CudaExplanation:
    """Which kernel a call would run on a GPU, in which tiles; prints as text."""

    m: int
    n: int
    k: int
    a_bits: int
    b_bits: int
    a_signed: bool
    b_signed: bool
    device: str
    kernel: str
    tile: tuple[int, int, int]
    """M, N and K that a block of threads works on at a time."""
    grid: tuple[int, int, int]
    """Blocks of threads."""
    splits: int
    """Parts into which K is split."""
    shared_bytes: int
    """Shared memory of a block."""
    workspace_bytes: int
    """Device memory that a call needs besides its result."""
    clocks: float
    """Clocks that the call takes by the model that makes the choice."""
    text: str

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__


def explain_on_gpu(m: int, n: int, k: int, a_bits: int, b_bits: int, *, a_signed: bool, b_signed: bool, index: int) -> CudaExplanation:
    """What `ulp.gemm` would run for these operands on device `index`. ValueError where nothing would."""
    choice = _pick(m, n, k, a_bits, a_signed, b_bits, b_signed, index, None)
    return CudaExplanation(m, n, k, a_bits, b_bits, a_signed, b_signed, f"cuda:{index}", **choice)


def kernel_names(index: int, pair: tuple[int, int] | None) -> list[str]:
    """Names of the kernels that device `index` runs, for (a_bits, b_bits) if given, in the order of the table."""
    # Without a pair: one that every kernel takes.
    a_bits, b_bits = pair or (4, 4)

    def runs(name: str) -> bool:
        try:
            _pick(128, 128, 128, a_bits, False, b_bits, True, index, name)
        except ValueError:
            return False
        return True

    return [name for name in native.load().kernels() if runs(name)]


def _pick(
    m: int, n: int, k: int, a_bits: int, a_signed: bool, b_bits: int, b_signed: bool, index: int, kernel: str | None
) -> dict[str, Any]:
    machine = native.devices()[index]
    choice: dict[str, Any] = native.load().pick(
        m, n, k, a_bits, a_signed, b_bits, machine["arch"], machine["sms"], True, kernel, b_signed=b_signed
    )
    return choice
