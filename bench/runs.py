"""The measurements behind `python -m bench run`: each builds groups of contestants, checks every product, and returns a `Result`."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import ceiling, data, machine, subject, timing
from .peers import ALL, Check, Library, Peer, check, chosen
from .results import Group, Result, group
from .timing import Contestant

GEMM_SIZES = (64, 128, 256, 512, 1024, 2048)
GEMM_PAIRS = ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8))
ALL_PAIRS = tuple((a, b) for b in range(1, 9) for a in range(1, 9))
GEMV_PAIRS = ((8, 1), (8, 2), (8, 3), (8, 4), (8, 8))
SMALL_PAIRS = ((1, 1), (3, 3), (4, 4), (8, 8))
CEILING_PASSES = 500  # about 0.2 ms
FEW_ROWS = 8  # up to here a product is bound by reading its weights
KERNEL_ROUNDS = 9  # of `kernels`, which has 128 groups and the portable kernel in each
SAFE_BITS = 7  # activations of 0 .. 127, where the saturating peers are exact


@dataclass
class Options:
    """How to measure. rounds 0: chosen by the length of a round. core None: the last one. All others that are None: a benchmark's own.

    peers: names of those wanted. networks, threads, memory: of the benchmark `networks`.
    """

    arguments: list[str]
    peers: tuple[str, ...] | None = None
    rounds: int = 0
    min_sample_ms: float = 2.0
    core: int | None = None
    quick: bool = False
    sizes: tuple[int, ...] | None = None
    pairs: tuple[tuple[int, int], ...] | None = None
    kernels: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    threads: tuple[int, ...] = (1,)
    memory: bool = True

    def rounds_for(self, macs: int) -> int:
        """Rounds of a group whose contestants do `macs` a call."""
        if self.rounds:
            return self.rounds
        if self.quick:
            return 3
        return 21 if macs <= 2**27 else 11 if macs <= 2**30 else 7

    @property
    def min_sample_ns(self) -> int:
        """Shortest sample in ns."""
        return int((0.3 if self.quick else self.min_sample_ms) * 1e6)


@contextlib.contextmanager
def progress(description: str, total: int, unit: str = "round") -> Iterator[Callable[[], object]]:
    """A bar by tqdm where it is installed, else silence."""
    try:
        module: Any = importlib.import_module("tqdm")
    except ImportError:
        yield lambda: None
        return
    module.tqdm.monitor_interval = 0  # its monitor thread would spend CPU time of this process
    with module.tqdm(total=total, desc=description, unit=unit, leave=False) as bar:
        yield bar.update


@dataclass
class Run:
    """One run on one core: the peers that are here with the verdicts on them, `ulp` or None, the ceilings or None."""

    options: Options
    what: str
    pin: bool = True
    groups: list[Group] = field(default_factory=list)
    not_run: list[dict[str, Any]] = field(default_factory=list)
    peers: dict[str, dict[str, Any]] = field(default_factory=dict)
    clocks: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ulp: Any = None
        if (reason := subject.why_unavailable()) is None:
            self.ulp = subject.load()
            self.ulp.set_num_threads(1)
        else:
            print(f"ulp cannot be imported, only the peers are measured: {reason}")
        self.ceiling = ceiling.Ceiling() if ceiling.why_unavailable() is None else None

    def record(self, peer: Library) -> dict[str, Any]:
        """Notes what the peer says of itself in `peers` and returns that entry."""
        record: dict[str, Any] = {"kind": peer.kind, "note": peer.note, "why_unavailable": peer.why_unavailable()}
        if record["why_unavailable"] is None:
            record["version"] = peer.version()
        self.peers[peer.name] = record
        return record

    def admit(self, kinds: Sequence[str]) -> list[Peer]:
        """The peers of these kinds that can run here; records every one with its verdicts on safe and on full-range activations."""
        wanted = [peer for peer in chosen(ALL, self.options.peers) if peer.kind in kinds]
        admitted = []
        for peer in wanted:
            record = self.record(peer)
            record |= {"claims_exact": peer.exact, "max_activation": peer.max_activation, "output": peer.output}
            if record["why_unavailable"] is None:
                b = data.weights(512, 128, 8)
                record["safe_range"] = check(peer, data.activations(64, 512, SAFE_BITS), b).as_dict()
                record["full_range"] = check(peer, data.activations(64, 512, 8), b).as_dict()
                admitted.append(peer)
        return admitted

    def peer_contestants(self, peers: Sequence[Peer], m: int, n: int, k: int) -> list[Contestant]:
        """Each peer on 7-bit activations and 8-bit weights, checked: WrongResultError for an int8 peer that is wrong even there."""
        a, b = data.activations(m, k, SAFE_BITS), data.weights(k, n, 8)
        made = []
        for peer in peers:
            state = peer.prepare(a, b)
            verdict: Check = check(peer, a, b, state)
            if peer.kind == "int8" and not verdict.exact:
                raise subject.WrongResultError(f"{peer.name} {m}x{n}x{k} with activations up to 127 is {verdict.words()}")
            info = {"check": verdict.as_dict()}
            nbytes = peer.weight_bytes(k, n)
            made.append(Contestant(peer.name, peer.kind, functools.partial(peer.run, state), m * n * k, nbytes, info=info))
        return made

    def ulp_contestants(self, pairs: Sequence[tuple[int, int]], m: int, n: int, k: int) -> list[Contestant]:
        """`ulp.gemm` on each pair, checked against the reference; [] where `ulp` is not installed."""
        if self.ulp is None:
            return []
        made = []
        for bits in pairs:
            call = subject.product(self.ulp, m, n, k, bits)
            info = {"kernel": subject.last_kernel()}
            made.append(Contestant(f"ulp W{bits[1]}A{bits[0]}", "ulp", call, m * n * k, int(call.packed.nbytes), bits, info=info))
        return made

    def ceilings(self, techniques: Sequence[str] = ("mul8",)) -> list[Contestant]:
        """The bare loops as contestants; [] where they do not run."""
        if self.ceiling is None:
            return []
        return [Contestant(f"ceiling {t}", "ceiling", *self.ceiling.loop(t, CEILING_PASSES)) for t in techniques]

    def reads(self, widths: Sequence[int], weights: int) -> list[Contestant]:
        """Plain reads of as many bytes as `weights` weights of each of these widths take; [] where they do not run."""
        if self.ceiling is None:
            return []
        made = []
        for bits in widths:
            run, nbytes = self.ceiling.read(weights * bits // 8)
            made.append(Contestant(f"read {bits} bit", "ceiling", run, 0, nbytes))
        return made

    def measure(
        self,
        name: str,
        shape: tuple[int, int, int],
        contestants: Sequence[Contestant],
        clock: timing.Clock = "thread",
        rounds: int | None = None,
    ) -> None:
        """Let them alternate, and keep the group. rounds None: as many as the options say for so many MACs."""
        if not contestants:
            return
        if rounds is None:
            rounds = self.options.rounds_for(max(c.macs for c in contestants))
        if self.what == "kernels" and not self.options.rounds:
            rounds = min(rounds, KERNEL_ROUNDS)
        if self.ceiling:
            self.clocks.append(self.ceiling.cycles_per_ns())
        with progress(f"{self.what} {name}", rounds) as tick:
            samples = timing.measure(contestants, rounds=rounds, min_sample_ns=self.options.min_sample_ns, clock=clock, tick=tick)
        self.groups.append(group(name, shape, contestants, samples))

    def result(self, clock: timing.Clock, core: int | None) -> Result:
        """Everything measured so far."""
        settings = {
            "clock": "wall" if clock == "wall" else "CPU time of the calling thread",
            "core": core,
            "threads": 1 if clock == "thread" else "1 and 2",
            "min_sample_ms": self.options.min_sample_ns / 1e6,
            "quick": self.options.quick,
            "peer_operands": "activations 0..127, weights -128..127",
            "not_run": self.not_run,
        }
        ghz = float(np.median(self.clocks)) if self.clocks else None
        return Result(self.what, machine.describe(self.options.arguments), settings, ghz, self.peers, self.groups)


def _shape_name(m: int, n: int, k: int) -> str:
    return f"{m}x{n}x{k}"


def gemm(options: Options) -> Result:
    """Square sizes; every bit pair of `ulp` and every peer alternate at each size."""
    run = Run(options, "gemm")
    sizes = options.sizes or ((64, 256) if options.quick else GEMM_SIZES)
    with timing.pinned(options.core) as core:
        peers = run.admit(("int8", "fp32"))
        for s in sizes:
            contestants = run.ulp_contestants(options.pairs or GEMM_PAIRS, s, s, s) + run.peer_contestants(peers, s, s, s)
            run.measure(_shape_name(s, s, s), (s, s, s), contestants + run.ceilings(("mul8", "lut")))
    return run.result("thread", core)


def pairs(options: Options) -> Result:
    """All 64 bit pairs at one size (512) beside every peer."""
    run = Run(options, "pairs")
    sizes = options.sizes or ((128,) if options.quick else (512,))
    with timing.pinned(options.core) as core:
        peers = run.admit(("int8", "fp32"))
        for s in sizes:
            contestants = run.ulp_contestants(options.pairs or ALL_PAIRS, s, s, s) + run.peer_contestants(peers, s, s, s)
            run.measure(_shape_name(s, s, s), (s, s, s), contestants + run.ceilings(("mul8", "lut")))
    return run.result("thread", core)


def _cold(contestant: Contestant, evict: Callable[[], object]) -> Contestant:
    return Contestant(
        contestant.name, contestant.kind, contestant.run, contestant.macs, contestant.nbytes, contestant.bits, evict, True, contestant.info
    )


def gemv(options: Options) -> Result:
    """Few rows against 4096 x 4096 weights, twice: with the weights where the last call left them (in L3 if they fit), and from memory.

    A read of a buffer as large as each weight matrix alternates with them: the bandwidth that bounds the product.
    """
    run = Run(options, "gemv")
    size = (options.sizes or ((1024,) if options.quick else (4096,)))[0]
    flood = np.ones(2 * machine.last_level_bytes() // 8, dtype=np.int64)

    def evict() -> object:
        return flood.sum()

    with timing.pinned(options.core) as core:
        peers = run.admit(("int8", "fp32", "info"))
        for m in (1, 8):
            contestants = run.ulp_contestants(options.pairs or GEMV_PAIRS, m, size, size)
            contestants += run.reads(sorted({b for _, b in options.pairs or GEMV_PAIRS}), size * size)
            contestants += run.peer_contestants(peers, m, size, size)
            shape = (m, size, size)
            run.measure(_shape_name(*shape), shape, contestants)
            run.measure(f"{_shape_name(*shape)} cold", shape, [_cold(c, evict) for c in contestants])
    return run.result("thread", core)


def small(options: Options) -> Result:
    """The latency of one 16x16x16 call from Python, weights packed, with and without `out=`; numpy's own products beside it.

    And of one layer and one compiled network on images of 16 channels and 4 x 4 pixels: what calling them costs.
    """
    run = Run(options, "small")
    s = (options.sizes or (16,))[0]
    with timing.pinned(options.core) as core:
        peers = run.admit(("int8", "fp32"))
        contestants = run.ulp_contestants(options.pairs or SMALL_PAIRS, s, s, s)
        if run.ulp is not None:
            for bits in options.pairs or SMALL_PAIRS:
                call = subject.product(run.ulp, s, s, s, bits, out=True)
                name, info = f"ulp W{bits[1]}A{bits[0]} out=", {"kernel": subject.last_kernel()}
                contestants.append(Contestant(name, "ulp", call, s**3, int(call.packed.nbytes), bits, info=info))
        a, b = data.activations(s, s, 8).astype(np.int32), data.weights(s, s, 8).astype(np.int32)
        contestants.append(Contestant("numpy int32", "numpy", functools.partial(np.matmul, a, b), s**3, b.nbytes))
        run.measure(_shape_name(s, s, s), (s, s, s), contestants + run.peer_contestants(peers, s, s, s))
        if run.ulp is not None and (calls := subject.small_layers()):
            layers = [Contestant(name, "ulp", call, macs, nbytes, (3, 3)) for name, call, macs, nbytes in calls]
            run.measure("1x16x4x4", (16, 16, 16), layers)
    return run.result("thread", core)


def threads(options: Options) -> Result:
    """`ulp` on two threads beside one, wall time, not pinned. The two alternate like any contestants."""
    run = Run(options, "threads")
    s = (options.sizes or ((256,) if options.quick else (1024,)))[0]
    if run.ulp is not None:
        contestants = []
        for bits in options.pairs or ((1, 1), (3, 3), (4, 4), (8, 8)):
            call = subject.product(run.ulp, s, s, s, bits)
            kernel = subject.last_kernel()
            for count in (1, 2):
                before = functools.partial(run.ulp.set_num_threads, count)
                name = f"ulp W{bits[1]}A{bits[0]} {count} thread{'s' if count > 1 else ''}"
                info = {"kernel": kernel, "threads": count}
                contestants.append(Contestant(name, "ulp", call, s**3, int(call.packed.nbytes), bits, before, info=info))
        run.measure(_shape_name(s, s, s), (s, s, s), contestants, clock="wall")
        run.ulp.set_num_threads(1)
    return run.result("wall", None)


def kernels(options: Options) -> Result:
    """Every row of `ulp.kernels()` on every bit pair that it supports, at 512x512x512 and 1x4096x4096, beside the row's bare loop.

    The rows that support a pair alternate. A row that refuses a shape is listed in settings["not_run"] with its reason.
    """
    run = Run(options, "kernels")
    shapes = [(128, 128, 128), (1, 512, 512)] if options.quick else [(512, 512, 512), (1, 4096, 4096)]
    if options.sizes:
        shapes = [(s, s, s) for s in options.sizes]
    wanted = options.pairs or (GEMM_PAIRS if options.quick else ALL_PAIRS)
    with timing.pinned(options.core) as core:
        rows = [] if run.ulp is None else [r for r in run.ulp.kernels() if subject.field(r, "available")]
        rows = [r for r in rows if options.kernels is None or subject.field(r, "name") in options.kernels]
        for shape in shapes:
            for bits in wanted:
                able = [r for r in rows if bits in {tuple(p) for p in subject.field(r, "pairs")}]
                contestants, loops = _rows_as_contestants(run, able, shape, bits)
                if contestants:
                    name = f"{_shape_name(*shape)} W{bits[1]}A{bits[0]}"
                    reads = run.reads([bits[1]], shape[1] * shape[2]) if shape[0] <= FEW_ROWS else []
                    run.measure(name, shape, contestants + run.ceilings(sorted(loops)) + reads)
    return run.result("thread", core)


def _rows_as_contestants(
    run: Run, rows: Sequence[Any], shape: tuple[int, int, int], bits: tuple[int, int]
) -> tuple[list[Contestant], set[str]]:
    m, n, k = shape
    contestants: list[Contestant] = []
    loops: set[str] = set()
    for row in rows:
        name, technique, isa = (str(subject.field(row, key)) for key in ("name", "technique", "isa"))
        try:
            call = subject.product(run.ulp, m, n, k, bits, kernel=name)
        except ValueError as error:
            run.not_run.append({"kernel": name, "shape": list(shape), "bits": list(bits), "why": str(error)})
            continue
        info: dict[str, Any] = {"kernel": name, "technique": technique, "isa": isa, "ceiling": None}
        if bound := ceiling.of_kernel(technique, name, isa, *bits):
            info["ceiling"] = {"loop": f"ceiling {bound.loop}", "divisor": bound.divisor}
            loops.add(bound.loop)
        contestants.append(Contestant(name, "ulp", call, m * n * k, int(call.packed.nbytes), bits, info=info))
    return contestants, loops


RUNS: dict[str, Callable[[Options], Result]] = {
    "gemm": gemm,
    "pairs": pairs,
    "gemv": gemv,
    "small": small,
    "threads": threads,
    "kernels": kernels,
}
