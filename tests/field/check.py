"""A model in ulp beside onnxruntime: results, times, and the table of all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ulp

from .models import FieldModel

# fmt: off
PRODUCTS = frozenset({
    "Conv", "ConvInteger", "ConvTranspose", "DynamicQuantizeLSTM", "Gemm", "GRU", "LSTM", "MatMul", "MatMulInteger", "QGemm", "QLinearConv",
    "QLinearMatMul", "RNN",
})
# fmt: on
COLUMNS = ("model", "loads", "largest error", "integer layers", "ulp ms", "onnxruntime ms", "ratio", "load ms", "MB")


@dataclass(frozen=True)
class Outcome:
    """What became of a model.

    error: why it does not load or run, else "". difference: the largest, as a share of the output's largest magnitude; equal: within the
    model's tolerance. layers, integer: the convolutions, products and recurrent layers, and those of them in integers.
    ms, peer_ms: medians over the rounds of one call, one core; ratio: the median of the rounds' ratios, above 1 where ulp is faster.
    """

    name: str
    error: str = ""
    equal: bool = False
    difference: float = 0.0
    layers: int = 0
    integer: int = 0
    ms: float = 0.0
    peer_ms: float = 0.0
    ratio: float = 0.0
    load_ms: float = 0.0
    megabytes: float = 0.0

    def record(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """For a row of the table."""
        if self.error:
            return (self.name, self.error[:60], *[""] * (len(COLUMNS) - 2))
        difference = f"{self.difference:.1e}" if self.equal else f"WRONG {self.difference:.1e}"
        times = [f"{value:.2f}" for value in (self.ms, self.peer_ms, self.ratio)]
        return (self.name, "yes", difference, f"{self.integer} of {self.layers}", *times, f"{self.load_ms:.0f}", f"{self.megabytes:.1f}")


def check(model: FieldModel, path: Path, seconds: float = 0.0, seed: int = 0) -> Outcome:
    """Load, compare and, for about `seconds` (0: not at all), time; both on one thread."""
    before = ulp.get_num_threads()
    ulp.set_num_threads(1)
    try:
        return _check(model, path, seconds, seed)
    finally:
        ulp.set_num_threads(before)


def _check(model: FieldModel, path: Path, seconds: float, seed: int) -> Outcome:
    import onnxruntime

    def opened(precision: str) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.x64quantprecision", precision)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    # Timed is what users have. Results come from kernels that do not saturate on CPUs without VNNI, where there are such.
    session = opened("0")
    try:
        exact = opened("1")
    except Exception:
        exact = session
    names = [output.name for output in session.get_outputs()]
    arrays = model.arrays(seed)
    wanted = exact.run(names, arrays)
    begin = time.perf_counter()
    try:
        network = ulp.load(path, shapes={name: spec.shape for name, spec in model.inputs.items() if spec.shape})
        load_ms = (time.perf_counter() - begin) * 1e3
        results = network(**arrays)
    except Exception as error:  # whatever it is belongs in the table
        return Outcome(model.name, f"{type(error).__name__}: {error}".replace("\n", " "))
    got = [results[name] for name in names] if isinstance(results, dict) else [results]
    difference = max(map(_difference, got, wanted))
    weighted = [row for row in network.layers if row.op_type in PRODUCTS]
    ours, peers = _times(lambda: network(**arrays), lambda: session.run(names, arrays), seconds)
    return Outcome(
        model.name,
        equal=difference <= model.tolerance,
        difference=difference,
        layers=len(weighted),
        integer=sum(row.integer for row in weighted),
        ms=statistics.median(ours) * 1e3 if ours else 0.0,
        peer_ms=statistics.median(peers) * 1e3 if peers else 0.0,
        ratio=statistics.median(p / o for o, p in zip(ours, peers, strict=True)) if ours else 0.0,
        load_ms=load_ms,
        megabytes=network.nbytes / 1e6,
    )


def _difference(got: Any, wanted: Any) -> float:
    """As a share of the largest magnitude; infinite where shapes, dtypes or non-finite values differ."""
    got = np.asarray(got)
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return float("inf")
    if wanted.dtype.kind not in "fiu":
        return 0.0 if (got == wanted).all() else float("inf")
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(wanted)
    if not np.array_equal(got[~finite], wanted[~finite], equal_nan=True):
        return float("inf")
    largest = float(np.abs(wanted[finite]).max(initial=0.0)) or 1.0
    return float(np.abs(got[finite] - wanted[finite]).max(initial=0.0)) / largest


def _times(ours: Callable[[], Any], peer: Callable[[], Any], seconds: float) -> tuple[list[float], list[float]]:
    """CPU seconds per call of this process, round by round; who starts alternates."""
    if seconds <= 0:
        return [], []
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for i in (0, 1) if len(times[0]) % 2 else (1, 0):
            call = (ours, peer)[i]
            call()  # warms the caches that the other one has taken
            begin = time.process_time()
            call()
            times[i].append(time.process_time() - begin)
    return times


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown."""
    rows = [COLUMNS, tuple("---" for _ in COLUMNS), *(outcome.cells() for outcome in outcomes)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
