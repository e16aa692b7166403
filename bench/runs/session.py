"""One run on one core: the peers found here, the contestants made of them, and the groups measured so far."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.peers import ALL, Peer, ceiling, check, chosen
from bench.subjects import installed, operands
from bench.subjects.interface import Check, Library, WrongResultError

from . import machine, timing
from .options import Options
from .results import Group, Result, group
from .timing import Contestant

CEILING_PASSES = 500  # about 0.2 ms
KERNEL_ROUNDS = 9  # of `kernels`, which has 128 groups and the portable kernel in each
SAFE_BITS = 7  # activations of 0 .. 127, where the saturating peers are exact


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
        if (reason := installed.why_unavailable()) is None:
            self.ulp = installed.load()
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
                b = operands.weights(512, 128, 8)
                record["safe_range"] = check(peer, operands.activations(64, 512, SAFE_BITS), b).as_dict()
                record["full_range"] = check(peer, operands.activations(64, 512, 8), b).as_dict()
                admitted.append(peer)
        return admitted

    def peer_contestants(self, peers: Sequence[Peer], m: int, n: int, k: int) -> list[Contestant]:
        """Each peer on 7-bit activations and 8-bit weights, checked: WrongResultError for an int8 peer that is wrong even there."""
        a, b = operands.activations(m, k, SAFE_BITS), operands.weights(k, n, 8)
        made = []
        for peer in peers:
            state = peer.prepare(a, b)
            verdict: Check = check(peer, a, b, state)
            if peer.kind == "int8" and not verdict.exact:
                raise WrongResultError(f"{peer.name} {m}x{n}x{k} with activations up to 127 is {verdict.words()}")
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
            call = installed.product(self.ulp, m, n, k, bits)
            info = {"kernel": installed.last_kernel()}
            made.append(Contestant(f"ulp W{bits[1]}A{bits[0]}", "ulp", call, m * n * k, int(call.packed.nbytes), bits, info=info))
        return made

    def ceilings(self, techniques: Sequence[str] = ("mul8",)) -> list[Contestant]:
        """The bare loops as contestants; [] where they do not run."""
        if self.ceiling is None:
            return []
        return [Contestant(f"ceiling {t}", "ceiling", *self.ceiling.loop(t, CEILING_PASSES)) for t in techniques]

    def reads(self, widths: Sequence[int], weights: int) -> list[Contestant]:
        """Plain reads of the bytes that `weights` weights take at each of these widths; [] where they do not run."""
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
        """Measure the contestants alternating, and keep the group. rounds None: by the options, for this many MACs."""
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
