"""`kernels` and `explain`: the kernel table, and why one kernel of it runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

from . import _core
from ._gpu import native
from ._gpu.explain import CudaExplanation, explain_on_gpu, kernel_names
from ._table import Printed, Table
from ._validate import bit_pair, integer


@dataclass(frozen=True)
class Kernel:
    """A row of the kernel table."""

    name: str
    """<technique>_<isa>_<mr>x<nr>, as `gemm(..., kernel=)` takes it."""
    technique: str
    isa: str
    mr: int
    """Rows of a tile."""
    nr: int
    """Columns of a tile."""
    available: bool
    """Whether this CPU and the instruction set in force (`set_isa`) run it."""
    pairs: frozenset[tuple[int, int]]
    """The (a_bits, b_bits) it supports, each in any combination of signs."""

    @property
    def kernel(self) -> str:
        """`name`, as the table's column and other tables call it."""
        return self.name

    def __str__(self) -> str:
        return self.name


class KernelTable(tuple[Kernel, ...], Printed):
    """Kernels, best first; prints as a table."""

    __slots__ = ()

    @property
    def names(self) -> list[str]:
        """The names, in order."""
        return [kernel.name for kernel in self]

    def _table(self) -> Table:
        rows = [(k.name, k.technique, k.isa, str(k.mr), str(k.nr), "yes" if k.available else "no", _describe_pairs(k.pairs)) for k in self]
        return Table(("kernel", "technique", "isa", "mr", "nr", "available", "pairs (a_bits: b_bits)"), rows)

    __repr__ = __str__ = Printed.__str__


@dataclass(frozen=True)
class Candidate:
    """What `explain` says of one kernel."""

    kernel: str
    runnable: bool
    why: str
    """Why it cannot run; "" if it can."""
    seconds: float
    """Expected time of the call; NaN where nothing is known of it or it cannot run."""
    basis: str
    """Where `seconds` comes from: "tuned" on this machine, at this shape (`tune`); "measured here", on this machine at other shapes
    (`tune.machine`); "measured" by the authors on one thread of their machine; "modelled", executed instructions times a model of the core;
    "" where there is none. Tuned ones rank first."""
    macs: int = 0
    """Multiply-accumulates of the call."""

    @property
    def ms(self) -> float:
        """`seconds` in milliseconds."""
        return 1e3 * self.seconds

    @property
    def gmacs(self) -> float:
        """Multiply-accumulates per nanosecond: 10^9 per second; NaN where `seconds` is."""
        return self.macs / self.seconds / 1e9 if self.seconds else math.nan

    @property
    def name(self) -> str:
        """`kernel`, by its former name."""
        return self.kernel

    @property
    def reason(self) -> str:
        """`why`, by its former name."""
        return self.why


@dataclass(frozen=True, repr=False)
class Explanation(Printed):
    """Which kernel a call would run, and why the others would not; prints as a table."""

    m: int
    n: int
    k: int
    a_bits: int
    b_bits: int
    a_signed: bool
    b_signed: bool
    isa: str
    candidates: tuple[Candidate, ...]
    """Every kernel of the table, in the order of preference."""

    @property
    def kernel(self) -> str:
        """Name of the kernel that would run; "" if none can."""
        return next((c.kernel for c in self.candidates if c.runnable), "")

    def _table(self) -> Table:
        a = f"{'signed' if self.a_signed else 'unsigned'} {self.a_bits}-bit"
        b = f"{'signed' if self.b_signed else 'unsigned'} {self.b_bits}-bit"
        title = f"M={self.m} N={self.n} K={self.k}, {a} a, {b} b, {self.isa}: {self.kernel or 'no kernel'}"
        return Table(("", "kernel", "ms", "basis", "GMAC/s", "why"), [self._row(c) for c in self.candidates], title=title)

    __repr__ = __str__ = Printed.__str__

    def _row(self, candidate: Candidate) -> tuple[str, ...]:
        chosen = candidate.runnable and candidate.kernel == self.kernel
        known = math.isfinite(candidate.seconds) and candidate.seconds > 0
        time = f"{candidate.ms:.3g}" if known else "-"
        rate = f"{candidate.gmacs:.1f}" if known else "-"
        why_not = candidate.why if not candidate.runnable else "" if chosen else "slower" if known else "not measured"
        return "->" if chosen else "", candidate.kernel, time, candidate.basis or "-", rate, why_not


