"""Every kernel at every bit pair, sign and edge shape against the reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from reference import ALL_PAIRS, SIGNS, assert_exact, matmul, random_matrix

import ulp
from ulp import _core

KERNELS = [kernel for kernel in ulp.kernels() if kernel.isa in ulp.available_isas()]
# Small sizes, powers of two and their neighbours, primes; K's tails are those of a group of 4, of a vector and of the layout's 32.
ROWS = (1, 2, 3, 5, 8, 17)
COLUMNS = (1, 2, 7, 8, 9, 31, 33, 41)
DEPTHS = (1, 2, 3, 4, 5, 7, 8, 15, 17, 31, 32, 33, 63, 64, 65, 97, 127, 129)


def edge_shapes(kernel: ulp.Kernel) -> list[tuple[int, int, int]]:
    """(M, N, K) that pair every row edge, column edge and depth of this kernel's tile at least once."""
    rows = sorted({*ROWS, kernel.mr, kernel.mr + 1, max(1, kernel.mr - 1), 2 * kernel.mr + 1})
    columns = sorted({*COLUMNS, kernel.nr, kernel.nr + 1, max(1, kernel.nr - 1), 2 * kernel.nr + 3})
    count = max(len(rows), len(columns), len(DEPTHS))
    return [(rows[i % len(rows)], columns[(i * 3 + 1) % len(columns)], DEPTHS[i % len(DEPTHS)]) for i in range(count)]


def check(
    shape: tuple[int, int, int], pair: tuple[int, int], signs: tuple[bool, bool], kernel: str | None, *, a_zero: int = 0, b_zero: int = 0
) -> None:
    m, n, k = shape
    rng = np.random.default_rng([m, n, k, *pair, *signs])
    a = random_matrix(rng, (m, k), pair[0], signs[0])
    b = random_matrix(rng, (k, n), pair[1], signs[1])
    c = ulp.gemm(a, b, bits=pair, kernel=kernel, a_zero=a_zero, b_zero=b_zero)
    what = f"{kernel or _core.last_kernel()} {m}x{n}x{k} bits={pair} signed={signs}"
    assert c.dtype == np.int32
    assert_exact(c, matmul(a, b, a_zero, b_zero), f"{what} zeros=({a_zero}, {b_zero})")


@pytest.mark.parametrize("a_bits", range(1, 9))
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_every_kernel_pair_and_sign(kernel: ulp.Kernel, a_bits: int) -> None:
    pairs = [pair for pair in ALL_PAIRS if pair[0] == a_bits and pair in kernel.pairs]
    if not pairs:
        return
    ulp.set_isa(kernel.isa)
    shapes = edge_shapes(kernel)
    for number, (pair, signs) in enumerate(itertools.product(pairs, SIGNS)):
        # A quarter of the shapes at each combination, the next quarter at the next one; each sign meets all of them.
        for shape in shapes[(number + number // len(SIGNS)) % 4 :: 4]:
            check(shape, pair, signs, kernel.name)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_all_small_shapes(kernel: ulp.Kernel) -> None:
    pair = max(kernel.pairs)
    for m, n, k in itertools.product(range(1, 11), (1, 3, 8, 9, 10), range(1, 11)):
        check((m, n, k), pair, (False, True), kernel.name)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_large_and_odd_shapes(kernel: ulp.Kernel) -> None:
    shapes = [
        (1, 1, 5003),
        (1, 257, 1031),
        (7, 13, 4099),
        (129, 127, 255),
        (61, 1, 511),
        (2, 513, 65),
        (kernel.mr * 9 + 2, kernel.nr * 5 + 7, 391),
    ]
    for shape, pair in zip(itertools.cycle(shapes), sorted(kernel.pairs), strict=False):
        check(shape, pair, (False, True), kernel.name)
    for shape in shapes:
        check(shape, min(kernel.pairs), (True, True), kernel.name)
        check(shape, max(kernel.pairs), (False, False), kernel.name)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_zero_points(kernel: ulp.Kernel) -> None:
    for (pair, signs), zeros in zip(
        itertools.product(sorted(kernel.pairs), SIGNS), itertools.cycle([(3, 0), (0, -2), (-1, 5), (127, 128)]), strict=False
    ):
        check((5, 19, 37), pair, signs, kernel.name, a_zero=zeros[0], b_zero=zeros[1])


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (0, 0, 5), (1, 0, 0)], ids=str)
def test_empty(kernel: ulp.Kernel, shape: tuple[int, int, int]) -> None:
    check(shape, max(kernel.pairs), (False, True), kernel.name)
    check(shape, max(kernel.pairs), (True, False), kernel.name, a_zero=1, b_zero=-1)


@pytest.mark.parametrize("isa", ulp.available_isas())
@pytest.mark.parametrize("a_bits", range(1, 9))
def test_default_choice(isa: str, a_bits: int) -> None:
    ulp.set_isa(isa)
    shapes = [(1, 64, 96), (4, 33, 70), (8, 8, 8), (9, 100, 130), (70, 40, 257), (16, 16, 16)]
    for number, (b_bits, signs) in enumerate(itertools.product(range(1, 9), SIGNS)):
        for shape in shapes[(number + number // len(SIGNS)) % 2 :: 2]:
            check(shape, (a_bits, b_bits), signs, None)


@pytest.mark.parametrize(("bits", "signed"), list(itertools.product(range(1, 9), (False, True))))
def test_every_value_survives(bits: int, signed: bool) -> None:
    """Each value times 1 is itself: an encoding error that random sums could hide is plain here."""
    low, high = (-1, 1) if signed and bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    values = np.array([v for v in range(low, high + 1) if v or not (signed and bits == 1)], dtype=np.int8 if signed else np.uint8)
    one = np.ones((1, 1), dtype=np.uint8)
    assert_exact(ulp.gemm(one, values[None, :], bits=(1, bits)), values[None, :].astype(np.int32), "as b")
    assert_exact(ulp.gemm(values[:, None], one, bits=(bits, 1)), values[:, None].astype(np.int32), "as a")
