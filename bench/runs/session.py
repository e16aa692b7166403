"""One run on one core: the peers found here, the contestants made of them, and the groups measured so far."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.peers import ALL, Peer, ceiling, check, chosen
from bench.subjects import installed, operands
from bench.subjects.interface import EXACT, Check, Library, WrongResultError

from . import machine, parts, timing
from .options import Options
from .progress import Progress, bar, earlier_seconds
from .results import DIRECTORY, Group, Result, group
from .timing import Contestant

CEILING_PASSES = 500  # about 0.2 ms
KERNEL_ROUNDS = 9  # of `kernels`, which has 128 groups and the portable kernel in each
SAFE_BITS = 7  # activations of 0 .. 127, where the saturating peers are exact


@dataclass
class Run:
    """One run on one core: the peers that are here with the verdicts on them, `ulp` or None, the ceilings or None."""

    options: Options
    what: str
    groups: list[Group] = field(default_factory=list)
    not_run: list[dict[str, Any]] = field(default_factory=list)
    peers: dict[str, dict[str, Any]] = field(default_factory=dict)
    clocks: list[float] = field(default_factory=list)
    clock: timing.Clock = "thread"
    core: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ulp: Any = None
        if (reason := installed.why_unavailable()) is None:
            self.ulp = installed.load()
            self.ulp.set_num_threads(1)
        else:
            print(f"ulp cannot be imported, only the peers are measured: {reason}")
        self.ceiling = ceiling.Ceiling() if ceiling.why_unavailable() is None else None
        self.progress = Progress(self.what, ())

    def plan(self, names: Sequence[str]) -> None:
        """The groups that this run will measure, in order; those that an interrupted run has left are taken over where that is wanted."""
        directory = self.options.directory
        self.progress = Progress(self.what, tuple(names), earlier_seconds(self.what, *filter(None, (directory, DIRECTORY))))
        if not self.options.resume or directory is None:
            return
        so_far = self.result()
        earlier = parts.found(self.what, directory, so_far.environment, so_far.settings)
        for one in earlier.groups if earlier else ():
            if one.name in names:
                self.groups.append(one)
                self.progress.skip(one.name)
        if earlier and self.groups:
            self.clocks += [earlier.clock_ghz] if earlier.clock_ghz else []
            self.progress.spent.update({n: t for n, t in earlier.settings.get("seconds", {}).items() if n in names})
            self.not_run += [one for one in earlier.settings.get("not_run", []) if "group" not in one]
            print(f"{self.what}: {len(self.groups)} of {len(names)} groups were measured before")

    def has(self, name: str) -> bool:
        """Whether the group of that name is measured."""
        return any(one.name == name for one in self.groups)

    def wants(self, name: str) -> bool:
        """Whether the group of that name is to be measured: not if it was before the interruption, nor if the time is up."""
        if self.has(name):
            return False
        if self.options.seconds_left() == 0.0:
            self.not_run.append({"group": name, "why": "out of time (--minutes)"})
            self.progress.skip(name)
            return False
        self.progress.begin(name)
        return True

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

    def ulp_contestants(self, pairs: Sequence[tuple[int, int]], m: int, n: int, k: int, *, requantized: bool = False) -> list[Contestant]:
        """`ulp.gemm` on each pair, checked against the reference; [] where `ulp` is not installed.

        requantized: with uint8 results as the peers that requantize have, of the kind "ulp requantized".
        """
        if self.ulp is None:
            return []
        kind, suffix = ("ulp requantized", " uint8") if requantized else ("ulp", "")
        made = []
        for bits in pairs:
            call = installed.product(self.ulp, m, n, k, bits, requantized=requantized)
            info = {"kernel": installed.last_kernel(), "output": call.output, "check": EXACT.as_dict()}
            name = f"ulp W{bits[1]}A{bits[0]}{suffix}"
            made.append(Contestant(name, kind, call, m * n * k, int(call.packed.nbytes), bits, info=info))
        return made

    def ceilings(self, techniques: Sequence[str] = ("mul8",)) -> list[Contestant]:
        """The bare loops as contestants, without those that this core does not run."""
        if self.ceiling is None:
            return []
        able = [t for t in techniques if t in self.ceiling.loops]
        return [Contestant(f"ceiling {t}", "ceiling", *self.ceiling.loop(t, CEILING_PASSES)) for t in able]

    def reads(self, widths: Sequence[int], weights: int) -> list[Contestant]:
        """Plain reads of the bytes that `weights` weights take at each of these widths; [] where they do not run."""
        if self.ceiling is None:
            return []
        made = []
        for bits in widths:
            run, nbytes = self.ceiling.read(weights * bits // 8)
            made.append(Contestant(f"read {bits} bit", "ceiling", run, 0, nbytes))
        return made

    def measure(self, name: str, shape: tuple[int, int, int], contestants: Sequence[Contestant], rounds: int | None = None) -> None:
        """Measure the contestants alternating, and keep the group. rounds None: by the options, for this many MACs."""
        if not contestants:
            self.progress.skip(name)
            return
        if rounds is None:
            rounds = self.options.rounds_for(max(c.macs for c in contestants))
        if self.what == "kernels" and not self.options.rounds:
            rounds = min(rounds, KERNEL_ROUNDS)
        if self.ceiling:
            self.clocks.append(self.ceiling.cycles_per_ns())
        with bar(self.progress.title(name), rounds) as tick:
            samples = timing.measure(contestants, rounds=rounds, min_sample_ns=self.options.min_sample_ns, clock=self.clock, tick=tick)
        self.keep(group(name, shape, contestants, samples))

    def keep(self, measured: Group) -> None:
        """Add a group, and write what there is by now."""
        self.groups.append(measured)
        self.progress.end(measured.name)
        if self.options.directory is not None:
            parts.save(self.result(), self.options.directory)

    def result(self) -> Result:
        """Everything measured so far, the groups in the order of the plan."""
        settings = {
            "clock": "wall" if self.clock == "wall" else "CPU time of the calling thread",
            "core": self.core,
            "threads": 1 if self.clock == "thread" else "1 and 2",
            "min_sample_ms": self.options.min_sample_ns / 1e6,
            "quick": self.options.quick,
            "peer_operands": "activations 0..127, weights -128..127",
            "options": _plain(self.options.chosen()),
            "seconds": dict(self.progress.spent),
            "not_run": self.not_run,
            **self.notes,
        }
        ghz = float(np.median(self.clocks)) if self.clocks else None
        order = {name: i for i, name in enumerate(self.progress.groups)}
        groups = sorted(self.groups, key=lambda one: order.get(one.name, len(order)))
        return Result(self.what, machine.describe(self.options.arguments), settings, ghz, self.peers, groups)


def _plain(value: Any) -> Any:
    """Tuples as lists, as they come back from a file."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