@overload
def kernels(*, bits: int | str | tuple[int, int] | None = ..., device: None = ...) -> KernelTable: ...
@overload
def kernels(*, bits: int | str | tuple[int, int] | None = ..., device: str) -> KernelTable | list[str]: ...
def kernels(*, bits: int | str | tuple[int, int] | None = None, device: str | None = None) -> KernelTable | list[str]:
    """The kernel table, best first.

    bits: only kernels for this width (an int for both operands, (a_bits, b_bits), or "W3A8"); by default all of them.
    device: "cuda" or "cuda:<number>" lists the names of the kernels that run there instead.
    """
    pair = None if bits is None else bit_pair(bits)
    if device is not None and (index := native.device_index(device)) is not None:
        return kernel_names(index, pair)
    rows = (
        Kernel(row["name"], row["technique"], row["isa"], row["mr"], row["nr"], row["available"], frozenset(map(tuple, row["pairs"])))
        for row in _core.kernels()
    )
    return KernelTable(row for row in rows if pair is None or pair in row.pairs)


@overload
def explain(
    M: int,  # noqa: N803
    N: int,  # noqa: N803
    K: int,  # noqa: N803
    *,
    bits: int | str | tuple[int, int],
    a_signed: bool = ...,
    b_signed: bool = ...,
    device: None = ...,
) -> Explanation: ...
@overload
def explain(
    M: int,  # noqa: N803
    N: int,  # noqa: N803
    K: int,  # noqa: N803
    *,
    bits: int | str | tuple[int, int],
    a_signed: bool = ...,
    b_signed: bool = ...,
    device: str,
) -> Explanation | CudaExplanation: ...
def explain(
    M: int,  # noqa: N803
    N: int,  # noqa: N803
    K: int,  # noqa: N803
    *,
    bits: int | str | tuple[int, int],
    a_signed: bool = False,
    b_signed: bool = True,
    device: str | None = None,
) -> Explanation | CudaExplanation:
    """Which kernel `gemm` would run for an (M, K) a and a (K, N) b on this CPU now, and why not the others.

    M, N, K: 0 .. 2^31-1. bits: an int for both operands, (a_bits, b_bits), or "W3A8". The signs default to what networks have after a ReLU:
    unsigned activations, signed weights. device: "cuda" or "cuda:<number>" explains the choice on that GPU, for an a whose rows are aligned
    to 16 bytes and without zero points. Raises TypeError or ValueError; RuntimeError where no GPU can be used.
    """
    m, n, k = (integer(value, name, 0, 2**31 - 1) for name, value in (("M", M), ("N", N), ("K", K)))
    a_bits, b_bits = bit_pair(bits)
    if device is not None and (index := native.device_index(device)) is not None:
        return explain_on_gpu(m, n, k, a_bits, b_bits, a_signed=bool(a_signed), b_signed=bool(b_signed), index=index)
    ranked = _core.rank(m, n, k, a_bits, bool(a_signed), b_bits, bool(b_signed))
    candidates = tuple(Candidate(*row, m * n * k) for row in ranked)
    return Explanation(m, n, k, a_bits, b_bits, bool(a_signed), bool(b_signed), _core.isa(), candidates)


def _describe_pairs(pairs: Iterable[tuple[int, int]]) -> str:
    """{(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)} -> "1-2: 1-2, 3: 1"."""
    by_a: dict[int, list[int]] = {}
    for a, b in sorted(pairs):
        by_a.setdefault(a, []).append(b)
    groups: list[tuple[list[int], str]] = []
    for a, bs in by_a.items():
        widths = _ranges(bs)
        if groups and groups[-1][1] == widths and groups[-1][0][-1] == a - 1:
            groups[-1][0].append(a)
        else:
            groups.append(([a], widths))
    return ", ".join(f"{_ranges(members)}: {widths}" for members, widths in groups)


def _ranges(numbers: Sequence[int]) -> str:
    """[1, 2, 3, 5] -> "1-3 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
