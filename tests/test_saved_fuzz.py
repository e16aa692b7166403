"""Saved networks, packed matrices and plans changed at random: refused in an error's words, or loaded and run. See saved_mutate.py."""

from __future__ import annotations

import pytest
import saved_mutate
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("kind", saved_mutate.KINDS)
def test_changed_at_random(kind: str) -> None:
    ends = {saved_mutate.attempt(kind, number) for number in range(150)}
    assert len(ends) > 1  # not every one is refused


@given(st.sampled_from(sorted(saved_mutate.KINDS)), st.integers(0, 2**62))
def test_changed_by_other_numbers(kind: str, number: int) -> None:
    saved_mutate.attempt(kind, number)
