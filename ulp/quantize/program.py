"""The choice of bits as an integer program: one option per layer, the least error (or time) within budgets. SciPy's HiGHS solves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .request import Bits

Quantity = Literal["error", "ms", "nbytes"]
# The relative distance to the best solution at which HiGHS may stop, and the seconds after which it gives the best that it has found.
_GAP, _SECONDS = 1e-4, 10.0


@dataclass(frozen=True)
class Option:
    """One pair of widths of a layer. error: its part of the relative squared error of the outputs; ms per call; nbytes of weights."""

    bits: Bits
    error: float
    ms: float
    nbytes: float


@dataclass(frozen=True)
class LayerOptions:
    """What one layer may have. tensor: what it reads; layers that read the same one get the same width of activations."""

    name: str
    tensor: str
    options: Sequence[Option]


Chosen = dict[str, Option]


def total(chosen: Mapping[str, Option], what: Quantity) -> float:
    """The sum over the layers."""
    return sum(float(getattr(option, what)) for option in chosen.values())


def solve(layers: Sequence[LayerOptions], least: Quantity, at_most: Mapping[Quantity, float]) -> Chosen | None:
    """The options with the least sum of `least` among those whose other sums keep `at_most`; None where there are none.

    Of equal ones the one with less error, time and bytes. ImportError without SciPy.
    """
    try:
        from scipy import optimize, sparse
    except ImportError as error:
        raise ImportError('bits="auto" needs the package scipy: pip install "ulp-gemm[quantize]"') from error
    places = [(i, option) for i, layer in enumerate(layers) for option in layer.options]
    if not places:
        return {} if all(limit >= 0 for limit in at_most.values()) else None
    rows: list[Any] = []
    low: list[float] = []
    high: list[float] = []

    def constrain(coefficients: Sequence[float], least_sum: float, most_sum: float) -> None:
        rows.append(sparse.csr_array(np.asarray(coefficients, np.float64)[None]))
        low.append(least_sum)
        high.append(most_sum)

    for i in range(len(layers)):
        constrain([float(owner == i) for owner, _ in places], 1, 1)
    first_reader: dict[str, int] = {}
    for i, layer in enumerate(layers):
        first = first_reader.setdefault(layer.tensor, i)
        if first != i:
            for width in sorted({option.bits.activation for owner, option in places if owner in (i, first)}):
                sides = {i: 1.0, first: -1.0}
                constrain([sides.get(owner, 0.0) * (option.bits.activation == width) for owner, option in places], 0, 0)
    for what, limit in at_most.items():
        # In units of the limit, so that tolerances of the solver, which are absolute, are small shares of it.
        unit = abs(limit) or 1.0
        constrain([getattr(option, what) / unit for _, option in places], -np.inf, limit / unit)
    found = optimize.milp(
        _cost(places, least),
        constraints=optimize.LinearConstraint(sparse.vstack(rows, format="csr"), low, high),
        integrality=np.ones(len(places)),
        bounds=optimize.Bounds(0, 1),
        options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
    )
    if found.x is None:
        return None
    chosen = {layers[owner].name: option for (owner, option), taken in zip(places, found.x, strict=True) if taken > 0.5}
    return {layer.name: chosen[layer.name] for layer in layers}


def _cost(places: Sequence[tuple[int, Option]], least: Quantity) -> Any:
    """Of each option, in units of the largest; the other quantities count so little that they only decide between equal ones."""
    cost = np.zeros(len(places))
    for what, weight in (("error", 1e-6), ("ms", 1e-6), ("nbytes", 1e-6)):
        values = np.array([getattr(option, what) for _, option in places], np.float64)
        cost += values / (values.max() or 1.0) * (1.0 if what == least else weight)
    return cost


def dominated(options: Sequence[Option]) -> set[Bits]:
    """Pairs beside which another one of the same width of activations is no worse in anything: the program need not know them."""
    found = set()
    for i, one in enumerate(options):
        for j, other in enumerate(options):
            if i == j or other.bits.activation != one.bits.activation or other.bits in found:
                continue
            if other.error <= one.error and other.ms <= one.ms and other.nbytes <= one.nbytes:
                found.add(one.bits)
                break
    return found
