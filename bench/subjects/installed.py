"""`ulp` itself as the benchmarks see it: found or not, and its products checked before they are timed."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from dataclasses import field as field_of
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import ROOT

from . import operands
from .interface import WrongResultError, compare


def _look_outside_the_tree_first() -> None:
    # `python -m bench` puts the source tree first on the path, where ulp/ has no compiled core unless it was built in place.
    here = [p for p in sys.path if Path(p or ".").resolve() == ROOT]
    sys.path[:] = [p for p in sys.path if p not in here] + here


def load() -> Any:
    """The module `ulp`. ImportError with the reason where it is not installed."""
    _look_outside_the_tree_first()
    return importlib.import_module("ulp")


def why_unavailable() -> str | None:
    """None when `ulp` can be imported, else the reason."""
    try:
        load()
    except ImportError as error:
        reason = "not installed" if error.name in ("ulp", "ulp._core") else str(error).replace(str(ROOT), ".")
        return f"{reason}: pip install ."
    return None


def version() -> str:
    """The installed version, or "unknown"."""
    try:
        return importlib.metadata.version("ulp-gemm")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def build_info() -> dict[str, str]:
    """Compiler, flags, build type and version of the native core, without the source tree's place on this machine; {} without a core."""
    try:
        load()
        info: dict[str, str] = importlib.import_module("ulp._core").build_info()
    except ImportError:
        return {}
    return {key: str(value).replace(str(ROOT), ".") for key, value in info.items()}


@functools.cache
def core_digest() -> str:
    """A digest of the native module, which tells builds of one commit apart; "" without one."""
    try:
        load()
        path = importlib.import_module("ulp._core").__file__
    except ImportError:
        return ""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] if path else ""


@dataclass(frozen=True)
class Product:
    """One call of `ulp.gemm` with its operands bound: a (m, k) uint8 of a_bits, packed weights (k, n) of b_bits, into `out` where given.

    finish: arguments that requantize the result, or none.
    """

    gemm: Any
    a: operands.U8
    packed: Any
    bits: tuple[int, int]
    kernel: str | None
    out: npt.NDArray[np.int32] | None
    finish: dict[str, Any] = field_of(default_factory=dict)

    @property
    def output(self) -> str:
        """The dtype of the result."""
        return "uint8" if self.finish else "int32"

    def __call__(self) -> object:
        """The product, as a user would write the call."""
        if self.finish:
            return self.gemm(self.a, self.packed, bits=self.bits, kernel=self.kernel, **self.finish)
        if self.out is None and self.kernel is None:
            return self.gemm(self.a, self.packed, bits=self.bits)
        return self.gemm(self.a, self.packed, bits=self.bits, kernel=self.kernel, out=self.out)


def product(
    ulp: Any, m: int, n: int, k: int, bits: tuple[int, int], *, kernel: str | None = None, out: bool = False, requantized: bool = False
) -> Product:
    """A checked call for uniform random operands of the pair `bits` (a_bits, b_bits).

    requantized: the result is uint8 with zero point 128, by a power of two, as the peers' that requantize.

    Raises WrongResultError unless the result is the exact product.
    """
    a_bits, b_bits = bits
    a, b = operands.activations(m, k, a_bits), operands.weights(k, n, b_bits)
    target = np.full((m, n), -1, dtype=np.int32) if out else None
    expected = operands.reference(a, b)
    finish: dict[str, Any] = {}
    if requantized:
        step = operands.requantization_step(expected)
        finish = {"scale": 1 / step, "out_bits": 8, "out_zero": operands.ZERO}
        expected = operands.requantized(expected, step)
    call = Product(ulp.gemm, a, ulp.pack(b, bits=b_bits), bits, kernel, target, finish)
    verdict = compare(np.asarray(call()), expected)
    if not verdict.exact:
        what = f"ulp W{b_bits}A{a_bits} {m}x{n}x{k}" + (f" with {kernel}" if kernel else "")
        raise WrongResultError(f"{what} is {verdict.words()}")
    return call


def small_layers() -> list[tuple[str, Any, int, int]]:
    """Calls so small that they are all overhead, W3A3, float32 in and out: name, call, multiply-accumulates, bytes of weights.

    Empty where the ulp that is installed has no layers.
    """
    load()
    if importlib.util.find_spec("ulp.nn") is None:
        return []
    nn: Any = importlib.import_module("ulp.nn")
    nn.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((1, 16, 4, 4), dtype=np.float32)
    convolution, linear = nn.Conv2d(16, 16, 1, bits=3), nn.Linear(256, 10, bits=3)
    network = nn.Sequential(convolution, nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bits=3), nn.ReLU(), nn.Flatten(), linear)
    network.calibrate([x], progress=False)
    compiled, flat = nn.compile(network, x), x.reshape(1, -1)
    return [
        ("ulp.nn.Conv2d 1x1", functools.partial(convolution, x), 16**3, 16 * 16 * 3 // 8),
        ("ulp.nn.Linear 256 to 10", functools.partial(linear, flat), 2560, 2560 * 3 // 8),
        ("compiled: conv 1x1, conv 3x3, linear", functools.partial(compiled, x), compiled.macs, compiled.nbytes),
    ]


def last_kernel() -> str:
    """Name of the kernel that this thread's last product ran."""
    return str(importlib.import_module("ulp._core").last_kernel())


def field(row: Any, name: str) -> Any:
    """An attribute of a row of `ulp.kernels()`, whether the row is an object or a mapping."""
    return row[name] if isinstance(row, dict) else getattr(row, name)
