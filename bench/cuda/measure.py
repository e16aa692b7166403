"""Times on a device: the square, few rows, the sizes between, every kernel; peers alternate with `ulp` in every group.

    python -m bench.cuda.measure speed --out bench/results --libraries build/bench --seconds 150
    python -m bench.cuda.measure sweep --out bench/results --seconds 80

`speed` writes cuda.json, `sweep` cuda_kernels.json (each row of the kernel table with each number of splits that it takes). Both write
after every group, so that a run that is cut short keeps what it has.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.runs import machine, results
from bench.runs.results import Group, Result
from bench.subjects.interface import WrongResultError

from . import names, peers, report, work
from .device import Call, Captured, driver, measure, quick_ns, torch
from .subject import Layer, Requantized, Subject, exact, random_values
from .work import Work

ROUNDS = 15
LONG_ROUNDS = 9  # where a product takes a millisecond
SWEEP_ROUNDS = 5
COPY_BYTES = 1 << 30  # moved by the copy that is the ceiling of bandwidth
SQUARE_NAME = f"{work.SQUARE}x{work.SQUARE}x{work.SQUARE}"
SWEEP_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
MAX_PLANE_PAIRS = 9  # more pairs of bit planes are not swept
HOPELESS = 4.0  # a kernel this many times slower than the best one of the group is not measured further
NAMED = {(work.SQUARE, work.SQUARE): (1, 16, 64, 1024, work.SQUARE)}  # (N, K): the M at which the peers' kernels are named


class Bench:
    """One run: what was measured, what could not be, and when to stop."""

    def __init__(self, what: str, args: argparse.Namespace) -> None:
        self.subject = Subject()
        self.gpu = self.subject.gpu
        self.deadline = time.monotonic() + args.seconds
        self.directory: Path = args.out
        self.not_run: list[dict[str, str]] = []
        self.kept: dict[str, list[Call]] = {}
        self.copy_rate = 0.0  # bytes per ns
        self.result = Result(what, environment(args, self.gpu), {"clocks": {}, "not_run": self.not_run, "cut": False}, None, {}, [])
        self.peers = [peer(args.libraries) for peer in peers.INT8] if what == "cuda" else []
        for peer in self.peers:
            self.result.peers[peer.name] = {"kind": "int8", "note": peer.note, "why_unavailable": peer.why_unavailable()}

    def late(self) -> bool:
        """Whether the time is over; says so in the result."""
        if time.monotonic() > self.deadline:
            self.result.settings["cut"] = True
        return bool(self.result.settings["cut"])

    def save(self) -> None:
        """The result so far."""
        results.save(self.result, self.directory)

    def refuse(self, group: str, name: str, error: Exception) -> None:
        """Note that something of a group was not measured, and why."""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        self.not_run.append({"group": group, "name": name, "reason": reason})
        print(f"  {group}: {name} not measured: {reason}", flush=True)

    def prepared(self, group: str, name: str, make: Callable[[], Call]) -> list[Call]:
        """[call], checked, or [] where it cannot be made or is wrong."""
        try:
            return [make().checked()]
        except Exception as error:  # as in `fastest`
            self.refuse(group, name, error)
            return []

    def time(self, name: str, shape: tuple[int, int, int], calls: Sequence[Call], rounds: int) -> Group | None:
        """Capture all, alternate, save."""
        return self.alternate(name, shape, self.captured(name, calls), rounds)

    def captured(self, name: str, calls: Sequence[Call]) -> list[Captured]:
        """Those that can be and whose graph is right."""
        made: list[Captured] = []
        for call in calls:
            try:
                made.append(call.captured())
            except (RuntimeError, WrongResultError) as error:
                self.refuse(name, call.name, error)
        return made

    def alternate(self, name: str, shape: tuple[int, int, int], captured: Sequence[Captured], rounds: int) -> Group | None:
        """Measure, save."""
        if not captured:
            return None
        samples, seen = measure(captured, rounds)
        group = results.group(name, shape, captured, samples)
        self.result.groups.append(group)
        self.result.settings["clocks"][name] = seen
        self.save()
        return group

    def reference(self, a: Any, b: Any) -> Callable[[Any], bool]:
        """Whether a result is the exact product of a (m, k) and b (n, k)."""
        right = exact(a, b)
        return lambda out: bool(torch().equal(out, right))

    def ceiling(self, w: Work) -> float:
        """The least ns; before the copy is measured, by the tensor cores alone."""
        return work.ceiling_ns(w, self.gpu, self.copy_rate) if self.copy_rate else work.tensor_ns(w, self.gpu)


def environment(args: argparse.Namespace, device: work.Gpu) -> dict[str, Any]:
    """As `bench.machine` describes a run, with the device and the commit that was told where git cannot say it."""
    described = machine.describe([])
    described["command"] = args.command
    described["commit"] = described["commit"] or args.commit
    described["gpu"] = {
        "name": device.name, "arch": device.arch, "sms": device.sms, "l2_bytes": device.l2_bytes, "memory_bytes": device.memory_bytes,
        "clock_mhz": device.clock_mhz, "driver": driver(), "cuda": torch().version.cuda,
    }  # fmt: skip
    described["cuda_module"] = Subject().module.build_info()
    return described


def copies(bench: Bench) -> None:
    """The ceiling of bandwidth: a large copy, and a small one whose time is nearly all its start."""
    calls = [peers.copy("copy 1 GiB", COPY_BYTES, 2, 1e5), peers.copy("copy 64 KiB", 1 << 16, 64, 1e3)]
    group = bench.time("copy", (0, 0, 0), calls, ROUNDS)
    large = group.find("copy 1 GiB") if group else None
    if large:
        bench.copy_rate = large.nbytes / large.time.median
        print(f"  copy: {bench.copy_rate / 1e3:.2f} TB/s read and written", flush=True)


def products(bench: Bench, layer: Layer, rows: int, pairs: Sequence[tuple[int, int]], suffix: str = "") -> None:
    """One group: every pair of `ulp`, every peer, bf16, copies; int32 results."""
    t, n, k = torch(), layer.n, layer.k
    name = f"{rows}x{n}x{k}{suffix}"
    narrow = Work(rows, n, k, *pairs[0])
    max_slots = max(len(layer.packed[b]) for _, b in pairs)
    outs = [t.empty((rows, n), dtype=t.int32, device="cuda") for _ in range(max_slots)]
    calls: list[Call] = []
    inputs = {bits: random_values((rows, k), bits) for bits in dict.fromkeys(a for a, _ in pairs)}
    rotating = {bits: [value.clone() for _ in range(max_slots)] for bits, value in inputs.items()}
    for a_bits, b_bits in pairs:
        w = Work(rows, n, k, a_bits, b_bits)
        slots = outs[: len(layer.packed[b_bits])]
        right = bench.reference(inputs[a_bits], layer.values[b_bits])
        x, min_ns = rotating[a_bits], bench.ceiling(w)
        calls += bench.prepared(name, f"ulp {w.pair}", lambda: bench.subject.call(w, layer, x, slots, right, min_ns))  # noqa: B023  # called at once
    a, b = inputs[narrow.a_bits], layer.values[narrow.b_bits]
    shared = peer_operands(bench, Work(rows, n, k, 8, 8), a, b, outs)
    calls += peer_calls(bench, name, shared)
    count = work.slots(2 * n * k, bench.gpu.l2_bytes, bench.gpu.memory_bytes)
    calls += bench.prepared(name, "bf16", lambda: peers.bfloat16(narrow, a, b, count, bench.ceiling(narrow)))
    moved = narrow.nbytes
    count = work.slots(moved, bench.gpu.l2_bytes, bench.gpu.memory_bytes)
    min_ns = work.memory_ns(moved, bench.copy_rate or 1e4)
    calls += bench.prepared(name, "copy", lambda: peers.copy(f"copy of {narrow.pair}'s bytes", moved, count, min_ns))
    bench.time(name, (rows, n, k), calls, ROUNDS if rows <= max(work.DECODE_ROWS) else LONG_ROUNDS)
    if rows in NAMED.get((n, k), ()):
        bench.kept[name] = calls


def peer_operands(bench: Bench, w: Work, a: Any, b: Any, outs: Sequence[Any]) -> peers.Operands:
    """Copies of int8 operands enough to rotate over, with results shared with the others of the group."""
    count = min(len(outs), work.slots(w.n * w.k, bench.gpu.l2_bytes, bench.gpu.memory_bytes))
    left, right = [a.clone() for _ in range(count)], [b.clone() for _ in range(count)]
    return peers.Operands(w, left, right, outs[:count], bench.reference(a, b), bench.ceiling(w))


def peer_calls(bench: Bench, name: str, operands: peers.Operands) -> list[Call]:
    """Every int8 peer that is here and takes this."""
    here = [peer for peer in bench.peers if peer.why_unavailable() is None]
    return [call for peer in here for call in bench.prepared(name, peer.name, lambda peer=peer: peer.prepare(operands))]  # type: ignore[misc]


def square(bench: Bench) -> None:
    """8192^3 at W4A4 with the requantization to 4 bits fused, and to int32; cuBLASLt to int32 and, requantized, to int8."""
    t, size = torch(), work.SQUARE
    layer = bench.subject.layer(size, size, (4,))
    w = Work(size, size, size, 4, 4)
    fused = Work(size, size, size, 4, 4, out_bytes=1)
    a, b = random_values((size, size), 4), layer.values[4]
    sums = exact(a, b)
    spread = float(sums.float().std())
    narrow, wide = Requantized(4, 2.0 / spread), Requantized(8, 32.0 / spread)
    to4, to8 = narrow.expected(sums), wide.expected(sums).int()
    slots = len(layer.packed[4])
    x = [a.clone() for _ in range(slots)]
    outs = [t.empty((size, size), dtype=t.int32, device="cuda") for _ in range(slots)]
    small = [t.empty((size, size), dtype=t.int8, device="cuda") for _ in range(slots)]
    min_ns = bench.ceiling(w)

    def exactly(out: Any) -> bool:
        return bool(t.equal(out, sums))

    def nearly(out: Any) -> bool:  # how it rounds halves is its own affair
        return int((out.int() - to8).abs().max()) <= 1

    calls = bench.prepared(
        SQUARE_NAME, "ulp W4A4 to 4 bits",
        lambda: bench.subject.call(
            fused, layer, x, small, lambda out: bool(t.equal(out, to4)), min_ns, epilogue=narrow, name="ulp W4A4 to 4 bits"
        ),
    )  # fmt: skip
    calls += bench.prepared(SQUARE_NAME, "ulp W4A4", lambda: bench.subject.call(w, layer, x, outs, exactly, min_ns))
    operands = peers.Operands(Work(size, size, size, 8, 8), x, [b.clone() for _ in range(slots)], outs, exactly, min_ns)
    calls += peer_calls(bench, SQUARE_NAME, operands)
    for peer in bench.peers:
        if isinstance(peer, peers.CublasLt) and peer.why_unavailable() is None:
            calls += bench.prepared(
                SQUARE_NAME,
                f"{peer.name} to int8",
                lambda peer=peer: peer.prepare_quantized(operands, small, wide.scale, nearly),  # type: ignore[misc]
            )
    calls += bench.prepared(SQUARE_NAME, "bf16", lambda: peers.bfloat16(w, a, b, 2, min_ns))
    bench.time(SQUARE_NAME, (size, size, size), calls, LONG_ROUNDS)
    bench.kept[SQUARE_NAME] = calls


def layers_of(bench: Bench, todo: Iterator[tuple[tuple[int, int], int]], widths: Sequence[int]) -> Iterator[tuple[Layer, int]]:
    """(weights, M) for each, the weights of one (N, K) made once; ends when the time is over."""
    layer: Layer | None = None
    for (n, k), rows in todo:
        if bench.late():
            return
        if layer is None or (layer.n, layer.k) != (n, k):
            layer = bench.subject.layer(n, k, widths)
        yield layer, rows


def planes(bench: Bench, rows: Sequence[int]) -> None:
    """Pairs of few bits, which 1-bit tensor cores may multiply, beside the same peers."""
    for layer, m in layers_of(bench, work.planes(rows), sorted({b for _, b in work.PLANE_PAIRS})):
        products(bench, layer, m, work.PLANE_PAIRS, report.PLANES_SUFFIX)


def speed(bench: Bench) -> None:
    """Everything that a target or a table names; the most important first."""
    copies(bench)
    bench.save()
    square(bench)
    planes(bench, work.PLANE_ROWS[:1])
    for layer, rows in layers_of(bench, work.decode(), sorted({b for _, b in work.DECODE_PAIRS})):
        products(bench, layer, rows, work.DECODE_PAIRS)
    planes(bench, work.PLANE_ROWS[1:])
    for layer, rows in layers_of(bench, work.prefill(), sorted({b for _, b in work.PREFILL_PAIRS})):
        products(bench, layer, rows, work.PREFILL_PAIRS)
    for group, calls in bench.kept.items():
        found = bench.result.find(group)
        for name, kernels in names.of_calls(calls).items():
            cell = found.find(name) if found else None
            if cell:
                cell.info["kernels"] = kernels
    bench.save()


def candidates(subject: Subject, w: Work) -> list[str]:
    """Kernels worth timing at this shape, with every number of splits that they take; without where splits cannot be forced."""
    chosen = []
    for kernel in subject.module.kernels():
        if not subject.runs(w, kernel) or ("_b1_" in kernel and w.a_bits * w.b_bits > MAX_PLANE_PAIRS):
            continue
        tokens = int(subject.choice(w, kernel)["tile"][0])
        if tokens > max(64, 2 * w.m) or w.m > 16 * tokens:
            continue
        forced = [f"{kernel}/{splits}" for splits in SWEEP_SPLITS if subject.runs(w, f"{kernel}/{splits}")]
        chosen += forced or [kernel]
    return chosen


def sweep(bench: Bench) -> None:
    """Every kernel with every number of splits at the shapes and pairs of `speed`: what the picker's model is fitted to."""
    bench.copy_rate = 0.0
    copies(bench)
    for todo, pairs in (
        (work.planes(work.PLANE_SWEEP_ROWS), work.PLANE_PAIRS),
        (work.decode(), work.DECODE_PAIRS),
        (work.prefill(), work.PREFILL_PAIRS),
    ):
        for layer, rows in layers_of(bench, todo, sorted({b for _, b in pairs})):
            for a_bits, b_bits in pairs:
                if not bench.late():
                    sweep_one(bench, layer, Work(rows, layer.n, layer.k, a_bits, b_bits))


