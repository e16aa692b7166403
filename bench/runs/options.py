"""What the command line says of a run, and the bit pairs that runs and reports share."""

from __future__ import annotations

from dataclasses import dataclass

GEMM_PAIRS = ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8))
ALL_PAIRS = tuple((a, b) for b in range(1, 9) for a in range(1, 9))  # (a_bits, b_bits)


@dataclass
class Options:
    """How to measure. rounds 0: chosen by the length of a round. core None: the last one. Others that are None: the benchmark's default.

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
