"""What the command line says of a run, and the bit pairs that runs and reports share."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GEMM_PAIRS = ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8))
ALL_PAIRS = tuple((a, b) for b in range(1, 9) for a in range(1, 9))  # (a_bits, b_bits)


@dataclass
class Options:
    """How to measure. rounds 0: chosen by the length of a round. core None: the last one. Others that are None: the benchmark's default.

    peers: names of those wanted. networks, threads, batches, memory: of the benchmarks of whole networks. directory: where the result file
    and the groups measured so far go (None: nothing is written meanwhile). resume: groups found there are not measured again.
    deadline: no group starts after it, in the seconds of time.monotonic (None: no limit).
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
    batches: tuple[int, ...] | None = None
    directory: Path | None = None
    resume: bool = False
    deadline: float | None = None

    def seconds_left(self) -> float | None:
        """Until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def chosen(self) -> dict[str, Any]:
        """What must be the same for the groups of two runs to belong to one file."""
        return {
            "peers": self.peers, "rounds": self.rounds, "min_sample_ms": self.min_sample_ms, "quick": self.quick, "sizes": self.sizes,
            "pairs": self.pairs, "kernels": self.kernels, "networks": self.networks, "memory": self.memory, "batches": self.batches,
        }  # fmt: skip

    def rounds_for(self, macs: int) -> int:
        """Rounds of a group whose contestants do `macs` per call."""
        if self.rounds:
            return self.rounds
        if self.quick:
            return 3
        return 21 if macs <= 2**27 else 11 if macs <= 2**30 else 7

    @property
    def min_sample_ns(self) -> int:
        """Shortest sample in ns."""
        return int((0.3 if self.quick else self.min_sample_ms) * 1e6)