def sweep_one(bench: Bench, layer: Layer, w: Work) -> None:
    """One group of the sweep; kernels that are far behind at first sight are left out."""
    t = torch()
    count = len(layer.packed[w.b_bits])
    x = random_values((w.m, w.k), w.a_bits)
    a, outs = [x.clone() for _ in range(count)], [t.empty((w.m, w.n), dtype=t.int32, device="cuda") for _ in range(count)]
    right, min_ns = bench.reference(x, layer.values[w.b_bits]), bench.ceiling(w)
    picked, name = bench.subject.choice(w, None), f"{w.shape} {w.pair}"
    calls = []
    for kernel in candidates(bench.subject, w):
        make = lambda k=kernel: bench.subject.call(w, layer, a, outs, right, min_ns, kernel=k, name=k)  # noqa: E731  # for `prepared`
        calls += bench.prepared(name, kernel, make)
    seen = [(quick_ns(captured), captured) for captured in bench.captured(name, calls)]
    best = min((ns for ns, _ in seen), default=0.0)
    for _, captured in seen:
        captured.info["picked"] = (captured.info["kernel"], captured.info["splits"]) == (picked["kernel"], picked["splits"])
    kept = [captured for ns, captured in seen if ns <= HOPELESS * best or captured.info["picked"]]
    bench.alternate(name, (w.m, w.n, w.k), kept, SWEEP_ROUNDS)


PARTS: dict[str, tuple[str, Callable[[Bench], None]]] = {"speed": ("cuda", speed), "sweep": ("cuda_kernels", sweep)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one part; 1 where something that was measured was wrong or nothing could be."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda.measure", description=__doc__)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--out", type=Path, default=results.DIRECTORY)
    parser.add_argument("--libraries", type=Path, required=True, help="where the peers' native parts were built")
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--commit", default=None, help="where git is not there to say it")
    parser.add_argument("--command", default="python -m bench.cuda.measure", help="what the result file calls its command")
    args = parser.parse_args(arguments)
    what, run = PARTS[args.part]
    bench = Bench(what, args)
    run(bench)
    bench.save()
    return 0 if bench.result.groups and not any("is wrong" in row["reason"] for row in bench.not_run) else 1


if __name__ == "__main__":
    sys.exit(main())
