"""The one interface of every peer, and the check of its result against the exact reference."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy.typing as npt

from bench.subjects import operands
from bench.subjects.interface import Check, Library, compare
from bench.subjects.operands import requantization_step, requantized


class Peer(Library):
    """A library that multiplies matrices, reduced to what a benchmark needs. Weights are prepared ahead; only `run` is timed.

    exact: claims exact results over the full range of activations; `check` measures it. max_activation: the largest activation at which the
    peer is expected to be exact. output: the dtype that `run` produces.
    """

    exact: ClassVar[bool]
    max_activation: ClassVar[int]
    output: ClassVar[str]
    bits_per_weight: ClassVar[int] = 8

    def weight_bytes(self, k: int, n: int) -> int:
        """Bytes of the prepared (k, n) weights that one product must read, without scales and sums."""
        return k * n * self.bits_per_weight // 8

    @abstractmethod
    def prepare(self, a: operands.U8, b: operands.S8) -> Any:
        """State for a (m, k) uint8 times b (k, n) int8: packed weights, wrapped activations, the output buffer where the peer takes one."""

    @abstractmethod
    def run(self, state: Any) -> object:
        """One product in the calling thread. Nothing else may happen here."""

    @abstractmethod
    def result(self, state: Any) -> npt.NDArray[Any]:
        """Run once and return the product (m, n) in the peer's output units."""

    def expected(self, state: Any, accumulators: operands.I64) -> npt.NDArray[Any]:
        """What `result` must be, given the exact accumulators."""
        return accumulators

    def step(self, state: Any) -> float:
        """Accumulator units of one output unit."""
        return 1.0


def check(peer: Peer, a: operands.U8, b: operands.S8, state: Any = None) -> Check:
    """Compare one result of `peer` with the exact product; `state` saves preparing again."""
    if state is None:
        state = peer.prepare(a, b)
    return compare(peer.result(state), peer.expected(state, operands.reference(a, b)), peer.step(state))


__all__ = ["Check", "Peer", "check", "requantization_step", "requantized"]
