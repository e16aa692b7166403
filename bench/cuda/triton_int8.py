"""An int8 product in Triton, written as its tutorial does with K split across programs: out (m, n) int32 += a (m, k) times b (n, k)."""

from __future__ import annotations

from typing import Any

import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

# (rows, columns, k) of a tile, warps, stages, parts of K.
LARGE = ((128, 256, 128, 8, 3, 1), (128, 128, 128, 8, 4, 1), (64, 256, 128, 8, 4, 1))
SMALL = ((16, 64, 256, 4, 5, 4), (16, 128, 128, 4, 6, 8), (16, 32, 512, 4, 4, 2), (32, 64, 256, 4, 4, 4), (64, 64, 256, 4, 4, 4))
GROUP = 8  # row tiles that share a pass over the columns, for the L2 cache


# Without annotations but constexpr: Triton reads them.
@triton.jit(do_not_specialize=["m"])  # type: ignore[untyped-decorator, unused-ignore]
def multiply(  # type: ignore[no-untyped-def]
    a, b, out, m, n, k, rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr, splits: tl.constexpr, group: tl.constexpr
):  # fmt: skip
    """One tile of one part of K. k is a multiple of depth * splits, n of columns; with splits > 1 `out` must be zero at the start."""
    tile, part = tl.program_id(0), tl.program_id(1)
    row_tiles, column_tiles = tl.cdiv(m, rows), tl.cdiv(n, columns)
    first = tile // (group * column_tiles) * group
    height = min(row_tiles - first, group)
    row = (first + tile % (group * column_tiles) % height) * rows + tl.arange(0, rows)
    column = tile % (group * column_tiles) // height * columns + tl.arange(0, columns)
    at_k = part * (k // splits) + tl.arange(0, depth)
    left = a + row[:, None] * k + at_k[None, :]
    right = b + column[None, :] * k + at_k[:, None]
    there = row[:, None] < m
    total = tl.zeros((rows, columns), dtype=tl.int32)
    for _ in range(0, k // splits, depth):
        total = tl.dot(tl.load(left, mask=there, other=0), tl.load(right), total, out_dtype=tl.int32)
        left += depth
        right += depth
    target = out + row[:, None] * n + column[None, :]
    if splits == 1:
        tl.store(target, total, mask=there)
    else:
        tl.atomic_add(target, total, mask=there)


def configurations(m: int, n: int, k: int) -> list[tuple[int, int, int, int, int, int]]:
    """Those that fit the shape."""
    return [c for c in (LARGE if m > 64 else SMALL) if n % c[1] == 0 and k % (c[2] * c[5]) == 0 and (c[0] <= max(16, m))]


def launch(a: Any, b: Any, out: Any, configuration: tuple[int, int, int, int, int, int]) -> None:
    """Start it on torch's current stream."""
    (m, k), n = a.shape, b.shape[0]
    rows, columns, depth, warps, stages, splits = configuration
    if splits > 1:
        out.zero_()
    grid = (triton.cdiv(m, rows) * triton.cdiv(n, columns), splits)
    multiply[grid](a, b, out, m, n, k, rows, columns, depth, splits, GROUP, num_warps=warps, num_stages=stages)
