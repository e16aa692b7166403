"""Codebooks: tables of 4, 8 or 16 numbers, one for each code, as the integers that kernels multiply by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ._validate import as_array

FloatArray = npt.NDArray[np.float32]

# Entries of one byte, and of two (csrc/gemm/grouped.h).
_LIMITS = {8: 127, 16: 32512}
_EXACT = {8: 127, 16: 2**12}

NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
        *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
"""The quantiles of a normal distribution of QLoRA (Dettmers et al., 2023, Appendix E)."""

FP4 = np.array([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4], np.float32)
FP4 = np.concatenate([FP4, -FP4])
"""The 4-bit floats of bitsandbytes: a sign, then three bits."""

FP4_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
FP4_E2M1 = np.concatenate([FP4_E2M1, -FP4_E2M1])
"""The 4-bit floats of the Open Compute Project's microscaling formats."""

FLINT4 = np.array([0, 1, 2, 3, 4, 6, 8, 16], np.float32)
FLINT4 = np.concatenate([FLINT4, -FLINT4])
"""The values of ANT's flint (Guo et al., MICRO 2022) of 3 bits, in their order, and with a sign: 4 bits."""

NAMED = {"nf4": NF4, "fp4": FP4, "fp4_e2m1": FP4_E2M1, "flint4": FLINT4}


def entries_of(codebook: object, bits: int) -> FloatArray:
    """The float32 table of 2^bits finite entries that a name or an array stands for. TypeError, ValueError."""
    if isinstance(codebook, str):
        if codebook not in NAMED:
            raise ValueError(f"codebook={codebook!r}: expected one of {', '.join(map(repr, NAMED))}, or an array of {2**bits} numbers")
        entries = NAMED[codebook]
    else:
        array = as_array(codebook, "codebook")
        if array.dtype.kind not in "iuf":
            raise TypeError(f"codebook has dtype {array.dtype}: expected numbers")
        with np.errstate(over="ignore"):  # infinity is refused below
            entries = array.astype(np.float32)
    if entries.shape != (2**bits,):
        raise ValueError(f"codebook has shape {entries.shape}: codes of {bits} bits take ({2**bits},)")
    if not np.isfinite(entries).all():
        raise ValueError("codebook holds a NaN or an infinity")
    return entries


def integers_of(entries: FloatArray, width: int | None) -> tuple[npt.NDArray[np.int32], float]:
    """(integers, unit): entries are integers * unit, exactly where they can be, else rounded to the nearest.

    width: 8 or 16 bits of an integer; None: 8 if they are then exact, else 16 if they are then exact, else 8.
    """
    largest = float(np.abs(entries).max())
    if largest == 0:
        return np.zeros(len(entries), np.int32), 1.0
    ratios = entries.astype(np.float64) / largest
    for bits in (8, 16) if width is None else (width,):
        # The smallest step count at which all entries are whole, to the precision of float32. With more steps than these any number is
        # nearly whole: that is rounding, no exactness.
        counts = np.arange(1, _EXACT[bits] + 1, dtype=np.float64)[:, None]
        scaled = ratios * counts
        whole = (np.abs(scaled - np.rint(scaled)) <= counts * 2.0**-23).all(axis=1)
        if whole.any():
            count = float(counts[int(np.argmax(whole)), 0])
            return np.rint(ratios * count).astype(np.int32), largest / count
    count = float(_LIMITS[width or 8])
    return np.rint(ratios * count).astype(np.int32), largest / count
