"""The libraries beside `ulp` on a GPU. Each takes int8 operands with K adjacent in both, as cuBLASLt wants them, and tunes itself.

The int8 peers multiply the values of the narrowest pair of the group, which cost the least power: where power limits the clock, that is in
their favour. Every product is checked against the exact one.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .device import Call, fastest, torch
from .work import Work

WORKSPACE = 64 << 20
CUBLASLT = "cublaslt_peer"
CUTLASS = "cutlass_peer"
CUTLASS_VARIANTS = 4


@dataclass(frozen=True)
class Operands:
    """Slots of int8 operands and results that the peers of one group share: a (m, k), b (n, k), out (m, n) int32."""

    work: Work
    a: Sequence[Any]
    b: Sequence[Any]
    out: Sequence[Any]
    right: Callable[[Any], bool]
    least_ns: float

    def slot(self, index: int) -> tuple[Any, Any, Any]:
        """The buffers of one call; the lists may differ in length."""
        return self.a[index % len(self.a)], self.b[index % len(self.b)], self.out[index % len(self.out)]

    def call(self, name: str, run: Callable[[int], object], **info: Any) -> Call:
        """A call of an int8 peer."""
        nbytes = self.work.n * self.work.k + self.work.m * self.work.k + 4 * self.work.m * self.work.n
        return Call(name, "int8", run, self.out, self.work.macs, nbytes, self.least_ns, right=self.right, info=info)


class Peer(ABC):
    """One library. `libraries`: where the native parts were built."""

    name: ClassVar[str]
    note: ClassVar[str] = ""

    def __init__(self, libraries: Path) -> None:
        self.libraries = libraries

    @abstractmethod
    def why_unavailable(self) -> str | None:
        """None, or the reason."""

    @abstractmethod
    def prepare(self, operands: Operands) -> Call:
        """Its fastest way for this group. RuntimeError where it cannot."""


@functools.cache
def _library(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    signatures: dict[str, tuple[Any, Sequence[Any]]] = {
        "ulp_lt_plan": (pointer, (size, size, size, ctypes.c_int, ctypes.c_float, size, ctypes.c_char_p, size)),
        "ulp_lt_count": (ctypes.c_int, (pointer,)),
        "ulp_lt_run": (ctypes.c_int, (pointer, ctypes.c_int, pointer, pointer, pointer, pointer, pointer)),
        "ulp_lt_status": (ctypes.c_char_p, (ctypes.c_int,)),
        "ulp_lt_version": (size, ()),
        "ulp_lt_free": (None, (pointer,)),
        "ulp_cutlass_name": (ctypes.c_char_p, ()),
        "ulp_cutlass_workspace": (size, (ctypes.c_int, ctypes.c_int, ctypes.c_int)),
        "ulp_cutlass_plan": (pointer, (ctypes.c_int, ctypes.c_int, ctypes.c_int, pointer, pointer, pointer, pointer)),
        "ulp_cutlass_run": (ctypes.c_int, (pointer, pointer)),
        "ulp_cutlass_free": (None, (pointer,)),
    }
    for name, (result, arguments) in signatures.items():
        if hasattr(library, name):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    return library


def _stream() -> int:
    return int(torch().cuda.current_stream().cuda_stream)


@functools.cache
def _workspace() -> Any:
    return torch().empty(WORKSPACE, dtype=torch().uint8, device="cuda")


def _missing(path: Path) -> str | None:
    if path.exists():
        return None
    log = path.with_suffix(".log")
    reason = log.read_text(encoding="utf-8").strip().splitlines() if log.exists() else []
    return f"not built: {reason[0]}" if reason else "not built"


class CublasLt(Peer):
    """int8 by cuBLASLt itself: the fastest of the algorithms that its heuristics name, with a workspace."""

    name = "cuBLASLt int8"
    note = "cublasLtMatmul called directly; the fastest of up to 16 algorithms of its heuristics, 64 MiB of workspace"

    def why_unavailable(self) -> str | None:
        """None, or the reason."""
        return _missing(self.libraries / f"{CUBLASLT}.so")

    def prepare(self, operands: Operands) -> Call:
        """int32 results."""
        return fastest(self._calls(operands, operands.call, 1.0, quantized=False))

    def prepare_quantized(self, operands: Operands, out: Sequence[Any], scale: float, right: Callable[[Any], bool]) -> Call:
        """int8 results, scaled in its epilogue: what stands beside a fused requantization."""
        work = operands.work
        nbytes = work.n * work.k + work.m * work.k + work.m * work.n

        def call(name: str, run: Callable[[int], object], **info: Any) -> Call:
            return Call(f"{name} to int8", "int8", run, out, work.macs, nbytes, operands.least_ns, right=right, info=info)

        scaled = Operands(work, operands.a, operands.b, out, right, operands.least_ns)
        return fastest(self._calls(scaled, call, scale, quantized=True))

    def _calls(self, operands: Operands, call: Callable[..., Call], scale: float, *, quantized: bool) -> list[Call]:
        library, w = _library(self.libraries / f"{CUBLASLT}.so"), operands.work
        reason = ctypes.create_string_buffer(256)
        plan = library.ulp_lt_plan(w.m, w.n, w.k, int(quantized), scale, WORKSPACE, reason, len(reason))
        if plan is None:
            raise RuntimeError(reason.value.decode())

        def run(slot: int, which: int) -> None:
            a, b, out = operands.slot(slot)
            pointers = (a.data_ptr(), b.data_ptr(), out.data_ptr(), _workspace().data_ptr())
            if status := library.ulp_lt_run(plan, which, *pointers, _stream()):
                raise RuntimeError(library.ulp_lt_status(status).decode())

        weakref.finalize(run, library.ulp_lt_free, plan)
        count = library.ulp_lt_count(plan)
        return [call(self.name, functools.partial(run, which=i), variant=f"algorithm {i} of {count}") for i in range(count)]


class TorchIntMm(Peer):
    """torch's own way to cuBLASLt's int8."""

    name = "torch._int_mm"
    note = "rejects M <= 16"

    def why_unavailable(self) -> str | None:
        """None: torch is here, or nothing is measured."""
        return None

    def prepare(self, operands: Operands) -> Call:
        """One call."""
        if operands.work.m <= 16:
            raise RuntimeError("torch._int_mm takes M > 16 only")

        def run(slot: int) -> None:
            a, b, out = operands.slot(slot)
            torch()._int_mm(a, b.t(), out=out)

        return operands.call(self.name, run).checked()


class Cutlass(Peer):
    """CUTLASS's Hopper kernels for int8: the fastest of a few tiles, two of them made for few rows."""

    name = "CUTLASS int8"
    note = f"CollectiveBuilder for sm_90a, the fastest of {CUTLASS_VARIANTS} tiles, stream-K for few rows; -DNDEBUG"

    def _paths(self) -> list[Path]:
        return [self.libraries / f"{CUTLASS}_{i}.so" for i in range(CUTLASS_VARIANTS)]

    def why_unavailable(self) -> str | None:
        """None when one tile was built, else why the first was not."""
        return None if any(path.exists() for path in self._paths()) else _missing(self._paths()[0])

    def prepare(self, operands: Operands) -> Call:
        """The fastest tile."""
        calls = [call for path in self._paths() if path.exists() for call in self._calls(path, operands)]
        return fastest(calls)

    def _calls(self, path: Path, operands: Operands) -> list[Call]:
        library, w = _library(path), operands.work
        size = library.ulp_cutlass_workspace(w.m, w.n, w.k)
        if size < 0:
            return []
        # Its addresses are bound, so every slot has a plan, and a workspace, as stream-K keeps flags there.
        spaces = [torch().zeros(max(1, size), dtype=torch().uint8, device="cuda") for _ in operands.out]
        plans = []
        for slot, space in enumerate(spaces):
            a, b, out = operands.slot(slot)
            plans.append(library.ulp_cutlass_plan(w.m, w.n, w.k, a.data_ptr(), b.data_ptr(), out.data_ptr(), space.data_ptr()))
        if None in plans:
            return []

        def run(slot: int) -> None:
            assert spaces  # they live as long as the plans
            if status := library.ulp_cutlass_run(plans[slot], _stream()):
                raise RuntimeError(f"status {status}")

        for plan in plans:
            weakref.finalize(run, library.ulp_cutlass_free, plan)
        return [operands.call(self.name, run, variant=library.ulp_cutlass_name().decode())]


