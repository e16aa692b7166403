"""Where the kernel table must agree with what was published: the region and the local accumulation lengths of ULPPACK's P1 and P2.

P4, four k to a lane where P1 has two, is held against its bounds as they are derived, tried out on every sum that can occur.
"""

from __future__ import annotations

import itertools

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
        assert row["spill_every"] in (expected, {})  # {}: this CPU lacks the instructions
        assert set(row["pairs"]) == set(expected)


def test_ulppack_p4_takes_as_many_steps_as_its_lane_holds() -> None:
    """A lane sums L products of four 4-bit fields modulo 2^16; its top 4 bits must be the dot product, and be too few for L + 1."""
    rows = [row for row in _core.kernels() if row["technique"] == "ulppack_p4"]
    if not rows:
        pytest.skip("ulppack_p4: not in this build's kernel table")
    lengths = {}
    for a_bits, b_bits in itertools.product(range(1, 9), repeat=2):
        largest = (2**a_bits - 1) * (2**b_bits - 1)
        # All fields at their largest; smaller ones carry less.
        lane = sum(largest << 4 * (i + j) for i in range(4) for j in range(4))
        steps = 0
        while ((steps + 1) * lane & 0xFFFF) >> 12 == 4 * largest * (steps + 1):
            steps += 1
        if steps:
            lengths[a_bits, b_bits] = steps
    assert lengths == {(1, 1): 3, (1, 2): 1, (2, 1): 1}
    for row in rows:
        assert row["spill_every"] in (lengths, {})
        assert set(row["pairs"]) == set(lengths)


@pytest.mark.parametrize("row", _core.kernels(), ids=lambda row: row["name"])
def test_every_row_states_a_length_for_every_pair(row: dict[str, object]) -> None:
    lengths = row["spill_every"]
    assert isinstance(lengths, dict)
    assert set(lengths) == (set(row["pairs"]) if row["here"] else set())  # type: ignore[call-overload]
    assert all(length >= 0 for length in lengths.values())
