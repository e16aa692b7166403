"""Modelled cycles of blocks of instructions: llvm-mca's schedulers, where they are known to be wrong corrected.

Every block is priced as a separate loop in the steady state; caches always hit and branches are always predicted. Compared with a real core
of another architecture, such figures were off by -35 % to +10 %: they rank kernels, and differences below 1.5x are undecided.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from .emulation import Execution, Words

MCA = "llvm-mca-19"
DISASSEMBLER = "llvm-mc-19"

# Blocks that ran less often in a product are no loops: they are priced at one cycle per instruction.
RARE = 16
ITERATIONS = 50


@dataclass(frozen=True)
class Core:
    """A core of the model."""

    name: str
    isas: tuple[str, ...]
    """The instruction sets that it has besides the baseline."""
    ghz: float
    """A usual clock, to turn cycles into time."""
    note: str
    """Whose scheduler, and what was corrected."""


CORES = {
    core.name: core
    for core in (
        Core("cortex-a53", ("neon",), 1.4, "llvm-mca's Cortex-A53"),
        Core("cortex-a55", ("neon", "dotprod"), 1.8, "llvm-mca's Cortex-A55"),
        Core("cortex-a72", ("neon",), 1.5, "llvm-mca's Cortex-A57, which LLVM uses for it"),
        Core("neoverse-n1", ("neon", "dotprod"), 2.5, "llvm-mca's Neoverse N1; 8-bit mla and mul at the cost of 16-bit ones"),
        Core(
            "neoverse-v1", ("neon", "dotprod", "i8mm"), 2.6,
            "llvm-mca's Neoverse V1; 8-bit mla and mul at the cost of 16-bit ones",
        ),
        Core(
            "apple-m1", ("neon", "dotprod", "i8mm"), 3.2,
            "no scheduler in LLVM: 8 instructions per cycle, 4 of them vector operations, 3 loads, 2 stores; i8mm stands for M2 and later",
        ),
    )
}  # fmt: skip

_BRANCH = re.compile(r"^(b|b\.\w+|bl|blr|br|ret|cbn?z|tbn?z)\b.*")
_CONDITION = re.compile(r"^(cbn?z\s+\w+|tbn?z\s+\w+, #\d+|b\.\w+)\b.*")
_MLA_BYTES = re.compile(r"\b(mla|mls|mul)(\s+v\d+)\.(16b|8b), (v\d+)\.\3, (v\d+)\.\3")


class Cycles:
    """Modelled cycles on one core; each block is priced once."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: dict[Words, float] = {}

    def of(self, executions: list[Execution]) -> list[float]:
        """Cycles of each execution."""
        frequent = {words for execution in executions for words, count in execution.blocks.items() if count >= RARE}
        self._learn(sorted(frequent - self._known.keys()))
        return [
            sum(count * (self._known[words] if count >= RARE else len(words)) for words, count in execution.blocks.items())
            for execution in executions
        ]

    def _learn(self, blocks: list[Words]) -> None:
        if not blocks:
            return
        texts = _disassemble(blocks)
        cycles = map(_port_bound, texts) if self._core.name == "apple-m1" else self._mca(texts)
        self._known.update(zip(blocks, cycles, strict=True))

    def _mca(self, texts: list[list[str]]) -> list[float]:
        if self._core.name.startswith("neoverse"):
            texts = [[_MLA_BYTES.sub(r"\1\2.8h, \4.8h, \5.8h", line) for line in lines] for lines in texts]
        regions = "".join(
            f"# LLVM-MCA-BEGIN {i}\n" + "\n".join(map(_as_input, lines)) + "\n# LLVM-MCA-END\n" for i, lines in enumerate(texts)
        )
        command = [
            MCA, "-mtriple=aarch64", f"-mcpu={self._core.name}", "-mattr=+all", f"-iterations={ITERATIONS}", "-instruction-info=false",
            "-resource-pressure=false",
        ]  # fmt: skip
        output = _filter(command, ".L0:\n" + regions)
        found = [int(total) / ITERATIONS for total in re.findall(r"^Total Cycles:\s+(\d+)$", output, re.MULTILINE)]
        if len(found) != len(texts):
            raise RuntimeError(f"{MCA} gave {len(found)} of {len(texts)} blocks for {self._core.name}")
        return found


def _as_input(line: str) -> str:
    """A block's last instruction as a branch to a label; calls and returns, for which llvm-mca assumes 100 cycles, as plain branches."""
    if _CONDITION.match(line):
        return _CONDITION.sub(lambda m: f"{m[1]}{',' if m[1][0] in 'ct' else ''} .L0", line)
    return _BRANCH.sub("b .L0", line)


def _port_bound(lines: Iterable[str]) -> float:
    """Cycles by counting ports: for a core wide enough to hide its latencies."""
    total = vector = loads = stores = 0
    for line in lines:
        operation, _, operands = line.partition("\t") if "\t" in line else line.partition(" ")
        total += 1
        if operation.startswith(("ld", "prfm")):
            loads += 2 if operation == "ldp" and operands.startswith("q") else 1
        elif operation.startswith("st"):
            stores += 2 if operation == "stp" and operands.startswith("q") else 1
        elif re.search(r"\bv\d+\.|\b[qdsbh]\d+\b", operands):
            # A table of two registers, and sums across a register, are two operations.
            vector += 2 if (operation in ("tbl", "tbx") and operands.count("16b") > 3) or operation.endswith(("addv", "addlv")) else 1
    return max(total / 8, vector / 4, loads / 3, stores / 2)


def _disassemble(blocks: list[Words]) -> list[list[str]]:
    """The instructions of each block as text."""
    octets = "".join(f"{word.to_bytes(4, 'little').hex(' ')}\n" for words in blocks for word in words)
    source = "\n".join(" ".join(f"0x{octet}" for octet in line.split()) for line in octets.splitlines())
    output = _filter([DISASSEMBLER, "--disassemble", "-triple=aarch64", "-mattr=+all"], source)
    lines = iter([line.strip() for line in output.splitlines() if line.strip() and not line.strip().startswith(".")])
    return [[next(lines) for _ in words] for words in blocks]


def _filter(command: list[str], text: str) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[:1000]}")
    return done.stdout
