"""The one interface of every peer, and the check of its result against the exact reference."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from bench import data

Kind = Literal["int8", "fp32", "info", "ulp"]


@dataclass(frozen=True)
class Check:
    """How a result compares with the reference.

    max_error: the largest absolute error in units of the peer's output. step: accumulator units that one output unit stands for (1 where
    the peer returns accumulators). wrong_share: the share of wrong elements, 0 .. 1.
    """

    exact: bool
    max_error: float
    wrong_share: float
    step: float

    def as_dict(self) -> dict[str, Any]:
        """As the result files keep it."""
        return asdict(self)

    def words(self) -> str:
        """One phrase for a table: "exact" or how wrong."""
        if self.exact:
            return "exact"
        if self.step == 1:
            return f"wrong by up to {self.max_error:,.0f} ({self.wrong_share:.1%} of elements)"
        return (
            f"wrong by up to {self.max_error:.0f} of 255 output levels, about {self.max_error * self.step:,.0f} in the accumulator "
            f"({self.wrong_share:.1%} of elements)"
        )


def compare(result: npt.NDArray[Any], expected: npt.NDArray[Any], step: float = 1.0) -> Check:
    """Element by element; ValueError when the shapes differ, since a broadcast would hide it. A NaN counts as an infinite error."""
    if result.shape != expected.shape:
        raise ValueError(f"result has shape {result.shape}, the reference {expected.shape}")
    if result.size == 0:
        return Check(True, 0.0, 0.0, step)
    error = np.abs(result.astype(np.float64) - expected.astype(np.float64))
    error[np.isnan(error)] = np.inf
    wrong = int(np.count_nonzero(error))
    return Check(wrong == 0, float(error.max()), wrong / error.size, step)


def counted(names: Iterable[str]) -> str:
    """Each name with how often it occurs, as in "jit_avx2_I8 x20, reorder x2"."""
    return ", ".join(f"{name} x{count}" for name, count in sorted(Counter(names).items()))


class Library(ABC):
    """What every peer says of itself, whatever it computes.

    name: as in tables and result files. kind: "int8" (u8 x s8), "fp32", "info" (a format that computes something else, shown beside), or
    "ulp" itself where it is run by the same interface. note: what a reader must know to judge the figure. packages: what it needs, the one
    that does the work first.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    note: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()

    def why_unavailable(self) -> str | None:
        """None when the peer can run here, else the reason and what to install."""
        missing = [p for p in self.packages if importlib.util.find_spec(p) is None]
        return f"not installed: pip install {' '.join(missing)}" if missing else None

    def version(self) -> str:
        """The version of the package that does the work."""
        return importlib.metadata.version(self.packages[0])


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
    def prepare(self, a: data.U8, b: data.S8) -> Any:
        """State for a (m, k) uint8 times b (k, n) int8: packed weights, wrapped activations, the output buffer where the peer takes one."""

    @abstractmethod
    def run(self, state: Any) -> object:
        """One product in the calling thread. Nothing else may happen here."""

    @abstractmethod
    def result(self, state: Any) -> npt.NDArray[Any]:
        """Run once and return the product (m, n) in the peer's output units."""

    def expected(self, state: Any, accumulators: data.I64) -> npt.NDArray[Any]:
        """What `result` must be, given the exact accumulators."""
        return accumulators

    def step(self, state: Any) -> float:
        """Accumulator units of one output unit."""
        return 1.0


def check(peer: Peer, a: data.U8, b: data.S8, state: Any = None) -> Check:
    """Compare one result of `peer` with the exact product; `state` saves preparing again."""
    if state is None:
        state = peer.prepare(a, b)
    return compare(peer.result(state), peer.expected(state, data.reference(a, b)), peer.step(state))


def requantization_step(accumulators: data.I64) -> float:
    """The power of two by which accumulators must be divided to fit -127 .. 127; as a power of two it divides without rounding."""
    largest = int(np.abs(accumulators).max(initial=0))
    return float(2 ** max(0, int(np.ceil(np.log2(max(largest, 1) / 127)))))


def requantized(accumulators: data.I64, step: float, zero: int = 128) -> npt.NDArray[np.int64]:
    """clamp(rint(accumulators / step) + zero, 0, 255), half to even: what the quantized linear layers of the peers compute."""
    return np.clip(np.rint(accumulators / step).astype(np.int64) + zero, 0, 255)