class Triton(Peer):
    """A plain int8 kernel in Triton."""

    name = "Triton int8"
    note = "tl.dot on int8, the fastest of a few tiles, K split by atomic additions for few rows"

    def why_unavailable(self) -> str | None:
        """None, or that Triton is missing."""
        return None if importlib.util.find_spec("triton") else "not installed: pip install triton"

    def prepare(self, operands: Operands) -> Call:
        """The fastest tile."""
        from . import triton_int8

        def run(slot: int, configuration: Any) -> None:
            triton_int8.launch(*operands.slot(slot), configuration)

        w = operands.work
        return fastest(
            [
                operands.call(self.name, functools.partial(run, configuration=c), variant="x".join(map(str, c)))
                for c in triton_int8.configurations(w.m, w.n, w.k)
            ]
        )


INT8: tuple[type[Peer], ...] = (CublasLt, TorchIntMm, Cutlass, Triton)


def bfloat16(work: Work, a: Any, b: Any, slots: int, least_ns: float) -> Call:
    """torch.matmul in bf16: cuBLAS. a (m, k), b (n, k): int8 values, which bf16 holds; results are rounded, and not checked."""
    t = torch()
    left = [a.to(t.bfloat16).clone() for _ in range(slots)]
    right = [b.to(t.bfloat16).clone() for _ in range(slots)]
    out = [t.empty((work.m, work.n), dtype=t.bfloat16, device="cuda") for _ in range(slots)]
    nbytes = 2 * (work.n * work.k + work.m * work.k + work.m * work.n)

    def run(slot: int) -> None:
        t.matmul(left[slot], right[slot].t(), out=out[slot])

    return Call("bf16 torch.matmul", "bf16", run, out, work.macs, nbytes, least_ns)


def copy(name: str, nbytes: int, slots: int, least_ns: float) -> Call:
    """A copy from the device to itself that moves `nbytes`: half of them read, half written."""
    t = torch()
    sources = [t.randint(0, 255, (max(1, nbytes // 2),), dtype=t.uint8, device="cuda") for _ in range(slots)]
    targets = [t.empty_like(source) for source in sources]
    return Call(name, "copy", lambda slot: targets[slot].copy_(sources[slot]), targets, 0, 2 * sources[0].numel(), least_ns)
