"""The measured costs that the choice of kernels follows: header and JSON agree, every kernel has its figures, the choice obeys."""

from __future__ import annotations

import math

import numpy as np
import pytest

import ulp
from ulp import _core

costs = pytest.importorskip("bench.costs", reason="the benchmarks are not part of an installed package")


def test_the_header_says_what_the_measurements_say() -> None:
    assert costs.is_current(), "csrc/gemm/costs_x86.h differs from bench/results/kernel_costs.json: python -m bench costs"


def test_every_measured_cell_is_a_positive_number_for_each_height() -> None:
    stored = costs.load()
    for pairs in stored["kernels"].values():
        for figures in pairs.values():
            assert len(figures) == len(stored["rows"])
            assert all(value > 0 for value in figures)


@pytest.mark.parametrize("kernel", ulp.kernels(), ids=str)
def test_every_kernel_and_pair_was_measured(kernel: ulp.Kernel) -> None:
    assert {f"W{b}A{a}" for a, b in kernel.pairs} == set(costs.load()["kernels"][kernel.name])


@pytest.mark.parametrize("m", [1, 3, 8, 100, 4096])
@pytest.mark.parametrize("pair", [(1, 1), (2, 2), (3, 3), (8, 4), (8, 8)])
def test_the_default_is_the_first_of_the_ranking(m: int, pair: tuple[int, int]) -> None:
    a = np.zeros((m, 64), np.uint8)
    ulp.gemm(a, ulp.pack(np.zeros((64, 64), np.uint8), bits=pair[1]), bits=pair)
    candidates = [c for c in ulp.explain(m, 64, 64, bits=pair).candidates if c.runnable]
    assert _core.last_kernel() == candidates[0].name
    seconds = [c.seconds for c in candidates if not math.isnan(c.seconds)]
    assert seconds == sorted(seconds)
