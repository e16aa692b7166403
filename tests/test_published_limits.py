"""Where the kernel table must agree with what was published: the region and the local accumulation lengths of ULPPACK's P1 and P2."""

from __future__ import annotations

import pytest

from ulp import _core

# Won et al., "ULPPACK: Fast sub-8-bit matrix multiply on commodity SIMD hardware", MLSys 2022: accumulations between two
# extractions, rounded down to 8, 4, 2 or 1. Row W1 first, columns A1, A2, ...; where a row ends the operands do not fit a lane.
PUBLISHED = {
    "ulppack_p1": [[8, 8, 8, 8, 4, 2, 1], [8, 8, 4, 2, 1], [8, 4, 2, 1], [8, 2, 1], [4, 1], [2], [1]],
    "ulppack_p2": [[8, 8, 8, 8, 8, 8, 2], [8, 8, 8, 8, 8, 2], [8, 8, 8, 8, 4, 1], [8, 8, 8, 8, 2], [8, 8, 4, 2, 1], [8, 2, 1], [2]],
}


@pytest.mark.parametrize("technique", PUBLISHED)
def test_ulppack_lengths_are_the_published_ones(technique: str) -> None:
    rows = [row for row in _core.kernels() if row["technique"] == technique]
    if not rows:
        pytest.skip(f"{technique}: not in this build's kernel table")
    expected = {(a_bits, b_bits): length for b_bits, row in enumerate(PUBLISHED[technique], 1) for a_bits, length in enumerate(row, 1)}
    for row in rows:
        assert row["local_lengths"] == expected
        assert set(row["pairs"]) == set(expected)


@pytest.mark.parametrize("row", _core.kernels(), ids=lambda row: row["name"])
def test_every_row_states_a_length_for_every_pair(row: dict[str, object]) -> None:
    lengths = row["local_lengths"]
    assert isinstance(lengths, dict)
    assert set(lengths) == set(row["pairs"])  # type: ignore[call-overload]
    assert all(length >= 0 for length in lengths.values())
